"""A model that remembers a photo's prompts gives what the model gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from esam_rt import EntitySegmenter, Settings
from esam_rt.evaluation.paper_tables.decode_cache import CachingSam, CachingSuperpixels
from esam_rt.masks import Level, MaskSet
from esam_rt.sam.predictor import Sam
from esam_rt.segmenter import METHODS
from esam_rt.settings import Filters
from tests.support.scene import ROW
from tests.test_segmenter import noisy_scene

CHANGES: list[dict[str, object]] = [
    {},
    {"emr.gallery": "exact"},
    {"emr.votes": 3, "mmg.theta_o": 0.5},
    {"filters.score_min": 0.8},
    {"filters.stability_offset": 0.5},
    {"usr.enabled": False},
    {},
]


def test_many_settings_and_methods_over_photos_decode_each_prompt_once() -> None:
    photos = [noisy_scene(seed) for seed in (1, 2)]
    variants = [(change, "e-sam") for change in CHANGES] + [({}, method) for method in METHODS]
    expected = {
        (seed, v): EntitySegmenter(scene.sam(), settings=settings_of(change), method=method)(photo)
        for seed, (scene, photo) in enumerate(photos)
        for v, (change, method) in enumerate(variants)
    }
    pixels = CachingSuperpixels()
    for seed, (scene, photo) in enumerate(photos):
        engines = scene.engines()
        seen: Counter[bytes] = Counter()
        encoded = 0
        decode, encode = engines.decoder.infer, engines.encoder.infer

        def counting(
            feed: Mapping[str, Any], outputs_on_device: Collection[str] = (), decode: Any = decode, seen: Any = seen
        ) -> dict[str, Any]:
            seen.update(point.tobytes() for point in feed["points_xy_px"])
            return decode(feed, outputs_on_device)  # type: ignore[no-any-return]

        def counting_photos(
            feed: Mapping[str, Any], outputs_on_device: Collection[str] = (), encode: Any = encode
        ) -> Any:
            nonlocal encoded
            encoded += 1
            return encode(feed, outputs_on_device)

        engines.decoder.infer, engines.encoder.infer = counting, counting_photos  # type: ignore[method-assign]
        sam = CachingSam(Sam(ROW, engines, "0" * 64))
        pixels.clear()
        for v, (change, method) in enumerate(variants):
            result = EntitySegmenter(sam, settings=settings_of(change), method=method, superpixels=pixels)(photo)
            np.testing.assert_array_equal(result.labels, expected[seed, v].labels)
            np.testing.assert_array_equal(result.score, expected[seed, v].score)
        assert encoded == 1
        once = sum(count == 1 for count in seen.values())
        assert len(seen) > 1000
        assert once < len(seen), "another offset needs other masks"
        sam.clear()
        before = sum(seen.values())
        EntitySegmenter(sam, settings=settings_of({}))(photo)
        assert sum(seen.values()) > before, "cleared"
        assert encoded == 2


def test_each_window_is_remembered_alone() -> None:
    scene, photo = noisy_scene(1)
    settings = settings_of({"tiles.crop_n_layers": 1})
    expected = EntitySegmenter(scene.sam(), settings=settings)(photo)
    sam, pixels = CachingSam(scene.sam()), CachingSuperpixels()
    for _ in range(2):
        result = EntitySegmenter(sam, settings=settings, superpixels=pixels)(photo)
        np.testing.assert_array_equal(result.labels, expected.labels)
        np.testing.assert_array_equal(result.score, expected.score)


def test_a_second_run_decodes_nothing() -> None:
    scene, photo = noisy_scene(4)
    engines = scene.engines()
    sam = CachingSam(Sam(ROW, engines, "0" * 64))
    first = EntitySegmenter(sam, settings=settings_of({}))(photo)
    for engine in (engines.encoder, engines.decoder, engines.mask_head, engines.logits):
        engine._function = None  # type: ignore[attr-defined]
    again = EntitySegmenter(sam, settings=settings_of({}))(photo)
    np.testing.assert_array_equal(first.labels, again.labels)


def test_any_prompts_levels_and_filters_give_what_the_model_gives() -> None:
    scene, photo = noisy_scene(5)
    plain, cached = scene.sam(), CachingSam(scene.sam())
    image, image_again = plain.encode(photo), cached.encode(photo)
    rng = np.random.default_rng(0)
    known = rng.random((12, 2)).astype(np.float32)
    for first_point in range(6):
        points = known[rng.integers(0, len(known), first_point * 4)]  # some twice, some new, at first none
        filters = Filters(
            score_min=(0.5, 0.8)[first_point % 2], stability_min=rng.random(), stability_offset=1.0, min_area=40
        )
        levels = tuple(Level)[:first_point]
        expected = plain.decode(image, points, first_point, filters, levels)
        found = cached.decode(image_again, points, first_point, filters, levels)
        for field in fields(MaskSet):
            a, b = getattr(found, field.name), getattr(expected, field.name)
            np.testing.assert_array_equal(a, b)
            assert getattr(a, "dtype", None) == getattr(b, "dtype", None)
        output = rng.integers(0, 3, len(points)).astype(np.uint8)
        logits = cached.logits(image_again, points, output)
        np.testing.assert_array_equal(logits, plain.logits(image, points, output))


def settings_of(change: Mapping[str, object]) -> Settings:
    return Settings.preset("fast").with_overrides(change)
