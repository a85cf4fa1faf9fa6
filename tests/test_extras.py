"""Extras: ``all`` brings them, and each one that is missing is one sentence with the command that installs it."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from esam_rt.entity_map import EntityMap
from esam_rt.errors import MissingDependencyError
from esam_rt.run import RunOptions, run_photos
from esam_rt.run.ray_cluster import RayOptions, Slot, connected
from esam_rt.sinks import GeoPackage, GeoTiff, McapFile, OverlayVideo, RerunFile, ros_messages
from esam_rt.sources import Bag, PhotoBucket, Raster, Video, read_photo
from tests.support.fake_segmenter import FakeSegmenter

ROOT = Path(__file__).parents[1]
OF_THE_MACHINE = {"cpu", "gpu", "tensorrt", "tensorrt-rtx"}
OF_DEVELOPERS = {"docs", "train", "bench", "dev"}


def heic(folder: Path) -> None:
    (folder / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    read_photo(folder / "a.heic", "a.heic")


def nothing() -> EntityMap:
    return EntityMap.from_labels(np.zeros((2, 2), int), np.zeros(0), np.zeros(0, int))


USES: dict[str, list[tuple[str, Callable[[Path], object]]]] = {  # extra -> missing package, what needs it
    "video": [("av", lambda folder: Video("a.mp4")), ("av", lambda folder: OverlayVideo(folder))],
    "bags": [
        ("rosbags.highlevel", lambda folder: list(Bag(folder / "a.bag"))),
        ("rosbags.typesys", lambda folder: McapFile(folder)),
        ("mcap.writer", lambda folder: McapFile(folder)),
    ],
    "rerun": [("rerun", lambda folder: RerunFile(folder))],
    "raster": [
        ("rasterio", lambda folder: Raster(folder / "a.tif")),
        ("rasterio", lambda folder: GeoTiff(folder)),
        ("pyogrio", lambda folder: GeoPackage(folder)),
    ],
    "supervision": [("supervision", lambda folder: nothing().to_supervision())],
    "heif": [("pillow_heif", heic)],
    "ray": [("ray", lambda folder: connected(RayOptions(), Slot(1, 0.0)).__enter__())],
    "buckets": [("fsspec.core", lambda folder: PhotoBucket("memory://photos"))],
}


def extras() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[str, list[str]] = project["optional-dependencies"]
    return found


def test_all_brings_every_extra_of_users() -> None:
    (everything,) = extras()["all"]
    named = everything.removeprefix("esam-rt[").removesuffix("]").split(",")
    assert set(named) == set(USES) == extras().keys() - OF_THE_MACHINE - OF_DEVELOPERS - {"all"}


@pytest.mark.parametrize(
    ("extra", "package", "use"), [(extra, *pair) for extra, pairs in USES.items() for pair in pairs]
)
def test_a_missing_extra_is_one_sentence_with_the_command(
    extra: str, package: str, use: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ros_messages.types.cache_clear()
    (tmp_path / "a.bag").write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Exception, match=rf"pip install 'esam-rt\[{extra}\]'") as caught:
        use(tmp_path)
    assert type(caught.value).__module__ == "esam_rt.errors" and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("output", "package"), [("video", "av"), ("mcap", "rosbags.typesys"), ("rerun", "rerun"), ("geopackage", "pyogrio")]
)
def test_a_missing_extra_is_told_before_the_run_begins(
    output: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ros_messages.types.cache_clear()
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2, 2, 3), np.uint8))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        run_photos(RunOptions([tmp_path / "a.png"], tmp_path / "out", write=(output,)), None, FakeSegmenter().open)
    assert not (tmp_path / "out").exists()
