"""A simulated promptable model that knows the true regions of a photo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from benchmarks.lib.function_engine import FunctionEngine
from esam_rt.kernels.felzenszwalb import felzenszwalb
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.models import ModelSpec
from esam_rt.sam.predictor import IMAGE_FEATURES, Engines

INPUT_PX = 1024
SIDE = INPUT_PX // 4
ROW = ModelSpec("simulated", "a model that knows the truth", "none", INPUT_PX, 0.88, 0.95, 1.0, 64)
SHARPNESS = 4.0  # change of the logits per cell across a boundary
FIELDS = 64  # noise fields that move boundaries


@dataclass(frozen=True)
class Scenario:
    """The faults of the simulated model.

    Attributes:
        waver_cells: Standard deviation of boundaries, cells.
        missing: Share of prompts that see no object, only its part.
        score_noise: Standard deviation of scores.
        part_bias: Added to the scores of parts and sub-parts.
        blind: Share of objects whose prompts score well only near the middle.
    """

    waver_cells: float = 0.0
    missing: float = 0.0
    score_noise: float = 0.0
    part_bias: float = 0.0
    blind: float = 0.0


class SimulatedSam:
    """Makes engines that answer for the photo set by `look_at`."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario

    def look_at(self, levels: NDArray[np.int32], grid_hw: tuple[int, int], seed: int) -> None:
        """Set the photo.

        Args:
            levels: Labels of objects, parts and sub-parts, int32 [3, SIDE, SIDE], 0 in the padding.
            grid_hw: Rows and columns of the grid that are not padding.
            seed: Seed of all noise.
        """
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
        """Return engines to use instead of networks."""
        return Engines(*map(FunctionEngine, (self._encode, self._decode, self._upscale, self._draw)))

    def _encode(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        return {"embedding": self.embedding} | dict.fromkeys(IMAGE_FEATURES)

    def _decode(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """Answer with scores. The tokens are the prompts' cells, and there are no prompt embeddings."""
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
        """Return a prompt's logits float32 [3, h, w], or the true regions bool [3, h, w]."""
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
    """Return the distance to the boundary in cells, positive inside: float32 [SIDE, SIDE]."""
    inside = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.where(region, inside - 0.5, 0.5 - outside), np.float32)


def tree_of(folder: Path, stem: str, image: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Read a photo's tree of regions.

    Args:
        folder: Folder of BSDS500 with ``segmentations/``.
        stem: The photo's name without suffix.
        image: The photo, uint8 [H, W, 3].

    Returns:
        The true objects int32 [H, W], numbered from 1, and objects, parts and sub-parts on the grid, int32
        [3, SIDE, SIDE].
    """
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
    """Number the combinations of labels from 1."""
    code = np.zeros(maps[0].shape, np.int64)
    for m in maps:
        code = code * 100_000 + m
    return (np.unique(code, return_inverse=True)[1].reshape(code.shape) + 1).astype(np.int32)


def entities_of(labels: NDArray[np.int32]) -> list[dict[str, Any]]:
    """Return the COCO annotations of a label map."""
    masks = (np.asfortranarray(labels == k, np.uint8) for k in range(1, int(labels.max()) + 1))
    return [{"segmentation": coco_mask.encode(mask)} for mask in masks]
