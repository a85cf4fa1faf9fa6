"""ServedModel: what the Python model of a repository has to know, as a JSON file beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from esam_rt.engines import TensorSpec
from esam_rt.engines.dtypes import ONNX_TYPES
from esam_rt.errors import ModelError
from esam_rt.export.exporter_version import EXPORTER_VERSION
from esam_rt.networks import NETWORK_NAMES, Networks
from esam_rt.settings import Settings
from esam_rt.storage.json_files import bounded_json
from esam_rt.storage.nested import flatten

FILE = "esam.json"
AGAIN = "Write the repository again: esam-rt export-triton."
_DTYPES = {number: dtype for dtype, number in ONNX_TYPES.items()}


@dataclass(frozen=True)
class NetworkSpec:
    """Inputs and outputs of one network.

    Attributes:
        inputs: Tensors that it takes.
        outputs: Tensors that it returns.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def of_graph(cls, path: Path) -> NetworkSpec:
        """Read an ONNX graph of ``esam-rt export``.

        Args:
            path: The file. Its weights are not read.
        """
        graph = onnx.load_model(path, load_external_data=False).graph
        return cls(tuple(map(_spec, graph.input)), tuple(map(_spec, graph.output)))

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict."""
        return {
            side: [[t.name, t.dtype.name, list(t.shape)] for t in tensors]
            for side, tensors in (("inputs", self.inputs), ("outputs", self.outputs))
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> NetworkSpec:
        """Read what ``to_json`` returned."""
        return cls(
            *(
                tuple(TensorSpec(name, np.dtype(dtype), tuple(shape)) for name, dtype, shape in value[side])
                for side in ("inputs", "outputs")
            )
        )


@dataclass(frozen=True)
class ServedModel:
    """A model in a repository.

    Attributes:
        model: Name in the table of models.
        checkpoint_sha256: Hash of its weights, in hex.
        batch: Prompts of one decoder call.
        method: ``e-sam`` or a baseline.
        settings: Numbers of the method.
        graph_names: Names of the four networks' models in the repository.
        graphs: Their tensors.
    """

    model: str
    checkpoint_sha256: str
    batch: int
    method: str
    settings: Settings
    graph_names: Networks[str]
    graphs: Networks[NetworkSpec]

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict."""
        return {
            "exporter_version": EXPORTER_VERSION,
            "model": self.model,
            "checkpoint_sha256": self.checkpoint_sha256,
            "batch": self.batch,
            "method": self.method,
            "settings": {name: value for name, value in flatten(self.settings.to_dict()).items() if value is not None},
            "graph_names": list(self.graph_names),
            "graphs": [graph.to_json() for graph in self.graphs],
        }

    @classmethod
    def read(cls, path: Path) -> ServedModel:
        """Read the file of a repository.

        Args:
            path: The file.

        Raises:
            ModelError: The file is missing, broken, or of another version of esam-rt.
        """
        try:
            value = bounded_json(path)
            version = value["exporter_version"]
            if version != EXPORTER_VERSION:
                raise ModelError(
                    f"{path}: found graphs of exporter version {version}, the esam-rt of the server has "
                    f"{EXPORTER_VERSION}. Install the same version in both places. {AGAIN}"
                )
            return cls(
                model=value["model"],
                checkpoint_sha256=value["checkpoint_sha256"],
                batch=value["batch"],
                method=value["method"],
                settings=Settings().with_overrides(value["settings"]),
                graph_names=Networks(*value["graph_names"]),
                graphs=Networks(*map(NetworkSpec.from_json, value["graphs"])),
            )
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise ModelError(f"{path}: found no whole record of a model ({type(e).__name__}: {e}). {AGAIN}") from e


def graph_names(name: str) -> Networks[str]:
    """Return the names of the four networks in a repository.

    Args:
        name: Name of the whole model there.
    """
    return NETWORK_NAMES.map(f"{name}_{{}}".format)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return TensorSpec(value.name, _DTYPES[tensor.elem_type], shape)
