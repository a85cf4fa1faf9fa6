"""A synthetic scene with known identities: ten moving shapes that cross, and one that leaves and returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from esam_rt.entity_map import EntityMap
from esam_rt.stages import Stage

HW = (360, 480)
SHAPES = 10
AWAY = range(40, 44)  # frames in which the last shape is gone: four in a row
GREY = 96  # of the background


@dataclass(frozen=True, eq=False)
class ShapesFrame:
    """A frame of the scene.

    Attributes:
        image_hwc_rgb: uint8 [H, W, 3].
        entities: Visible shapes and the background, in random order of scores.
        truth: True identity of each entity, int [N]. The background is 0.
        visible: Part of the shape that no other shape hides and that lies in the frame, by true identity, [11].
    """

    image_hwc_rgb: NDArray[np.uint8]
    entities: EntityMap
    truth: NDArray[np.intp]
    visible: NDArray[np.float64]


def moving_shapes(frames: int = 120, seed: int = 0) -> Iterator[ShapesFrame]:
    """Draw the scene. Shapes move 1 to 4 pixels a frame and turn back at the border.

    Args:
        frames: Number of frames.
        seed: Seed of shapes, ways and scores.
    """
    rng = np.random.default_rng(seed)
    h, w = HW
    half = rng.uniform(12, 26, (SHAPES, 2))
    place = rng.uniform(half, np.array([w, h]) - half)
    angle = rng.uniform(0, 2 * np.pi, SHAPES)
    velocity = rng.uniform(1, 4, (SHAPES, 1)) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    colors = rng.integers(0, 256, (SHAPES + 1, 3)).astype(np.uint8)
    colors[0] = GREY
    for frame in range(frames):
        labels, whole = np.zeros(HW, np.uint8), np.zeros(SHAPES + 1)
        for i in range(SHAPES):
            if i == SHAPES - 1 and frame in AWAY:
                continue
            alone = np.zeros(HW, np.uint8)
            x, y = place[i]
            if i % 2:
                cv2.ellipse(alone, ((x, y), tuple(2 * half[i]), 0), 1, -1)
            else:
                corner, end = np.round(place[i] - half[i]).astype(int), np.round(place[i] + half[i]).astype(int)
                cv2.rectangle(alone, corner.tolist(), end.tolist(), 1, -1)
            labels[alone > 0] = i + 1
            whole[i + 1] = alone.sum()
        shown = np.bincount(labels.ravel(), minlength=SHAPES + 1)
        whole[0] = shown[0]
        score = rng.permutation(SHAPES + 1) / 20 + 0.4
        entities = EntityMap.from_labels(labels + 1, score, np.full(SHAPES + 1, Stage.MMG))
        truth = labels.ravel()[[np.flatnonzero(entities.labels.ravel() == k + 1)[0] for k in range(len(entities))]]
        visible = shown / np.maximum(whole, 1)
        yield ShapesFrame(colors[labels], entities, truth.astype(np.intp), visible)
        place += velocity
        out = (place < half) | (place > np.array([w, h]) - half)
        velocity[out] *= -1
        place = np.clip(place, half, np.array([w, h]) - half)


def idf1(truth: list[NDArray[np.integer]], track_id: list[NDArray[np.integer]]) -> float:
    """Return IDF1 of identities, for entities whose masks are perfect.

    True and found identities are paired so that the most entities agree (Ristani et al. 2016, eq. 4 to 10).

    Args:
        truth: True identity of each entity, one array a frame.
        track_id: Found identity of each entity, one array a frame.
    """
    true, found = np.concatenate(truth), np.concatenate(track_id)
    true_names, row = np.unique(true, return_inverse=True)
    found_names, column = np.unique(found, return_inverse=True)
    counts = np.zeros((len(true_names), len(found_names)))
    np.add.at(counts, (row, column), 1)
    agree = counts[linear_sum_assignment(counts, maximize=True)].sum()
    return float(2 * agree / (len(true) + len(found)))


def switches(scene: list[ShapesFrame], track_id: list[NDArray[np.integer]]) -> tuple[int, int]:
    """Count changes of identity between successive sightings of a shape.

    Args:
        scene: The frames.
        track_id: Found identity of each entity, one array a frame.

    Returns:
        Changes without occlusion (nine tenths of the shape are visible in both frames and all frames between), and all.
    """
    last: dict[int, tuple[int, bool]] = {}
    clear, every = 0, 0
    for frame, ids in zip(scene, track_id, strict=True):
        for shape, visible in enumerate(frame.visible):
            is_here = shape in frame.truth
            is_clear = bool(visible >= 0.9) or (not is_here and shape == SHAPES)  # it leaves; nothing hides it
            if is_here:
                found = int(ids[np.flatnonzero(frame.truth == shape)[0]])
                if shape in last and last[shape][0] != found:
                    every += 1
                    clear += last[shape][1] and is_clear
                last[shape] = found, is_clear
            elif shape in last:
                last[shape] = last[shape][0], last[shape][1] and is_clear
    return clear, every
