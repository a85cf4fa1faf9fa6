"""Photos on a GPU: the kernel against sums of integers in NumPy, and against OpenCV; arrays of other libraries."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from math import floor
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt.engines.cuda import compile_image_kernel
from esam_rt.engines.cuda.device import CudaDevice
from esam_rt.engines.cuda.gpu_image import GpuImages
from esam_rt.errors import EngineError, InputError, MissingDependencyError
from esam_rt.sam.geometry import Geometry
from tests.support.cuda_on_cpu import place_photo
from tests.support.fake_cuda import FakeCuda, Result
from tests.support.gpu_arrays import ByDlpack, Foreign

Photo = NDArray[np.uint8]


@pytest.fixture
def photos(cuda: FakeCuda, device: CudaDevice) -> GpuImages:
    cuda.kernels["place_photo"] = place_photo()
    return GpuImages(device)


def noise(*hw: int, seed: int = 0) -> Photo:
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), np.uint8)


def covered(n: int, m: int) -> list[list[tuple[int, Fraction]]]:
    """For each of m pixels: the pixels of n that it covers, and their shares."""
    whole = Fraction(n, m)
    return [
        [
            (i, (min((x + 1) * whole, Fraction(i + 1)) - max(x * whole, Fraction(i))) / whole)
            for i in range(floor(x * whole), min(n, floor((x + 1) * whole) + 1))
        ]
        for x in range(m)
    ]


def between(n: int, m: int) -> list[list[tuple[int, Fraction]]]:
    """For each of m pixels: the two pixels of n whose centers it lies between, and their weights."""
    taps = []
    for x in range(m):
        at = min(max((x + Fraction(1, 2)) * n / m - Fraction(1, 2), Fraction(0)), Fraction(n - 1))
        i = floor(at)
        taps.append([(i, 1 - (at - i)), (min(i + 1, n - 1), at - i)])
    return taps


def by_fractions(photo: Photo, h: int, w: int) -> Photo:
    """Scale a photo to [h, w] in exact arithmetic, rounded half up."""
    shrinks = photo.shape[0] > h or photo.shape[1] > w
    rows, columns = ((covered if shrinks else between)(n, m) for n, m in zip(photo.shape, (h, w)))  # noqa: B905
    out = np.zeros((h, w, 3), np.uint8)
    for y, x, c in np.ndindex(*out.shape):
        value = sum((a * b * int(photo[j, i, c]) for j, a in rows[y] for i, b in columns[x]), Fraction(0))
        out[y, x, c] = floor(value + Fraction(1, 2))
    return out


@pytest.mark.parametrize(
    ("hw", "resized"),
    [
        ((8, 8), (8, 8)), ((1, 1), (1, 1)), ((12, 18), (4, 6)), ((13, 17), (7, 9)), ((31, 2), (16, 1)),
        ((1, 40), (1, 9)),
        ((5, 7), (11, 15)), ((1, 1), (6, 6)), ((3, 9), (3, 10)), ((2, 33), (2, 32)), ((9, 16), (5, 16)),
    ],
)  # fmt: skip
def test_is_exact(photos: GpuImages, cuda: FakeCuda, hw: tuple[int, int], resized: tuple[int, int]) -> None:
    image = noise(*hw)
    photo = photos.photo(Foreign(cuda, image))
    assert photo.shape == (*hw, 3)
    expected = by_fractions(image, *resized)
    np.testing.assert_array_equal(photo.on_host(resized), expected)
    canvas = photo.on_canvas(resized, 43).numpy()
    assert canvas.shape == (1, 43, 43, 3)
    np.testing.assert_array_equal(canvas[0, : resized[0], : resized[1]], expected)
    canvas[0, : resized[0], : resized[1]] = 0
    assert not canvas.any()


@pytest.mark.parametrize("hw", [(480, 640), (1080, 1920), (700, 512), (333, 1001), (97, 61), (512, 512), (1, 3000)])
def test_is_within_a_level_of_opencv(photos: GpuImages, cuda: FakeCuda, hw: tuple[int, int]) -> None:
    image = noise(*hw)
    h, w = Geometry.of(hw, 512).resized_hw
    kind = cv2.INTER_AREA if max(hw) > 512 else cv2.INTER_LINEAR
    ours, theirs = photos.photo(Foreign(cuda, image)).on_host((h, w)), cv2.resize(image, (w, h), interpolation=kind)
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.max() <= 1
    assert difference.mean() < (0.05 if kind == cv2.INTER_AREA else 0.15)


def test_black_and_white_stay(photos: GpuImages, cuda: FakeCuda) -> None:
    for level in (0, 255):
        for resized in ((7, 9), (40, 51)):
            photo = photos.photo(Foreign(cuda, np.full((23, 29, 3), level, np.uint8)))
            assert (photo.on_host(resized) == level).all()


def test_a_part_of_a_greater_picture(photos: GpuImages, cuda: FakeCuda) -> None:
    picture = noise(40, 60)
    memory = Foreign(cuda, picture)
    part = ByDlpack(memory, np.s_[5:30, 10:50])
    expected = photos.photo(Foreign(cuda, np.ascontiguousarray(picture[5:30, 10:50]))).on_host((13, 21))
    np.testing.assert_array_equal(photos.photo(part).on_host((13, 21)), expected)
    upside_down = ByDlpack(memory, np.s_[::-1])
    expected = photos.photo(Foreign(cuda, np.ascontiguousarray(picture[::-1]))).on_host((20, 30))
    np.testing.assert_array_equal(photos.photo(upside_down).on_host((20, 30)), expected)


def test_a_window_of_a_part(photos: GpuImages, cuda: FakeCuda) -> None:
    picture = noise(40, 60)
    part = photos.photo(ByDlpack(Foreign(cuda, picture), np.s_[5:30, 10:50]))
    np.testing.assert_array_equal(part.window(3, 7, 20, 30).on_host((20, 30)), picture[8:28, 17:47])


def test_waits_for_what_is_still_written(photos: GpuImages, cuda: FakeCuda) -> None:
    image = noise(20, 30)
    late = ByDlpack(Foreign(cuda, image))
    np.testing.assert_array_equal(photos.photo(late).on_host((20, 30)), image)


def test_from_any_thread(photos: GpuImages, cuda: FakeCuda) -> None:
    images = [noise(20, 30, seed=seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        small = list(pool.map(lambda image: photos.photo(Foreign(cuda, image)).on_host((10, 15)), images))
    for image, found in zip(images, small, strict=True):
        np.testing.assert_array_equal(found, by_fractions(image, 10, 15))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), r"GPU array uint8 \[height, width, 3\] in RGB, got float32 \[4, 5, 3\]"),
        (np.zeros((4, 5), np.uint8), r"got uint8 \[4, 5\]"),
        (np.zeros((4, 5, 4), np.uint8), r"got uint8 \[4, 5, 4\]"),
        (np.zeros((0, 5, 3), np.uint8), r"got uint8 \[0, 5, 3\]"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_photos(photos: GpuImages, cuda: FakeCuda, array: NDArray[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        photos.photo(Foreign(cuda, array))


def test_channels_first_is_refused(photos: GpuImages, cuda: FakeCuda) -> None:
    planes = ByDlpack(Foreign(cuda, np.zeros((3, 4, 5), np.uint8)))
    with pytest.raises(InputError, match=r"got uint8 \[3, 4, 5\]"):
        photos.photo(planes)
    memory = Foreign(cuda, np.zeros((3, 4, 5), np.uint8), shape=(4, 5, 3), strides=(5, 1, 20))
    with pytest.raises(InputError, match="expected the pixels of a row side by side"):
        photos.photo(memory)


def test_memory_of_another_gpu(photos: GpuImages, cuda: FakeCuda) -> None:
    with pytest.raises(InputError, match="expected memory of GPU 0, found it elsewhere"):
        photos.photo(Foreign(cuda, noise(4, 5), index=1))


@pytest.mark.parametrize("error", [BufferError, TypeError, RuntimeError])
def test_what_dlpack_cannot_pass_on(photos: GpuImages, cuda: FakeCuda, error: type[Exception]) -> None:
    with pytest.raises(InputError, match="expected one that DLPack can pass on, found one that it cannot: of no use"):
        photos.photo(ByDlpack(Foreign(cuda, noise(4, 5)), error=error("of no use")))


def test_dlpack_without_cuda_core(photos: GpuImages, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cuda.core.utils", None)
    with pytest.raises(MissingDependencyError, match="pip install cuda-core"):
        photos.photo(ByDlpack(Foreign(cuda, noise(4, 5))))


def test_a_driver_that_does_not_take_the_kernel(cuda: FakeCuda, device: CudaDevice) -> None:
    cuda.broken["cuModuleLoadData"] = Result.CUDA_ERROR_INVALID_PTX
    with pytest.raises(EngineError, match="GPU 0: cuModuleLoadData failed: words of CUDA_ERROR_INVALID_PTX"):
        GpuImages(device)


def test_the_compiled_kernel_is_of_its_source() -> None:
    ptx = compile_image_kernel.PTX.read_text()
    assert ptx.startswith(compile_image_kernel.header()), "run python -m esam_rt.engines.cuda.compile_image_kernel"
    assert ".version 8.0\n.target sm_75\n" in ptx, "drivers of CUDA 12.0 and GPUs from Turing on are to take it"
