"""open_source: what an address leads to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from esam_rt.errors import InputError, SettingsError
from esam_rt.sources import Bag, PhotoFolder, Video, open_source
from esam_rt.sources.source_address import source_kind
from tests.sources.test_bags import FRONT, LEFT, write_ros2
from tests.sources.test_video import write


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("photo.jpg", "photos"),
        ("folder", "photos"),
        ("drive.MP4", "video"),
        ("/dev/video0", "video"),
        ("rtsp://user:word@camera:554/1", "video"),
        ("udp://239.0.0.1:5000", "video"),
        ("drive.mcap", "bag"),
        ("drive.db3", "bag"),
        ("drive.bag", "bag"),
        ("https://example.com/a.jpg", "photos"),
        ("s3://bucket/photos", "bucket"),
        ("GS://bucket", "bucket"),
        ("az://container/a.jpg", "bucket"),
        ("s3:/folder", "photos"),
    ],
)
def test_the_kind_of_an_address(address: str, kind: str) -> None:
    assert source_kind(address) == kind


def test_photos_videos_and_bags_are_opened(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "a.png")
    write(str(tmp_path / "clip.mp4"), 3, "mp4")
    bag = write_ros2(tmp_path / "drive", "MCAP")
    photos, video = open_source(tmp_path / "a.png"), open_source(str(tmp_path / "clip.mp4"))
    assert isinstance(photos, PhotoFolder) and photos.length == 1
    assert isinstance(video, Video) and len(list(video)) == 3
    found = open_source(bag, topics=[FRONT, LEFT])
    assert isinstance(found, Bag) and found.length == 10


def test_what_cannot_be_opened_together_is_refused(tmp_path: Path) -> None:
    write(str(tmp_path / "clip.mp4"), 1, "mp4")
    with pytest.raises(SettingsError, match="found 2 sources, expected one bucket, video, bag or stream alone"):
        open_source(tmp_path / "clip.mp4", tmp_path)
    with pytest.raises(SettingsError, match="--topic: the source is no ROS bag"):
        open_source(tmp_path / "clip.mp4", topics=["/front"])
    with pytest.raises(InputError, match="Download it first"):
        open_source("https://example.com/a.jpg")
    with pytest.raises(InputError, match="there is no such bag"):
        open_source(tmp_path / "missing.mcap")
