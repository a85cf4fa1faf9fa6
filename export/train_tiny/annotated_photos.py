"""Photos and their nested regions, read from the data sets once and kept as arrays in files.

Each photo carries a stack of label maps. Rival maps are whole readings of the photo by several people (BSDS500). Nested
maps are three: objects, parts, sub-parts. A label of 0 means that nothing is known there at that level: such a point is
no prompt, or its output of that level is not supervised. An object without annotated parts falls into its connected
components, and those into superpixels.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from skimage.segmentation import felzenszwalb

LONG_SIDE_PX = 640
OBJECT, PART, SUBPART = range(3)
FORM = 1  # of the kept arrays; raised when they change

EXTRA = (
    "camvid_train",
    "car_parts",
    "ccp",
    "coco_instances_extra",
    "faces",
    "labelmefacade",
    "msrc",
    "weizmann",
)
THINGS = ("coco_instances", "coco_instances_extra", "weizmann", "ecssd", "ccp")  # their objects may be pasted elsewhere


@dataclass(frozen=True)
class Region:
    """A region of a photo's base map. box_xyxy: pixels, the end excluded."""

    label: int
    area: int
    box_xyxy: tuple[int, int, int, int]


@dataclass
class Photo:
    """A photo for training.

    image: uint8 [H, W, 3], RGB, or the file that holds it. maps: int16 [K, H, W], 0 = not known, or the file. rivals:
    the maps are readings of the whole photo, else K is 3 and they are nested. source: name of the data set. base: the
    map that regions are drawn from. regions: of that map.
    """

    image: NDArray[np.uint8] | Path
    maps: NDArray[np.int16] | Path
    rivals: bool
    source: str
    base: int
    regions: list[Region]

    @property
    def image_hwc_rgb(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]; of a file no more than is used is read."""
        return self.image if isinstance(self.image, np.ndarray) else np.load(self.image, mmap_mode="r")

    @property
    def label_maps(self) -> NDArray[np.int16]:
        """int16 [K, H, W]; of a file no more than is used is read."""
        return self.maps if isinstance(self.maps, np.ndarray) else np.load(self.maps, mmap_mode="r")


def components(labels: NDArray[np.int16]) -> NDArray[np.int16]:
    """Connected components of every region, numbered from 1."""
    out, n = np.zeros_like(labels), 0
    for label in np.unique(labels[labels > 0]):
        count, parts = cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=4)
        out[parts > 0] = parts[parts > 0] + n
        n += count - 1
    return out


def superpixels(image: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Coarse superpixels (Felzenszwalb at half size), numbered from 1."""
    small = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    labels = felzenszwalb(small, scale=300, sigma=0.8, min_size=150).astype(np.int16) + 1
    return np.asarray(cv2.resize(labels, image.shape[1::-1], interpolation=cv2.INTER_NEAREST), np.int16)


def region_table(labels: NDArray[np.int16]) -> list[Region]:
    """Every region of a label map."""
    table = []
    for label in np.unique(labels[labels > 0]):
        mask = (labels == label).astype(np.uint8)
        x, y, w, h = cv2.boundingRect(mask)
        table.append(Region(int(label), int(mask.sum()), (x, y, x + w, y + h)))
    return table


def whole(image: NDArray[np.uint8], maps: NDArray[np.int16], rivals: bool, source: str) -> Photo:
    """A photo of its maps, with the table of its regions."""
    if rivals:  # the annotator with the median number of regions
        base = int(np.argsort([len(np.unique(m)) for m in maps], kind="stable")[len(maps) // 2])
    else:
        base = OBJECT if maps[OBJECT].any() else PART
    return Photo(image, maps, rivals, source, base, region_table(maps[base]))


def nested(image: NDArray[np.uint8], maps: NDArray[np.int16], source: str) -> Photo:
    """A photo of annotated objects, parts and sub-parts; what is not annotated is made of components and superpixels.

    Args:
        image: uint8 [H, W, 3].
        maps: int16 [3, H, W], 0 where nothing is annotated.
        source: Name of the data set.

    Returns:
        The photo, at most 640 px long.
    """
    h, w = image.shape[:2]
    scale = min(1.0, LONG_SIDE_PX / max(h, w))
    size = round(w * scale), round(h * scale)
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    objects, parts, subparts = (cv2.resize(m, size, interpolation=cv2.INTER_NEAREST).astype(np.int16) for m in maps)
    with_parts = np.isin(objects, np.unique(objects[(objects > 0) & (parts > 0)]))
    pieces = components(np.where(with_parts, 0, objects).astype(np.int16))
    parts = np.where(parts > 0, parts, np.where(pieces > 0, pieces + parts.max(), 0)).astype(np.int16)
    outer = np.where(parts > 0, parts.astype(np.int64) + 8192, objects)
    joint = (outer * 8192 + superpixels(image)) * (outer > 0)
    fine = np.unique(joint, return_inverse=True)[1].reshape(joint.shape) + (0 if (joint == 0).any() else 1)
    subparts = np.where(subparts > 0, subparts, np.where(fine > 0, fine + subparts.max(), 0)).astype(np.int16)
    return whole(image, np.stack([objects, parts, subparts]), False, source)


def annotated(annotations: list[dict[str, Any]], height: int, width: int) -> NDArray[np.int16]:
    """Nested maps int16 [3, H, W] of COCO annotations with `level` and `parent`.

    A part without a known parent is of level 1, since its object is not known. Larger regions lie below smaller ones.
    """
    by_id = {a["id"]: a for a in annotations}

    def depth(a: dict[str, Any]) -> int:
        if a.get("level", "entity") == "entity":
            return OBJECT
        parent = by_id.get(a.get("parent"))
        return PART if parent is None else min(depth(parent) + 1, SUBPART)

    maps = np.zeros((3, height, width), np.int16)
    for i, a in enumerate(sorted(annotations, key=lambda a: -float(a["area"]))):
        maps[depth(a)][coco_mask.decode(a["segmentation"]) > 0] = i + 1
    return maps


def _read(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f"{path}: not a readable photo")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def read_coco(folder: Path, source: str) -> Iterator[Photo]:
    """The photos of a folder with `images` and `entities.json` that have annotations."""
    truth = json.loads((folder / "entities.json").read_text())
    by_image: dict[int, list[dict[str, Any]]] = {}
    for a in truth["annotations"]:
        by_image.setdefault(a["image_id"], []).append(a)
    for entry in truth["images"]:
        maps = annotated(by_image.get(entry["id"], []), entry["height"], entry["width"])
        if maps.any():
            yield nested(_read(folder / "images" / entry["file_name"]), maps, source)


def read_bsds(folder: Path) -> Iterator[Photo]:
    """The photos of a part of BSDS500, each with the readings of its annotators."""
    for path in sorted((folder / "images").iterdir()):
        maps = sorted((folder / "segmentations").glob(f"{path.stem}_*.png"))
        labels = np.stack([np.asarray(cv2.imread(str(m), cv2.IMREAD_UNCHANGED), np.int16) for m in maps])
        yield whole(_read(path), labels, True, "bsds500")


def _ecssd(folder: Path) -> Iterator[Photo]:
    for path in sorted((folder / "images").iterdir()):
        mask = cv2.imread(str(folder / f"masks/{path.stem}.png"), cv2.IMREAD_GRAYSCALE)
        objects = (np.asarray(mask) > 127).astype(np.int16)
        if objects.any():
            yield nested(_read(path), np.stack([objects, np.zeros_like(objects), np.zeros_like(objects)]), "ecssd")


def read_photos(data: Path) -> Iterator[Photo]:
    """Every training photo below `data`; a data set that is absent is left out.

    Held out are bsds500/val, coco/panoptic_dev, the `dev` folders of extra, and camvid_val and cityscapes.
    """
    readers: list[tuple[Path, Callable[[Path], Iterator[Photo]]]] = [
        (data / "bsds500/train", read_bsds),
        (data / "ecssd", _ecssd),
    ]
    for folder, source in (
        ("coco/panoptic_train", "coco_panoptic"),
        ("coco/instances_train", "coco_instances"),
        *((f"extra/{name}/train", name) for name in EXTRA),
    ):
        readers.append((data / folder, lambda path, source=source: read_coco(path, source)))  # type: ignore[misc]
    for path, read in readers:
        if path.is_dir():
            yield from read(path)


def load_photos(data: Path, kept: Path) -> list[Photo]:
    """The training photos in files below `kept`, which is made on the first call.

    Args:
        data: Folder of the data sets.
        kept: Folder for the arrays, about 3 MB a photo; it appears whole or not at all.

    Returns:
        Photos in a fixed order.
    """
    if not (kept / "photos.json").exists():
        partial = kept.with_name(kept.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        entries = []
        for i, photo in enumerate(read_photos(data)):
            np.save(partial / f"{i}.image.npy", photo.image_hwc_rgb)
            np.save(partial / f"{i}.maps.npy", photo.label_maps)
            regions = [[r.label, r.area, *r.box_xyxy] for r in photo.regions]
            entries.append({"source": photo.source, "rivals": photo.rivals, "base": photo.base, "regions": regions})
        if not entries:
            raise FileNotFoundError(f"{data}: found none of the data sets, expected at least one of them")
        (partial / "photos.json").write_text(json.dumps({"form": FORM, "photos": entries}))
        shutil.rmtree(kept, ignore_errors=True)
        partial.replace(kept)
    index = json.loads((kept / "photos.json").read_text())
    if index["form"] != FORM:
        raise ValueError(f"{kept}: found photos of form {index['form']}, expected {FORM}; remove the folder")
    photos = []
    for i, entry in enumerate(index["photos"]):
        table = [Region(label, area, (x0, y0, x1, y1)) for label, area, x0, y0, x1, y1 in entry["regions"]]
        image, maps = (kept / f"{i}.{name}.npy" for name in ("image", "maps"))
        photos.append(Photo(image, maps, entry["rivals"], entry["source"], entry["base"], table))
    return photos
