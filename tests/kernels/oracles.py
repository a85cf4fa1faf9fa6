"""Masks that are hard on bit-packed kernels, and what the kernels should say of them, in plain NumPy on dense masks."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from esam_rt.kernels.bits import areas_and_boxes, pack

WIDTHS = (1, 63, 64, 65, 128, 200)


def adversarial_masks(width: int, height: int = 9, seed: int = 0) -> NDArray[np.bool_]:
    """bool [N, height, width]: empty, full, single cells, nested, touching, word edges, checkers, random, identical."""
    rng = np.random.default_rng(seed)
    masks = []

    def add(*cells: Any) -> None:
        mask = np.zeros((height, width), bool)
        for rows, columns in cells:
            mask[rows, columns] = True
        masks.append(mask)

    every = slice(None)
    add()
    add((every, every))
    for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1), (height // 2, width // 2)):
        add((y, x))
    for margin in (1, 2, 3):
        add((slice(margin, height - margin), slice(margin, max(width - margin, margin + 1))))
    add((every, slice(0, width // 2)))
    add((every, slice(width // 2, None)))
    add((slice(0, height // 2), every))
    add((slice(height // 2, None), every))
    for edge in range(64, width + 1, 64):
        add((every, edge - 1))
        add((every, slice(edge - 1, edge + 1)))
    parity = np.add.outer(np.arange(height), np.arange(width)) % 2 == 0
    masks += [parity, ~parity, parity.copy()]
    for density in (0.02, 0.3, 0.7, 0.98):
        masks.append(rng.random((height, width)) < density)
    for _ in range(6):
        y0, x0 = rng.integers(height), rng.integers(width)
        add((slice(y0, y0 + rng.integers(1, height + 1)), slice(x0, x0 + rng.integers(1, width + 1))))
    masks += [masks[1].copy(), masks[-1].copy(), masks[0].copy()]
    return np.array(masks)


def rectangles(count: int, height: int, width: int, seed: int = 0) -> NDArray[np.bool_]:
    """bool [count, height, width], a random rectangle each."""
    rng = np.random.default_rng(seed)
    y, x = np.arange(height)[:, None], np.arange(width)
    y0, x0 = rng.integers(0, height, count), rng.integers(0, width, count)
    y1, x1 = y0 + rng.integers(1, height, count), x0 + rng.integers(1, width, count)
    y0, x0, y1, x1 = (v[:, None, None] for v in (y0, x0, y1, x1))
    return (y >= y0) & (y < y1) & (x >= x0) & (x < x1)


@st.composite
def mask_arrays(draw: st.DrawFn, max_count: int = 8) -> NDArray[np.bool_]:
    """bool [N, H, W], N from 0."""
    shape = draw(st.tuples(st.integers(0, max_count), st.integers(1, 5), st.sampled_from((1, 7, 63, 64, 65, 130))))
    return draw(hnp.arrays(bool, shape))


def packed(masks: NDArray[np.bool_]) -> tuple[NDArray[np.uint64], NDArray[np.int16], NDArray[np.int32]]:
    """bits, box, area."""
    bits = pack(masks)
    area, box = areas_and_boxes(bits)
    return bits, box, area


def dense_boxes(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    out = np.zeros((len(masks), 4), np.int64)
    for i, mask in enumerate(masks):
        if mask.any():
            ys, xs = np.nonzero(mask)
            out[i] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    return out


def dense_intersections(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.int64]:
    # Sums of less than 2**24 ones are exact in float32.
    return np.tensordot(a.astype(np.float32), b.astype(np.float32), ((1, 2), (1, 2))).astype(np.int64)


def dense_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float64]:
    """float64 [Na, Nb], 0 where both are empty."""
    cells = dense_intersections(a, b)
    union = a.sum((1, 2))[:, None] + b.sum((1, 2))[None] - cells
    return np.where(union > 0, cells / np.maximum(union, 1), 0.0)


def dense_nms(masks: NDArray[np.bool_], order: NDArray[np.integer], iou_max_n: NDArray[np.floating]) -> list[int]:
    iou = dense_iou(masks, masks)
    kept = []
    for m in order:
        if masks[m].any() and all(iou[m, k] <= iou_max_n[m] for k in kept):
            kept.append(int(m))
    return kept


def dense_cover(
    masks: NDArray[np.bool_], score: NDArray[np.floating], covered: NDArray[np.bool_], min_gain: int
) -> list[int]:
    covered, taken = covered.copy(), []
    while True:
        gains = (masks & ~covered).sum((1, 2))
        ranked = sorted((-int(g), -float(s), i) for i, (g, s) in enumerate(zip(gains, score, strict=True)))
        if not ranked or -ranked[0][0] < max(min_gain, 1):
            return taken
        taken.append(ranked[0][2])
        covered |= masks[taken[-1]]


def dense_means(masks: NDArray[np.bool_], values: NDArray[np.floating]) -> list[float]:
    return [values[m].mean(dtype=np.float64) if m.any() else 0.0 for m in masks]


def dense_without_fragments(masks: NDArray[np.bool_], min_area: int) -> NDArray[np.bool_]:
    out = masks.copy()
    for mask in out:
        part, _ = ndimage.label(mask, np.ones((3, 3)))
        mask &= np.bincount(part.ravel())[part] >= min_area
    return out


def dense_smallest_holders(
    masks: NDArray[np.bool_], labels: NDArray[np.integer], need: NDArray[np.floating]
) -> list[int]:
    out = []
    for k in range(len(need)):
        holders = [(int(m.sum()), i) for i, m in enumerate(masks) if m[labels == k].sum() >= need[k]]
        out.append(min(holders)[1] if holders else -1)
    return out


def dense_points_in_overlaps(
    masks: NDArray[np.bool_], point_yx: NDArray[np.integer], order: NDArray[np.integer], most: int
) -> NDArray[np.bool_]:
    wanted = np.zeros(len(point_yx), bool)
    for i in range(len(masks)):
        for j in range(i):
            both = (masks[i] & masks[j])[tuple(point_yx[order].T)]
            wanted[order[both][:most]] = True
    return wanted


def dense_block_counts(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    n, h, w = masks.shape
    padded = np.zeros((n, -(-h // 32) * 32, -(-w // 64) * 64), np.int64)
    padded[:, :h, :w] = masks
    return padded.reshape(n, -(-h // 32), 32, -1, 32).sum((2, 4)).reshape(n, -1)


def dense_leaders(masks: NDArray[np.bool_], order: NDArray[np.integer], iou_min: float) -> list[int]:
    iou = dense_iou(masks, masks)
    leader, leaders = [-1] * len(masks), list[int]()
    for m in order:
        if masks[m].any():
            near = [k for k in leaders if iou[m, k] >= iou_min]
            leader[m] = near[0] if near else int(m)
            leaders += [] if near else [int(m)]
    return leader


def dense_split(
    masks: NDArray[np.bool_],
    order: NDArray[np.integer],
    gallery: NDArray[np.bool_],
    rank: NDArray[np.integer],
    point_yx: NDArray[np.integer],
    vote: NDArray[np.integer],
    delta: float,
    cover: float,
) -> tuple[NDArray[np.bool_], list[int]]:
    """Spec §2, Split, over cells: every pair that still overlaps, again and again, in the order of the scores."""
    m = masks.copy()
    taken_by = [-1] * len(m)

    def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
        return float((a & b).sum() / (a | b).sum())

    def settle(p: int, q: int) -> bool:
        """Part one overlapping pair, p before q; whether it became one."""
        both = m[p] & m[q]
        if both.sum() / max(m[p].sum(), m[q].sum()) < delta:
            m[p if m[p].sum() > m[q].sum() else q] &= ~both
            return False
        ballot = vote[both[tuple(point_yx.T)] & (vote >= 0)].tolist()
        if not ballot:
            m[q] &= ~both
            return False
        guide = gallery[min(set(ballot), key=lambda v: (-ballot.count(v), rank[v]))]
        if (m[p] & guide).sum() >= cover * m[p].sum() and (m[q] & guide).sum() >= cover * m[q].sum():
            m[p] |= m[q]
            m[q] = False
            taken_by[q] = int(p)
            return True
        m[p if iou(m[q], guide) > iou(m[p], guide) else q] &= ~both
        return False

    for i, p in enumerate(order):
        again = True
        while again:
            again = False
            for q in order[i + 1 :]:
                if (m[p] & m[q]).any() and settle(p, q):
                    again = True
                    break
    return m, taken_by


def dense_encompassing(
    masks: NDArray[np.bool_], pairs: NDArray[np.integer], gallery: NDArray[np.bool_], encompass: float, fill: float
) -> list[int]:
    def first(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> int:
        for k, g in enumerate(gallery):
            inside = min((x & g).sum() / x.sum() for x in (a, b))
            if inside >= encompass and g.any() and (a | b).sum() / g.sum() >= fill:
                return k
        return -1

    return [first(masks[a], masks[b]) for a, b in pairs]


def dense_top_k(similarity: NDArray[np.floating], k: int) -> list[list[int]]:
    """Of each row the k highest of the others, the lower index first among equals."""
    by_value = np.argsort(-similarity, axis=1, kind="stable").tolist()
    return [[j for j in row if j != i][:k] for i, row in enumerate(by_value)]


def cosine_similarity(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [K, K] in -1 to 1 of features float32 [K, C]; a vector of zeros has similarity 0 with all others."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = (features / np.where(length > 0, length, 1)).astype(np.float32)
    return np.asarray(unit @ unit.T)


def dense_touching_pairs(labels: NDArray[np.integer]) -> list[list[int]]:
    """By growing each mask by one cell."""
    h, w = labels.shape
    out = []
    for a in range(labels.max(initial=0)):
        around = np.zeros((h + 2, w + 2), bool)
        for y in range(3):
            for x in range(3):
                around[y : y + h, x : x + w] |= labels == a + 1
        near = np.unique(labels[around[1:-1, 1:-1]])
        out += [[a, int(b) - 1] for b in near if b - 1 > a]
    return out


def dense_pair_similarity(
    top: NDArray[np.integer], owner: NDArray[np.integer], pairs: NDArray[np.integer]
) -> NDArray[np.float32]:
    def one_way(i: int, j: int) -> float:
        own = np.flatnonzero(owner == i)
        near = sum(len({int(n) for n in top[c]} & set(np.flatnonzero(owner == j).tolist())) for c in own)
        return near / len(own) if len(own) else 0

    return np.array([[one_way(i, j), one_way(j, i)] for i, j in pairs], np.float32).reshape(-1, 2)


def dense_pieces(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """The piece of each pixel, numbered by first pixel. Label 0 is not connected at corners."""
    out = np.zeros(labels.shape, np.int64)
    count = 0
    for label in np.unique(labels):
        numbers, found = ndimage.label(labels == label, np.ones((3, 3)) if label else None)
        out[numbers > 0] = numbers[numbers > 0] + count
        count += found
    _, first, index = np.unique(out, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[index.reshape(out.shape)]


def dense_join_pieces(labels: NDArray[np.uint16], is_small: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Round by round, each small piece takes the label that it has the most sides in common with."""
    out, piece, is_open = labels.copy(), dense_pieces(labels), is_small.copy()
    while True:
        votes: dict[int, dict[int, int]] = {}
        for y, x in np.ndindex(labels.shape):
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                v, u = y + dy, x + dx
                if not (0 <= v < labels.shape[0] and 0 <= u < labels.shape[1]):
                    continue
                if is_open[piece[y, x]] and not is_open[piece[v, u]]:
                    of_piece = votes.setdefault(int(piece[y, x]), {})
                    of_piece[int(out[v, u])] = of_piece.get(int(out[v, u]), 0) + 1
        if not votes:
            return out
        for p, of_piece in votes.items():
            out[piece == p] = min(of_piece, key=lambda label: (-of_piece[label], label))
            is_open[p] = False


def without_noise(image_hwc: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A bilateral filter over a pixel and its four neighbors: standard deviation 30 in color and 3 pixels in space."""
    padded = np.pad(
        image_hwc.astype(np.float64),
        ((1, 1), (1, 1), (0, 0)),
        mode="reflect" if min(image_hwc.shape[:2]) > 1 else "edge",
    )
    center = padded[1:-1, 1:-1]
    total, weights = center.copy(), np.ones((*center.shape[:2], 1))
    for near in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        color = np.abs(near - center).sum(axis=2, keepdims=True)
        weight = np.exp(-(color**2) / (2 * 30**2) - 1 / (2 * 3**2))
        total, weights = total + weight * near, weights + weight
    return np.round(total / weights)
