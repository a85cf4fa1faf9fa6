"""The Python model of a repository. Triton's Python backend imports it in the server."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from esam_rt.entity_map import EntityMap
from esam_rt.errors import EngineError, EsamError
from esam_rt.integrations.triton.model_config import DEADLINE, IMAGE
from esam_rt.integrations.triton.served_model import FILE, ServedModel
from esam_rt.integrations.triton.triton_engine import TritonEngine
from esam_rt.kernels.warmup import METHOD_MODULES, entry_kernels
from esam_rt.networks import Networks
from esam_rt.sam.models import get_model
from esam_rt.sam.predictor import Engines, Sam
from esam_rt.segmenter import EntitySegmenter


class TritonPythonModel:
    """Answers requests with the entities of an image. The networks are models of the same server.

    Triton calls ``initialize``, then ``execute`` as often as needed, then ``finalize``.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the model's record and compile the kernels. A call of the networks is not allowed yet.

        Args:
            args: Folder and version of the model, among others.

        Raises:
            ModelError: The record is broken or of another version.
        """
        self._library = importlib.import_module("triton_python_backend_utils")
        served = ServedModel.read(Path(args["model_repository"]) / args["model_version"] / FILE)
        names_and_graphs = zip(served.graph_names, served.graphs, strict=True)
        engines: Engines = Networks(*(TritonEngine(self._library, name, graph) for name, graph in names_and_graphs))
        self._sam = Sam(replace(get_model(served.model), decode_batch=served.batch), engines, served.checkpoint_sha256)
        self._segmenter = EntitySegmenter(self._sam, settings=served.settings, method=served.method)
        for kernel in entry_kernels(METHOD_MODULES[served.method]):
            kernel.compile()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests, one after the other. An image that cannot be used is an error of its request alone.

        Args:
            requests: Requests with ``image`` uint8 [H, W, 3] in RGB, and maybe ``deadline_s`` float32 [1].

        Returns:
            A response for each request.
        """
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Release everything."""
        self._segmenter.close()
        self._sam.close()

    def _answer(self, request: Any) -> Any:
        library = self._library
        try:
            image = library.get_input_tensor_by_name(request, IMAGE).as_numpy()
            if image.size > 1 and 0 in image.strides:  # seen with Triton 2.51: every pixel is the first one
                raise EngineError(
                    f"{IMAGE}: the server's Python backend was built for NumPy 1 and misreads arrays with NumPy "
                    f"{np.__version__}. Install 'numpy<2' in the server."
                )
            deadline = library.get_input_tensor_by_name(request, DEADLINE)
            deadline_s = None if deadline is None else float(deadline.as_numpy()[0])
            entities = self._segmenter(image, deadline_s=deadline_s)
        except EsamError as e:
            return library.InferenceResponse(output_tensors=[], error=library.TritonError(f"{type(e).__name__}: {e}"))
        arrays = answer(entities, request.requested_output_names())
        return library.InferenceResponse(output_tensors=[library.Tensor(name, array) for name, array in arrays.items()])


def answer(entities: EntityMap, names: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of a response.

    Args:
        entities: Entities of the image.
        names: Names of the outputs that the request asks for.

    Returns:
        ``labels`` uint16 [H, W], ``score`` float32 [N], ``box_xyxy`` int32 [N, 4], ``area`` int64 [N], ``complete``
        bool [1], and ``rle`` bytes [N], COCO's compressed counts of each entity.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "labels": entities.labels,
        "score": entities.score,
        "box_xyxy": entities.box_xyxy,
        "area": entities.area,
        "complete": np.array([entities.complete]),
    }
    if "rle" in names:
        counts = [entity["segmentation"]["counts"].encode("ascii") for entity in entities.to_coco()]
        arrays["rle"] = np.array(counts, np.object_)
    return {name: array for name, array in arrays.items() if name in names}
