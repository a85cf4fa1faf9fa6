"""Prompts as the engines are fed them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt.errors import DecodingCancelledError, EngineError, InputError, OutOfMemoryError
from esam_rt.sam.batching import AHEAD, BatchRunner
from esam_rt.sam.cancel_token import CancelToken
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.predictor import Sam
from esam_rt.settings import Filters
from tests.support.processes import GUARD_S
from tests.support.scene import INPUT_PX, ROW, SIDE, FakeEngine, Scene, quadrants

FILTERS = Filters(score_min=0.5, stability_min=0.5, stability_offset=1.0)
GEOMETRY = Geometry.of((INPUT_PX // 2, INPUT_PX), INPUT_PX)


def spied(points_per_prompt: int) -> tuple[Sam, EncodedImage, list[dict[str, NDArray[Any]]]]:
    """A model that keeps what its decoder is fed."""
    feeds: list[dict[str, NDArray[Any]]] = []
    scene = Scene.of_label_maps(quadrants())
    spy = FakeEngine(lambda feed: (feeds.append(dict(feed)), scene.decode(feed))[1])
    row = replace(ROW, points_per_prompt=points_per_prompt, decode_batch=3)
    sam = Sam(row, replace(scene.engines(), decoder=spy), "0" * 64)
    photo = EncodedImage(np.zeros((1, 3, SIDE // 4, SIDE // 4), np.float32), GEOMETRY, {"image_keys": np.ones(3)})
    return sam, photo, feeds


@pytest.mark.parametrize("k", [1, 2])
def test_a_lone_point_is_followed_by_padding(k: int) -> None:
    sam, photo, feeds = spied(k)
    points = np.random.default_rng(0).uniform(0, 1, (5, 2)).astype(np.float32)
    sam.decode(photo, points, 0, FILTERS)
    sam.logits(photo, points, np.zeros(5, np.uint8))
    for first, second in (feeds[:2], feeds[2:]):
        assert [len(first["points_xy_px"]), len(second["points_xy_px"])] == [3, 2]
        xy = np.concatenate([first["points_xy_px"], second["points_xy_px"]])
        np.testing.assert_allclose(xy[:, 0], points * [INPUT_PX, INPUT_PX // 2])
        assert not xy[:, 1:].any()
        assert np.concatenate([first["labels"], second["labels"]]).tolist() == [[1, -1][:k]] * 5
        assert first["image_keys"].sum() == 3


def test_boxes_and_labelled_points_reach_the_decoder() -> None:
    sam, photo, feeds = spied(2)
    points = np.array([[[0.1, 0.2], [0.5, 1.0]], [[0.3, 0.3], [0.6, 0.6]]], np.float32)
    labels = np.array([[2, 3], [0, -1]], np.int8)
    masks = sam.decode(photo, points, 0, FILTERS, labels=labels)
    sam.logits(photo, points, np.zeros(2, np.uint8), labels)
    for feed in feeds:
        np.testing.assert_allclose(feed["points_xy_px"], points * [INPUT_PX, INPUT_PX // 2])
        assert feed["labels"].dtype == np.int64
        np.testing.assert_array_equal(feed["labels"], labels)
    assert set(masks.prompt_index) == {0, 1}


def test_prompts_that_the_score_filter_drops_are_not_upscaled() -> None:
    upscaled: list[list[int]] = []
    scene = Scene.of_label_maps(quadrants())
    scene.score[: SIDE**2 // 2] = 0.2
    spy = FakeEngine(lambda feed: (upscaled.append(feed["index"].tolist()), scene.upscale(feed))[1])
    sam = Sam(replace(ROW, decode_batch=3), replace(scene.engines(), mask_head=spy), "0" * 64)
    photo = EncodedImage(np.zeros((1, 3, 4, 4), np.float32), Geometry.of((INPUT_PX, INPUT_PX), INPUT_PX))
    points = np.array([[0.5, y] for y in (0.1, 0.9, 0.2, 0.3, 0.4, 0.1, 0.8, 0.9)], np.float32)
    masks = sam.decode(photo, points, 10, FILTERS)
    assert upscaled == [[1], [0, 1]], "the second batch has none"
    assert set(masks.prompt_index) == {11, 16, 17}


@pytest.mark.parametrize("of_masks", [False, True], ids=["decoder", "mask_head"])
@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("fits", [5, 2, 1, 0])
def test_batches_shrink_where_memory_ends(
    fits: int, overlaps: bool, of_masks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[int] = []
    scene = Scene.of_label_maps(quadrants())

    def limited(feed: dict[str, Any]) -> dict[str, Any]:
        asked.append(len(feed["index" if of_masks else "points_xy_px"]))
        if asked[-1] > fits:
            raise OutOfMemoryError("GPU 0: out of memory.")
        return scene.upscale(feed) if of_masks else scene.decode(feed)

    row, engines = replace(ROW, decode_batch=16), scene.engines()
    limits = {"mask_head" if of_masks else "decoder": FakeEngine(limited)}
    sam = Sam(row, replace(engines, **limits), "0" * 64, overlaps=overlaps)
    photo = EncodedImage(np.zeros((1, 3, 4, 4), np.float32), Geometry.of((INPUT_PX, INPUT_PX), INPUT_PX))
    points = np.random.default_rng(0).uniform(0, 1, (20, 2)).astype(np.float32)
    expected = Sam(row, scene.engines(), "0" * 64).decode(photo, points, 3, FILTERS)
    if fits == 0:
        with pytest.raises(OutOfMemoryError):
            sam.decode(photo, points, 3, FILTERS)
        return
    masks = sam.decode(photo, points, 3, FILTERS)
    for name in ("bits", "prompt_index", "predicted_iou", "area", "level"):
        np.testing.assert_array_equal(getattr(masks, name), getattr(expected, name))
    np.testing.assert_array_equal(
        sam.logits(photo, points, np.zeros(20, np.uint8)),
        Sam(row, scene.engines(), "0" * 64).logits(photo, points, np.zeros(20, np.uint8)),
    )
    assert asked[0] == 16
    first = len(asked)
    sam.decode(photo, points, 3, FILTERS)
    assert max(asked[first:]) == {5: 4, 2: 2, 1: 1}[fits], "the next photo asks for no more"
    assert sam.batch_size == {5: 4, 2: 2, 1: 1}[fits]
    (record,) = caplog.records
    assert "GPU 0: out of memory. Going on with at most 8 prompts a call instead of 16." in record.getMessage()


def test_masks_are_fetched_while_the_next_batch_is_decoded() -> None:
    """In order, and never more than two batches behind: what is decoded stays in the GPU's memory until then."""
    scene, decoded, go_on = Scene.of_label_maps(quadrants()), [0], threading.Event()
    behind: list[int] = []

    def decode(feed: dict[str, Any]) -> dict[str, Any]:
        decoded[0] += 1
        if decoded[0] == AHEAD + 1:
            go_on.set()  # only now may the first batch's masks come
        return scene.decode(feed)

    def masks(feed: dict[str, Any]) -> dict[str, Any]:
        assert go_on.wait(GUARD_S)
        behind.append(decoded[0] - len(behind) - 1)
        return scene.upscale(feed)

    engines = replace(scene.engines(), decoder=FakeEngine(decode), mask_head=FakeEngine(masks))
    photo = EncodedImage(np.zeros((1, 3, 4, 4), np.float32), Geometry.of((INPUT_PX, INPUT_PX), INPUT_PX))
    points = np.random.default_rng(0).uniform(0, 1, (40, 2)).astype(np.float32)
    sam = Sam(replace(ROW, decode_batch=3), engines, "0" * 64, overlaps=True)
    found = sam.decode(photo, points, 0, FILTERS)
    expected = Sam(ROW, scene.engines(), "0" * 64).decode(photo, points, 0, FILTERS)
    for name in ("bits", "prompt_index", "predicted_iou", "area", "level"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert behind[0] == AHEAD
    assert max(behind) <= AHEAD + 1
    sam.close()


def test_a_close_while_a_batch_is_decoded() -> None:
    batches = BatchRunner(3, one_at_a_time=False, overlaps=True)
    with pytest.raises(EngineError, match=r"used after close\(\)"):
        batches.run(3, lambda part: batches.close(), lambda part, decoded: decoded)


@pytest.mark.parametrize("stage", ["decoder", "mask_head"])
def test_an_error_ends_what_overlaps(stage: str) -> None:
    scene, calls = Scene.of_label_maps(quadrants()), []

    def failing(feed: dict[str, Any]) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 3:
            raise EngineError("broken")
        return scene.upscale(feed) if stage == "mask_head" else scene.decode(feed)

    sam = Sam(
        replace(ROW, decode_batch=3), replace(scene.engines(), **{stage: FakeEngine(failing)}), "0" * 64, overlaps=True
    )
    photo = EncodedImage(np.zeros((1, 3, 4, 4), np.float32), Geometry.of((INPUT_PX, INPUT_PX), INPUT_PX))
    points = np.random.default_rng(0).uniform(0, 1, (40, 2)).astype(np.float32)
    with pytest.raises(EngineError, match="broken"):
        sam.decode(photo, points, 0, FILTERS)
    assert len(sam.decode(photo, points, 0, FILTERS)) == 40 * 3, "the next photo is decoded as any"
    sam.close()


def test_a_short_rest_that_fails_once_shrinks_nothing_for_good() -> None:
    asked: list[int] = []
    scene = Scene.of_label_maps(quadrants())

    def once(feed: dict[str, Any]) -> dict[str, Any]:
        asked.append(len(feed["points_xy_px"]))
        if len(asked) == 2:
            raise OutOfMemoryError("GPU 0: out of memory.")
        return scene.decode(feed)

    sam = Sam(replace(ROW, decode_batch=16), replace(scene.engines(), decoder=FakeEngine(once)), "0" * 64)
    photo = EncodedImage(np.zeros((1, 3, 4, 4), np.float32), Geometry.of((INPUT_PX, INPUT_PX), INPUT_PX))
    points = np.random.default_rng(0).uniform(0, 1, (18, 2)).astype(np.float32)
    for _ in range(2):
        assert len(sam.decode(photo, points, 0, FILTERS)) == 18 * 3
    assert asked == [16, 2, 1, 1, 16, 2]


@pytest.mark.parametrize("one_at_a_time", [False, True])
def test_threads_take_turns_where_memory_is_short(one_at_a_time: bool) -> None:
    scene, inside, most = Scene.of_label_maps(quadrants()), [0], [0]
    counting, both_are_in = threading.Lock(), threading.Barrier(2)

    def counted(answer: Any) -> FakeEngine:
        def run(feed: dict[str, Any]) -> Any:
            with counting:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            if not one_at_a_time:
                both_are_in.wait(GUARD_S)
            with counting:
                inside[0] -= 1
            return answer(feed)

        return FakeEngine(run)

    engines = replace(scene.engines(), encoder=counted(scene.encode), decoder=counted(scene.decode))
    sam = Sam(replace(ROW, decode_batch=1), engines, "0" * 64, one_at_a_time)
    image = np.zeros((8, 8, 3), np.uint8)
    points = np.full((4, 2), 0.5, np.float32)
    with ThreadPoolExecutor(2) as pool:
        for masks in pool.map(lambda _: sam.decode(sam.encode(image), points, 0, FILTERS), range(2)):
            assert len(masks) == 4 * 3
    assert most == [1 if one_at_a_time else 2]


@pytest.mark.parametrize(
    ("k", "shape", "labels", "message"),
    [
        (1, (1, 1, 2), [[2]], r"expects points \[N, 1, 2\] with labels \(1,\); got .*\[\[2\]\]"),
        (2, (1, 2, 2), [[1, 4]], r"labels \(1, -1\) or \(0, -1\) or \(2, 3\); got .*\[\[1, 4\]\]"),
        (2, (1, 2, 2), [[1, 0]], "labels .*1, 0"),  # SAM would add a third token
        (2, (1, 2, 2), [[-1, -1]], "labels .*-1, -1"),
        (2, (1, 2, 2), [[3, 2]], "labels .*3, 2"),
        (2, (1, 2), [[1, -1]], r"got \[1, 2\] with labels \[1, 2\]"),
        (2, (2, 2, 2), [[1, -1]], r"got \[2, 2, 2\] with labels \[1, 2\]"),
        (2, (1, 3, 2), [[1, 1, 1]], r"got \[1, 3, 2\]"),
        (2, (1, 2, 2), [1, -1], r"with labels \[2\]"),
        (2, (1, 2, 2), None, r"expected points \[N, 2\], got \[1, 2, 2\]; give labels with boxes"),
        (2, (2,), None, r"expected points \[N, 2\], got \[2\]"),
        (2, (4, 3), None, r"expected points \[N, 2\], got \[4, 3\]"),
    ],
)
def test_prompts_that_a_model_does_not_take(
    k: int, shape: tuple[int, ...], labels: list[object] | None, message: str
) -> None:
    sam, photo, feeds = spied(k)
    with pytest.raises(InputError, match=message):
        sam.decode(photo, np.zeros(shape, np.float32), 0, FILTERS, labels=labels)
    assert not feeds


@pytest.mark.parametrize("k", [1, 2])
def test_predict_gives_every_mask_of_a_point_in_pixels(k: int) -> None:
    """The same masks as `decode` without filters; pixels are those of the image, not of the input."""
    scene = Scene.of_label_maps(quadrants(), score=(0.1, -0.2, 0.3))
    sam = Sam(replace(ROW, points_per_prompt=k, decode_batch=3), scene.engines(), "0" * 64)
    encoded = sam.encode(np.zeros((50, 100, 3), np.uint8))
    pixels = np.array([[10, 20], [99.5, 0], [50, 49], [3, 3]])
    masks = sam.predict(encoded, points=pixels.tolist())
    assert masks.prompt_index.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert masks.mask_index.tolist() == [0, 1, 2] * 4
    assert masks.best_level().predicted_iou.tolist() == pytest.approx([0.3] * 4)
    expected = sam.decode(encoded, (pixels / [100, 50]).astype(np.float32), 0, None)
    for name in ("bits", "prompt_index", "predicted_iou", "area", "level"):
        np.testing.assert_array_equal(getattr(masks, name), getattr(expected, name))
    assert len(sam.predict(encoded, points=np.zeros((0, 2)))) == 0


def test_predict_feeds_boxes_and_labels() -> None:
    sam, encoded, feeds = spied(2)  # an image of 128 x 256 in an input of 256 x 256
    sam.predict(encoded, boxes=[[10, 20, 200, 100]])
    sam.predict(encoded, points=[[10, 20], [30, 40]], labels=[1, 0])
    np.testing.assert_allclose(feeds[0]["points_xy_px"], [[[10, 20], [200, 100]]])
    assert feeds[0]["labels"].tolist() == [[2, 3]]
    np.testing.assert_allclose(feeds[1]["points_xy_px"], [[[10, 20], [0, 0]], [[30, 40], [0, 0]]])
    assert feeds[1]["labels"].tolist() == [[1, -1], [0, -1]]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "expected either points or boxes"),
        ({"points": [[1, 2]], "boxes": [[1, 2, 3, 4]]}, "expected either points or boxes"),
        ({"points": [1, 2]}, r"expected points \[N, 2\] in pixels, all finite, got \[2\]"),
        ({"points": [[1, float("nan")]]}, "all finite"),
        ({"points": "here"}, "found no array of numbers"),
        ({"boxes": [[1, 2, 3]]}, r"expected boxes \[N, 4\] in pixels, all finite, got \[1, 3\]"),
        ({"boxes": [[1, 2, 3, 4]], "labels": [1]}, "labels belong to points"),
        ({"points": [[1, 2]], "labels": [1, 1]}, r"expected 1 labels, one for each point, got \[2\]"),
        ({"points": [[1, 2]], "labels": [7]}, r"labels \(1, -1\) or .*\[\[7, -1\]\]"),
    ],
)
def test_predict_refuses_other_prompts(prompts: dict[str, Any], message: str) -> None:
    sam, encoded, feeds = spied(2)
    with pytest.raises(InputError, match=message):
        sam.predict(encoded, **prompts)
    assert not feeds


def test_a_model_of_single_points_takes_no_boxes_and_no_background() -> None:
    sam, encoded, _ = spied(1)
    for prompts in ({"boxes": [[1, 2, 3, 4]]}, {"points": [[1, 2]], "labels": [0]}):
        with pytest.raises(InputError, match=r"expects points \[N, 1, 2\] with labels \(1,\)"):
            sam.predict(encoded, **prompts)


def test_open_filters_are_the_models_own() -> None:
    sam, encoded, _ = spied(2)
    points = np.random.default_rng(0).uniform(0, 1, (9, 2)).astype(np.float32)
    own = Filters(score_min=ROW.score_min, stability_min=ROW.stability_min, stability_offset=ROW.stability_offset)
    found, expected = (sam.decode(encoded, points, 0, filters) for filters in (Filters(), own))
    assert len(found) == 27
    np.testing.assert_array_equal(found.bits, expected.bits)


def test_a_cancelled_decoder_stops_before_the_next_batch() -> None:
    cancel, calls = CancelToken(), []
    scene = Scene.of_label_maps(quadrants())

    def decode(feed: dict[str, Any]) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 2:
            cancel.cancel()
        return scene.decode(feed)

    sam = Sam(replace(ROW, decode_batch=3), replace(scene.engines(), decoder=FakeEngine(decode)), "0" * 64)
    encoded = sam.encode(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DecodingCancelledError):
        sam.decode(encoded, np.full((20, 2), 0.5, np.float32), 0, FILTERS, cancel=cancel)
    assert len(calls) == 2
