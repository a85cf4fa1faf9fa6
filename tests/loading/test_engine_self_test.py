"""What the self-test of engines lets pass, and what it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from esam_rt.errors import EngineError
from esam_rt.loading.engine_self_test import SIDE, self_test
from esam_rt.sam.predictor import Sam
from tests.support.scene import ROW, FakeEngine, Scene, photo_of, quadrants

PHOTO = photo_of(quadrants()[0])


def scene() -> Scene:
    return Scene.of_label_maps(quadrants())


def changed(change: Any) -> Sam:
    """A model of the same scene whose masks or scores are changed."""
    s = scene()

    def decode(feed: dict[str, Any]) -> dict[str, Any]:
        return change(s.decode(feed))

    def upscale(feed: dict[str, Any]) -> dict[str, Any]:
        return change(s.upscale(feed))

    return Sam(ROW, replace(s.engines(), decoder=FakeEngine(decode), mask_head=FakeEngine(upscale)), "0" * 64)


def test_the_same_is_the_same() -> None:
    result = self_test(scene().sam(), scene().sam(), PHOTO)
    assert (result.masks, result.iou, result.score) == (3 * SIDE**2, 1.0, 0.0)


def test_a_little_noise_passes() -> None:
    def nudge(out: dict[str, Any]) -> dict[str, Any]:
        return out | {"predicted_iou": out["predicted_iou"] + np.float32(0.01)} if "predicted_iou" in out else out

    assert self_test(changed(nudge), scene().sam(), PHOTO).score == pytest.approx(0.01, abs=1e-4)


def wrong_score(out: dict[str, Any]) -> dict[str, Any]:
    return out | {"predicted_iou": out["predicted_iou"] - np.float32(0.03)} if "predicted_iou" in out else out


def wrong_bits(out: dict[str, Any]) -> dict[str, Any]:
    return out | {"bits": ~out["bits"]} if "bits" in out else out


def fewer_masks(out: dict[str, Any]) -> dict[str, Any]:
    return out | {"area": np.zeros_like(out["area"])} if "area" in out else out


@pytest.mark.parametrize("change", [wrong_score, wrong_bits, fewer_masks])
def test_what_is_wrong_does_not_pass(change: Any) -> None:
    with pytest.raises(
        EngineError, match=r"Self-test: mean IoU .* Use --precision bf16 or fp32, or engines of .* --no-fusion"
    ):
        self_test(changed(change), scene().sam(), PHOTO)


def test_every_replay_is_compared() -> None:
    """Answers that are right at first and wrong later."""
    calls = []
    s = scene()

    def decode(feed: dict[str, Any]) -> dict[str, Any]:
        calls.append(len(feed["points_xy_px"]))
        out = s.decode(feed)
        return out | {"predicted_iou": out["predicted_iou"] - np.float32(0.03)} if len(calls) > 3 else out

    sam = Sam(replace(ROW, decode_batch=SIDE**2), replace(s.engines(), decoder=FakeEngine(decode)), "0" * 64)
    assert self_test(sam, scene().sam(), PHOTO).masks == 3 * SIDE**2
    calls.clear()
    with pytest.raises(EngineError, match=r"mean IoU of 432 masks 1\.0000, greatest difference of scores 0\.03"):
        self_test(sam, scene().sam(), PHOTO, cuda_graphs=True)
    assert calls == [SIDE**2] * 4
    odd = Sam(replace(ROW, decode_batch=25), s.engines(), "0" * 64)
    result = self_test(odd, scene().sam(), PHOTO, cuda_graphs=True)
    assert (result.masks, result.iou, result.cuda_graphs) == (3 * 3 * SIDE**2, 1.0, True)


def test_masks_that_the_reference_lacks() -> None:
    with pytest.raises(EngineError, match=r"Self-test: mean IoU of 108 masks 0\.0000"):
        self_test(scene().sam(), changed(fewer_masks), PHOTO)


def test_nothing_to_compare() -> None:
    with pytest.raises(EngineError, match="found no masks to compare"):
        self_test(changed(fewer_masks), changed(fewer_masks), PHOTO)
