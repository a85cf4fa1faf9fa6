"""Covering, Rand index, variation of information and boundaries against plain loops and known values."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from skimage.morphology import thin

from esam_rt.evaluation.metrics.boundaries import boundary, match_boundaries
from esam_rt.evaluation.metrics.region_scores import (
    RegionScores,
    compare,
    contingency,
    covering,
    rand_index,
    variation_of_information,
)

Labels = NDArray[np.int64]

MAPS = hnp.arrays(np.int64, (5, 6), elements=st.integers(0, 4))


def adversarial() -> list[Labels]:
    """Maps 12 x 12: one segment, a segment a pixel, stripes, checks, odd labels, a ring, noise."""
    y, x = np.mgrid[:12, :12]
    ring = ((np.hypot(y - 5.5, x - 5.5) > 3) & (np.hypot(y - 5.5, x - 5.5) < 5)).astype(np.int64)
    noise = np.random.default_rng(0).integers(0, 3, (12, 12))
    return [0 * x, 12 * y + x, x // 3, y // 3, (x + y) % 2, 1000 * (x > 5) - 7, ring, noise, 1 - ring]


PAIRS = [(a, b) for a in adversarial() for b in adversarial()]


def plain_covering(a: Labels, b: Labels) -> float:
    """Of a by b."""
    total = 0.0
    for i in np.unique(a):
        ious = [((a == i) & (b == j)).sum() / ((a == i) | (b == j)).sum() for j in np.unique(b)]
        total += (a == i).sum() * max(ious)
    return total / a.size


def plain_rand(a: Labels, b: Labels) -> float:
    agree = [(p[0] == q[0]) == (p[1] == q[1]) for p, q in combinations(zip(a.flat, b.flat, strict=True), 2)]
    return sum(agree) / len(agree)


def plain_vi(a: Labels, b: Labels) -> float:
    """H(a | b) + H(b | a), in bits."""
    both = Counter(zip(a.flat, b.flat, strict=True))
    of_a, of_b = Counter(a.flat), Counter(b.flat)
    return sum(n / a.size * (math.log2(of_a[i] / n) + math.log2(of_b[j] / n)) for (i, j), n in both.items())


def assert_as_plain(a: Labels, b: Labels) -> None:
    table = contingency(a, b)
    assert table.sum() == a.size
    assert covering(table) == pytest.approx(plain_covering(a, b), abs=1e-12)
    assert covering(table.T) == pytest.approx(plain_covering(b, a), abs=1e-12)
    assert rand_index(table) == pytest.approx(plain_rand(a, b), abs=1e-12)
    assert variation_of_information(table) == pytest.approx(plain_vi(a, b), abs=1e-12)


@pytest.mark.parametrize("pair", range(len(PAIRS)))
def test_adversarial_maps(pair: int) -> None:
    assert_as_plain(*PAIRS[pair])


@settings(deadline=None, max_examples=100)
@given(MAPS, MAPS)
def test_any_maps(a: Labels, b: Labels) -> None:
    assert_as_plain(a, b)


@pytest.mark.parametrize("labels", adversarial())
def test_equal_segmentations_are_perfect_whatever_their_labels(labels: Labels) -> None:
    table = contingency(labels, 5 - 3 * labels)
    assert (covering(table), rand_index(table), variation_of_information(table)) == pytest.approx((1, 1, 0), abs=1e-12)


def test_known_values() -> None:
    halves = np.repeat([[0, 0, 1, 1]], 4, axis=0)
    whole = np.zeros((4, 4), np.int64)
    table = contingency(halves, whole)
    assert (covering(table), covering(table.T), variation_of_information(table)) == (0.5, 0.5, 1)
    assert rand_index(table) == pytest.approx(1 - 64 / 120)  # 8 x 8 pairs across the halves, of 16 x 15 / 2
    quarters = contingency(halves, halves.T)
    assert (covering(quarters), variation_of_information(quarters)) == (pytest.approx(1 / 3), 2)
    assert rand_index(contingency(whole[:1, :1], whole[:1, :1])) == 1


def test_large_maps_do_not_overflow() -> None:
    halves = np.repeat([[0, 1]], 900, axis=0).repeat(700, axis=1)
    table = contingency(halves, 0 * halves)
    assert rand_index(table) == pytest.approx(0.5, abs=1e-6)


def largest_matching(a: NDArray[np.bool_], b: NDArray[np.bool_], reach: float) -> int:
    """Kuhn's algorithm, a path at a time."""
    left, right = np.argwhere(a), np.argwhere(b)
    near = [[j for j, q in enumerate(right) if math.dist(p, q) <= reach] for p in left]
    partner: dict[int, int] = {}

    def place(i: int, tried: set[int]) -> bool:
        for j in near[i]:
            if j not in tried:
                tried.add(j)
                if j not in partner or place(partner[j], tried):
                    partner[j] = i
                    return True
        return False

    return sum(place(i, set()) for i in range(len(left)))


@pytest.mark.parametrize("reach", [0.0, 1.0, 1.5, 2.0, 3.2])
@pytest.mark.parametrize("density", [0.02, 0.2, 0.6])
def test_matching_is_the_largest(reach: float, density: float) -> None:
    rng = np.random.default_rng(round(10 * reach + 100 * density))
    a, b = rng.random((2, 14, 17)) < density
    matched_a, matched_b = match_boundaries(a, b, reach)
    assert matched_a.sum() == matched_b.sum() == largest_matching(a, b, reach)
    assert not (matched_a & ~a).any()
    assert not (matched_b & ~b).any()


def test_a_pixel_has_one_partner() -> None:
    """Where every pixel of one line could take the same pixel of the other, or only one of two."""
    a, b = np.zeros((2, 5, 9), bool)
    a[2, 2:7] = True
    b[2, 4] = True
    assert [m.sum() for m in match_boundaries(a, b, 10)] == [1, 1]
    b[:] = False
    b[2, 3] = b[2, 7] = True  # 2 and 3 could both take 3: the one that can take 7 must
    assert [m.sum() for m in match_boundaries(a[:, :], b, 1)] == [2, 2]


def test_tolerance_is_0_0075_of_the_diagonal() -> None:
    a, b, c = np.zeros((3, 300, 400), bool)  # a diagonal of 500: 3.75 pixels
    a[10, 10] = b[13, 12] = c[13, 13] = True
    assert math.hypot(3, 2) < 3.75 < math.hypot(3, 3)
    assert [m.sum() for m in match_boundaries(a, b)] == [1, 1]
    assert [m.sum() for m in match_boundaries(a, c)] == [0, 0]


@pytest.mark.parametrize("empty", ["a", "b", "both"])
def test_no_boundary_matches_nothing(empty: str) -> None:
    a, b = np.ones((2, 4, 4), bool)
    a[:], b[:] = empty == "b", empty == "a"
    assert [m.any() for m in match_boundaries(a, b)] == [False, False]


def test_boundary_of_two_halves_is_one_line() -> None:
    labels = np.zeros((6, 8), np.int64)
    labels[:, 4:] = 3
    expected = np.zeros((6, 8), bool)
    expected[:, 3] = True
    assert np.array_equal(boundary(labels), expected)
    assert np.array_equal(boundary(labels.T), expected.T)
    assert not boundary(np.full((5, 5), 9)).any()


@settings(deadline=None, max_examples=100)
@given(MAPS)
def test_boundary_is_where_blocks_of_four_pixels_are_not_one_segment(labels: Labels) -> None:
    h, w = labels.shape
    mixed = np.array([[len(np.unique(labels[y : y + 2, x : x + 2])) > 1 for x in range(w)] for y in range(h)])
    assert np.array_equal(boundary(labels), thin(mixed))


def test_boundaries_lie_where_labels_change_and_separate_segments() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:60, :80]
    centres = rng.random((12, 2)) * (60, 80)
    labels = np.argmin([np.hypot(y - cy, x - cx) for cy, cx in centres], axis=0)
    lines = boundary(labels)
    padded = np.pad(labels, ((0, 1), (0, 1)), "edge")
    for i, j in np.argwhere(lines):
        assert len(np.unique(padded[i : i + 2, j : j + 2])) > 1
    blocks = lines[:-1, :-1] & lines[1:, :-1] & lines[:-1, 1:] & lines[1:, 1:]
    assert not blocks.any()  # thin
    changes = np.argwhere(labels[:, :-1] != labels[:, 1:])
    assert all(lines[max(0, i - 1) : i + 2, max(0, j - 1) : j + 3].any() for i, j in changes)


def test_one_photo_against_several_annotators() -> None:
    found, same, other = (m.copy() for m in (adversarial()[2], adversarial()[2] + 5, adversarial()[3]))
    p = compare(found, [same, other])
    assert (p.annotators, p.segments, p.true_segments) == (2, 4, 4)
    assert p.covering == pytest.approx(1 + plain_covering(other, found))
    assert p.covering_best == 1
    assert p.covering_reverse == pytest.approx(1 + plain_covering(found, other))
    assert p.rand == pytest.approx((1 + plain_rand(found, other)) / 2)
    assert p.vi == pytest.approx(plain_vi(found, other) / 2)
    lines = [boundary(m) for m in (found, same, other)]
    matched = match_boundaries(lines[0], lines[1])[0] | match_boundaries(lines[0], lines[2])[0]
    assert (p.found, p.found_matched) == (lines[0].sum(), matched.sum())
    assert p.true == lines[1].sum() + lines[2].sum()
    assert p.true_matched == lines[1].sum() + match_boundaries(lines[0], lines[2])[1].sum()


def test_scores_of_all_photos_are_those_of_the_benchmark() -> None:
    """Covering over all maps, pixels of boundaries over all photos, the others over photos."""
    a, b = adversarial()[2], adversarial()[3]
    photos = [compare(a, [a]), compare(a, [b, b, adversarial()[7]])]
    scores = RegionScores(photos).metrics(np.array([[1, 1], [1, 0], [0, 3]]))
    first, second = photos
    assert scores["covering"][0] == pytest.approx((first.covering + second.covering) / 4)
    assert scores["covering_reverse"][0] == pytest.approx((first.covering_reverse + second.covering_reverse) / 4)
    assert scores["covering_best"][0] == pytest.approx((first.covering_best + second.covering_best) / 2)
    assert scores["PRI"][0] == pytest.approx((first.rand + second.rand) / 2)
    assert scores["VI"][0] == pytest.approx((first.vi + second.vi) / 2)
    precision = (first.found_matched + second.found_matched) / (first.found + second.found)
    recall = (first.true_matched + second.true_matched) / (first.true + second.true)
    assert scores["boundary_precision"][0] == pytest.approx(precision)
    assert scores["boundary_recall"][0] == pytest.approx(recall)
    assert scores["boundary_F"][0] == pytest.approx(2 * precision * recall / (precision + recall))
    for name, value in scores.items():
        assert value[1] == pytest.approx(0 if name == "VI" else 1, abs=1e-12), name
    assert scores["covering"][2] == pytest.approx(second.covering / 3)


def test_without_boundaries() -> None:
    flat, halves = adversarial()[0], adversarial()[5]

    def scores(found: Labels, true: Labels) -> list[float]:
        values = RegionScores([compare(found, [true])]).metrics(np.ones((1, 1), np.int64))
        return [values[f"boundary_{name}"][0] for name in ("precision", "recall", "F")]

    assert scores(flat, flat) == [1, 1, 1]
    assert scores(flat, halves) == [1, 0, 0]
    assert scores(halves, flat) == [0, 1, 0]
