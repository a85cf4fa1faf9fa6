"""What MMG, EMR and USR recover of a truth that is known: E-SAM's Table 3 with a simulated promptable model.

    python -m benchmarks.oracle bsds500/val --every 5 --out oracle.json

In place of networks, a model that knows each photo's tree of regions: objects are those of one annotator (of the
median count), parts are where the objects meet the finest annotator's regions, sub-parts where those meet superpixels.
A prompt gets the three regions under it, each with a boundary that wavers differently for every prompt, and their true
IoU as scores; the scenarios then take away what real models lack. Filters and thresholds are SAM's and the paper's.
Printed is AP against the objects, for each row of the ablation and SAM's mask generation, and how much is covered.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.function_engine import FunctionEngine
from benchmarks.readings import READINGS, changes, in_place
from esam_rt import EntityMap, EntitySegmenter, Settings, __version__
from esam_rt.evaluation import average_precision
from esam_rt.evaluation.metrics.matching import PhotoMatches, match_photo
from esam_rt.evaluation.paper_tables.decode_cache import CachingSam, CachingSuperpixels
from esam_rt.kernels.felzenszwalb import felzenszwalb
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.models import ModelSpec
from esam_rt.sam.predictor import IMAGE_FEATURES, Engines, Sam
from esam_rt.sources.decode import read_photo
from esam_rt.sources.photo_files import find_photos

Segment = Callable[[NDArray[np.uint8]], EntityMap]

INPUT_PX = 1024
SIDE = INPUT_PX // 4
ROW = ModelSpec("simulated", "a model that knows the truth", "none", INPUT_PX, 0.88, 0.95, 1.0, 64)
SHARPNESS = 4.0  # logits a cell across a boundary
FIELDS = 64  # different ways in which boundaries waver
MODULES = ("mmg", "emr", "usr")
TABLE_3 = [(), ("mmg",), ("emr",), ("usr",), ("emr", "usr"), ("mmg", "usr"), ("mmg", "emr"), MODULES]


@dataclass(frozen=True)
class Scenario:
    """waver_cells: standard deviation of a boundary. missing: share of prompts that see no object, only its part.
    score_noise: standard deviation of scores. part_bias: how much better than it is a part is thought. blind: share of
    objects whose prompts only answer well near the middle."""

    waver_cells: float = 0.0
    missing: float = 0.0
    score_noise: float = 0.0
    part_bias: float = 0.0
    blind: float = 0.0


SCENARIOS = {
    "truth": Scenario(),
    "wavering boundaries": Scenario(waver_cells=0.5, score_noise=0.02),
    "parts are preferred": Scenario(0.5, score_noise=0.02, part_bias=0.05),
    "object level often missing": Scenario(0.5, score_noise=0.02, missing=0.5),
    "blind spots": Scenario(0.5, score_noise=0.02, blind=0.4),
    "all of it": Scenario(0.5, missing=0.5, score_noise=0.02, part_bias=0.05, blind=0.4),
}


class SimulatedSam:
    """Engines that answer for the photo set by `look_at`."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario

    def look_at(self, levels: NDArray[np.int32], grid_hw: tuple[int, int], seed: int) -> None:
        """levels: int32 [3, SIDE, SIDE], objects, parts, sub-parts; 0 in the padding."""
        rng = np.random.default_rng(seed)
        self.levels, self.grid_hw = levels, grid_hw
        self.depths = [np.stack([_signed_depth(m == k) for k in range(int(m.max()) + 1)]) for m in levels]
        fields = rng.normal(size=(FIELDS, SIDE, SIDE)).astype(np.float32)
        fields = np.stack([cv2.GaussianBlur(f, (0, 0), 4) for f in fields])
        self.fields = self.scenario.waver_cells * fields / fields.std()
        shape = (SIDE * SIDE, 3)
        self.field_of = rng.integers(0, FIELDS, shape)
        self.error = rng.normal(0, self.scenario.score_noise, shape)
        self.misses = rng.random(SIDE * SIDE) < self.scenario.missing
        self.blind = rng.random(int(levels[0].max()) + 1) < self.scenario.blind
        looks = [rng.normal(size=(int(m.max()) + 1, 32)) for m in levels[:2]]
        pixels = looks[0][levels[0]] + 0.5 * looks[1][levels[1]] + 0.3 * rng.normal(size=(SIDE, SIDE, 32))
        patches = pixels.reshape(SIDE // 4, 4, SIDE // 4, 4, 32).mean((1, 3)).astype(np.float32)
        self.embedding = np.ascontiguousarray(patches.transpose(2, 0, 1))[None]

    def engines(self) -> Engines:
        """To be used in place of networks."""
        return Engines(*map(FunctionEngine, (self._encode, self._decode, self._upscale, self._draw)))

    def _encode(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        return {"embedding": self.embedding} | dict.fromkeys(IMAGE_FEATURES)

    def _decode(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """The tokens are the prompts' cells, `images` stays empty."""
        h, w = self.grid_hw
        x, y = (np.clip(feed["points_xy_px"][:, 0] // 4, 0, (w - 1, h - 1))).astype(np.intp).T
        cells = y * SIDE + x
        score = np.stack([self._score(int(cell)) for cell in cells])
        return {"predicted_iou": score.astype(np.float32), "tokens": cells, "prompt_image_embeddings": None}

    def _score(self, cell: int) -> NDArray[np.floating]:
        truth, seen = self._masks(cell, wavering=False), self._masks(cell) > 0
        iou = (truth & seen).sum((1, 2)) / np.maximum((truth | seen).sum((1, 2)), 1)
        score = iou + self.error[cell] + self.scenario.part_bias * (np.arange(3) > 0)
        k = self.levels[0].ravel()[cell]
        depth = self.depths[0][k]
        return score - 0.3 * (self.blind[k] and depth.ravel()[cell] < 0.6 * depth.max())

    def _masks(self, cell: int, wavering: bool = True) -> NDArray[Any]:
        """Of a prompt: logits float32 [3, h, w], or the true regions bool [3, h, w]."""
        h, w = self.grid_hw
        level = np.array([1, 1, 2] if self.misses[cell] else [0, 1, 2])
        depth = np.stack([self.depths[i][self.levels[i].ravel()[cell], :h, :w] for i in level])
        if not wavering:
            return depth > 0
        return SHARPNESS * (depth + self.fields[self.field_of[cell], :h, :w])

    def _upscale(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        offset = feed["stability_offset"]
        h, w = self.grid_hw
        logits = [self._masks(int(cell)) for cell in feed["tokens"][feed["index"]]]
        masks = np.zeros((len(logits), 3, SIDE, SIDE), bool)
        masks[:, :, :h, :w] = np.array(logits).reshape(-1, 3, h, w) > 0
        stable = [(m > offset).sum((1, 2)) / np.maximum((m > -offset).sum((1, 2)), 1) for m in logits]
        rows, columns = masks.any(3), masks.any(2)
        first = columns.argmax(2), rows.argmax(2)
        stop = SIDE - columns[..., ::-1].argmax(2), SIDE - rows[..., ::-1].argmax(2)
        box = np.stack([*first, *stop], axis=2)
        return {
            "stability_score": np.array(stable, np.float32).reshape(-1, 3),
            "area": masks.sum((2, 3)).astype(np.int32),
            "box_xyxy": np.where(rows.any(2)[..., None], box, 0).astype(np.int32),
            "bits": np.packbits(masks, axis=3, bitorder="little"),
        }

    def _draw(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        logits = np.full((len(feed["mask_index"]), SIDE, SIDE), -9, np.float32)
        h, w = self.grid_hw
        for out, cell, level in zip(logits, feed["tokens"], feed["mask_index"], strict=True):
            out[:h, :w] = self._masks(int(cell))[level]
        return {"logits": logits}


def _signed_depth(region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Cells to the boundary: positive in the region, negative outside; float32 [SIDE, SIDE]."""
    inside = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.where(region, inside - 0.5, 0.5 - outside), np.float32)


def tree_of(folder: Path, stem: str, image: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The truth int32 [H, W] from 1, and objects, parts and sub-parts on the grid, int32 [3, SIDE, SIDE]."""
    paths = sorted((folder / "segmentations").glob(f"{stem}_*.png"))
    maps = sorted(
        (cv2.imread(str(p), cv2.IMREAD_UNCHANGED).astype(np.int32) for p in paths), key=lambda m: len(np.unique(m))
    )
    truth, finest = maps[(len(maps) - 1) // 2] + 1, maps[-1] + 1
    parts = _joint(truth, finest)
    levels = np.stack([_joint(truth), parts, _joint(parts, felzenszwalb(image, 300.0, 0.8, 100))])
    h, w = Geometry.of(truth.shape, INPUT_PX).grid_hw
    grid = np.zeros((3, SIDE, SIDE), np.int32)
    for out, level in zip(grid, levels, strict=True):
        out[:h, :w] = cv2.resize(level.astype(np.float32), (w, h), interpolation=cv2.INTER_NEAREST)
    return levels[0], grid


def _joint(*maps: NDArray[np.integer]) -> NDArray[np.int32]:
    """One label from 1 for each combination."""
    code = np.zeros(maps[0].shape, np.int64)
    for m in maps:
        code = code * 100_000 + m
    return (np.unique(code, return_inverse=True)[1].reshape(code.shape) + 1).astype(np.int32)


def entities_of(labels: NDArray[np.int32]) -> list[dict[str, Any]]:
    """COCO annotations of a label map."""
    masks = (np.asfortranarray(labels == k, np.uint8) for k in range(1, int(labels.max()) + 1))
    return [{"segmentation": coco_mask.encode(mask)} for mask in masks]


def ablation(sam: Sam, pixels: CachingSuperpixels, base: Settings) -> dict[str, Segment]:
    """The rows of Table 3, and SAM's mask generation."""
    return {
        "+".join(on).upper() or "none": EntitySegmenter(
            sam, settings=base.with_overrides({f"{m}.enabled": m in on for m in MODULES}), superpixels=pixels
        )
        for on in TABLE_3
    } | {"AMG": EntitySegmenter(sam, settings=base, method="amg", superpixels=pixels)}


def other_readings(sam: Sam, pixels: CachingSuperpixels, base: Settings) -> dict[str, Segment]:
    """All three modules, as other readings of the paper have them."""

    def segment(name: str) -> Segment:
        segmenter = EntitySegmenter(sam, settings=base.with_overrides(changes(name)), superpixels=pixels)

        def call(image: NDArray[np.uint8]) -> EntityMap:
            with in_place(name):
                return segmenter(image)

        return call

    return {name: segment(name) for name in READINGS}


def run(
    folder: Path, scenario: Scenario, rows_of: Callable[[Sam, CachingSuperpixels], dict[str, Segment]], every: int
) -> dict[str, dict[str, float]]:
    """AP, AP50, AP75 and coverage in percent, and entities a photo, of each row."""
    simulated = SimulatedSam(scenario)
    sam, pixels = CachingSam(Sam(ROW, simulated.engines(), "0" * 64)), CachingSuperpixels()
    rows = rows_of(sam, pixels)
    matches: dict[str, list[PhotoMatches]] = {name: [] for name in rows}
    covered: dict[str, list[float]] = {name: [] for name in rows}
    photos = find_photos([folder / "images"])[::every]
    for seed, photo in enumerate(track(photos, console=Console(stderr=True)), 1):
        image = read_photo(photo.path, photo.name).image_hwc_rgb
        truth, levels = tree_of(folder, photo.path.stem, image)
        entities = entities_of(truth)
        simulated.look_at(levels, Geometry.of(truth.shape, INPUT_PX).grid_hw, seed)
        sam.clear()
        pixels.clear()
        for name, segment in rows.items():
            result = segment(image)
            matches[name].append(match_photo(entities, result.to_coco()))
            covered[name].append(float((result.labels > 0).mean()))
    return {
        name: {
            **{metric: round(average_precision(found)[metric], 2) for metric in ("AP", "AP50", "AP75")},
            "covered_percent": round(100 * float(np.mean(covered[name])), 1),
            "entities": round(float(np.mean([m.detections for m in found])), 1),
        }
        for name, found in matches.items()
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of BSDS500, with images/ and segmentations/")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="for every row")
    parser.add_argument("--readings", action="store_true", help="other readings of the paper in place of the ablation")
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    base = Settings().with_overrides(dict(item.split("=", 1) for item in a.set))
    rows_of = partial(other_readings if a.readings else ablation, base=base)
    results = {name: run(a.folder, SCENARIOS[name], rows_of, a.every) for name in a.scenarios}
    table = Table("AP (covered %)", *results, title=f"{a.folder.parent.name}/{a.folder.name}, every {a.every}")
    for row in next(iter(results.values())):
        table.add_row(row, *(f"{r[row]['AP']:.1f} ({r[row]['covered_percent']:.0f})" for r in results.values()))
    Console(width=160).print(table)
    record = {
        "esam_rt": __version__,
        "photos": f"{a.folder.parent.name}/{a.folder.name}",
        "every": a.every,
        "set": a.set,
        "scenarios": {name: asdict(SCENARIOS[name]) for name in results},
        "results": results,
    }
    if a.out:
        a.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
