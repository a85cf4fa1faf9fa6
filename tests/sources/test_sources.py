"""Sources: photos of folders, arrays in memory, and names that are known in advance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from esam_rt.errors import InputError
from esam_rt.sources import ArraySource, Frame, ListedSource, PhotoFolder
from esam_rt.sources.photo_search import PhotoFile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, name in enumerate(("a.png", "b.png", "sub/c.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4 + i, 3), (i, i, i)).save(tmp_path / name)
    return tmp_path


def test_a_photo_folder_gives_frames_in_order(folder: Path) -> None:
    source = PhotoFolder(str(folder))
    assert isinstance(source, ListedSource)
    assert (source.length, source.is_live) == (3, False)
    assert [frame.name for frame in source] == ["a.png", "b.png", "sub/c.png"]
    assert [frame.image_hwc_rgb.shape for frame in source] == [(3, 4, 3), (3, 5, 3), (3, 6, 3)]


def test_items_of_a_photo_folder_are_read_one_by_one(folder: Path) -> None:
    (folder / "b.png").write_text("not a photo")
    first, second, third = PhotoFolder([folder]).items()
    assert (first.name, first.pixel_count(), second.pixel_count()) == ("a.png", 12, 0)
    assert Path(third.path) == (folder / "sub/c.png").resolve()
    assert first.read().disposable
    with pytest.raises(InputError, match=r"b\.png is not a photo"):
        second.read()
    assert third.read().name == "sub/c.png"


def test_the_listed_items_belong_to_the_caller(folder: Path) -> None:
    source = PhotoFolder([folder])
    source.items().clear()
    assert (source.length, len(list(source)), len(source.items())) == (3, 3, 3)


def test_a_photo_folder_leaves_out_excluded_folders(folder: Path) -> None:
    assert [item.name for item in PhotoFolder(folder, exclude=[folder.resolve() / "sub"]).items()] == ["a.png", "b.png"]
    with pytest.raises(InputError, match="No photos but the results"):
        PhotoFolder(folder / "sub", exclude=[folder.resolve() / "sub"])


def test_a_photo_folder_takes_photos_that_were_found_before(folder: Path) -> None:
    source = PhotoFolder([folder], photos=[PhotoFile(folder / "b.png", "other.png")], max_pixels=14)
    assert [item.name for item in source.items()] == ["other.png"]
    with pytest.raises(InputError, match="the cap is"):
        next(iter(source))


def test_arrays_are_named_by_number_or_by_the_caller() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    source = ArraySource([image, image])
    assert isinstance(source, ListedSource)
    assert (source.length, source.is_live) == (2, False)
    assert [frame.name for frame in source] == ["000000", "000001"]
    (item,) = ArraySource({"left": image}).items()
    assert (item.name, item.path, item.pixel_count()) == ("left", "", 6)


def test_arrays_cannot_be_changed_through_their_frames() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    (frame,) = ArraySource([image])
    assert isinstance(frame, Frame)
    assert not frame.image_hwc_rgb.flags.writeable
    assert not frame.disposable
    assert image.flags.writeable


@pytest.mark.parametrize(
    "image", [np.zeros((2, 3), np.uint8), np.zeros((2, 3, 3), np.float32), np.zeros((2, 3, 4), np.uint8), "a"]
)
def test_other_arrays_are_refused(image: object) -> None:
    with pytest.raises(InputError, match=r"x: found .*, expected a NumPy array uint8"):
        ArraySource({"x": image})  # type: ignore[dict-item]
