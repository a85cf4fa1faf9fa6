"""Encodings of ROS images against conversions in plain NumPy, with row padding and big-endian samples."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt.errors import InputError
from esam_rt.sources.ros_images import RosImages

H, W = 12, 16


def message(pixels: NDArray[Any], encoding: str, padding: int = 0, big: bool = False, height: int = H) -> Any:
    """A message whose rows end with bytes that belong to no pixel."""
    if pixels.dtype.itemsize > 1:
        pixels = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<"))
    rows = pixels.reshape(len(pixels), -1).view(np.uint8)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    return SimpleNamespace(
        encoding=encoding, height=height, width=W, step=padded.shape[1], is_bigendian=big, data=padded.tobytes()
    )


def rgb_image(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (H, W, 3), dtype=np.uint8)


ORDER = {"rgb": [0, 1, 2], "bgr": [2, 1, 0], "rgba": [0, 1, 2, 3], "bgra": [2, 1, 0, 3]}


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("rgb8", "rgb"), ("bgr8", "bgr"), ("8UC3", "bgr"), ("rgba8", "rgba"), ("bgra8", "bgra"), ("8UC4", "bgra")],
)
def test_colors_of_8_bits(encoding: str, order: str, padding: int) -> None:
    image = rgb_image()
    stored = np.dstack([image, np.full((H, W), 7, np.uint8)])[..., ORDER[order]]
    found = RosImages().rgb(message(stored, encoding, padding))
    assert np.array_equal(found, image) and found.flags.c_contiguous


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey(encoding: str) -> None:
    grey = rgb_image()[..., 0]
    assert np.array_equal(RosImages().rgb(message(grey, encoding, 3)), np.repeat(grey[..., None], 3, 2))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("encoding", "dtype"), [("mono16", np.uint16), ("16UC1", np.uint16), ("32FC1", np.float32)])
def test_deep_samples_are_scaled_alike_in_all_images(encoding: str, dtype: type[np.generic], big: bool) -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.uniform(200, 3000, (H, W)).astype(dtype) for _ in range(2))
    images = RosImages()
    low, high = np.percentile(first, [0.5, 99.5])
    for samples in (first, second):
        found = images.rgb(message(samples, encoding, 4, big))
        expected = np.clip((samples.astype(float) - low) / (high - low), 0, 1) * 255
        assert np.abs(found.astype(float) - expected[..., None]).max() <= 0.51
    fixed = RosImages((0, 65535)).rgb(message(np.full((H, W), 65535, np.uint16), "mono16"))
    assert (fixed == 255).all()


def test_samples_that_are_no_numbers_become_black() -> None:
    samples = np.linspace(0.5, 9, H * W, dtype=np.float32).reshape(H, W)
    samples[0, :3] = [np.nan, np.inf, -np.inf]
    found = RosImages().rgb(message(samples, "32FC1"))
    assert found[0, :3, 0].tolist() == [0, 255, 0]
    assert (RosImages().rgb(message(np.full((H, W), np.nan, np.float32), "32FC1")) == 0).all()


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["rgb", "bgr", "rgba", "bgra"])
def test_colors_of_16_bits(order: str, big: bool) -> None:
    image = rgb_image().astype(np.uint16) * 257
    stored = np.dstack([image, np.full((H, W), 7, np.uint16)])[..., ORDER[order]]
    found = RosImages((0, 65535)).rgb(message(stored, f"{order}16", 2, big))
    assert np.array_equal(found, (image // 257).astype(np.uint8))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_keep_flat_colors(pattern: str, bits: int) -> None:
    color = np.array([200, 120, 40])
    mosaic = np.zeros((H, W), np.uint8)
    for at, channel in enumerate(pattern):
        mosaic[at // 2 :: 2, at % 2 :: 2] = color["rgb".index(channel)]
    samples = mosaic if bits == 8 else mosaic.astype(np.uint16) * 257
    found = RosImages((0, 65535)).rgb(message(samples, f"bayer_{pattern}{bits}", 6))
    assert (found[2:-2, 2:-2] == color).all()


def from_yuv(y: NDArray[Any], u: NDArray[Any], v: NDArray[Any]) -> NDArray[np.float64]:
    """BT.601, limited range."""
    c, d, e = y.astype(float) - 16, u.astype(float) - 128, v.astype(float) - 128
    rgb = [1.164 * c + 1.596 * e, 1.164 * c - 0.813 * e - 0.391 * d, 1.164 * c + 2.018 * d]
    return np.clip(np.stack(rgb, -1), 0, 255)


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
def test_yuv_of_two_bytes_a_pixel(encoding: str) -> None:
    rng = np.random.default_rng(2)
    y = rng.integers(16, 236, (H, W), dtype=np.uint8)
    u, v = (rng.integers(90, 160, (H, W // 2), dtype=np.uint8) for _ in range(2))
    color = np.stack([u, v], -1).reshape(H, W)
    stored = np.stack([y, color] if encoding.startswith("yuv422_") or encoding == "yuyv" else [color, y], -1)
    found = RosImages().rgb(message(stored, encoding, 8))
    expected = from_yuv(y, np.repeat(u, 2, 1), np.repeat(v, 2, 1))
    assert np.abs(found - expected).max() <= 2


@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
def test_yuv_of_two_planes(encoding: str) -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(16, 236, (H, W), dtype=np.uint8)
    u, v = (rng.integers(90, 160, (H // 2, W // 2), dtype=np.uint8) for _ in range(2))
    color = np.stack([u, v] if encoding == "nv12" else [v, u], -1).reshape(H // 2, W)
    found = RosImages().rgb(message(np.concatenate([y, color]), encoding, 3))
    u, v = (np.repeat(np.repeat(plane, 2, 0), 2, 1) for plane in (u, v))
    assert np.abs(found - from_yuv(y, u, v)).max() <= 2


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_compressed_images(suffix: str) -> None:
    image = np.kron(rgb_image()[:3, :4], np.ones((4, 4, 1), np.uint8))
    data = cv2.imencode(suffix, image[..., ::-1])[1].tobytes()
    found = RosImages().rgb(SimpleNamespace(format=f"bgr8; {suffix[1:]} compressed bgr8", data=data))
    assert np.abs(found.astype(int) - image).mean() < (1 if suffix == ".png" else 30)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoding": "yuv444"}, "found encoding 'yuv444', expected one of rgb8, bgr8"),
        ({"data": b"abc"}, "found 3 bytes, expected 576"),
        ({"step": 5}, "found 5 bytes a row, expected 48"),
        ({"height": 0}, "found 16 x 0 pixels"),
        ({"height": 2**31, "width": 2**31}, "pixels, expected 1 to"),
    ],
)
def test_messages_that_hold_no_image(changes: dict[str, Any], words: str) -> None:
    broken = message(rgb_image(), "rgb8")
    vars(broken).update(changes)
    with pytest.raises(InputError, match=words):
        RosImages().rgb(broken)


@pytest.mark.parametrize(
    ("content", "kind"), [(b"", "jpeg"), (b"hello", "jpeg"), (b"\0" * 40, "16UC1; compressedDepth png")]
)
def test_compressed_messages_that_hold_no_picture(content: bytes, kind: str) -> None:
    with pytest.raises(InputError, match=r"expected a (JPEG or PNG|picture)"):
        RosImages().rgb(SimpleNamespace(format=kind, data=content))
