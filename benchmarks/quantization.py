"""How much do 8 bits change the masks: `tiny` quantized by NVIDIA's ModelOpt after training, and float32?

    pip install 'nvidia-modelopt[onnx]'
    python -m benchmarks.quantization PHOTOS --json quantization.json

PHOTOS is a folder to calibrate on. Weights and activations of convolutions and matrix products become int8 or fp8
(E4M3) with ModelOpt's defaults. Masks are compared on scikit-image's photos, in the way in which `build-engine`
compares engines: those must reach a mean IoU of 0.99. Both sides run on ONNX Runtime's CPU. The quantized networks run
node by node as written, so their speed says nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from skimage import data

from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.function_engine import FunctionEngine
from esam_rt.loading.engine_self_test import EVERYTHING, IOU_MIN, compare
from esam_rt.loading.loader import load_sam
from esam_rt.loading.onnx_cache import OnnxModel, onnx_model
from esam_rt.sam.models import MODELS
from esam_rt.sam.point_grids import point_grid
from esam_rt.sam.predictor import Sam
from esam_rt.sources.decode import read_photo
from esam_rt.sources.photo_search import find_photos
from esam_rt.storage.atomic import write_json

MODES = ("int8", "fp8")
NETWORKS = (("encoder",), ("decoder",), ("encoder", "decoder"))
TEST_PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
Feed = dict[str, NDArray[Any]]


class Calibration:
    """The feeds of a network, in the form that ModelOpt reads."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = feeds
        self.rewind()

    def get_first(self) -> Feed:
        """Return the first feed, without moving on."""
        return self._feeds[0]

    def get_next(self) -> Feed | None:
        """Return the next feed, or None at the end."""
        return next(self._left, None)

    def rewind(self) -> None:
        """Start again from the first feed."""
        self._left = iter(self._feeds)


def feeds_of(photos: Sequence[Path]) -> dict[str, list[Feed]]:
    """Record the feeds of encoder and decoder for these photos, with one batch of prompts per photo."""
    sam, seen = load_sam("tiny"), dict[str, list[Feed]](encoder=[], decoder=[])
    points = point_grid(32)[np.random.default_rng(0).permutation(32 * 32)[: sam.model.decode_batch]]

    def spied(name: str) -> FunctionEngine:
        def infer(feed: Mapping[str, Any]) -> dict[str, Any]:
            seen[name].append({key: np.asarray(value) for key, value in feed.items()})
            return dict(engine.infer(feed))

        engine = getattr(sam.engines, name)
        return FunctionEngine(infer)

    spies = Sam(sam.model, replace(sam.engines, **{name: spied(name) for name in seen}), sam.checkpoint_sha256)
    for path in photos:
        spies.decode(spies.encode(read_photo(path, path.name).image_hwc_rgb), points, 0, EVERYTHING)
    return seen


def quantized(graph: Path, mode: str, feeds: Sequence[Feed], out: Path) -> Path:
    """Write the graph with ModelOpt's quantizing nodes."""
    from modelopt.onnx.quantization import quantize

    quantize(
        str(graph),
        quantize_mode=mode,
        calibration_data_reader=Calibration(feeds),
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(out),
    )
    return out


def as_written(path: Path) -> FunctionEngine:
    """Load a network to run node by node: ONNX Runtime cannot fuse some of the quantized nodes."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return FunctionEngine(lambda feed: dict(zip(names, session.run(names, dict(feed)), strict=True)))


def agreement(networks: Mapping[str, FunctionEngine], files: OnnxModel) -> dict[str, float]:
    """Compare `tiny` with `tiny` that has some networks replaced."""
    reference = load_sam("tiny")
    own = {name: as_written(getattr(files, name)) for name in ("encoder", "decoder", "mask_head", "logits")}
    sam = Sam(reference.model, replace(reference.engines, **{**own, **networks}), reference.checkpoint_sha256)
    found = [compare(sam, reference, getattr(data, name)()) for name in TEST_PHOTOS]
    masks = sum(f.masks for f in found)
    return {
        "masks": masks,
        "iou": round(sum(f.iou * f.masks for f in found) / masks, 4),
        "least_iou_of_a_photo": round(min(f.iou for f in found), 4),
        "greatest_score_difference": round(max(f.score for f in found), 4),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("photos", type=Path, help="folder of photos to calibrate on")
    parser.add_argument("--limit", type=int, default=32, help="number of photos to calibrate on")
    a = parser.parse_args()
    if find_spec("modelopt") is None:
        parser.error("The package modelopt is missing. Install it: pip install 'nvidia-modelopt[onnx]'")
    files = onnx_model(MODELS["tiny"])
    feeds = feeds_of([photo.path for photo in find_photos([a.photos])[: a.limit]])
    rows: list[dict[str, Any]] = []
    print("precision | networks          | mean IoU | least of a photo | scores differ by", flush=True)

    def add(precision: str, networks: str, found: dict[str, float]) -> None:
        rows.append({"precision": precision, "networks": networks, **found})
        print(
            f"{precision:>9} | {networks:17} | {found['iou']:8.4f} | {found['least_iou_of_a_photo']:16.4f} | "
            f"{found['greatest_score_difference']:.4f}",
            flush=True,
        )

    add("fp32", "-", agreement({}, files))
    with tempfile.TemporaryDirectory() as folder:
        for mode in MODES:
            note(f"quantizing to {mode}")
            paths = {
                name: quantized(getattr(files, name), mode, feeds[name], Path(folder) / f"{mode}-{name}.onnx")
                for name in feeds
            }
            for networks in NETWORKS:
                add(mode, " + ".join(networks), agreement({name: as_written(paths[name]) for name in networks}, files))
    versions = {name: metadata.version(name) for name in ("nvidia-modelopt", "onnx", "numpy")}
    versions["onnxruntime"] = onnxruntime.__version__
    if a.json:
        write_json(
            a.json, {"calibrated_on": len(feeds["encoder"]), "iou_min": IOU_MIN, "versions": versions, "rows": rows}
        )


if __name__ == "__main__":
    main()
