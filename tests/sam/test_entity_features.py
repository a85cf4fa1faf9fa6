"""Features of entities, against the embedding sampled at each pixel of each entity."""

from __future__ import annotations

import numpy as np
import pytest

from esam_rt.entity_map import EntityMap
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.entity_features import entity_features
from esam_rt.sam.geometry import Geometry

CHANNELS = 5


def encoded(orig_hw: tuple[int, int], input_px: int = 128, seed: int = 0) -> EncodedImage:
    side = input_px // 16
    embedding = np.random.default_rng(seed).normal(size=(1, CHANNELS, side, side)).astype(np.float32)
    return EncodedImage(embedding, Geometry.of(orig_hw, input_px))


def map_of(labels: np.ndarray) -> EntityMap:
    count = int(labels.max())
    score = np.linspace(0.9, 0.1, count)
    return EntityMap.from_labels(labels, score, np.zeros(count, np.uint8))


@pytest.mark.parametrize("orig_hw", [(60, 100), (100, 60), (7, 9), (128, 128), (300, 17)])
def test_the_mean_over_all_pixels(orig_hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    entities = map_of(rng.integers(0, 9, orig_hw).astype(np.uint16))
    image = encoded(orig_hw)
    features = entity_features(entities, image)
    assert (features.dtype, features.shape) == (np.float32, (len(entities), CHANNELS))
    for i, mask in enumerate(entities.masks()):
        y, x = np.nonzero(mask)
        points = image.geometry.from_pixels(np.stack([x, y], axis=1) + 0.5)
        np.testing.assert_allclose(features[i], image.features_at(points).mean(axis=0), rtol=0, atol=1e-4)


def test_more_entities_than_are_measured_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    entities = map_of(np.arange(1, 61, dtype=np.uint16).reshape(6, 10))
    image = encoded((6, 10))
    whole = entity_features(entities, image)
    monkeypatch.setattr("esam_rt.sam.entity_features.AT_ONCE", 7)
    np.testing.assert_allclose(entity_features(entities, image), whole, atol=1e-6)


def test_a_large_image_is_sampled_and_no_entity_is_left_out() -> None:
    labels = np.ones((40, 4096), np.uint16)
    labels[:, 2048:] = 2
    labels[5, 5] = 3  # between the samples
    entities = map_of(labels)
    image = encoded((40, 4096))
    features = entity_features(entities, image)
    for i, mask in enumerate(entities.masks()):
        y, x = np.nonzero(mask)
        points = image.geometry.from_pixels(np.stack([x, y], axis=1) + 0.5)
        np.testing.assert_allclose(features[i], image.features_at(points).mean(axis=0), atol=0.02)


def test_no_entities() -> None:
    entities = map_of(np.zeros((6, 10), np.uint16))
    assert entity_features(entities, encoded((6, 10))).shape == (0, CHANNELS)
