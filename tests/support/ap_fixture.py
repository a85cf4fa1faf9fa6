"""Makes tests/data/ap_truth.json and ap_results.json: `python -m tests.support.ap_fixture`.

100 generated photos with what average precision can go wrong on: equal scores within and between photos, crowds, photos
without entities, without detections and without both, more than 100 detections, empty and one-pixel masks, IoU exactly
at a threshold, areas exactly at 32² and 96², several categories, annotations as polygons and as RLE of both kinds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

DATA = Path(__file__).parents[1] / "data"
SIZES = ((48, 64), (120, 160))  # height, width; the larger one has room for areas beyond 96²


def make(seed: int = 5) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and results, both as COCO writes them."""
    rng = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number in range(100):
        image_id = 1000 - 7 * number
        height, width = SIZES[number % 4 == 0]
        images.append({"id": image_id, "file_name": f"{number:03}.jpg", "width": width, "height": height})
        entities, detections = _photo(number, height, width, rng)
        for mask, form, crowd in entities:
            segmentation, area = _written(mask, form)
            category = int(rng.integers(0, 4))
            annotations.append(
                {"id": len(annotations), "image_id": image_id, "category_id": category, "iscrowd": int(crowd)}
                | {"segmentation": segmentation, "area": area}
            )
        for mask, score in detections:
            rle = _written(mask, "string")[0]
            results.append({"image_id": image_id, "category_id": 1, "segmentation": rle, "score": score})
    categories = [{"id": i, "name": f"kind {i}"} for i in range(4)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def _photo(
    number: int, height: int, width: int, rng: np.random.Generator
) -> tuple[list[tuple[NDArray[np.bool_], str, bool]], list[tuple[NDArray[np.bool_], float]]]:
    """(mask, how it is written, crowd) of the entities, (mask, score) of the detections."""
    shapes = [_shape(height, width, rng) for _ in range(int(rng.integers(1, 7)))]
    entities = [(mask, str(rng.choice(["string", "list", "polygon"])), rng.random() < 0.08) for mask in shapes]
    detections = [(_moved(m, rng), _score(rng)) for m in shapes for _ in range(int(rng.integers(0, 3)))]
    detections += [(_shape(height, width, rng), _score(rng)) for _ in range(int(rng.integers(0, 4)))]
    if number % 10 == 3:
        entities = []
    if number % 10 in (3, 6):
        detections = detections[: number % 3]
    if number == 20:  # far more than 100, the right ones among the last of equal scores
        detections = [(_shape(height, width, rng), 0.5) for _ in range(98)]
        detections += [(mask, 0.5) for mask in shapes] + [(_shape(height, width, rng), 0.5) for _ in range(60)]
    if number == 24:  # IoU exactly 0.5, 0.75 and 1
        entities, detections = [], []
        for row, share in ((0, 4), (10, 6), (20, 8)):
            mask = _rectangle(height, width, row, 0, row + 4, 8)
            entities.append((mask, "string", False))
            detections.append((_rectangle(height, width, row, 0, row + 4, share), 0.7))
    if number == 28:  # areas exactly at the limits, and what is nearly nothing
        limits = [_rectangle(height, width, 0, 0, 32, 32), _rectangle(height, width, 20, 40, 116, 136)]
        tiny = [_rectangle(height, width, 0, 40, 1, 41), np.zeros((height, width), bool)]
        entities = [(mask, "string", False) for mask in (*limits, *tiny)]
        detections = [(mask, 0.9) for mask in (*limits, *tiny)]
    if number == 30:  # a crowd may be met more than once, and yields to a person inside it
        crowd, person = _rectangle(height, width, 0, 0, 40, 40), _rectangle(height, width, 5, 5, 25, 15)
        entities = [(crowd, "list", True), (person, "string", False)]
        detections = [(_rectangle(height, width, y, 20, y + 8, 38), 0.8) for y in (2, 12, 22)]
        detections += [(person, 0.8), (_rectangle(height, width, 30, 30, 48, 60), 0.8)]
    return entities, detections


def _score(rng: np.random.Generator) -> float:
    return float(rng.integers(1, 20)) / 20


def _shape(height: int, width: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A rectangle or an ellipse, mostly small."""
    h, w = (int(side * rng.random() ** 1.5) + 1 for side in (height, width))
    y, x = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    if rng.random() < 0.5:
        return _rectangle(height, width, y, x, y + h, x + w)
    ys, xs = np.ogrid[:height, :width]
    inside = ((ys - y - h / 2) / (h / 2)) ** 2 + ((xs - x - w / 2) / (w / 2)) ** 2 <= 1
    return inside if inside.any() else _rectangle(height, width, y, x, y + 1, x + 1)


def _rectangle(height: int, width: int, y0: int, x0: int, y1: int, x1: int) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def _moved(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Nearly the same mask: shifted by a few pixels, now and then not at all."""
    return np.roll(mask, rng.integers(-2, 3, 2) * (rng.random() < 0.8), axis=(0, 1))


def _written(mask: NDArray[np.bool_], form: str) -> tuple[Any, float]:
    """The segmentation in COCO's JSON, and its area as COCO has it there: a polygon's is not the mask's."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if form == "polygon" and len(rows) * len(columns) == mask.sum() > 0:
        x0, y0, x1, y1 = (float(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        return [[x0, y0, x1, y0, x1, y1, x0, y1]], (x1 - x0) * (y1 - y0)
    if form == "list":
        flat = np.concatenate([[0], mask.T.ravel().astype(np.int8), [0]])
        edges = np.flatnonzero(np.diff(flat))
        runs = np.diff(np.concatenate([[0], edges, [mask.size]]))
        return {"size": list(mask.shape), "counts": runs.tolist()}, float(mask.sum())
    rle = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}, float(mask.sum())


def main() -> None:
    DATA.mkdir(exist_ok=True)
    for name, value in zip(("ap_truth.json", "ap_results.json"), make(), strict=True):
        (DATA / name).write_text(json.dumps(value, separators=(",", ":")) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
