import math
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import skimage.data
import skimage.segmentation
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.lib.superpixel_libraries import rand_index
from esam_rt.kernels import felzenszwalb as kernels
from esam_rt.kernels.felzenszwalb import felzenszwalb
from tests.support.processes import GUARD_S

PARAMETERS = {"scale": 100.0, "sigma": 0.5, "min_size": 50}
STEPS = ((0, 1, 0, 0), (1, 0, 0, 0), (1, 1, 0, 0), (0, 1, 1, 0))  # of the two pixels of an edge, in the order of ties


def renumbered(labels: NDArray[Any]) -> NDArray[np.int32]:
    """0…K-1 in the order of first pixels."""
    order = list(dict.fromkeys(labels.ravel().tolist()))
    return np.vectorize(order.index, otypes=[np.int32])(labels)


def shortened(cost: float, pixels: int) -> float:
    """The bits of a cost that are looked at: 2 and those of a pixel's number are left out."""
    lost = 2 + (pixels - 1).bit_length()
    return float((np.array(cost).view(np.int64) >> lost << lost).view(np.float64))


def dense_regions(image: NDArray[np.float32], scale: float, min_size: int) -> NDArray[np.int32]:
    """The definition without smoothing, with a list of pixels for each region."""
    h, w, _ = image.shape
    edges = []
    for direction, (ya, xa, yb, xb) in enumerate(STEPS):
        for y, x in np.ndindex(h, w):
            a, b = (y + ya, x + xa), (y + yb, x + xb)
            if max(a[0], b[0]) < h and max(a[1], b[1]) < w:
                cost = math.sqrt(sum((float(p) - float(q)) ** 2 for p, q in zip(image[a], image[b], strict=True)))
                edges.append((shortened(cost, h * w), direction, y, x, a, b))
    edges.sort()
    label = {pixel: i for i, pixel in enumerate(np.ndindex(h, w))}
    pixels = {i: [pixel] for pixel, i in label.items()}
    heaviest = dict.fromkeys(pixels, 0.0)

    def join(i: int, j: int) -> None:
        for pixel in pixels[j]:
            label[pixel] = i
        pixels[i] += pixels.pop(j)

    for cost, *_, a, b in edges:
        i, j = label[a], label[b]
        with np.errstate(over="ignore"):  # bounds are float32, as in scikit-image
            bounds = [float(np.float32(heaviest[k] + scale / 255 / len(pixels[k]))) for k in (i, j)]
        if i != j and cost < min(bounds):
            join(i, j)
            heaviest[i] = cost
    for *_, a, b in edges:
        i, j = label[a], label[b]
        if i != j and (len(pixels[i]) < min_size or len(pixels[j]) < min_size):
            join(i, j)
    return renumbered(np.array([label[pixel] for pixel in np.ndindex(h, w)]).reshape(h, w))


def hard_images() -> dict[str, NDArray[np.float32]]:
    """float32 [H, W, C] of at most 200 pixels."""
    rng = np.random.default_rng(0)
    y, x = np.indices((9, 12), np.float32)
    ramp = np.linspace(0, 1, 40, dtype=np.float32)
    noise = rng.random((11, 13, 3), np.float32)
    bits = np.array([0, 1], np.float32)
    return {
        "one pixel": noise[:1, :1],
        "one row": noise[:1],
        "one column": noise[:, :1],
        "two by two": noise[:2, :2],
        "ramp": ramp[None, :, None],
        "constant": np.full((9, 9, 3), 0.3, np.float32),
        "checkerboard": ((y + x) % 2)[..., None],
        "stripes": np.repeat(x % 3 / 2, 3).reshape(9, 12, 3),
        "halves": (x > 5)[..., None].astype(np.float32),
        "noise": noise,
        "one channel": noise[..., :1],
        "five channels": rng.random((7, 6, 5), np.float32),
        "black and white": bits[rng.integers(0, 2, (11, 12, 3))],
        "few colors": (rng.integers(0, 4, (12, 12, 3)) / 4).astype(np.float32),
        "negative": noise - 5,
        "tiny": noise * np.float32(1e-30),
        "huge": noise * np.float32(1e18),
        "farthest": np.where(noise > 0.5, np.float32(3e38), np.float32(-3e38)),
    }


@pytest.mark.parametrize("name", hard_images())
@pytest.mark.parametrize(("scale", "min_size"), [(0, 1), (0, 6), (100, 1), (500, 1), (200, 12), (1e8, 1), (200, 1000)])
def test_hard_images_give_the_regions_of_the_definition(name: str, scale: float, min_size: int) -> None:
    image = hard_images()[name]
    regions = felzenszwalb(image, scale, 0, min_size)
    assert regions.dtype == np.int32
    np.testing.assert_array_equal(regions, dense_regions(image, scale, min_size))


@settings(deadline=None, max_examples=80)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 7), st.sampled_from((1, 3))),
        elements=st.one_of(st.floats(0, 1, width=32), st.integers(0, 4).map(lambda i: i / 4)),
    ),
    st.sampled_from((0.0, 2.0, 80.0, 255.0, 1000.0)),
    st.integers(0, 20),
)
def test_any_image_gives_the_regions_of_the_definition(image: NDArray[np.float32], scale: float, min_size: int) -> None:
    np.testing.assert_array_equal(felzenszwalb(image, scale, 0, min_size), dense_regions(image, scale, min_size))


def test_edges_are_sorted_by_cost_then_direction_then_pixel() -> None:
    rows = np.array([[0, 0, 1], [0, 4, 0]], np.float32)
    edges = np.empty(11, np.int64)
    kernels._edges(rows, 1, 1.0, np.ones(1), edges, edges.view(np.float64))
    lowest = edges & 31
    assert (lowest[1:] > lowest[:-1]).all()
    expected = np.sort(edges)
    edges = kernels._sorted(edges, 5)
    assert edges.tolist() == expected.tolist()
    assert (edges >> 5 << 5).view(np.float64).tolist() == [0, 0, 0, 0, 1, 1, 3, 4, 4, 4, 4]
    names = [(int(edge) >> 3 & 3, int(edge) & 7) for edge in edges]
    assert names[:4] == [(0, 0), (1, 0), (2, 1), (3, 0)]
    assert names[4:7] == [(0, 1), (1, 2), (3, 1)]
    assert names[7:] == [(0, 3), (0, 4), (1, 1), (2, 0)]


def test_an_edge_that_costs_as_much_as_a_region_allows_does_not_join() -> None:
    image = np.array([0, 0.75, 1.75], np.float32)[None, :, None]  # one pixel allows 1, the pair 0.75 + 1 / 2
    for row in (image, image[:, ::-1]):
        assert felzenszwalb(row, 255, 0, 1).max() == 1
        assert felzenszwalb(row, 255.1, 0, 1).max() == 0


def test_small_regions_go_to_their_nearest_neighbour_in_colour() -> None:
    image = np.zeros((6, 9, 1))
    image[:, 4:] = 1
    image[2:4, 3:5] = 0.9
    assert felzenszwalb(image, 12, 0, 1).max() == 2
    regions = felzenszwalb(image, 12, 0, 5)
    np.testing.assert_array_equal(regions == 1, image[..., 0] > 0.5)


@pytest.mark.parametrize("sigma", [0, 1e-12, 0.1, 0.5, 0.8, 3, 20])
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (9, 1, 1), (2, 3, 3), (40, 33, 3), (20, 21, 5)])
def test_smoothing_is_that_of_scipy(sigma: float, shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
    h, w, channels = shape
    weights = kernels._gaussian(sigma)
    padded, smooth = np.empty((w + 2 * (len(weights) - 1)) * channels), np.empty((h, w * channels))
    for y in range(h):
        kernels._smooth_row(image.reshape(h, -1), channels, y, 1 / 255, weights, padded, smooth, y)
    expected = ndimage.gaussian_filter(image.astype(np.float64) / 255, (sigma, sigma, 0))
    np.testing.assert_allclose(smooth.reshape(shape), expected, rtol=1e-13)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_photos_have_the_regions_of_scikit_image(name: str) -> None:
    photo = getattr(skimage.data, name)()[:400, :450]
    for parameters in (PARAMETERS, {"scale": 1, "sigma": 0.8, "min_size": 20}, {**PARAMETERS, "scale": 400}):
        theirs = skimage.segmentation.felzenszwalb(photo, channel_axis=-1, **parameters)
        ours = felzenszwalb(photo, **parameters)
        assert theirs.max() > 20
        assert rand_index(ours, theirs) > 0.98
        assert abs(int(ours.max()) - int(theirs.max())) <= 0.01 * theirs.max()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_noise_has_the_regions_of_scikit_image(dtype: type, channels: int) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (90, 80, channels)).astype(np.uint8)
    image = noise if dtype == np.uint8 else (noise / 255).astype(dtype)
    theirs = skimage.segmentation.felzenszwalb(image, channel_axis=-1, scale=100, sigma=0.8, min_size=5)
    assert theirs.max() > 50
    assert rand_index(felzenszwalb(image, 100, 0.8, 5), theirs) > 0.98


def test_images_in_any_layout_and_read_only_give_the_same_regions() -> None:
    photo = skimage.data.chelsea()[:60, :70]
    expected = felzenszwalb(photo.copy(), **PARAMETERS)
    mirrored = photo[:, ::-1].copy()[:, ::-1]
    mirrored.flags.writeable = False
    np.testing.assert_array_equal(felzenszwalb(mirrored, **PARAMETERS), expected)
    np.testing.assert_array_equal(felzenszwalb(np.asfortranarray(photo), **PARAMETERS), expected)


def test_threads_get_what_one_thread_gets() -> None:
    photos = [skimage.data.chelsea()[:, :300], skimage.data.coffee()[:300, :300]]
    alone = [felzenszwalb(photo, **PARAMETERS) for photo in photos]
    start = Barrier(len(photos), timeout=GUARD_S)

    def repeat(photo: NDArray[np.uint8]) -> list[NDArray[np.int32]]:
        start.wait()
        return [felzenszwalb(photo, **PARAMETERS) for _ in range(10)]

    with ThreadPoolExecutor(len(photos)) as pool:
        for expected, results in zip(alone, pool.map(repeat, photos), strict=True):
            for regions in results:
                np.testing.assert_array_equal(regions, expected)
