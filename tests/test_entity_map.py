"""EntityMap: what it measures, and its views."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from esam_rt import EntityMap
from esam_rt.errors import InputError


def test_entity_map_measures_and_orders() -> None:
    labels = np.zeros((6, 10), np.int64)
    labels[0:2, 0:3], labels[3, 4:8], labels[5, 9] = 1, 3, 4
    result = EntityMap.from_labels(labels, np.array([0.5, 0.99, 0.9, 0.5]), np.array([1, 1, 2, 1]))
    assert result.score.tolist() == pytest.approx([0.9, 0.5, 0.5])  # label 2 is empty
    assert result.area.tolist() == [4, 6, 1]
    assert result.box_xyxy.tolist() == [[4, 3, 8, 4], [0, 0, 3, 2], [9, 5, 10, 6]]
    np.testing.assert_allclose(result.centroid_xy[0], [5.5, 3])
    assert result.labels[3, 5] == 1 and result.labels[5, 9] == 3
    assert [int(m.sum()) for m in result.masks()] == [4, 6, 1]
    with pytest.raises(IndexError):
        result.mask(3)
    rgb, segments = result.to_panoptic()
    assert rgb[3, 5].tolist() == [1, 0, 0]
    assert [s["area"] for s in segments] == [4, 6, 1]
    coco = result.to_coco(image_id=7, first_id=3)
    assert [a["id"] for a in coco] == [3, 4, 5]
    assert coco[0]["bbox"] == [4, 3, 4, 1]


def test_entities_of_one_score_are_ordered_by_area_then_by_label() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.permutation(40) + 1, rng.integers(1, 4, 40))[None]
    score = rng.integers(0, 3, 40) / 2
    area = np.bincount(labels[0], minlength=41)[1:]
    expected = sorted(range(40), key=lambda i: (-score[i], -area[i], i))
    result = EntityMap.from_labels(labels, score, np.zeros(40, int))
    assert [int(labels[result.mask(k)][0]) - 1 for k in range(40)] == expected


@pytest.mark.parametrize(("label", "dtype"), [(4, np.uint16), (4, np.int64), (70_000, np.int32), (-1, np.int32)])
def test_labels_without_a_score_are_refused(label: int, dtype: type[np.integer]) -> None:
    labels = np.zeros((70, 3), dtype)
    labels[64:] = label
    with pytest.raises(InputError, match=f"found label {label}, expected 0 to 3"):
        EntityMap.from_labels(labels, np.ones(3), np.zeros(3, int))


@pytest.mark.parametrize("count", [65_535, 65_536])
def test_more_entities_than_labels_are_refused(count: int) -> None:
    labels, score = np.arange(1, count + 1).reshape(1, -1), np.ones(70_000)  # the others are empty
    if count > 65_535:
        with pytest.raises(InputError, match="found 65536 entities, expected at most 65535"):
            EntityMap.from_labels(labels, score, np.zeros(70_000, int))
    else:
        assert len(EntityMap.from_labels(labels, score, np.zeros(70_000, int))) == count


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (1, 300), (300, 1), (64, 9), (65, 70), (131, 40)])
def test_entity_map_measures_as_label_by_label(shape: tuple[int, int], dtype: type[np.integer]) -> None:
    rng, count = np.random.default_rng(0), 7
    noise = rng.integers(0, count + 1, shape)
    stripes = np.indices(shape).sum(0) // 5 % count  # the last label is empty
    for labels in (noise, stripes, np.zeros(shape, int), np.full(shape, count)):
        result = EntityMap.from_labels(labels.astype(dtype), np.linspace(1, 0.5, count), np.zeros(count, int))
        present = [label for label in range(1, count + 1) if (labels == label).any()]
        assert len(result) == len(present)
        for i, label in enumerate(present):
            ys, xs = np.nonzero(labels == label)
            assert (result.mask(i) == (labels == label)).all()
            assert result.area[i] == len(ys)
            assert result.box_xyxy[i].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert result.centroid_xy[i].tolist() == np.float32([xs.sum() / len(xs), ys.sum() / len(ys)]).tolist()


def test_entity_map_of_many_entities_needs_little_memory() -> None:
    side, count = 1024, 16_384
    cell = np.arange(side) // 8
    labels = (cell[:, None] * (side // 8) + cell + 1).astype(np.uint16)
    tracemalloc.start()
    try:
        result = EntityMap.from_labels(labels, np.ones(count), np.zeros(count, int), in_place=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(result) == count and (result.area == 64).all()
    assert peak < 400 * count  # with rows and columns of each label, 16,000 bytes


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (37, 23)])
def test_run_lengths_are_those_of_pycocotools(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for labels in (rng.integers(0, 4, shape), np.ones(shape, int), rng.integers(0, 4, shape).cumsum(0) // 9 % 4):
        result = EntityMap.from_labels(labels, np.array([0.9, 0.8, 0.7]), np.zeros(3, int))
        for i, annotation in enumerate(result.to_coco()):
            rle = coco_mask.encode(np.asfortranarray(result.mask(i), np.uint8))
            assert annotation["segmentation"] == {"size": list(shape), "counts": rle["counts"].decode()}


def test_pixels_without_data_leave_the_map() -> None:
    """Measured again from scratch. An entity that loses half of its pixels is left out."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, (30, 40))
    labels[:10, :10], labels[labels == 4] = 4, 0
    labels[:10, :10] = 4  # 100 pixels, half of them without data
    valid = np.ones((30, 40), bool)
    valid[:5] = False
    whole = replace(
        EntityMap.from_labels(labels, np.array([0.9, 0.8, 0.7, 0.95]), np.arange(4) % 3),
        track_id=np.array([40, 10, 20, 30]),
        features=np.arange(8, dtype=np.float32).reshape(4, 2),
    )
    assert whole.within(None) is whole
    part = whole.within(valid)
    kept = np.where(valid & (whole.labels > 1), whole.labels - 1, 0)
    again = EntityMap.from_labels(kept, whole.score[1:], whole.stage[1:])
    for name in ("labels", "score", "area", "box_xyxy", "centroid_xy", "stage"):
        assert np.array_equal(getattr(part, name), getattr(again, name)), name
    assert part.track_id is not None and part.track_id.tolist() == [10, 20, 30]
    assert part.features is not None and part.features.tolist() == [[2, 3], [4, 5], [6, 7]]
