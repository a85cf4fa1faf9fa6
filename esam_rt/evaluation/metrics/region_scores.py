"""How alike two segmentations of a photo are: covering, Rand index, variation of information, boundaries.

Segmentations are label maps [H, W] of any integers; every label is a segment, 0 (nothing found) too: what is left over
is one segment. The measures, their units and how they are summed up over photos and annotators are those of the BSDS500
benchmark (Arbelaez et al., PAMI 2011), for one fixed segmentation a photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from esam_rt.evaluation.metrics.boundaries import boundary, match_boundaries

METRICS = (
    *("covering", "covering_best", "covering_reverse"),
    *("PRI", "VI", "boundary_F", "boundary_precision", "boundary_recall"),
)


def contingency(a: NDArray[np.integer], b: NDArray[np.integer]) -> NDArray[np.int64]:
    """Pixels that segment i of `a` and segment j of `b` share: int64 [I, J], in the order of the labels."""
    label_a, of_a = np.unique(a, return_inverse=True)
    label_b, of_b = np.unique(b, return_inverse=True)
    shared = np.bincount(of_a.ravel() * len(label_b) + of_b.ravel(), minlength=len(label_a) * len(label_b))
    return shared.reshape(len(label_a), len(label_b))


def covering(shared: NDArray[np.int64]) -> float:
    """Covering of `a` by `b`, 0 to 1: the best IoU of each segment of `a` with one of `b`, weighted by its area.

    shared: `contingency(a, b)`; transposed, it gives the covering of `b` by `a`.
    """
    area_a, area_b = shared.sum(axis=1), shared.sum(axis=0)
    iou = shared / (area_a[:, None] + area_b - shared)
    return float(area_a @ iou.max(axis=1) / area_a.sum())


def rand_index(shared: NDArray[np.int64]) -> float:
    """Share of the pairs of pixels that both maps put into one segment, or both into two; 1 for a single pixel."""
    pixels = int(shared.sum())
    if pixels == 1:
        return 1.0
    together = [int((n.astype(np.float64) ** 2).sum()) for n in (shared.sum(axis=1), shared.sum(axis=0), shared)]
    return 1 - (together[0] + together[1] - 2 * together[2]) / (pixels * (pixels - 1))


def variation_of_information(shared: NDArray[np.int64]) -> float:
    """H(a | b) + H(b | a) in bits; 0 for equal segmentations."""
    pixels = shared.sum()
    a, b, both = (_entropy(n.ravel() / pixels) for n in (shared.sum(axis=1), shared.sum(axis=0), shared))
    return max(2 * both - a - b, 0.0)


def _entropy(share: NDArray[np.float64]) -> float:
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


@dataclass(frozen=True)
class PhotoRegions:
    """One photo against its annotators' maps.

    covering: of each annotator's map by the found one, summed over annotators; covering_best: of the annotator who
    agrees best; covering_reverse: of the found map by each annotator's, summed. rand, vi: means over annotators.
    found_matched of found: boundary pixels of the found map, matched with some annotator's. true_matched of true:
    annotators' boundary pixels, summed over annotators.
    """

    annotators: int
    covering: float
    covering_best: float
    covering_reverse: float
    rand: float
    vi: float
    found_matched: int
    found: int
    true_matched: int
    true: int
    segments: int
    true_segments: float


def compare(found: NDArray[np.integer], annotated: Sequence[NDArray[np.integer]]) -> PhotoRegions:
    """Compare a label map [H, W] with those of one or more annotators, of the same size."""
    tables = [contingency(labels, found) for labels in annotated]
    coverings = [covering(table) for table in tables]
    lines = boundary(found)
    matched = np.zeros(lines.shape, bool)
    true_matched = true = 0
    for labels in annotated:
        true_lines = boundary(labels)
        of_found, of_true = match_boundaries(lines, true_lines)
        matched |= of_found
        true_matched += int(of_true.sum())
        true += int(true_lines.sum())
    return PhotoRegions(
        annotators=len(tables),
        covering=sum(coverings),
        covering_best=max(coverings),
        covering_reverse=sum(covering(table.T) for table in tables),
        rand=float(np.mean([rand_index(table) for table in tables])),
        vi=float(np.mean([variation_of_information(table) for table in tables])),
        found_matched=int(matched.sum()),
        found=int(lines.sum()),
        true_matched=true_matched,
        true=true,
        segments=tables[0].shape[1],
        true_segments=float(np.mean([table.shape[0] for table in tables])),
    )


class RegionScores:
    """The photos of a set, for any weights of them."""

    def __init__(self, photos: Sequence[PhotoRegions]) -> None:
        numbers = [asdict(photo) for photo in photos]
        names = [f.name for f in fields(PhotoRegions)]
        self._columns = {name: np.array([n[name] for n in numbers], np.float64) for name in names}

    def metrics(self, weights: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """METRICS, float64 [B] each, for weights int64 [B, P].

        Covering is a mean over all annotators' maps, boundary precision and recall over all boundary pixels (no
        boundary found: precision 1; none there: recall 1); the others are means over photos.
        """
        total = {name: weights @ column for name, column in self._columns.items()}
        photos = weights.sum(axis=1)
        precision = _ratio(total["found_matched"], total["found"])
        recall = _ratio(total["true_matched"], total["true"])
        both = precision + recall
        return {
            "covering": total["covering"] / total["annotators"],
            "covering_best": total["covering_best"] / photos,
            "covering_reverse": total["covering_reverse"] / total["annotators"],
            "PRI": total["rand"] / photos,
            "VI": total["vi"] / photos,
            "boundary_F": np.where(both > 0, 2 * precision * recall / np.where(both > 0, both, 1), 0),
            "boundary_precision": precision,
            "boundary_recall": recall,
        }


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), 1.0)
