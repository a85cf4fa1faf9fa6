"""Photos and nested regions for training `tiny`: every prompt gets an object, a part and a sub-part target.

Each photo carries a stack of label maps. For a point, the regions of all maps that contain it, sorted by area, are its
levels (E-SAM eq. 1): the annotators of BSDS500 disagree on granularity; a COCO entity falls into connected components
and those into coarse superpixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from skimage.segmentation import felzenszwalb

LONG_SIDE_PX = 512
MASK_STRIDE = 4
PASTE_SHARE = 0.4  # of the views, that get an object of another photo
SOURCE_WEIGHT = {"bsds500": 0.33, "coco_panoptic": 0.32, "coco_instances": 0.25, "ecssd": 0.10}


@dataclass
class Photo:
    """image_hwc_rgb uint8; label_maps int16 [K, H, W], 0 = no region; `annotators`: maps are rival readings."""

    image_hwc_rgb: NDArray[np.uint8]
    label_maps: NDArray[np.int16]
    annotators: bool
    source: str


@dataclass
class Sample:
    """One augmented view. image uint8 [S, S, 3]; valid_hw: its part that is photo, in pixels; points_xy_px [P, 2];
    targets bool [P, 3, S/4, S/4], levels object, part, sub-part."""

    image: NDArray[np.uint8]
    valid_hw: tuple[int, int]
    points_xy_px: NDArray[np.float32]
    targets: NDArray[np.bool_]


def _fit(image: NDArray[np.uint8], long_side_px: int = LONG_SIDE_PX) -> tuple[int, int]:
    scale = min(1.0, long_side_px / max(image.shape[:2]))
    return round(image.shape[1] * scale), round(image.shape[0] * scale)


def _components(labels: NDArray[np.int16]) -> NDArray[np.int16]:
    """Connected components of every region, numbered from 1."""
    out, n = np.zeros_like(labels), 0
    for label in np.unique(labels[labels > 0]):
        count, parts = cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=4)
        out[parts > 0] = parts[parts > 0] + n
        n += count - 1
    return out


def _superpixels(image: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Coarse superpixels (Felzenszwalb at half size), numbered from 1."""
    small = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    labels = felzenszwalb(small, scale=300, sigma=0.8, min_size=150).astype(np.int16) + 1
    return np.asarray(cv2.resize(labels, image.shape[1::-1], interpolation=cv2.INTER_NEAREST), np.int16)


def _photo_with_parts(image: NDArray[np.uint8], labels: NDArray[np.int16], source: str) -> Photo:
    size = _fit(image)
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    labels = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.int16)
    parts = _components(labels)
    joint = parts.astype(np.int64) * 4096 + _superpixels(image)
    sub = np.unique(joint, return_inverse=True)[1].reshape(parts.shape).astype(np.int16) + 1
    sub[parts == 0] = 0
    return Photo(image, np.stack([labels, parts, sub]), False, source)


def _read(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f"{path}: not a readable photo")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def load_photos(data: Path) -> list[Photo]:
    """Every training photo below `data` (bsds500/train, coco/panoptic_train, coco/instances_train, ecssd), at most
    512 px long. Held out: bsds500/val and coco/panoptic_dev."""
    photos = []
    for path in sorted((data / "bsds500/train/images").iterdir()):
        maps = sorted((data / "bsds500/train/segmentations").glob(f"{path.stem}_*.png"))
        labels = np.stack([cv2.imread(str(m), cv2.IMREAD_UNCHANGED).astype(np.int16) for m in maps])
        photos.append(Photo(_read(path), labels, True, "bsds500"))
    for folder, source in (("panoptic_train", "coco_panoptic"), ("instances_train", "coco_instances")):
        gt = json.loads((data / f"coco/{folder}/entities.json").read_text())
        for entry in gt["images"]:
            labels = np.zeros((entry["height"], entry["width"]), np.int16)
            regions = [a for a in gt["annotations"] if a["image_id"] == entry["id"]]
            for i, a in enumerate(sorted(regions, key=lambda a: -float(a["area"]))):
                labels[coco_mask.decode(a["segmentation"]) > 0] = i + 1
            photos.append(_photo_with_parts(_read(data / f"coco/{folder}/images" / entry["file_name"]), labels, source))
    for path in sorted((data / "ecssd/images").iterdir()):
        mask = cv2.imread(str(data / f"ecssd/masks/{path.stem}.png"), cv2.IMREAD_GRAYSCALE)
        photos.append(_photo_with_parts(_read(path), (mask > 127).astype(np.int16), "ecssd"))
    return photos


def _view(
    photo: Photo, size_px: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int16], tuple[int, int]]:
    """Random crop, flip and color → image [S, S, 3], label maps [K, S/4, S/4], photo part (h, w) in pixels."""
    h, w = photo.image_hwc_rgb.shape[:2]
    side = 1.0 if rng.random() < 0.3 else rng.uniform(0.35, 1.0)
    aspect = np.exp(rng.uniform(-0.25, 0.25))
    ch, cw = min(h, int(h * side * aspect)), min(w, int(w * side / aspect))
    y0, x0 = rng.integers(0, h - ch + 1), rng.integers(0, w - cw + 1)
    scale = size_px / max(ch, cw)
    vh, vw = max(4, round(ch * scale)), max(4, round(cw * scale))
    flip = rng.random() < 0.5
    image = cv2.resize(photo.image_hwc_rgb[y0 : y0 + ch, x0 : x0 + cw], (vw, vh), interpolation=cv2.INTER_LINEAR)
    gain, offset = rng.uniform(0.75, 1.3, 3) ** 0.5 * rng.uniform(0.8, 1.25), rng.uniform(-20, 20)
    image = np.clip(image * gain + offset, 0, 255)
    if rng.random() < 0.1:
        image = np.repeat(image.mean(2, keepdims=True), 3, 2)
    out = np.zeros((size_px, size_px, 3), np.uint8)
    out[:vh, :vw] = image[:, ::-1] if flip else image
    g, gh, gw = size_px // MASK_STRIDE, -(-vh // MASK_STRIDE), -(-vw // MASK_STRIDE)
    maps = np.zeros((len(photo.label_maps), g, g), np.int16)
    ys = np.minimum(y0 + ((np.arange(gh) + 0.5) * MASK_STRIDE / scale).astype(int), y0 + ch - 1)
    xs = np.minimum(x0 + ((np.arange(gw) + 0.5) * MASK_STRIDE / scale).astype(int), x0 + cw - 1)
    labels = photo.label_maps[:, ys[:, None], xs]
    maps[:, :gh, :gw] = labels[:, :, ::-1] if flip and vw == gw * MASK_STRIDE else labels
    if flip and vw != gw * MASK_STRIDE:  # the last cell is partly padding: sample mirrored centres instead
        xs = np.clip(x0 + ((vw - (np.arange(gw) + 0.5) * MASK_STRIDE) / scale).astype(int), x0, x0 + cw - 1)
        maps[:, :gh, :gw] = photo.label_maps[:, ys[:, None], xs]
    return out, maps, (vh, vw)


def _paste(
    image: NDArray[np.uint8],
    maps: NDArray[np.int16],
    donor: NDArray[np.uint8],
    donor_maps: NDArray[np.int16],
    valid_hw: tuple[int, int],
    rng: np.random.Generator,
) -> None:
    """Put an object of the donor's view (of nested maps) in front of the view, with its parts; rival maps all show it
    whole."""
    labels, sizes = np.unique(donor_maps[0][donor_maps[0] > 0], return_counts=True)
    labels = labels[(sizes > donor_maps[0].size * 0.003) & (sizes < donor_maps[0].size * 0.3)]
    if len(labels) == 0:
        return
    mask = donor_maps[0] == rng.choice(labels)
    mask[valid_hw[0] // MASK_STRIDE :], mask[:, valid_hw[1] // MASK_STRIDE :] = False, False
    smooth = cv2.resize(mask.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    alpha = np.clip(2 * smooth - 0.5, 0, 1)[..., None]
    image[:] = image * (1 - alpha) + donor * alpha
    nested = len(maps) == len(donor_maps)
    for k, labels_hw in enumerate(maps):
        labels_hw[mask] = labels_hw.max() + 1 + (donor_maps[k][mask] if nested else 0)


def _levels(
    maps: NDArray[np.int16], at: tuple[int, int], annotators: bool, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Object, part and sub-part masks [3, G, G] of a cell, by area."""
    masks = [m == m[at] for m in maps if m[at] > 0]
    masks.sort(key=lambda m: -int(m.sum()))
    n = len(masks)
    if annotators:  # of five or more readings the most extreme on each side is left out
        edge = 1 if n >= 5 else 0
        return np.stack([masks[edge], masks[n // 2], masks[n - 1 - edge]])
    if rng.random() < 0.5:
        masks[2] = masks[1]
    return np.stack(masks)


def samples(photos: list[Photo], size_px: int, prompts: int, seed: int) -> Iterator[Sample]:
    """Endless augmented samples; a photo's source is drawn by SOURCE_WEIGHT. 60 % of the prompts are uniform over the
    annotated area, as at inference; the others uniform over regions, so that small ones are seen."""
    rng = np.random.default_rng(seed)
    by_source = {s: [p for p in photos if p.source == s] for s in SOURCE_WEIGHT}
    names = [name for name, group in by_source.items() if group]
    weights = np.array([SOURCE_WEIGHT[name] for name in names])
    while True:
        group = by_source[names[rng.choice(len(names), p=weights / weights.sum())]]
        photo = group[rng.integers(len(group))]
        image, maps, valid_hw = _view(photo, size_px, rng)
        if rng.random() < PASTE_SHARE:
            donor = group[rng.integers(len(group))]
            if not donor.annotators:
                donor_image, donor_maps, _ = _view(donor, size_px, rng)
                _paste(image, maps, donor_image, donor_maps, valid_hw, rng)
        base = maps[rng.integers(len(maps)) if photo.annotators else 0]
        ys, xs = np.nonzero(base)
        if len(ys) < 64:
            continue
        points, targets = [], []
        regions = np.unique(base[base > 0])
        for _ in range(prompts):
            if rng.random() < 0.6:
                i = rng.integers(len(ys))
                y, x = int(ys[i]), int(xs[i])
            else:
                ry, rx = np.nonzero(base == regions[rng.integers(len(regions))])
                i = rng.integers(len(ry))
                y, x = int(ry[i]), int(rx[i])
            points.append((np.array([x, y]) + rng.random(2)) * MASK_STRIDE - 0.5)
            targets.append(_levels(maps, (y, x), photo.annotators, rng))
        yield Sample(image, valid_hw, np.array(points, np.float32), np.stack(targets))
