"""Splitting and merging kernels against sets of cells."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt.kernels.dedup import leaders
from esam_rt.kernels.merge import encompassing
from esam_rt.kernels.split import split_overlaps
from esam_rt.masks import MaskSet
from tests.kernels.oracles import WIDTHS, adversarial_masks, dense_encompassing, dense_leaders, dense_split, packed

DELTA, COVER = 0.05, 0.8


def blobs(n: int, h: int, w: int, seed: int) -> NDArray[np.bool_]:
    """Rectangles that overlap, nest and touch, with an empty one, a full one, one cell and two identical ones."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, h, w), bool)
    for m in masks:
        y, x = np.sort(rng.integers(0, h + 1, 2)), np.sort(rng.integers(0, w + 1, 2))
        m[y[0] : y[1], x[0] : x[1]] = True
        m[rng.random((h, w)) < 0.05] ^= True
    masks[0], masks[1] = False, True
    masks[2] = False
    masks[2, h // 2, w // 2] = True
    masks[4] = masks[3]
    return masks


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("width", [20, 64, 70])
def test_split_matches_the_plain_version(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    h = 24
    objects = MaskSet.from_bool(blobs(14, h, width, seed), predicted_iou=rng.permutation(14) / 14)
    gallery = MaskSet.from_bool(blobs(30, h, width, 100 + seed), predicted_iou=rng.random(30))
    cells = rng.integers(0, (h, width), (200, 2)).astype(np.int32)
    vote = rng.integers(-1, 30, 200).astype(np.int32)
    rank = np.empty(30, np.intp)
    rank[gallery.by_score()] = np.arange(30)
    before = objects.bits.copy()
    bits, taken_by = split_overlaps(
        objects.bits, objects.box_xyxy, objects.area, objects.by_score(), gallery.bits, gallery.box_xyxy, gallery.area,
        rank, cells, vote, DELTA, COVER,
    )  # fmt: skip
    want, want_taken = dense_split(
        objects.to_bool(), objects.by_score(), gallery.to_bool(), rank, cells, vote, DELTA, COVER
    )
    got = MaskSet.from_bool(want)
    np.testing.assert_array_equal(bits, got.bits)
    assert taken_by.tolist() == want_taken
    assert (taken_by[taken_by[taken_by >= 0]] == -1).all(), "what took in others was not taken in itself"
    assert (want.sum(0) <= 1).all()
    np.testing.assert_array_equal(objects.bits, before)


def test_guidance_joins_parts_and_a_third_mask_met_on_the_way() -> None:
    """p and r are apart, q overlaps both; p takes q in and must then settle with r, which it was clear of."""
    masks = np.zeros((3, 8, 30), bool)
    masks[0, :, 0:10] = True  # p
    masks[1, :, 18:30] = True  # r, before q in the order
    masks[2, :, 6:20] = True  # q
    objects = MaskSet.from_bool(masks, predicted_iou=[0.9, 0.8, 0.7])
    guide = np.zeros((1, 8, 30), bool)
    guide[0, :, 0:20] = True
    gallery = MaskSet.from_bool(guide)
    cells = np.array([[4, 8], [4, 19]], np.int32)
    bits, taken_by = split_overlaps(
        objects.bits, objects.box_xyxy, objects.area, objects.by_score(), gallery.bits, gallery.box_xyxy, gallery.area,
        np.zeros(1, np.int64), cells, np.array([0, -1], np.int32), DELTA, COVER,
    )  # fmt: skip
    dense = MaskSet.from_bool(masks).to_bool().copy()
    out = [np.unpackbits(b.view(np.uint8), axis=1, count=30, bitorder="little").astype(bool) for b in bits]
    assert taken_by.tolist() == [-1, -1, 0]
    assert not (out[0] & out[1]).any()
    assert not out[2].any()
    np.testing.assert_array_equal(out[0] | out[1], dense.any(0))


def test_ten_thousand_masks_end_without_overlap() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((10_000, 32, 64), bool)
    for m, y, x in zip(masks, rng.integers(0, 30, 10_000), rng.integers(0, 60, 10_000), strict=True):
        m[y : y + 1 + y % 4, x : x + 2 + x % 5] = True
    objects = MaskSet.from_bool(masks, predicted_iou=rng.random(10_000))
    gallery = MaskSet.from_bool(masks[:100])
    cells = np.argwhere(np.ones((32, 64))).astype(np.int32)
    vote = rng.integers(-1, 100, len(cells)).astype(np.int32)
    bits, _ = split_overlaps(
        objects.bits, objects.box_xyxy, objects.area, objects.by_score(), gallery.bits, gallery.box_xyxy, gallery.area,
        np.arange(100), cells, vote, DELTA, COVER,
    )  # fmt: skip
    out = np.unpackbits(bits.view(np.uint8), axis=2, bitorder="little").astype(bool)
    assert out.sum(0).max() == 1
    np.testing.assert_array_equal(out.any(0), masks.any(0))


def test_nothing_to_split() -> None:
    none = MaskSet.empty(8, 70)
    bits, taken_by = split_overlaps(
        none.bits, none.box_xyxy, none.area, none.by_score(), none.bits, none.box_xyxy, none.area,
        np.zeros(0, np.int64), np.zeros((3, 2), np.int32), np.full(3, -1, np.int32), DELTA, COVER,
    )  # fmt: skip
    assert bits.shape == (0, 8, 2)
    assert taken_by.shape == (0,)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("iou_min", [0.0, 0.4, 0.9, 1.0])
def test_leaders_match_the_plain_version(seed: int, iou_min: float) -> None:
    dense = blobs(40, 40, 70, seed)
    dense[30:38] = dense[20:28] ^ (np.random.default_rng(seed).random((8, 40, 70)) < 0.02)  # nearly equal
    dense[38:] = dense[20:22]
    masks = MaskSet.from_bool(dense, predicted_iou=np.random.default_rng(seed).random(40))
    order = masks.by_score()
    want = dense_leaders(dense, order, iou_min)
    got = leaders(masks.bits, masks.box_xyxy, masks.area, order, iou_min)
    assert got.dtype == np.int32
    assert got.tolist() == want
    assert len(set(want)) < 39, "some masks must share a leader for this test to mean anything"
    some = leaders(masks.bits, masks.box_xyxy, masks.area, order[::3], iou_min)
    assert some[order[::3]].tolist() == [
        int(order[::3][k]) if k >= 0 else -1 for k in dense_leaders(dense[order[::3]], np.arange(14), iou_min)
    ]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("iou_min", [0.3, 0.9])
def test_leaders_of_adversarial_masks(width: int, iou_min: float) -> None:
    dense = adversarial_masks(width)
    order = np.random.default_rng(width).permutation(len(dense))
    assert leaders(*packed(dense), order, iou_min).tolist() == dense_leaders(dense, order, iou_min)


@pytest.mark.parametrize("seed", range(5))
def test_encompassing_matches_the_plain_version(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dense = np.zeros((6, 20, 70), bool)
    for i in range(6):  # six strips, side by side
        dense[i, :, i * 11 : (i + 1) * 11] = rng.random((20, 11)) < 0.9
    gallery = np.zeros((200, 20, 70), bool)
    for g in gallery:
        a, b = np.sort(rng.integers(0, 71, 2))
        g[rng.integers(0, 6) :, a:b] = True
    pairs = np.array([[i, j] for i in range(6) for j in range(i + 1, 6)])
    m, n = MaskSet.from_bool(dense), MaskSet.from_bool(gallery)

    got = encompassing(m.bits, m.box_xyxy, m.area, pairs, n.bits, n.box_xyxy, n.area, 0.85, 0.7)
    want = dense_encompassing(dense, pairs, gallery, 0.85, 0.7)
    assert got.tolist() == want
    assert any(w >= 0 for w in want) and any(w < 0 for w in want)
