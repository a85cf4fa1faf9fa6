"""COCO's average precision and recall from their definition, on dense masks, without pycocotools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
RECALLS = [i / 100 for i in range(101)]
RANGES = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}


class Entity(NamedTuple):
    mask: NDArray[np.bool_]
    area: float
    crowd: bool


class Detection(NamedTuple):
    mask: NDArray[np.bool_]
    score: float


Photo = tuple[Sequence[Entity], Sequence[Detection]]


def metrics(photos: Sequence[Photo]) -> dict[str, float]:
    """The twelve numbers of COCO's summary in percent; NaN where there is nothing to find."""
    ap = {size: [[*_curve(photos, t, size, 100)] for t in THRESHOLDS] for size in RANGES}
    ar = {limit: [_recall(photos, t, "all", limit) for t in THRESHOLDS] for limit in (1, 10)}
    ar_size = {size: [_recall(photos, t, size, 100) for t in THRESHOLDS] for size in RANGES}
    values = [ap["all"], ap["all"][0], ap["all"][5], ap["small"], ap["medium"], ap["large"]]
    values += [ar[1], ar[10], ar_size["all"], ar_size["small"], ar_size["medium"], ar_size["large"]]
    names = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
    names += ["AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"]
    return {name: 100 * float(np.mean(value)) for name, value in zip(names, values, strict=True)}


def _curve(photos: Sequence[Photo], threshold: float, size: str, limit: int) -> list[float]:
    """At each recall, the best precision there or further on."""
    verdicts, positives = _verdicts(photos, threshold, size, limit)
    if not positives:
        return [float("nan")] * len(RECALLS)
    points = []
    right = wrong = 0
    for verdict in verdicts:
        right += verdict == "right"
        wrong += verdict == "wrong"
        if right + wrong:
            points.append((right / positives, right / (right + wrong)))
    return [max((p for r, p in points if r >= recall), default=0.0) for recall in RECALLS]


def _recall(photos: Sequence[Photo], threshold: float, size: str, limit: int) -> float:
    verdicts, positives = _verdicts(photos, threshold, size, limit)
    return verdicts.count("right") / positives if positives else float("nan")


def _verdicts(photos: Sequence[Photo], threshold: float, size: str, limit: int) -> tuple[list[str], int]:
    """right, wrong or ignored of each detection of all photos by score, and the number of entities to find."""
    scored: list[tuple[float, str]] = []
    positives = 0
    for entities, detections in photos:
        wanted = [not e.crowd and RANGES[size][0] <= e.area <= RANGES[size][1] for e in entities]
        positives += sum(wanted)
        best_first = sorted(detections, key=lambda d: -d.score)[:100]
        taken: set[int] = set()
        for rank, d in enumerate(best_first):
            choice = _choice(d, entities, wanted, taken, min(threshold, 1 - 1e-10))
            if choice is not None:
                taken.add(choice)
                verdict = "right" if wanted[choice] else "ignored"
            else:
                inside = RANGES[size][0] <= d.mask.sum() <= RANGES[size][1]
                verdict = "wrong" if inside else "ignored"
            if rank < limit:
                scored.append((d.score, verdict))
    return [verdict for _, verdict in sorted(scored, key=lambda pair: -pair[0])], positives


def _choice(
    d: Detection, entities: Sequence[Entity], wanted: Sequence[bool], taken: set[int], threshold: float
) -> int | None:
    """The entity that a detection is given to: the one to be found of the highest IoU, else one to be ignored."""
    for looked_for in (True, False):
        best, choice = threshold, None
        for i, e in enumerate(entities):
            free = i not in taken or e.crowd
            if wanted[i] == looked_for and free and (iou := _iou(d, e)) >= best:
                best, choice = iou, i
        if choice is not None:
            return choice
    return None


def _iou(d: Detection, e: Entity) -> float:
    """Of a crowd, the share of the detection that lies in it."""
    shared = int((d.mask & e.mask).sum())
    whole = int(d.mask.sum()) if e.crowd else int((d.mask | e.mask).sum())
    return shared / whole if whole else 0.0
