"""Deadlines and cancellation of the whole segmenter."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from esam_rt import EntityMap, EntitySegmenter, pipeline
from esam_rt.errors import DecodingCancelledError, EngineError, SettingsError
from esam_rt.sam.cancel_token import CancelToken
from esam_rt.sam.predictor import Engines, Sam
from esam_rt.segmenter import METHODS
from esam_rt.stages import Stage
from tests.support.fake_clock import FakeClock
from tests.support.scene import ROW, FakeEngine, Scene, photo_of, quadrants
from tests.test_segmenter import check_invariants, noisy_scene, settings_with

BATCH = ROW.decode_batch
REST_S = 0.02


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """A clock that also passes while the label map is drawn."""
    clock, draw = FakeClock(), pipeline.render_labels

    def slow(*arguments: Any) -> Any:
        clock.passes(REST_S)
        return draw(*arguments)

    monkeypatch.setattr(pipeline, "render_labels", slow)
    return clock


def same(a: EntityMap, b: EntityMap) -> None:
    for name in ("labels", "score", "stage", "box_xyxy"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("method", ["e-sam", "amg", "sam-o"])
@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_every_deadline_gives_a_valid_map_in_time(clock: FakeClock, method: str, jitter: float) -> None:
    """Time is overrun by one batch, and by the drawing that was kept back, at most."""
    rng = np.random.default_rng(1)
    clock.jitter = jitter
    slowest = 1 + jitter
    empty = complete = 0
    for seed in range(2):
        scene, photo = noisy_scene(seed)
        with EntitySegmenter(clock.sam(scene), settings=settings_with(), method=method, clock=clock) as segment:
            segment(photo)
            for deadline_s in [*np.exp(rng.uniform(np.log(0.02), np.log(2), 6)), 100.0]:
                start, drawn_before = clock.now_s, clock.drawn
                result = segment(photo, deadline_s=deadline_s)
                check_invariants(result, photo.shape[:2])
                taken_s, drawn = clock.now_s - start, clock.drawn - drawn_before
                batch_s, drawing_s = BATCH * clock.prompt_s, drawn * (clock.prompt_s + clock.drawing_s)
                assert taken_s <= deadline_s + slowest * max(batch_s + drawing_s + REST_S, clock.encoder_s)
                if jitter == 0 and deadline_s > clock.encoder_s:
                    assert taken_s <= deadline_s + drawing_s, "costs are known exactly, except the number of masks"
                empty += result.prompts_decoded == 0
                complete += result.complete
                assert len(result) == 0 or result.prompts_decoded > 0
                assert result.complete or taken_s > deadline_s / 4 or result.prompts_decoded == 0
    assert complete >= 2
    assert empty < 8


@pytest.mark.parametrize(
    "changes", [{}, {"emr.gallery": "exact"}, {"emr.votes": 4}, {"usr.enabled": False}, {"mmg.enabled": False}]
)
def test_with_enough_time_the_map_is_that_without_a_deadline(clock: FakeClock, changes: dict[str, object]) -> None:
    scene, photo = noisy_scene(3)
    settings = settings_with().with_overrides(changes)
    with EntitySegmenter(clock.sam(scene), settings=settings, clock=clock) as segment:
        free = segment(photo)
        clock.batches.clear()
        limited = segment(photo, deadline_s=1000)
    same(free, limited)
    assert limited.complete
    assert limited.completed_stages == free.completed_stages
    assert max(clock.batches) <= BATCH


def test_stages_are_completed_in_the_order_of_their_worth(clock: FakeClock) -> None:
    scene, photo = noisy_scene(3)
    with EntitySegmenter(clock.sam(scene), settings=settings_with(), clock=clock) as segment:
        full = segment(photo)
        maps = [segment(photo, deadline_s=s) for s in np.geomspace(0.05, 4, 30)]
    assert full.completed_stages == (Stage.MMG, Stage.EMR, Stage.USR)
    prompts = [m.prompts_decoded for m in maps]
    assert prompts[0] == 0
    assert prompts[-1] >= full.prompts_decoded
    assert all(b >= a - BATCH for a, b in itertools.pairwise(prompts))
    stages = list(dict.fromkeys(m.completed_stages for m in maps))
    assert stages[0] == ()
    assert (Stage.MMG,) in stages
    assert stages[-1] == full.completed_stages
    for m in maps:
        assert m.complete is (m.completed_stages == full.completed_stages)
        assert (Stage.MMG in m.completed_stages) is (m.prompts_decoded >= 16**2)


def test_without_time_for_a_prompt_the_map_is_empty_and_says_so(clock: FakeClock) -> None:
    maps = quadrants()
    photo = photo_of(maps[0])
    with EntitySegmenter(clock.sam(Scene.of_label_maps(maps)), settings=settings_with(), clock=clock) as segment:
        assert len(segment(photo)) == 4
        start = clock.now_s
        short = segment(photo, deadline_s=0.04)  # 30 ms are the encoder's
        assert clock.now_s == start, "the encoder did not run, because no prompt could follow"
        clock.encoder_s = 0.2
        late = segment(photo, deadline_s=0.1)  # nobody could know
    for result in (short, late):
        check_invariants(result, photo.shape[:2])
        assert (len(result), result.complete, result.completed_stages, result.prompts_decoded) == (0, False, (), 0)


def test_a_few_prompts_find_the_large_objects(clock: FakeClock) -> None:
    """The prompts are spread over the photo, and skip the masks that were found."""
    maps = quadrants()
    with EntitySegmenter(clock.sam(Scene.of_label_maps(maps)), settings=settings_with(), clock=clock) as segment:
        photo = photo_of(maps[0])
        segment(photo)
        result = segment(photo, deadline_s=0.03 + REST_S + 16 * 0.002 + 4 * 0.003 + 1e-6)
    assert result.prompts_decoded == 16
    assert len(result) == 4
    assert not result.complete


@pytest.mark.parametrize("deadline_s", [0, -1.0, float("nan"), float("inf"), "0.1"])
def test_other_deadlines_are_refused(clock: FakeClock, deadline_s: Any) -> None:
    scene, photo = noisy_scene(0)
    with (
        EntitySegmenter(clock.sam(scene)) as segment,
        pytest.raises(SettingsError, match=r"deadline_s: found .*expected a number of seconds above 0, or None"),
    ):
        segment(photo, deadline_s=deadline_s)


def test_superpixels_alone_ignore_the_deadline(clock: FakeClock) -> None:
    scene, photo = noisy_scene(0)
    with EntitySegmenter(clock.sam(scene), method="superpixels", clock=clock) as segment:
        result = segment(photo, deadline_s=1e-6)
    assert len(result)
    assert result.complete
    assert result.completed_stages == (Stage.SUPERPIXELS,)


def cancelling(network: str, act: Callable[[], None], number: int = 1) -> Sam:
    """A model whose network ``number`` times in calls ``act`` in another thread, and waits for it."""
    scene, _ = noisy_scene(0)
    engines, calls = scene.engines(), []
    answer = {"encoder": scene.encode, "decoder": scene.decode, "mask_head": scene.upscale, "logits": scene.logits}

    def infer(feed: Mapping[str, Any]) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == number:
            other = threading.Thread(target=act)
            other.start()
            other.join()
        return answer[network](feed)

    return Sam(replace(ROW, decode_batch=32), replace(engines, **{network: FakeEngine(infer)}), "0" * 64)


@pytest.mark.parametrize("deadline_s", [None, 1000.0])
@pytest.mark.parametrize(
    ("network", "number"), [("encoder", 1), ("decoder", 1), ("decoder", 5), ("decoder", 9), ("mask_head", 3)]
)
def test_a_photo_is_cancelled_from_another_thread(network: str, number: int, deadline_s: float | None) -> None:
    cancel, (_, photo) = CancelToken(), noisy_scene(0)
    with EntitySegmenter(cancelling(network, cancel.cancel, number), settings=settings_with()) as segment:
        with pytest.raises(DecodingCancelledError, match=r"Decoding was cancelled\.") as caught:
            segment(photo, deadline_s=deadline_s, cancel=cancel)
        assert not isinstance(caught.value, EngineError)
        assert segment(photo, cancel=CancelToken()).complete, "the segmenter stays usable"


@pytest.mark.parametrize("method", ["e-sam", "amg", "superpixels"])
def test_a_photo_is_cancelled_before_it_begins(method: str) -> None:
    cancel, (scene, photo) = CancelToken(), noisy_scene(0)
    cancel.cancel()
    with EntitySegmenter(scene.sam(), method=method) as segment, pytest.raises(DecodingCancelledError):
        segment(photo, cancel=cancel)


@pytest.mark.parametrize(
    ("network", "call"),
    [
        *((network, "__call__") for network in ("encoder", "decoder", "mask_head", "logits")),
        ("encoder", "prepare"),
    ],
)
def test_a_close_from_another_thread_is_no_engine_error(
    monkeypatch: pytest.MonkeyPatch, network: str, call: str
) -> None:
    """The engine is taken away during its call, and complains."""
    scene, photo = noisy_scene(0)
    sam = scene.sam()

    def infer(*_: Any, **__: Any) -> dict[str, Any]:
        closer = threading.Thread(target=segment.close)
        closer.start()
        while not segment.is_closed:
            closer.join(0.001)
        raise EngineError("scene: used after close().")

    monkeypatch.setattr(getattr(sam.engines, network), "infer", infer)
    segment = EntitySegmenter(sam, settings=settings_with())
    with pytest.raises(DecodingCancelledError):
        getattr(segment, call)(photo)


def test_other_engine_errors_stay() -> None:
    scene, photo = noisy_scene(0)

    def broken(feed: Mapping[str, Any]) -> dict[str, Any]:
        raise EngineError("scene: broken.")

    sam = Sam(ROW, replace(scene.engines(), decoder=FakeEngine(broken)), "0" * 64)
    with EntitySegmenter(sam) as segment, pytest.raises(EngineError, match="broken"):
        segment(photo, deadline_s=5, cancel=CancelToken())


@pytest.mark.parametrize("method", METHODS)
def test_warm_up_runs_every_network_also_without_a_mask(method: str) -> None:
    scene, _ = noisy_scene(0)
    scene.score[:] = 0.1
    ran: list[str] = []

    def noted(name: str, answer: Callable[..., Any]) -> FakeEngine:
        return FakeEngine(lambda feed: ran.append(name) or answer(feed))

    names = {"encoder": scene.encode, "decoder": scene.decode, "mask_head": scene.upscale, "logits": scene.logits}
    sam = Sam(ROW, Engines(**{name: noted(name, answer) for name, answer in names.items()}), "0" * 64)
    with EntitySegmenter(sam, settings=settings_with(), method=method) as segment:
        segment.warm_up([(7, 9), (300, 20)])
    assert set(ran) == (set() if method == "superpixels" else set(names))
    assert ran.count("encoder") == (0 if method == "superpixels" else 4)


def test_warm_up_teaches_what_an_image_costs(clock: FakeClock) -> None:
    scene, photo = noisy_scene(0)
    with EntitySegmenter(clock.sam(scene), settings=settings_with(), clock=clock) as segment:
        segment.warm_up([photo.shape[:2]])
        start = clock.now_s
        assert not segment(photo, deadline_s=0.9 * clock.encoder_s).complete
        assert clock.now_s == start, "the encoder did not run"
        assert segment(photo, deadline_s=0.2).prompts_decoded > 0
        assert clock.now_s - start < 0.2 + clock.drawn * (clock.prompt_s + clock.drawing_s)
