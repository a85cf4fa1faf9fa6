"""Encode once, segment later; features of entities; streams of a segmenter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from esam_rt import EntitySegmenter
from esam_rt.errors import EngineError, InputError, SettingsError
from esam_rt.sam.entity_features import entity_features
from tests.support.scene import Scene, photo_of, quadrants

MAPS = quadrants()
PHOTO = photo_of(MAPS[0])


class Counting(Scene):
    """A scene that counts how often its encoder runs."""

    encoded = 0

    def encode(self, feed: Any) -> Any:
        self.encoded += 1
        return super().encode(feed)


@pytest.fixture
def scene() -> Counting:
    scene = Counting.of_label_maps(MAPS)
    assert isinstance(scene, Counting)
    return scene


@pytest.fixture(params=["e-sam", "amg", "sam-o"])
def segmenter(request: pytest.FixtureRequest, scene: Counting) -> Iterator[EntitySegmenter]:
    with EntitySegmenter(scene.sam(), method=request.param) as segmenter:
        yield segmenter


def test_an_encoded_image_gives_the_same_map_and_is_encoded_once(segmenter: EntitySegmenter, scene: Counting) -> None:
    expected = segmenter(PHOTO)
    assert scene.encoded == 1
    encoded = segmenter.encode(PHOTO)
    for _ in range(2):
        found = segmenter(encoded)
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.score, expected.score)
    assert scene.encoded == 2
    assert found.features is None


def test_features_come_without_a_second_encode(segmenter: EntitySegmenter, scene: Counting) -> None:
    found = segmenter(PHOTO, features=True)
    assert scene.encoded == 1
    assert found.features is not None
    assert (found.features.dtype, found.features.shape) == (np.float32, (len(found), 3))
    np.testing.assert_array_equal(found.features, entity_features(found, segmenter.encode(PHOTO)))
    # The stand-in's embedding is the color of each place. The photo is painted with one color for each object.
    for mask, feature in zip(found.masks(), found.features, strict=True):
        np.testing.assert_allclose(feature, PHOTO[mask].mean(axis=0) / 255, atol=0.1)


def test_an_image_of_another_encoder_call_is_refused(segmenter: EntitySegmenter) -> None:
    with pytest.raises(InputError, match=r"expected one of EntitySegmenter\.encode"):
        segmenter(segmenter.sam.encode(PHOTO))


def test_superpixels_have_no_features(scene: Counting) -> None:
    with EntitySegmenter(scene.sam(), method="superpixels") as segmenter:
        with pytest.raises(SettingsError, match="no encoder"):
            segmenter(PHOTO, features=True)
        np.testing.assert_array_equal(segmenter(segmenter.encode(PHOTO)).labels, segmenter(PHOTO).labels)


def test_a_closed_segmenter_does_not_encode(scene: Counting) -> None:
    segmenter = EntitySegmenter(scene.sam())
    segmenter.close()
    with pytest.raises(EngineError, match="after close"):
        segmenter.encode(PHOTO)


def test_a_stream_of_the_segmenter_gives_identities(scene: Counting) -> None:
    with (
        EntitySegmenter(scene.sam(), method="amg") as segmenter,
        segmenter.stream([PHOTO, PHOTO], track=True) as stream,
    ):
        results = list(stream)
    ids = []
    for result in results:
        assert result.entities is not None
        assert result.entities.features is not None
        assert result.entities.track_id is not None
        ids.append(result.entities.track_id.tolist())
    assert ids[0] == ids[1] == list(range(1, len(ids[0]) + 1))
    assert scene.encoded == 2


def test_a_deadline_counts_no_encoder_for_an_encoded_image(scene: Counting) -> None:
    """The costs that deadlines learn from are those of real encoder calls."""
    with EntitySegmenter(scene.sam(), method="amg") as segmenter:
        encoded = segmenter.encode(PHOTO)
        assert segmenter(encoded, deadline_s=60).complete
        assert "encoder" not in segmenter(encoded).times_s


def test_a_frame_without_time_has_no_features(scene: Counting) -> None:
    with EntitySegmenter(scene.sam(), method="amg") as segmenter:
        found = segmenter(PHOTO, deadline_s=1e-9, features=True)
    assert (len(found), found.complete, found.features) == (0, False, None)
