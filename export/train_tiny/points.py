"""Measures how well a model reads points.

    python -m esam_rt.export.train_tiny.points FOLDER… --weights A.safetensors B.safetensors

Three points are drawn in each annotated region of photos that were not trained on. The table says how well the largest
output, the best output and the output with the highest score match the region, by the region's size, and how much
larger than the region the largest output is. All weights get the same points, so their rows compare in pairs.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from esam_rt.export.configs import MASK_STRIDE, TINY
from esam_rt.export.train_tiny.annotated_photos import Photo, read_bsds, read_coco
from esam_rt.export.train_tiny.state import load_weights
from esam_rt.export.train_tiny.tiny_model import TinySam

POINTS, LEAST_PX, BATCH = 3, 100, 16
SIZES = {"small": (0, 32), "middle": (32, 96), "large": (96, 1 << 30)}  # COCO's: roots of areas in pixels of the photo


@dataclass
class Prompted:
    """Points of one photo. image: uint8 [S, S, 3]. points_xy_px: float32 [N, 2]. truth: bool [N, h, w], cells of the
    mask grid that are photo. side_px: float [N], root of the region's area in the photo."""

    image: NDArray[np.uint8]
    points_xy_px: NDArray[np.float32]
    truth: NDArray[np.bool_]
    side_px: NDArray[np.float64]


def prompted(photo: Photo, rng: np.random.Generator) -> Prompted | None:
    """Points in the regions of a photo's base map, or None if there is no region of LEAST_PX pixels."""
    image, labels = photo.image_hwc_rgb, photo.label_maps[photo.base]
    h, w = labels.shape
    scale = TINY.input_px / max(h, w)
    vh, vw = round(h * scale), round(w * scale)
    square = np.zeros((TINY.input_px, TINY.input_px, 3), np.uint8)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    square[:vh, :vw] = cv2.resize(np.ascontiguousarray(image), (vw, vh), interpolation=method)
    ys, xs = (
        np.minimum(((np.arange(-(-side // MASK_STRIDE)) + 0.5) * MASK_STRIDE / scale).astype(int), most - 1)
        for side, most in ((vh, h), (vw, w))
    )
    cells = labels[ys[:, None], xs]
    points, truth, sides = [], [], []
    for region in photo.regions:
        if region.area < LEAST_PX:
            continue
        y, x = np.nonzero(labels == region.label)
        for i in rng.integers(len(y), size=POINTS):
            points.append([(x[i] + 0.5) * scale - 0.5, (y[i] + 0.5) * scale - 0.5])
            truth.append(cells == region.label)
            sides.append(np.sqrt(region.area))
    if not points:
        return None
    return Prompted(square, np.array(points, np.float32), np.stack(truth), np.array(sides))


def measured(model: TinySam, p: Prompted) -> NDArray[np.float64]:
    """Per point: IoU of the largest output, of the best, of the one with the highest score, logarithm of the area of
    the largest over the true area, error of the highest score: [N, 5]."""
    rows = []
    with torch.no_grad():
        embedding, fine = model.encoder(torch.from_numpy(p.image)[None].permute(0, 3, 1, 2).float())
        h, w = p.truth.shape[1:]
        for i in range(0, len(p.points_xy_px), BATCH):
            points = torch.from_numpy(p.points_xy_px[i : i + BATCH])
            found = model.decoder(embedding[0], fine[0], points, TINY.input_px)
            truth = torch.from_numpy(p.truth[i : i + BATCH]).float().flatten(1)[:, None]
            masks = (found.logits[:, :, :h, :w] > 0).float().flatten(2)
            both, area, true_area = (masks * truth).sum(2), masks.sum(2), truth.sum(2)
            iou = both / (area + true_area - both).clamp(min=1)
            each, largest, first = torch.arange(len(points)), area.argmax(1), found.iou.argmax(1)
            ratio = (area[each, largest].clamp(min=1) / true_area[:, 0].clamp(min=1)).log()
            error = (found.iou[each, first] - iou[each, first]).abs()
            rows.append(torch.stack([iou[each, largest], iou.max(1).values, iou[each, first], ratio, error], 1))
    return torch.cat(rows).double().numpy()


def model_of(weights: Path) -> TinySam:
    """The model of a file of weights."""
    model = TinySam().eval()
    load_weights(model, weights)
    return model


def photos_of(folder: Path, limit: int) -> Iterator[Photo]:
    """The first `limit` photos of a folder of COCO's form (`entities.json`) or of BSDS500's."""
    photos = read_coco(folder, folder.name) if (folder / "entities.json").exists() else read_bsds(folder)
    yield from itertools.islice(photos, limit)


def table(found: NDArray[np.float64], sides: NDArray[np.float64]) -> Iterator[str]:
    """One line a size of region, from rows of `measured`."""
    for name, (low, high) in {**SIZES, "all": (0, 1 << 30)}.items():
        rows = found[(sides >= low) & (sides < high)]
        if len(rows):
            largest, best, first, _, error = rows.mean(0)
            ratio = np.exp(np.median(rows[:, 3]))
            yield (
                f"{name:6} {len(rows):5}  largest {largest:.3f}  best {best:.3f}  by score {first:.3f}  "
                f"area found/true {ratio:5.2f}  error of the score {error:.3f}"
            )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="photos with masks that were not trained on")
    parser.add_argument("--weights", type=Path, nargs="+", required=True)
    parser.add_argument("--limit", type=int, default=40, help="photos of each folder")
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    models = {path: model_of(path) for path in a.weights}
    for folder in a.folders:
        rng = np.random.default_rng(0)
        asked = [p for photo in photos_of(folder, a.limit) if (p := prompted(photo, rng)) is not None]
        sides = np.concatenate([p.side_px for p in asked])
        for path, model in models.items():
            print(f"{folder} {path.name}")
            print("\n".join(table(np.concatenate([measured(model, p) for p in asked]), sides)), flush=True)


if __name__ == "__main__":
    main()
