"""What 8 bits cost in masks: `tiny` as NVIDIA's ModelOpt quantises it, after training, against float32.

`python -m benchmarks.quantization PHOTOS --json quantization.json`, where PHOTOS is a folder to calibrate on, takes
`pip install 'nvidia-modelopt[onnx]'` beside esam-rt. Weights and activations of convolutions and matrix products become
int8 or fp8 (E4M3) with ModelOpt's own defaults; masks are compared on scikit-image's photos, as `build-engine` compares
engines, which must reach a mean IoU of 0.99. Both sides run on ONNX Runtime's CPU, the quantised networks node by node
as they are written: this says nothing of speed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from skimage import data

from benchmarks.function_engine import FunctionEngine
from esam_rt.loading.engine_check import EVERYTHING, IOU_MIN, compare
from esam_rt.loading.loader import load_sam
from esam_rt.loading.onnx_cache import OnnxModel, onnx_model
from esam_rt.sam.models import MODELS
from esam_rt.sam.point_grids import point_grid
from esam_rt.sam.predictor import Sam
from esam_rt.sources.decode import read_photo
from esam_rt.sources.photo_files import find_photos
from esam_rt.storage.atomic import write_json

MODES = ("int8", "fp8")
NETWORKS = (("encoder",), ("decoder",), ("encoder", "decoder"))
TEST_PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
Feed = dict[str, NDArray[Any]]


class Calibration:
    """Feeds of a network, as ModelOpt reads them."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = feeds
        self.rewind()

    def get_first(self) -> Feed:
        """The first one, which stays."""
        return self._feeds[0]

    def get_next(self) -> Feed | None:
        """One after the other, None at the end."""
        return next(self._left, None)

    def rewind(self) -> None:
        """Begin anew."""
        self._left = iter(self._feeds)


def feeds_of(photos: Sequence[Path]) -> dict[str, list[Feed]]:
    """What encoder and decoder are fed for these photos, a batch of prompts each."""
    sam, seen = load_sam("tiny"), dict[str, list[Feed]](encoder=[], decoder=[])
    points = point_grid(32)[np.random.default_rng(0).permutation(32 * 32)[: sam.row.decode_batch]]

    def spied(name: str) -> FunctionEngine:
        def infer(feed: Mapping[str, Any]) -> dict[str, Any]:
            seen[name].append({key: np.asarray(value) for key, value in feed.items()})
            return dict(engine.infer(feed))

        engine = getattr(sam.engines, name)
        return FunctionEngine(infer)

    spies = Sam(sam.row, replace(sam.engines, **{name: spied(name) for name in seen}), sam.checkpoint_sha256)
    for path in photos:
        spies.decode(spies.encode(read_photo(path, path.name).image_hwc_rgb), points, 0, EVERYTHING)
    return seen


def quantised(graph: Path, mode: str, feeds: Sequence[Feed], out: Path) -> Path:
    """The graph with ModelOpt's quantising nodes."""
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
    """A network, run node by node: ONNX Runtime's fusions of quantised nodes do not know all of them."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return FunctionEngine(lambda feed: dict(zip(names, session.run(names, dict(feed)), strict=True)))


def agreement(networks: Mapping[str, FunctionEngine], files: OnnxModel) -> dict[str, float]:
    """Of `tiny` with these networks in place of its own, with `tiny`."""
    reference = load_sam("tiny")
    own = {name: as_written(getattr(files, name)) for name in ("encoder", "decoder", "masks", "logits")}
    sam = Sam(reference.row, replace(reference.engines, **{**own, **networks}), reference.checkpoint_sha256)
    found = [compare(sam, reference, getattr(data, name)()) for name in TEST_PHOTOS]
    masks = sum(f.masks for f in found)
    return {
        "masks": masks,
        "iou": round(sum(f.iou * f.masks for f in found) / masks, 4),
        "least_iou_of_a_photo": round(min(f.iou for f in found), 4),
        "greatest_score_difference": round(max(f.score for f in found), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--limit", type=int, default=32, help="photos to calibrate on")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    files = onnx_model(MODELS["tiny"])
    feeds = feeds_of([photo.path for photo in find_photos([a.photos])[: a.limit]])
    rows: list[dict[str, Any]] = [{"precision": "fp32", "networks": "-", **agreement({}, files)}]
    print("precision | networks          | mean IoU | least of a photo | scores differ by", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for mode in MODES:
            paths = {
                name: quantised(getattr(files, name), mode, feeds[name], Path(folder) / f"{mode}-{name}.onnx")
                for name in feeds
            }
            for networks in NETWORKS:
                of = agreement({name: as_written(paths[name]) for name in networks}, files)
                rows.append({"precision": mode, "networks": " + ".join(networks), **of})
    for row in rows:
        print(
            f"{row['precision']:>9} | {row['networks']:17} | {row['iou']:8.4f} | {row['least_iou_of_a_photo']:16.4f} | "
            f"{row['greatest_score_difference']:.4f}"
        )
    versions = {name: metadata.version(name) for name in ("nvidia-modelopt", "onnx", "numpy")}
    versions["onnxruntime"] = onnxruntime.__version__
    if a.json:
        write_json(
            a.json, {"calibrated_on": len(feeds["encoder"]), "iou_min": IOU_MIN, "versions": versions, "rows": rows}
        )


if __name__ == "__main__":
    main()
