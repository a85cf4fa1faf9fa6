"""Felzenszwalb and Huttenlocher's graph-based segmentation (IJCV 2004) of a photo."""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.jit import array, kernel
from esam_rt.kernels.union_find import join, root

INT, FLOAT = types.int64, types.float64
ROW, ROW2, WEIGHTS = FLOAT[::1], FLOAT[:, ::1], array(FLOAT, 1)
EDGES, FOREST, IMAGE = INT[::1], types.int32[::1], array(types.float32, 2)


def felzenszwalb(
    image_hwc: NDArray[np.uint8 | np.floating], scale: float, sigma: float, min_size: int
) -> NDArray[np.int32]:
    """Regions of the pixels, int32 [H, W], numbered from 0 in the order of their first pixels.

    image_hwc: uint8, or float in [0, 1], finite; [H, W, C], H and W from 1, less than 2**31 pixels. sigma: of the
    Gaussian that smooths it, pixels. Then the edges between 8-neighbors, lightest first, join two regions if the
    distance of the colors is less than the heaviest edge inside + scale / 255 / pixels of each, and once more if one
    has less than `min_size` pixels. Parameters and regions are those of scikit-image's `felzenszwalb`, but for ties:
    distances that are equal, or apart by less than 2**-30 of them in a photo of a million pixels, go by direction
    (right, down, down-right, down-left), then row by row; scikit-image leaves the order open. About 44 bytes a pixel at
    the peak.
    """
    h, w, channels = image_hwc.shape
    edges = np.empty(4 * h * w - 3 * h - 3 * w + 2, np.int64)
    costs = edges.view(np.float64)  # views are made here and places passed as numbers: half of the kernels' compiling
    unit = 1 / 255 if image_hwc.dtype == np.uint8 else 1.0
    rows = np.ascontiguousarray(image_hwc, np.float32).reshape(h, w * channels)
    _edges(rows, channels, unit, _gaussian(sigma), edges, costs)
    # In place and without the GIL. NumPy sorts 4 million words in 23 ms with AVX-512, 55 ms with AVX2, 0.3 s without.
    edges.sort()
    regions = np.full((h, w), -1, np.int32)
    bound = np.full(h * w, scale / 255, np.float32)
    _merge(edges, costs, w, regions.reshape(-1), bound, bound.view(np.int32), scale / 255, min_size)
    return regions


def _gaussian(sigma: float) -> NDArray[np.float64]:
    """Weights of the pixels at distance 0, 1 … 4 sigma."""
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(radius + 1) / max(sigma, 1e-9)) ** 2)
    return np.asarray(weights / (weights[0] + 2 * weights[1:].sum()))


@kernel(INT, INT)
def _mirrored(i: int, size: int) -> int:
    """Index of the pixel at i, where the image goes on mirrored: … 1 0 | 0 1 2 | 2 1 …"""
    i %= 2 * size
    return min(i, 2 * size - 1 - i)


@kernel(IMAGE, INT, INT, FLOAT, WEIGHTS, ROW, ROW2, INT)
def _smooth_row(
    rows: NDArray[np.float32],
    channels: int,
    y: int,
    unit: float,
    weights: NDArray[np.float64],
    padded: NDArray[np.float64],
    out: NDArray[np.float64],
    at: int,
) -> None:
    """Row y [W · C] times `unit`, smoothed down and across, into out[at]. padded: room for it and twice the radius."""
    h, length = rows.shape
    w, radius = length // channels, len(weights) - 1
    start = radius * channels
    for k in range(length):
        padded[start + k] = rows[y, k] * unit * weights[0]
    for distance in range(radius, 0, -1):
        above, below = _mirrored(y - distance, h), _mirrored(y + distance, h)
        for k in range(length):
            padded[start + k] += (rows[above, k] * unit + rows[below, k] * unit) * weights[distance]
    for x in range(-radius, 0):
        left, right = start + _mirrored(x, w) * channels, start + _mirrored(w - 1 - x, w) * channels
        for c in range(channels):
            padded[(radius + x) * channels + c] = padded[left + c]
            padded[(radius + w - 1 - x) * channels + c] = padded[right + c]
    for k in range(length):
        out[at, k] = padded[start + k] * weights[0]
    for distance in range(radius, 0, -1):
        left, right = start - distance * channels, start + distance * channels
        for k in range(length):
            out[at, k] += (padded[left + k] + padded[right + k]) * weights[distance]


@kernel(INT)
def _pixel_bits(pixels: int) -> int:
    """Bits that number so many pixels."""
    bits = 0
    while pixels > 1 << bits:
        bits += 1
    return bits


@kernel(ROW2, INT, INT, INT, INT, INT, INT, INT, EDGES, ROW, INT)
def _row_edges(
    smooth: NDArray[np.float64],
    row_a: int,
    a: int,
    row_b: int,
    b: int,
    channels: int,
    first: int,
    bits: int,
    edges: NDArray[np.int64],
    costs: NDArray[np.float64],
    place: int,
) -> int:
    """One direction's edges, into edges[place:], between the colors of two rows, from their columns a and b on; where
    the next ones go. `first` is what names the first one, in `bits` bits."""
    count: int = smooth.shape[1] // channels - max(a, b)
    for x in range(count):
        square = 0.0
        for k in range(x * channels, (x + 1) * channels):
            distance = smooth[row_a, a * channels + k] - smooth[row_b, b * channels + k]
            square += distance * distance
        costs[place + x] = math.sqrt(square)
    for x in range(count):
        edges[place + x] = edges[place + x] >> bits << bits | (first + x)
    return place + count


@kernel(IMAGE, INT, FLOAT, WEIGHTS, EDGES, ROW)
def _edges(
    rows: NDArray[np.float32],
    channels: int,
    unit: float,
    weights: NDArray[np.float64],
    edges: NDArray[np.int64],
    costs: NDArray[np.float64],
) -> None:
    """Each edge in one word, so that the order of the words is that of the edges.

    costs: the same memory as float64. A word is the cost, its last bits replaced by 2 of direction and as many as the
    pixels need. Smoothing or costs in float32 gave other regions than scikit-image in one photo of a few hundred. Two
    smoothed rows are kept at a time.
    """
    h, w = rows.shape[0], rows.shape[1] // channels
    down, bits = 1 << _pixel_bits(h * w), _pixel_bits(h * w) + 2
    padded = np.empty((w + 2 * (len(weights) - 1)) * channels)
    smooth = np.empty((2, w * channels))
    place = 0
    for y in range(h):
        row, above = y % 2, 1 - y % 2
        _smooth_row(rows, channels, y, unit, weights, padded, smooth, row)
        place = _row_edges(smooth, row, 0, row, 1, channels, y * w, bits, edges, costs, place)
        if y > 0:
            first = down + (y - 1) * w
            place = _row_edges(smooth, above, 0, row, 0, channels, first, bits, edges, costs, place)
            place = _row_edges(smooth, above, 0, row, 1, channels, first + down, bits, edges, costs, place)
            place = _row_edges(smooth, above, 1, row, 0, channels, first + 2 * down, bits, edges, costs, place)


@kernel(INT, INT, INT)
def _pixels(edge: int, w: int, pixel_bits: int) -> tuple[int, int]:
    """The two pixels of an edge; its own is the top left one of the square around both."""
    pixel, direction = edge & (1 << pixel_bits) - 1, edge >> pixel_bits & 3
    return pixel + int(direction == 3), pixel + w * int(direction > 0) + int(direction & 1 == 0)


@kernel(EDGES, ROW, INT, FOREST, types.float32[::1], FOREST, FLOAT, INT)
def _merge(
    edges: NDArray[np.int64],
    costs: NDArray[np.float64],
    w: int,
    parent: NDArray[np.int32],
    bound: NDArray[np.float32],
    number: NDArray[np.int32],
    scale: float,
    min_size: int,
) -> None:
    """Regions of the pixels in place of -1.

    costs: the memory of the edges as float64; the last bits, which name the edge, count for nothing. parent: of a
    pixel; of a root minus its number of pixels. bound: of a root, what an edge must cost less than, `scale` at first.
    number: the same memory.
    """
    bits = _pixel_bits(parent.size)
    between = 0
    for k in range(len(edges)):
        a, b = _pixels(edges[k], w, bits)
        i, j = root(parent, a), root(parent, b)
        if i == j:
            continue
        if costs[k] < bound[i] and costs[k] < bound[j]:
            i = join(parent, i, j)
            bound[i] = costs[k] - scale / parent[i]
        else:
            edges[between] = edges[k]  # most edges are within a region by now: the second round has few to look at
            between += 1
    for k in range(between):
        a, b = _pixels(edges[k], w, bits)
        i, j = root(parent, a), root(parent, b)
        if i != j and min(-parent[i], -parent[j]) < min_size:
            join(parent, i, j)
    for pixel in range(parent.size):
        number[pixel] = -1  # of a root; its bound is not needed any more
    count = 0
    for pixel in range(parent.size):
        top = root(parent, pixel)
        if number[top] < 0:
            number[top] = count
            count += 1
        if pixel != top:
            parent[pixel] = top
    for pixel in range(parent.size):
        parent[pixel] = number[parent[pixel] if parent[pixel] >= 0 else pixel]
