"""Average precision against known values, an oracle written apart and pycocotools; the bootstrap."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from esam_rt import EntityMap
from esam_rt.evaluation import average_precision, match_photo, read_truth
from esam_rt.evaluation.metrics.average_precision import AveragePrecision
from esam_rt.evaluation.metrics.bootstrap import differences, estimates, resamples
from esam_rt.evaluation.metrics.matching import RECALLS, PhotoMatches
from esam_rt.evaluation.predictions import read_predictions
from esam_rt.rle import dense_mask
from tests.support import ap_fixture, ap_oracle

# To every digit what pycocotools 2.0.11, faster-coco-eval 1.8.0 (C++) and tests/support/ap_oracle.py give.
KNOWN = {
    "AP": 14.703339407527777,
    "AP50": 22.941817329055546,
    "AP75": 13.838318609023187,
    "AP_small": 11.33315943394347,
    "AP_medium": 29.46403078519369,
    "AP_large": 46.45341457222646,
    "AR1": 10.983050847457628,
    "AR10": 38.10169491525424,
    "AR100": 38.77966101694915,
    "AR_small": 33.12217194570136,
    "AR_medium": 55.82089552238806,
    "AR_large": 64.44444444444444,
}

Photo = tuple[list[dict[str, Any]], list[dict[str, Any]]]  # entities and detections, as match_photo takes them


def encoded(mask: NDArray[np.bool_]) -> dict[str, Any]:
    return dict(coco_mask.encode(np.asfortranarray(mask.view(np.uint8))))


def generated(seed: int, count: int, score_steps: int) -> list[Photo]:
    """Photos of rectangles and detections near them; few score steps make ties."""
    rng = np.random.default_rng(seed)
    photos: list[Photo] = []
    for _ in range(count):
        masks = np.zeros((int(rng.integers(0, 5)), 40, 44), bool)
        for mask in masks:
            y, x = rng.integers(0, 30, 2)
            mask[y : y + rng.integers(1, 40), x : x + rng.integers(1, 40)] = True
        entities = [{"segmentation": encoded(m), "iscrowd": int(rng.random() < 0.15)} for m in masks]
        moved = [np.roll(m, rng.integers(-1, 2, 2), (0, 1)) for m in masks for _ in range(rng.integers(0, 3))]
        scores = rng.permutation(score_steps)[: len(moved)] if score_steps > 100 else rng.integers(1, score_steps, 50)
        photos.append(
            (entities, [{"segmentation": encoded(m), "score": s} for m, s in zip(moved, scores, strict=False)])
        )
    return photos


def with_pycocotools(photos: Sequence[Photo]) -> dict[str, float]:
    """COCOeval over all photos at once, useCats = 0."""
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1}]}
    results: list[dict[str, Any]] = []
    for image_id, (entities, detections) in enumerate(photos, 1):
        truth["images"].append({"id": image_id, "height": 40, "width": 44})
        for e in entities:
            number = len(truth["annotations"]) + 1
            area = float(coco_mask.area(e["segmentation"]))
            truth["annotations"].append({**e, "id": number, "image_id": image_id, "category_id": 1, "area": area})
        results += [{**d, "image_id": image_id, "category_id": 1} for d in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.params.useCats = 0
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: 100 * float(v) for name, v in zip(KNOWN, evaluation.stats, strict=True)}


def with_oracle(photos: Sequence[Photo]) -> dict[str, float]:
    def entity(e: dict[str, Any]) -> ap_oracle.Entity:
        mask = dense_mask(e["segmentation"])
        return ap_oracle.Entity(mask, e.get("area", mask.sum()), bool(e["iscrowd"]))

    return ap_oracle.metrics(
        [
            (
                [entity(e) for e in entities],
                [ap_oracle.Detection(dense_mask(d["segmentation"]), d["score"]) for d in found],
            )
            for entities, found in photos
        ]
    )


@pytest.fixture(scope="module")
def fixture() -> list[Photo]:
    truth = read_truth(ap_fixture.DATA / "ap_truth.json")
    predictions = read_predictions(ap_fixture.DATA / "ap_results.json", truth.photos)
    return [(truth.entities(p), list(predictions.detections(p))) for p in truth.photos]


def matched(photos: Sequence[Photo]) -> list[PhotoMatches]:
    return [match_photo(*photo) for photo in photos]


def test_known_values_of_100_photos(fixture: list[Photo]) -> None:
    assert len(fixture) == 100
    assert average_precision(matched(fixture)) == pytest.approx(KNOWN, rel=1e-13, abs=0)
    assert with_oracle(fixture) == pytest.approx(KNOWN, rel=1e-13, abs=0)


def test_fixture_is_what_its_script_makes() -> None:
    truth, results = ap_fixture.make()
    assert json.loads((ap_fixture.DATA / "ap_truth.json").read_bytes())["annotations"] == truth["annotations"]
    assert json.loads((ap_fixture.DATA / "ap_results.json").read_bytes()) == results


@pytest.mark.parametrize("seed", range(12))
def test_equals_pycocotools_and_oracle(seed: int) -> None:
    photos = generated(seed, count=6, score_steps=4)
    ours = average_precision(matched(photos))
    expected = with_oracle(photos)
    for name, value in with_pycocotools(photos).items():
        assert (math.isnan(ours[name]) and value == -100) or ours[name] == value, name
        assert ours[name] == pytest.approx(expected[name], rel=1e-12, nan_ok=True), name


def test_weights_are_copies_of_photos() -> None:
    photos = generated(3, count=8, score_steps=1000)
    scores = [d["score"] for _, detections in photos for d in detections]
    unique = {score: i / 1000 for i, score in enumerate(sorted(set(scores)))}
    for number, (_, detections) in enumerate(photos):  # no equal scores in two photos: their order would matter
        for d in detections:
            d["score"] = unique[d["score"]] + number * 1e-5
    weights = np.random.default_rng(0).integers(0, 4, (5, 8))
    values = AveragePrecision(matched(photos)).metrics(weights)
    for b, row in enumerate(weights):
        copies = [photo for photo, times in zip(photos, row, strict=True) for _ in range(times)]
        expected = with_pycocotools(copies)
        assert {name: value[b] for name, value in values.items() if expected[name] >= 0} == {
            name: value for name, value in expected.items() if value >= 0
        }


def test_precision_curve_has_the_mean_of_ap(fixture: list[Photo]) -> None:
    photos = AveragePrecision(matched(fixture))
    precision = photos.precision(np.ones((1, 100), np.int64))
    assert precision.shape == (1, 10, len(RECALLS))
    assert (np.diff(precision) <= 0).all()
    assert 100 * precision.mean() == pytest.approx(KNOWN["AP"], rel=1e-12)


def test_entity_maps_can_be_matched() -> None:
    labels = np.zeros((20, 30), np.uint16)
    labels[2:12, 3:20], labels[14:18, 5:25] = 1, 2
    found = EntityMap.from_labels(labels, np.array([0.9, 0.8]), np.zeros(2, np.uint8))
    entities = [{"segmentation": encoded(labels == i)} for i in (1, 2)]
    matches = match_photo(entities, found.to_coco())
    assert matches.found() == matches.found(threshold=9) == 2
    scores = average_precision([matches])
    assert scores["AP"] == scores["AR100"] == 100
    assert scores["AR1"] == 50
    assert math.isnan(scores["AP_large"])


def test_a_detection_has_the_area_of_its_mask_not_of_its_box() -> None:
    """Unmatched and outside a range of sizes, it does not count there; pycocotools' loadRes takes the box's area."""
    entity, thin = np.zeros((2, 120, 120), bool)
    entity[:40, :40] = True
    thin[100, 10:110] = thin[10:110, 110] = True  # 200 pixels in a box of 100²
    found = [
        {"segmentation": encoded(m), "score": s, "bbox": [10, 10, 101, 91]} for m, s in ((entity, 0.5), (thin, 0.9))
    ]
    scores = average_precision([match_photo([{"segmentation": encoded(entity)}], found)])
    assert (scores["AP"], scores["AP_medium"]) == pytest.approx((50, 100))


def test_the_area_of_an_entity_is_that_of_its_annotation() -> None:
    """COCO's is a polygon's, which may lie on the other side of a limit than the mask's."""
    mask = np.zeros((40, 40), bool)
    mask[:32, :32] = True
    found = [{"segmentation": encoded(mask), "score": 0.5}]
    assert average_precision([match_photo([{"segmentation": encoded(mask)}], found)])["AR_small"] == 100
    scores = average_precision([match_photo([{"segmentation": encoded(mask), "area": 1024.5}], found)])
    assert math.isnan(scores["AR_small"])
    assert scores["AR_medium"] == 100


def test_nothing_at_all() -> None:
    empty = match_photo([], [])
    assert (empty.detections, empty.found(), empty.positives.tolist()) == (0, 0, [0, 0, 0, 0])
    for photos in ([], [empty]):
        assert all(math.isnan(value) for value in average_precision(photos).values())
    missed = match_photo([{"segmentation": encoded(np.ones((4, 4), bool))}], [])
    scores = average_precision([missed, empty])
    assert (scores["AP"], scores["AR100"]) == (0, 0)
    assert math.isnan(scores["AP_large"])


def test_resamples_draw_as_many_photos_as_there_are() -> None:
    weights = resamples(7, 500, seed=3)
    assert weights.shape == (500, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert weights.mean() == pytest.approx(1, abs=1e-12)
    assert np.array_equal(weights, resamples(7, 500, seed=3))
    assert not np.array_equal(weights, resamples(7, 500, seed=4))
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.15)


class Mean:
    """Scores that are means of one number a photo."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values = np.array(values)

    def metrics(self, weights: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        used = np.where(weights > 0, weights * np.nan_to_num(self.values), 0).sum(axis=1)
        count = (weights * np.isfinite(self.values)).sum(axis=1)
        return {"mean": np.where(count > 0, used / np.maximum(count, 1), np.nan)}


def test_interval_is_between_percentiles_of_resampled_scores() -> None:
    values = np.random.default_rng(1).normal(50, 10, 60)
    weights = resamples(60, 4000, seed=0)
    e = estimates(Mean(values), weights)["mean"]
    sampled = [np.repeat(values, row).mean() for row in weights]
    assert (e.value, e.low, e.high) == pytest.approx((values.mean(), *np.percentile(sampled, [2.5, 97.5])))
    half = 1.96 * values.std() / math.sqrt(60)  # what theory says of a mean
    assert (e.low, e.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.4)


def test_difference_is_resampled_in_pairs() -> None:
    values = np.random.default_rng(2).normal(50, 10, 60)
    d = differences(Mean(values + 1), Mean(values), resamples(60, 500, seed=0))["mean"]
    assert (d.value, d.low, d.high) == pytest.approx((1, 1, 1))  # however much the photos themselves differ


def test_undefined_scores_have_no_interval() -> None:
    weights = resamples(2, 200, seed=0)
    nothing = estimates(Mean([math.nan, math.nan]), weights)["mean"]
    assert (nothing.value, nothing.low, nothing.high) == (None, None, None)
    once = estimates(Mean([math.nan, 3.0]), weights)["mean"]  # undefined where the second photo is not drawn
    assert (once.value, once.low, once.high) == (3, 3, 3)
    never = estimates(Mean([math.nan, 3.0]), np.array([[2, 0]]))["mean"]
    assert (never.value, never.low, never.high) == (3, None, None)
