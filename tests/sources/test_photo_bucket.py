"""Photos in a bucket: those of a folder, whatever the objects are called, and faults that name the URL."""

from __future__ import annotations

import gc
import io
import logging
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from esam_rt.errors import InputError, MissingDependencyError, OutputError, SettingsError
from esam_rt.sources import PhotoBucket, PhotoFolder, open_source, photo_bucket
from esam_rt.storage.buckets import open_bucket

URL = "memory://esam-rt/photos"
NAMES = [
    *("10.png", "2.PNG", "a b/ü#1%20.jpg", "a b/c+d&e.tif", "deep/er/[x]*.webp", "no suffix", "notes.txt", "a.mp4"),
    *(".hidden.png", ".git/x.png", "deep/.cache/y.png", "semi;colon=1.bmp", "日本/写真.png"),
]


@pytest.fixture(autouse=True)
def bucket() -> Iterator[MemoryFileSystem]:
    """An empty bucket."""
    system, _ = open_bucket(URL)
    assert isinstance(system, MemoryFileSystem)
    system.mkdir("/esam-rt")
    yield system
    system.rm("/esam-rt", recursive=True)


def photo(seed: int, suffix: str) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 14, 3), np.uint8))
    image.save(file, Image.registered_extensions()[suffix], exif=Image.Exif())
    return file.getvalue()


def fill(folder: Path, bucket: MemoryFileSystem, names: list[str] = NAMES) -> None:
    """Write the same files into a folder and into the bucket."""
    for seed, name in enumerate(names):
        suffix = Path(name).suffix.lower()
        data = photo(seed, suffix if suffix in (".png", ".jpg", ".tif", ".webp", ".bmp") else ".png")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        bucket.pipe_file(f"/esam-rt/photos/{name}", data)


@pytest.mark.parametrize("url", [URL, f"{URL}/", "MEMORY://esam-rt/photos"])
def test_a_bucket_gives_the_photos_of_a_folder(url: str, tmp_path: Path, bucket: MemoryFileSystem) -> None:
    fill(tmp_path, bucket)
    found, expected = open_source(url), PhotoFolder(tmp_path)
    assert isinstance(found, PhotoBucket)
    assert [item.name for item in found.items()] == [item.name for item in expected.items()]
    assert found.length == expected.length == 7 and not found.is_live
    assert found.left_out == expected.left_out
    for frame, other in zip(found, expected, strict=True):
        assert frame.name == other.name and np.array_equal(frame.image_hwc_rgb, other.image_hwc_rgb)
    for item, file in zip(found.items(), expected.items(), strict=True):
        assert item.pixel_count() == file.pixel_count() == 9 * 14
        assert item.path == f"{url.rstrip('/')}/{item.name}"
        item.read()


def test_one_object_is_a_photo_whatever_its_suffix(bucket: MemoryFileSystem) -> None:
    bucket.pipe_file("/esam-rt/photos/x y#.data", photo(0, ".png"))
    (frame,) = PhotoBucket(f"{URL}/x y#.data")
    assert frame.name == "x y#.data" and frame.image_hwc_rgb.shape == (9, 14, 3)


def test_names_that_are_no_paths_are_left_out(bucket: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clouds take any text as a name. The file system in memory does not, so its listing is altered."""
    bucket.pipe_file("/esam-rt/photos/a.png", photo(0, ".png"))
    whole = MemoryFileSystem.ls

    def ls(self: MemoryFileSystem, path: str, detail: bool = True) -> list[dict[str, object]]:
        odd = [f"{path}/..", f"{path}//b.png", f"{path}/../c.png", f"{path}/./d.png", f"{path}/\0.png"]
        folders = [f"{path}/..", f"{path}/", path, f"{path}//"]
        marks = [f"{path}/", path]
        return [
            *whole(self, path, detail),
            *({"name": name, "type": "file", "size": 9} for name in odd + marks),
            *({"name": name, "type": "directory", "size": 0} for name in folders),
        ]

    monkeypatch.setattr(MemoryFileSystem, "ls", ls)
    found = PhotoBucket(URL)
    assert [item.name for item in found.items()] == ["a.png"]
    assert found.left_out == {".png": 4, "": 1}


def test_a_bucket_without_photos_is_refused(bucket: MemoryFileSystem) -> None:
    bucket.pipe_file("/esam-rt/photos/notes.txt", b"x")
    with pytest.raises(InputError, match=f"^{URL} holds no photos; expected .* It left out 1 file .* 1 .txt"):
        PhotoBucket(URL)


@pytest.mark.parametrize("url", ["memory://nowhere", "memory://esam-rt/photos/missing.png"])
def test_a_missing_bucket_is_refused(url: str) -> None:
    with pytest.raises(InputError, match=f"^{url} does not exist. Check"):
        PhotoBucket(url)


class TokenError(Exception):
    """An error as libraries of clouds have it."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("SECRET"), "may not be read. Check your credentials, and what they allow."),
        (TokenError("SECRET"), "cannot be read (TokenError). Check the connection and your credentials."),
        (OSError(5, "SECRET"), "cannot be read (OSError). Check the connection and your credentials."),
        (FileNotFoundError("SECRET"), "does not exist. Check the names of the bucket and of what is in it."),
    ],
)
@pytest.mark.parametrize("where", ["ls", "open", "read"])
def test_a_fault_of_the_bucket_names_the_url_and_no_secret(
    where: str, error: Exception, message: str, bucket: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.pipe_file("/esam-rt/photos/a.png", photo(0, ".png"))
    source = PhotoBucket(URL)

    class Torn(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise error

    def fail(*args: object, **kwargs: object) -> object:
        if where == "read":
            return Torn()
        raise error

    monkeypatch.setattr(MemoryFileSystem, "ls" if where == "ls" else "open", fail)
    with pytest.raises(InputError) as caught:
        PhotoBucket(URL) if where == "ls" else source.items()[0].read()
    assert str(caught.value) == f"{URL}{'' if where == 'ls' else '/a.png'} {message}"
    assert source.items()[0].pixel_count() == (126 if where == "ls" else 0)


def test_an_object_that_disappears_costs_one_photo(bucket: MemoryFileSystem) -> None:
    for name in ("a", "b"):
        bucket.pipe_file(f"/esam-rt/photos/{name}.png", photo(0, ".png"))
    first, second = PhotoBucket(URL).items()
    bucket.rm("/esam-rt/photos/a.png")
    with pytest.raises(InputError, match=f"^{URL}/a.png does not exist"):
        first.read()
    assert second.read().name == "b.png"


@pytest.mark.parametrize(
    "data", [b"", b"no photo", photo(0, ".png")[:60], photo(0, ".jpg")[:200], b"II*\0" + b"\1" * 40]
)
def test_a_damaged_object_is_refused_as_a_file_is(data: bytes, tmp_path: Path, bucket: MemoryFileSystem) -> None:
    (tmp_path / "a.png").write_bytes(data)
    bucket.pipe_file("/esam-rt/photos/a.png", data)
    with pytest.raises(InputError) as expected:
        next(iter(PhotoFolder(tmp_path)))
    with pytest.raises(InputError) as caught:
        next(iter(PhotoBucket(URL)))
    assert str(caught.value) == str(expected.value).replace(str(tmp_path), URL)


def test_the_bounds_of_a_photo_hold(bucket: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.pipe_file("/esam-rt/photos/a.png", photo(0, ".png"))
    with pytest.raises(InputError, match=f"^{URL}/a.png is 14 x 9 = .* the cap is 0.0001"):
        next(iter(PhotoBucket(URL, max_pixels=100)))
    monkeypatch.setattr(photo_bucket, "_METADATA_BYTES", 100)
    monkeypatch.setattr(photo_bucket, "_BLOCK_BYTES", 64)
    assert next(iter(PhotoBucket(URL))).image_hwc_rgb.shape == (9, 14, 3)  # in several blocks
    monkeypatch.setattr(photo_bucket, "_BYTES_OF_A_PIXEL", 0)
    with pytest.raises(InputError, match=f"^{URL}/a.png has more than 0 MB, more than a photo needs"):
        next(iter(PhotoBucket(URL)))


def test_a_photo_is_copied_once_and_the_copy_goes(bucket: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python warns of a file that is left open, and the tests take that for an error."""
    bucket.pipe_file("/esam-rt/photos/a.png", photo(0, ".png"))
    opened, whole = [], MemoryFileSystem.open

    def count(self: MemoryFileSystem, path: str, *args: object, **kwargs: object) -> object:
        opened.append(path)
        return whole(self, path, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "open", count)
    (item,) = PhotoBucket(URL).items()
    assert item.pixel_count() == 126 and item.read().name == "a.png" and len(opened) == 1
    assert item.read().name == "a.png" and len(opened) == 2
    item.pixel_count()
    again = pickle.loads(pickle.dumps(item))
    assert (again.name, again.path) == (item.name, item.path) and len(opened) == 3
    assert np.array_equal(again.read().image_hwc_rgb, item.read().image_hwc_rgb) and len(opened) == 4
    item.pixel_count()
    del item
    gc.collect()


def test_a_full_disk_stops_the_run(bucket: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.pipe_file("/esam-rt/photos/a.png", photo(0, ".png"))

    class Full(io.BytesIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(photo_bucket, "TemporaryFile", Full)
    with pytest.raises(OutputError, match=f"^{URL}/a.png cannot be copied .*: No space left on device. Free space"):
        next(iter(PhotoBucket(URL)))


@pytest.mark.parametrize(
    "url", ["s3://me:SECRET@b/p", "s3://b/p?sig=SECRET", "az://c/p::s3://SECRET", "s3://SECRET:1/p"]
)
def test_a_url_with_a_secret_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(InputError, match="put credentials into the environment") as caught:
        open_source(url)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(("url", "package"), [("s3://b", "s3fs"), ("gs://b/x", "gcsfs"), ("abfs://c@a/x", "adlfs")])
def test_a_missing_package_is_one_sentence(url: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=f"^{url} needs {package}: pip install {package}.$"):
        PhotoBucket(url)


def test_other_sources_are_refused() -> None:
    with pytest.raises(InputError, match=r"^s3:// names no bucket\."):
        open_source("s3://")
    for name in ("drive.mp4", "drive.mcap", "scene.jp2"):
        with pytest.raises(InputError, match=f"^s3://b/{name}: only photos are read from buckets"):
            open_source(f"s3://b/{name}")
    with pytest.raises(SettingsError, match="expected one bucket"):
        open_source("s3://b/x", "photos")
    with pytest.raises(SettingsError, match="--bands"):
        open_source("s3://b/x", bands=[1, 2, 3])


def test_left_out_objects_are_told(bucket: MemoryFileSystem, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "b.txt"):
        bucket.pipe_file(f"/esam-rt/photos/{name}", photo(0, ".png"))
    with caplog.at_level(logging.WARNING, "esam_rt"):
        PhotoBucket(URL)
    assert "left out 1 file" in caplog.text


def test_a_url_of_a_file_is_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "a b#%20"
    folder.mkdir()
    (folder / "a.png").write_bytes(photo(0, ".png"))
    assert [frame.name for frame in open_source(f"file://{folder}")] == ["a.png"]
