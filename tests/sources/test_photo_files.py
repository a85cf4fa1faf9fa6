"""Finding photos, and reading every format as upright 8-bit RGB or refusing it in one sentence."""

from __future__ import annotations

import io
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from esam_rt.errors import InputError
from esam_rt.sources.decode import pixel_count, read_photo
from esam_rt.sources.photo_files import PhotoFolder
from esam_rt.sources.photo_search import find_photos, local_path, search_photos
from tests.support.photo_bytes import png

Rgb = NDArray[np.uint8]


def picture(height: int = 24, width: int = 40) -> Rgb:
    """Smooth, so that JPEG keeps it, and different in every corner."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    return np.stack([255 * x / width, 255 * y / height, 60 + 0 * x], axis=2).astype(np.uint8)


def save(path: Path, image: Image.Image, kind: str, **options: object) -> Path:
    image.save(path, kind, **options)  # type: ignore[arg-type]
    return path


def read(path: Path) -> Rgb:
    frame = read_photo(path, "name")
    image = frame.image_hwc_rgb
    assert frame.name == "name"
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert image.flags.writeable
    return image


def refusal(path: Path, **options: int) -> str:
    with pytest.raises(InputError) as caught:
        read_photo(path, "name", **options)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_formats_are_read_exactly_whatever_their_name(
    tmp_path: Path, kind: str, options: dict[str, object]
) -> None:
    path = save(tmp_path / "x.jpg", Image.fromarray(picture()), kind, **options)
    np.testing.assert_array_equal(read(path), picture())


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_jpeg(tmp_path: Path, options: dict[str, object]) -> None:
    path = save(tmp_path / "x.jpg", Image.fromarray(picture()), "JPEG", quality=95, **options)
    assert np.abs(read(path).astype(int) - picture()).max() < 12


def test_lossy_webp(tmp_path: Path) -> None:
    path = save(tmp_path / "x.webp", Image.fromarray(picture()), "WEBP", quality=95)
    assert np.abs(read(path).astype(int) - picture()).mean() < 6


UPRIGHT: dict[int, Callable[[Rgb], Rgb]] = {  # EXIF 2.32, tag 274: where row 0 and column 0 of the stored image belong
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", list(UPRIGHT))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    path = save(tmp_path / "x", Image.fromarray(picture()), kind, exif=exif, **options)
    expected = UPRIGHT[orientation](picture())
    image = read(path)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() < 12


@pytest.mark.parametrize("orientation", [1, 6])
def test_cmyk_without_adobes_mark_is_not_inverted_in_any_orientation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 0, 0, 0)).save(data, "JPEG", quality=95, exif=exif)
    (tmp_path / "x.jpg").write_bytes(without_adobe_mark(data.getvalue()))
    assert read(tmp_path / "x.jpg").max() < 12  # Pillow wrote white inverted; without the mark that is black


def without_adobe_mark(jpeg: bytes) -> bytes:
    start = jpeg.find(b"\xff\xee\x00\x0eAdobe")
    return jpeg if start < 0 else jpeg[:start] + jpeg[start + 16 :]


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03", b"Exif\0\0"])
def test_broken_exif_data_does_not_cost_the_photo(tmp_path: Path, exif: bytes) -> None:
    data = io.BytesIO()
    Image.fromarray(picture()).save(data, "JPEG", quality=95)
    jpeg = data.getvalue()
    app1 = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    (tmp_path / "x.jpg").write_bytes(jpeg[:2] + app1 + jpeg[2:])
    assert read(tmp_path / "x.jpg").shape == picture().shape


def test_an_orientation_out_of_range_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    path = save(tmp_path / "x.png", Image.fromarray(picture()), "PNG", exif=exif)
    np.testing.assert_array_equal(read(path), picture())


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "JPEG"])
def test_grey(tmp_path: Path, kind: str) -> None:
    grey = picture()[..., 0]
    image = read(save(tmp_path / "x", Image.fromarray(grey), kind))
    assert np.abs(image.astype(int) - grey[..., None]).max() < (12 if kind == "JPEG" else 1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_one_bit(tmp_path: Path, kind: str) -> None:
    bits = picture()[..., 0] > 100
    image = read(save(tmp_path / "x", Image.fromarray(bits), kind))
    np.testing.assert_array_equal(image, np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_the_high_byte(tmp_path: Path, kind: str) -> None:
    grey = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    image = read(save(tmp_path / "x", Image.fromarray(grey), kind))
    np.testing.assert_array_equal(image[..., 0], [[0, 0, 1, 128, 255]])
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_sixteen_bit_colour(tmp_path: Path) -> None:
    row = np.array([[1 << 8, 2 << 8 | 77, 65535], [0, 128 << 8, 255]], ">u2")
    (tmp_path / "rgb.png").write_bytes(png(2, 1, 16, 2, b"\0" + row.tobytes()))
    np.testing.assert_array_equal(read(tmp_path / "rgb.png"), [[[1, 2, 255], [0, 128, 0]]])
    opaque = np.array([[1 << 8, 2 << 8, 3 << 8, 65535], [0, 0, 0, 0]], ">u2")
    (tmp_path / "rgba.png").write_bytes(png(2, 1, 16, 6, b"\0" + opaque.tobytes()))
    np.testing.assert_array_equal(read(tmp_path / "rgba.png"), [[[1, 2, 3], [255, 255, 255]]])


def test_palette(tmp_path: Path) -> None:
    image = Image.fromarray(picture()).quantize(16)
    np.testing.assert_array_equal(
        read(save(tmp_path / "x.png", image, "PNG")),
        np.asarray(image.getpalette(), np.uint8).reshape(-1, 3)[np.asarray(image)],
    )


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_shows_white(tmp_path: Path, kind: str) -> None:
    rgba = np.dstack([picture(), np.full(picture().shape[:2], 255, np.uint8)])
    rgba[:8, :, 3] = 0
    rgba[8:16, :, 3] = 128
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    image = read(save(tmp_path / "x", Image.fromarray(rgba), kind, **options))
    alpha = rgba[..., 3:] / 255
    assert np.abs(image - (rgba[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1
    np.testing.assert_array_equal(image[16:], picture()[16:])


def test_transparency_of_palettes_keys_and_grey(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    image = read(save(tmp_path / "p.png", palette, "PNG", transparency=0))
    np.testing.assert_array_equal(image, [[[255, 255, 255], [40, 50, 60]]])
    keyed = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    image = read(save(tmp_path / "k.png", keyed, "PNG", transparency=(1, 2, 3)))
    np.testing.assert_array_equal(image, [[[255, 255, 255], [4, 5, 6]]])
    grey = Image.merge("LA", [Image.new("L", (1, 1), 7), Image.new("L", (1, 1), 0)])
    np.testing.assert_array_equal(read(save(tmp_path / "la.png", grey, "PNG")), [[[255, 255, 255]]])


def test_cmyk_jpeg_of_adobe_and_of_others(tmp_path: Path) -> None:
    cmyk = np.zeros((16, 16, 4), np.uint8)
    cmyk[..., 1:3] = 255  # full magenta and yellow: red
    adobe = io.BytesIO()
    Image.frombytes("CMYK", (16, 16), cmyk.tobytes()).save(adobe, "JPEG", quality=95)
    assert b"Adobe" in adobe.getvalue()
    (tmp_path / "adobe.jpg").write_bytes(adobe.getvalue())
    # Others store the values straight and have no Adobe segment: Pillow inverts, so it is given the inverse.
    straight = io.BytesIO()
    Image.frombytes("CMYK", (16, 16), (255 - cmyk).tobytes()).save(straight, "JPEG", quality=95)
    data = straight.getvalue()
    at = data.index(b"\xff\xee")
    (tmp_path / "other.jpg").write_bytes(data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :])
    for name in ("adobe.jpg", "other.jpg"):
        assert np.abs(read(tmp_path / name).astype(int) - [255, 0, 0]).max() < 6, name


def test_cmyk_tiff(tmp_path: Path) -> None:
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    np.testing.assert_array_equal(read(save(tmp_path / "x.tif", cmyk, "TIFF"))[0, 0], [255, 0, 0])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_shapes(tmp_path: Path, height: int, width: int) -> None:
    path = save(tmp_path / "x.png", Image.fromarray(picture(height, width)), "PNG")
    np.testing.assert_array_equal(read(path), picture(height, width))


def test_the_first_page_of_several(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (3, 2), color) for color in ("red", "blue")]
    path = save(tmp_path / "x.tif", pages[0], "TIFF", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read(path)[0, 0], [255, 0, 0])


@pytest.mark.parametrize("orientation", list(UPRIGHT))
def test_avif_in_every_orientation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "x.avif", Image.fromarray(picture()), "AVIF", quality=95, exif=exif, subsampling="4:4:4")
    expected = UPRIGHT[orientation](picture())
    assert np.abs(read(path).astype(int) - expected).max() < 16


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_heic(tmp_path: Path, orientation: int) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = pillow_heif.from_pillow(Image.fromarray(picture(64, 96)))
    image.info["exif"] = exif.tobytes()
    image.save(tmp_path / "x.heic", quality=95, chroma=444)
    expected = UPRIGHT[orientation](picture(64, 96))
    found = read(tmp_path / "x.heic")
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 6
    assert pixel_count(tmp_path / "x.heic") == 64 * 96
    (tmp_path / "x.heic").write_bytes((tmp_path / "x.heic").read_bytes()[:-200])
    assert "damaged" in refusal(tmp_path / "x.heic")


def test_heic_without_its_library_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert "need pillow-heif: pip install 'esam-rt[heif]'" in refusal(tmp_path / "x.heic")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF"])
def test_the_first_frame_of_an_animation_with_a_warning(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue", "lime")]
    options = {"PNG": {}, "WEBP": {"lossless": True}, "AVIF": {"quality": 95}}[kind]
    path = save(tmp_path / "x", frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.abs(read(path)[0, 0].astype(int) - [255, 0, 0]).max() < 12
    assert f"{path} holds 3 frames, the first one is read." in caplog.text


def test_colors_in_xyb(tmp_path: Path) -> None:
    """A JPEG whose profile exchanges red and green, and is called XYB as those of jpegli."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {
        bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12)
    }
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    at = profile.index("sRGB".encode("utf-16-be"))
    profile[at : at + 8] = "XYB_".encode("utf-16-be")
    path = save(tmp_path / "x.jpg", Image.fromarray(picture()), "JPEG", quality=95, icc_profile=bytes(profile))
    assert np.abs(read(path).astype(int) - picture()[..., [1, 0, 2]]).max() < 12


# --- refusing --------------------------------------------------------------------------------------------------------


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"")
    assert "is empty" in refusal(tmp_path / "x.jpg")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"GIF89a\x01\0\x01\0\0\0\0;", "a GIF image"),
        (b"\0\0\0\x0cjP  \r\n", "a JPEG 2000 image"),
        (b"P6\n1 1\n255\n", "a PBM, PGM or PPM image"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\0" * 128 + b"DICM", "a DICOM file"),
        (b"\0\0\0\x18ftypmp42", "a video"),
        (b"<!DOCTYPE html><title>404</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
    ],
)
def test_known_files_are_named(tmp_path: Path, data: bytes, kind: str) -> None:
    (tmp_path / "x.jpg").write_bytes(data)
    assert f"it is {kind}" in refusal(tmp_path / "x.jpg")


@pytest.mark.parametrize("data", [b"hello, I am a text\n", b"\xff", b"<html>"])
def test_other_files_called_jpg(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(data)
    assert "is not a photo" in refusal(tmp_path / "x.jpg")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 90}),
        ("JPEG", {"quality": 90, "progressive": True}),
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_a_file_cut_short_is_never_half_a_picture(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)
    path = save(tmp_path / "x", Image.fromarray(noise), kind, **options)
    data, whole = path.read_bytes(), read(path)
    refused = 0
    for length in range(1, len(data), max(1, len(data) // 150)):
        path.write_bytes(data[:length])
        try:
            np.testing.assert_array_equal(read(path), whole)  # only the end mark or trailing tags are missing
        except InputError:
            refused += 1
            assert length < 20 or "damaged or cut short" in refusal(path)
        else:
            assert kind == "TIFF" or length > len(data) - 30
    assert refused > 100


def test_changed_bytes_are_refused_or_read_but_never_crash(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    path = tmp_path / "x"
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "BMP", "TIFF", "WEBP"):
        save(path, Image.fromarray(picture()), kind, exif=exif)
        data = path.read_bytes()
        for _ in range(120):
            changed = bytearray(data)
            for at in rng.integers(0, min(len(data), 300), 3):
                changed[at] = rng.integers(256)
            path.write_bytes(changed)
            try:
                read_photo(path, "x", max_pixels=1_000_000)
            except InputError as e:
                assert str(path) in str(e)


def test_the_size_is_checked_before_anything_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(30_000, 20_000, 8, 2, b""))  # 600 megapixels announced, none there
    message = refusal(path)
    assert "30000 x 20000 = 600.0 megapixels, the cap is 200" in message
    assert "--max-megapixels 600" in message
    assert "damaged" in refusal(path, max_pixels=600_000_000)


def test_the_cap_is_the_callers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "x.jpg", Image.fromarray(picture(30, 40)), "JPEG")
    assert read_photo(path, "x", max_pixels=1200).image_hwc_rgb.shape == (30, 40, 3)
    assert "--max-megapixels 1" in refusal(path, max_pixels=1199)
    webp = save(tmp_path / "x.webp", Image.fromarray(picture(30, 40)), "WEBP")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own: an error from twice as many
    assert read(path).shape == (30, 40, 3)
    try:
        assert read(webp).shape == (30, 40, 3)
    except InputError as e:  # newer versions of Pillow insist on it for WebP
        assert "too large" in str(e)


def test_no_pixels(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(0, 3, 8, 2, b""))
    assert "damaged" in refusal(tmp_path / "x.png")


def test_folders_pipes_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    assert "is not a file" in refusal(tmp_path / "x.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "is not a file" in refusal(tmp_path / "pipe.jpg")
    assert "No such file" in refusal(tmp_path / "gone.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert "No such file" in refusal(tmp_path / "link.jpg")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "x.png", Image.fromarray(picture()), "PNG")

    def denied(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)
    assert "cannot be read: Permission denied; check" in refusal(path)


# --- finding ---------------------------------------------------------------------------------------------------------


def tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def names(*sources: Path) -> list[str]:
    photos = find_photos(sources)
    assert all(photo.path.is_file() for photo in photos)
    assert len({photo.name for photo in photos}) == len(photos)
    return [photo.name for photo in photos]


def test_a_folder_in_natural_order(tmp_path: Path) -> None:
    tree(tmp_path, "10.jpg", "9.JPEG", "2.png", "sub/b.tif", "sub/a.TIFF", "z.webp", "a.bmp", "01.jpg", "1.jpg")
    tree(tmp_path, "no.txt", "jpg", "sub/x.jpg.part")
    expected = ["01.jpg", "1.jpg", "2.png", "9.JPEG", "10.jpg", "a.bmp", "sub/a.TIFF", "sub/b.tif", "z.webp"]
    assert names(tmp_path) == expected


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    assert names(tree(tmp_path, ".a.jpg", ".hidden/b.jpg", "c.jpg", "sub/.d.jpg")) == ["c.jpg"]


def test_a_folder_may_be_called_like_a_photo(tmp_path: Path) -> None:
    assert names(tree(tmp_path, "x.jpg/y.jpg")) == ["x.jpg/y.jpg"]


def test_single_files(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg", "b/2.PNG")
    assert names(tmp_path / "b/2.PNG", tmp_path / "a/1.jpg") == ["2.PNG", "1.jpg"]


def test_link_loops_end_and_photos_keep_their_real_paths(tmp_path: Path) -> None:
    tree(tmp_path, "real/x.jpg", "other/y.jpg")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "a-link").symlink_to(tmp_path / "real")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert names(tmp_path) == ["other/y.jpg", "real/x.jpg"]


def test_a_linked_folder_elsewhere_is_searched(tmp_path: Path) -> None:
    tree(tmp_path, "elsewhere/x.jpg", "photos/y.jpg")
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "photos") == ["link/x.jpg", "y.jpg"]


def test_a_photo_given_twice_comes_once(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg", "a/2.jpg")
    assert names(tmp_path / "a/2.jpg", tmp_path / "a", tmp_path / "a/1.jpg") == ["2.jpg", "1.jpg"]


def test_equal_names_of_several_sources_get_prefixes(tmp_path: Path) -> None:
    tree(tmp_path, "x/photos/1.jpg", "y/photos/1.JPG", "y/photos/2.jpg", "z/1.jpg")
    assert names(tmp_path / "x/photos", tmp_path / "z/1.jpg") == ["photos/1.jpg", "z/1.jpg"]
    assert names(tmp_path / "x/photos", tmp_path / "y/photos") == ["photos/1.jpg", "photos-2/1.JPG", "photos-2/2.jpg"]
    assert names(tmp_path / "x/photos", tmp_path / "y/photos/2.jpg") == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("missing", "does not exist"),
        ("empty", "holds no photos; expected files ending in .jpg, .* It left out 1 file that is no photo by its name"),
        ("dangling.jpg", "does not exist"),
    ],
)
def test_sources_that_are_refused(tmp_path: Path, source: str, says: str) -> None:
    tree(tmp_path, "notes.txt", "empty/readme.md", "good/1.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(InputError, match=says) as caught:
        find_photos([tmp_path / "good", tmp_path / source])
    assert str(tmp_path / source) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_that_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tree(tmp_path, "1.jpg", "locked/2.jpg")
    iterdir = Path.iterdir

    def guarded(self: Path) -> object:
        if self.name == "locked":
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", guarded)
    assert names(tmp_path) == ["1.jpg"]
    assert f"{tmp_path / 'locked'} is left out: Permission denied" in caplog.text
    with pytest.raises(InputError, match="cannot be listed: Permission denied"):
        find_photos([tmp_path / "locked"])


def left_out(*sources: Path, exclude: tuple[Path, ...] = ()) -> dict[str, int]:
    return dict(search_photos(sources, exclude).left_out)


def test_files_left_out_are_counted_by_suffix(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree(tmp_path, "a.jpg", "b.GIF", "sub/c.gif", "d.mov", "noext", ".hidden", "sub/.e.txt")
    assert left_out(tmp_path) == {".gif": 2, ".mov": 1, "": 1}
    assert next(iter(left_out(tmp_path))) == ".gif"
    source = PhotoFolder(tmp_path)
    assert source.left_out == {".gif": 2, ".mov": 1, "": 1}
    assert "left out 4 files that are no photos by their names: 2 .gif, 1 .mov, 1 without a suffix." in caplog.text
    caplog.clear()
    assert PhotoFolder(tmp_path / "a.jpg").left_out == {}
    assert not caplog.records


def test_excluded_files_are_not_counted(tmp_path: Path) -> None:
    tree(tmp_path, "a.jpg", "out/run.json", "out/labels/b.npy", "c.txt")
    assert left_out(tmp_path, exclude=(tmp_path / "out",)) == {".txt": 1}


@pytest.mark.parametrize("name", ["a.jfif", "b.JPE", "c.JPG", "d.dib", "e.avif", "f.HEIC", "g.heif", "h.Tiff"])
def test_suffixes_of_photos(tmp_path: Path, name: str) -> None:
    assert names(tree(tmp_path, name)) == [name]


def test_a_file_that_is_named_may_have_any_suffix(tmp_path: Path) -> None:
    path = save(tmp_path / "photo", Image.fromarray(picture()), "PNG")
    assert names(path) == ["photo"]
    (frame,) = PhotoFolder([path])
    np.testing.assert_array_equal(frame.image_hwc_rgb, picture())


@pytest.mark.parametrize("url", ["https://example.com/a.jpg", "s3://bucket/photos", "FILE:///home/a.jpg"])
def test_urls_are_kept_as_they_were_given(url: str) -> None:
    with pytest.raises(InputError, match=r"is a URL\. Download it first") as caught:
        PhotoFolder(url)
    assert str(caught.value).startswith(url)


def test_a_folder_may_look_like_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree(tmp_path / "photos:", "a.jpg")
    assert local_path("photos:/") == Path("photos:/")
