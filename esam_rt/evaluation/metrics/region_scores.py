"""Similarity of two segmentations of a photo: covering, Rand index, variation of information, boundaries.

A segmentation is a label map [H, W] of any integers. Every label is a segment, 0 (nothing found) as well. Measures,
units and sums over photos and annotators are those of the BSDS500 benchmark (Arbelaez et al., PAMI 2011), for one fixed
segmentation per photo.
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
    """Count the pixels that segment i of ``a`` and segment j of ``b`` share.

    Args:
        a: Label map [H, W] with I labels.
        b: Label map [H, W] with J labels.

    Returns:
        int64 [I, J], in ascending order of the labels.
    """
    label_a, index_a = np.unique(a, return_inverse=True)
    label_b, index_b = np.unique(b, return_inverse=True)
    shared = np.bincount(index_a.ravel() * len(label_b) + index_b.ravel(), minlength=len(label_a) * len(label_b))
    return shared.reshape(len(label_a), len(label_b))


def covering(shared: NDArray[np.int64]) -> float:
    """Return the covering of ``a`` by ``b``, 0 to 1: the best IoU of each segment of ``a``, weighted by its area.

    Args:
        shared: ``contingency(a, b)``. The transpose gives the covering of ``b`` by ``a``.
    """
    area_a, area_b = shared.sum(axis=1), shared.sum(axis=0)
    iou = shared / (area_a[:, None] + area_b - shared)
    return float(area_a @ iou.max(axis=1) / area_a.sum())


def rand_index(shared: NDArray[np.int64]) -> float:
    """Return the share of pixel pairs on which both maps agree: one segment in both, or two segments in both.

    Args:
        shared: ``contingency(a, b)``. A single pixel gives 1.
    """
    pixels = int(shared.sum())
    if pixels == 1:
        return 1.0
    together = [int((n.astype(np.float64) ** 2).sum()) for n in (shared.sum(axis=1), shared.sum(axis=0), shared)]
    return 1 - (together[0] + together[1] - 2 * together[2]) / (pixels * (pixels - 1))


def variation_of_information(shared: NDArray[np.int64]) -> float:
    """Return H(a given b) + H(b given a) in bits; 0 for equal segmentations.

    Args:
        shared: ``contingency(a, b)``.
    """
    pixels = shared.sum()
    a, b, both = (_entropy(n.ravel() / pixels) for n in (shared.sum(axis=1), shared.sum(axis=0), shared))
    return max(2 * both - a - b, 0.0)


def _entropy(share: NDArray[np.float64]) -> float:
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


@dataclass(frozen=True)
class PhotoRegions:
    """Comparison of the found map of one photo with the maps of its annotators.

    Attributes:
        annotators: Number of annotators.
        covering: Covering of each annotator's map by the found map, summed over annotators.
        covering_best: Covering for the annotator who agrees best.
        covering_reverse: Covering of the found map by each annotator's map, summed over annotators.
        rand: Rand index, mean over annotators.
        vi: Variation of information in bits, mean over annotators.
        found_matched: Boundary pixels of the found map that match a pixel of any annotator.
        found: Boundary pixels of the found map.
        true_matched: Boundary pixels of annotators that match a found pixel, summed over annotators.
        true: Boundary pixels of annotators, summed over annotators.
        segments: Segments of the found map.
        true_segments: Segments of an annotator's map, mean over annotators.
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
    """Compare a label map with those of its annotators.

    Args:
        found: Label map [H, W].
        annotated: Label maps [H, W] of one or more annotators.
    """
    tables = [contingency(labels, found) for labels in annotated]
    coverings = [covering(table) for table in tables]
    lines = boundary(found)
    matched = np.zeros(lines.shape, bool)
    true_matched = true = 0
    for labels in annotated:
        true_lines = boundary(labels)
        found_pixels, true_pixels = match_boundaries(lines, true_lines)
        matched |= found_pixels
        true_matched += int(true_pixels.sum())
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
    """Scores of P photos for any weights of the photos.

    Args:
        photos: Comparison of each photo.
    """

    def __init__(self, photos: Sequence[PhotoRegions]) -> None:
        numbers = [asdict(photo) for photo in photos]
        names = [f.name for f in fields(PhotoRegions)]
        self._columns = {name: np.array([n[name] for n in numbers], np.float64) for name in names}

    def metrics(self, weights: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Return ``METRICS``, float64 [B] each.

        Covering is a mean over all annotators' maps. Boundary precision and recall are means over all boundary pixels;
        without any, they are 1. The others are means over photos.

        Args:
            weights: int64 [B, P], how often each photo counts in each of B sets.
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
