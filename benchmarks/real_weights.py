"""Is the export of a real checkpoint right: file hash, parity with PyTorch, and published answers?

    python -m benchmarks.real_weights vit_b --car car.png --json checks.json

Each check passes, fails or is skipped with a reason. The exit code is 1 if one fails.

- hash: the checkpoint is the published file.
- parity: embedding, scores and logits equal those of transformers' SamModel in PyTorch, on a photo.
- points and boxes: scores of ViT-B on the photo of transformers' SAM tests (huggingface.co/ybelkada/segment-anything,
  assets/car.png).
- mask generation: scores of ViT-H's automatic masks of COCO val2017 000000039769.jpg, from transformers' pipeline test.
  Ours are filtered on the mask grid, not at the photo's resolution, so a mask near a threshold may differ.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.lib.command_line import note, parser_of
from esam_rt.engines.onnxruntime.ort_engine import OnnxRuntimeEngine
from esam_rt.export.configs import SAM_MEAN, SAM_STD
from esam_rt.export.model import VITS, ExportedModel, export_model
from esam_rt.loading.checkpoints import checkpoint_of
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.models import MODELS, ModelSpec
from esam_rt.sam.point_grids import point_grid
from esam_rt.sam.predictor import Engines, Sam
from esam_rt.settings import Filters
from esam_rt.storage.atomic import write_json
from esam_rt.storage.hashing import sha256_of

# iou_scores that transformers' SAM tests expect of facebook/sam-vit-base on car.png, by photo pixels.
CAR_POINTS = {(400, 650): (0.9105, 0.9825, 0.9675), (220, 470): (0.7646, 0.7943, 0.7774)}
CAR_BOXES = {(620, 900, 1000, 1255): (0.9773, 0.9881, 0.9522), (75, 275, 1725, 850): (0.5996, 0.7661, 0.7937)}
CAR_TOLERANCE = 0.005  # the bilinear filters of their processor and of Pillow differ in the last bits
# Scores of the masks of facebook/sam-vit-huge in 000000039769.jpg, from the same tests.
CATS = (1.0444, 1.0210, 1.0167, 1.0132, 1.0053, 0.9967, 0.9930, 0.9909, 0.9879, 0.9834, 0.9716, 0.9612, 0.9599)
CATS_TOLERANCE = 0.01
PARITY = 1e-4  # largest relative error


@dataclass(frozen=True)
class Check:
    """One check: its state (passed, failed or skipped), and the figures or the reason."""

    name: str
    state: str
    found: str


class SkippedError(Exception):
    """A check cannot be made. The message is the reason."""


def check(name: str, make: Callable[[], tuple[bool, str]]) -> Check:
    """Run one check and print its result."""
    try:
        passed, found = make()
        result = Check(name, "passed" if passed else "failed", found)
    except SkippedError as e:
        result = Check(name, "skipped", str(e))
    print(f"{result.state:8} {name}: {result.found}", flush=True)
    return result


def encode(sam: Sam, path: Path) -> EncodedImage:
    """Encode a photo, resized by Pillow's bilinear filter as in SAM's own preprocessing."""
    photo = Image.open(path).convert("RGB")
    geometry = Geometry.of((photo.height, photo.width), sam.model.input_px)
    h, w = geometry.resized_hw
    return sam.encode(np.asarray(photo.resize((w, h), Image.Resampling.BILINEAR)))


def hash_check(row: ModelSpec, checkpoint: Path) -> tuple[bool, str]:
    """Compare the file's hash with the published one."""
    if row.remote is None:
        raise SkippedError(f"{row.name} has no published checkpoint")
    if checkpoint.is_dir():
        raise SkippedError(f"{checkpoint} is a folder")
    digest = sha256_of(checkpoint)
    return digest == row.remote.sha256, f"SHA-256 {digest}, published {row.remote.sha256}"


def parity_check(sam: Sam, name: str, checkpoint: Path) -> tuple[bool, str]:
    """Compare embedding, scores and logits of twelve points with PyTorch."""
    if name not in VITS:
        raise SkippedError(f"transformers' SamModel has no encoder like that of {name}")
    try:
        import torch

        from benchmarks.lib.torch_sam import pytorch_model
    except ImportError as e:
        raise SkippedError(f"{e.name} is not installed: pip install torch transformers") from e
    import skimage.data

    model = pytorch_model(name, checkpoint)

    photo = sam.encode(skimage.data.astronaut())
    side = sam.model.input_px
    h, w = photo.geometry.resized_hw
    import cv2

    pixels = cv2.resize(skimage.data.astronaut(), (w, h), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    mean, std = np.float32(SAM_MEAN), np.float32(SAM_STD)
    padded = np.zeros((1, 3, side, side), np.float32)
    padded[0, :, :h, :w] = ((pixels - mean) / std).transpose(2, 0, 1)
    points = np.random.default_rng(0).uniform(0.05, 0.95, (12, 2)).astype(np.float32)
    with torch.inference_mode():
        embedding = model.get_image_embeddings(torch.from_numpy(padded))
        xy = torch.from_numpy(photo.geometry.to_input_px(points))[None, :, None]
        out = model(image_embeddings=embedding, input_points=xy, input_labels=torch.ones(1, 12, 1, dtype=torch.int))
    output = np.arange(12, dtype=np.uint8) % 3
    logits = sam.logits(photo, points, output)
    expected = out.pred_masks[0].numpy()[np.arange(12), output][:, : logits.shape[1], : logits.shape[2]]
    figures = {
        "embedding": relative_error(photo.embedding, embedding.numpy()),
        "scores": relative_error(scores_of(sam, photo, points, None), out.iou_scores[0].numpy()),
        "logits": relative_error(logits, expected),
    }
    ious = ((logits > 0) & (expected > 0)).sum((1, 2)) / np.maximum(((logits > 0) | (expected > 0)).sum((1, 2)), 1)
    found = ", ".join(f"{k} {v:.1e}" for k, v in figures.items())
    return max(figures.values()) <= PARITY, f"relative error: {found}; least IoU of masks {ious.min():.5f}"


def relative_error(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """Return the largest difference over the largest magnitude. NaN, the score of an empty mask, is ignored."""
    return float(np.nanmax(np.abs(found - expected)) / np.abs(expected).max())


def scores_of(
    sam: Sam, photo: EncodedImage, points_norm_xy: NDArray[np.float32], labels: NDArray[np.int64] | None
) -> NDArray[np.float32]:
    """Return scores [N, 3] in the order of the model's masks. Only empty masks are filtered (NaN)."""
    everything = Filters(score_min=0.0, stability_min=0.0, stability_offset=1.0, min_area=1)
    masks = sam.decode(photo, points_norm_xy, 0, everything, labels=labels)
    scores = np.full((len(points_norm_xy), 3), np.nan, np.float32)
    scores[masks.prompt_index, masks.mask_index] = masks.predicted_iou
    return scores


def car_check(sam: Sam, path: Path | None) -> tuple[bool, str]:
    """Compare scores of points and boxes with the published ones."""
    if sam.model.name != "vit_b":
        raise SkippedError("the published scores are those of vit_b")
    if path is None:
        raise SkippedError("no --car FILE")
    with Image.open(path) as photo:
        size = np.float32(photo.size)
    encoded = encode(sam, path)
    points = np.zeros((len(CAR_POINTS), 2, 2), np.float32)
    points[:, 0] = np.float32(list(CAR_POINTS)) / size
    boxes = np.float32(list(CAR_BOXES)).reshape(-1, 2, 2) / size
    found = np.concatenate(
        [
            scores_of(sam, encoded, points, np.tile([1, -1], (len(points), 1))),
            scores_of(sam, encoded, boxes, np.tile([2, 3], (len(boxes), 1))),
        ]
    )
    expected = np.float32([*CAR_POINTS.values(), *CAR_BOXES.values()])
    difference = float(np.abs(found - expected).max())
    return difference <= CAR_TOLERANCE, f"greatest difference of {expected.size} scores {difference:.4f}"


def cats_check(sam: Sam, path: Path | None) -> tuple[bool, str]:
    """Compare scores of automatic mask generation with the published ones."""
    if sam.model.name != "vit_h":
        raise SkippedError("the published scores are those of vit_h")
    if path is None:
        raise SkippedError("no --coco FILE (000000039769.jpg)")
    encoded = encode(sam, path)
    filters = Filters(score_min=0.88, stability_min=0.95, stability_offset=1.0)
    masks = sam.decode(encoded, point_grid(32), 0, filters)
    kept: list[int] = []
    for i in masks.by_score():
        if all(box_iou(masks.box_xyxy[i], masks.box_xyxy[j]) <= 0.7 for j in kept):
            kept.append(int(i))
    ours = masks.predicted_iou[kept]
    missing = [score for score in CATS if not np.any(np.abs(ours - score) <= CATS_TOLERANCE)]
    return not missing, f"{len(CATS) - len(missing)} of {len(CATS)} published scores found, missing {missing}"


def box_iou(a: NDArray[np.integer], b: NDArray[np.integer]) -> float:
    """Return the IoU of two boxes."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    both = float(np.prod(np.maximum(high - low, 0)))
    return both / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both)


@contextmanager
def loaded(row: ModelSpec, files: ExportedModel, checkpoint: Path) -> Iterator[Sam]:
    """Load the model's engines on the CPU."""
    engines = [OnnxRuntimeEngine(path) for path in (files.encoder, files.decoder, files.mask_head, files.logits)]
    sam = Sam(row, Engines(*engines), "" if checkpoint.is_dir() else sha256_of(checkpoint))
    yield sam
    sam.close()


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("model", choices=[name for name, row in MODELS.items() if row.checkpoint is None])
    parser.add_argument("--checkpoint", type=Path, help="default: the downloaded file")
    parser.add_argument("--car", type=Path, help="car.png of transformers' SAM tests")
    parser.add_argument("--coco", type=Path, help="000000039769.jpg of COCO val2017")
    a = parser.parse_args()
    row = MODELS[a.model]
    if absent := [str(photo) for photo in (a.car, a.coco) if photo and not photo.is_file()]:
        parser.error(f"no such photo: {', '.join(absent)}")
    checkpoint = checkpoint_of(row, a.checkpoint)
    with TemporaryDirectory() as folder:
        note("exporting")
        files = export_model(a.model, checkpoint, Path(folder))
        with loaded(row, files, checkpoint) as sam:
            checks = [
                check("hash", lambda: hash_check(row, checkpoint)),
                check("parity", lambda: parity_check(sam, a.model, checkpoint)),
                check("points and boxes", lambda: car_check(sam, a.car)),
                check("mask generation", lambda: cats_check(sam, a.coco)),
            ]
    if a.json:
        write_json(a.json, [asdict(c) for c in checks])
    sys.exit(any(c.state == "failed" for c in checks))


if __name__ == "__main__":
    main()
