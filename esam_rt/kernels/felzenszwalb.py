"""Graph-based segmentation of a photo (Felzenszwalb and Huttenlocher, IJCV 2004).

The photo is smoothed. Each pixel has edges to its 8 neighbors; the cost of an edge is the distance of the two colors.
Edges are taken in order of cost c, the lowest first. An edge joins two regions if c is below the bound of both, with
``bound(R) = highest cost inside R + scale / 255 / |R|``. A second round joins regions smaller than ``min_size``.

Cost and edge share one int64, so that sorting the words sorts the edges::

    bit 63                                                      0
        +--------------------------------+-----------+-----------+
        | float64 cost, high bits        | direction |   pixel   |
        +--------------------------------+-----------+-----------+
          62 - pixel_bits bits             2 bits      pixel_bits = ceil(log2(H * W))

The bits of a float64 >= 0 sort like integers. The edge replaces the lowest bits of the cost, the least significant
ones. Equal costs are therefore ordered by direction and pixel. ``pixel`` is the top left pixel of the 2 x 2 square
around the edge. ``direction`` is 0 for right, 1 for down, 2 for down-right, 3 for down-left.

Edges are written in the order of their lowest bits. A stable radix sort of the cost bits is then a sort of the words.
"""

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

# Bits of one pass of the radix sort. For a photo of 512 x 384 pixels, five passes of 9 bits take 9 ms on Zen 4, and
# NumPy's sort takes 39 ms there. Four passes of 11 bits are slower.
DIGIT = 9


def felzenszwalb(
    image_hwc: NDArray[np.uint8 | np.floating], scale: float, sigma: float, min_size: int
) -> NDArray[np.int32]:
    """Segment a photo.

    Parameters and regions are those of ``skimage.segmentation.felzenszwalb``, except for ties. Costs that are equal, or
    differ by less than 2**-30 of their value in a photo of a million pixels, are ordered by direction, then row by row;
    scikit-image leaves this order open. Peak memory is about 76 bytes per pixel.

    Args:
        image_hwc: Photo [H, W, C], uint8, or finite float in [0, 1]; H and W at least 1, less than 2**31 pixels.
        scale: Higher values give larger regions.
        sigma: Standard deviation of the smoothing Gaussian in pixels.
        min_size: Smaller regions, in pixels, are joined with a neighbor.

    Returns:
        Region of each pixel, int32 [H, W], numbered from 0 in the order of first pixels.
    """
    h, w, channels = image_hwc.shape
    edges = np.empty(4 * h * w - 3 * h - 3 * w + 2, np.int64)
    unit = 1 / 255 if image_hwc.dtype == np.uint8 else 1.0
    rows = np.ascontiguousarray(image_hwc, np.float32).reshape(h, w * channels)
    # Views are made here, positions are passed as numbers: this halves compile time.
    _edges(rows, channels, unit, _gaussian(sigma), edges, edges.view(np.float64))
    edges = _sorted(edges, (h * w - 1).bit_length() + 2)
    costs = edges.view(np.float64)
    regions = np.full((h, w), -1, np.int32)
    bound = np.full(h * w, scale / 255, np.float32)
    _merge(edges, costs, w, regions.reshape(-1), bound, bound.view(np.int32), scale / 255, min_size)
    return regions


def _sorted(edges: NDArray[np.int64], low_bits: int) -> NDArray[np.int64]:
    """Sort words >= 0 that are in the order of their lowest bits already. Overwrites them."""
    other = np.empty_like(edges)
    for shift in range(low_bits, 63, DIGIT):
        if _sort_by_digit(edges, other, shift):
            edges, other = other, edges
    return edges


def _gaussian(sigma: float) -> NDArray[np.float64]:
    """Weights of the pixels at distance 0, 1, ... 4 sigma."""
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(radius + 1) / max(sigma, 1e-9)) ** 2)
    return np.asarray(weights / (weights[0] + 2 * weights[1:].sum()))


@kernel(INT, INT)
def _mirrored(i: int, size: int) -> int:
    """Index of the pixel at i if the image is continued as a mirror: ... 1 0 | 0 1 2 | 2 1 ..."""
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
    """Smooth row y [W * C] times ``unit`` in both directions into out[at]. ``padded`` has room for 2 radii more."""
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
    """Number of bits that count so many pixels."""
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
    """Write the edges of one direction between two rows, from columns a and b on, into edges[place:].

    ``first`` is the lowest ``bits`` bits of the first edge. Returns the place of the next edge.
    """
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
    """Write all edges in the form of the diagram at the top. ``costs`` is the memory of ``edges`` as float64.

    Two smoothed rows are kept at a time. Smoothing or costs in float32 gave other regions than scikit-image in one
    photo of a few hundred.
    """
    h, w = rows.shape[0], rows.shape[1] // channels
    down, bits = 1 << _pixel_bits(h * w), _pixel_bits(h * w) + 2
    padded = np.empty((w + 2 * (len(weights) - 1)) * channels)
    smooth = np.empty((2, w * channels))
    place_right, place_down = 0, h * (w - 1)
    place_down_right = place_down + (h - 1) * w
    place_down_left = place_down_right + (h - 1) * (w - 1)
    for y in range(h):
        row, above = y % 2, 1 - y % 2
        _smooth_row(rows, channels, y, unit, weights, padded, smooth, row)
        place_right = _row_edges(smooth, row, 0, row, 1, channels, y * w, bits, edges, costs, place_right)
        if y > 0:
            first = down + (y - 1) * w
            place_down = _row_edges(smooth, above, 0, row, 0, channels, first, bits, edges, costs, place_down)
            first += down
            place_down_right = _row_edges(
                smooth, above, 0, row, 1, channels, first, bits, edges, costs, place_down_right
            )
            first += down
            place_down_left = _row_edges(smooth, above, 1, row, 0, channels, first, bits, edges, costs, place_down_left)


@kernel(EDGES, EDGES, INT)
def _sort_by_digit(edges: NDArray[np.int64], out: NDArray[np.int64], shift: int) -> bool:
    """Copy edges to ``out`` in the order of ``DIGIT`` bits. Returns False, without a copy, if they are all the same."""
    place = np.zeros((1 << DIGIT) + 1, np.int64)
    for k in range(len(edges)):
        place[(edges[k] >> shift & (1 << DIGIT) - 1) + 1] += 1
    if len(edges) == 0 or place[(edges[0] >> shift & (1 << DIGIT) - 1) + 1] == len(edges):
        return False
    for digit in range(1 << DIGIT):
        place[digit + 1] += place[digit]
    for k in range(len(edges)):
        digit = edges[k] >> shift & (1 << DIGIT) - 1
        out[place[digit]] = edges[k]
        place[digit] += 1
    return True


@kernel(INT, INT, INT)
def _pixels(edge: int, w: int, pixel_bits: int) -> tuple[int, int]:
    """The two pixels of an edge."""
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
    """Join pixels to regions and write the number of each pixel's region into ``parent``.

    ``costs`` is the memory of ``edges`` as float64; the lowest bits hold the edge and are too small to matter.
    ``parent`` holds union-find trees, -1 for every pixel at first. ``bound`` holds for each root the cost that an edge
    must stay below, ``scale`` at first. ``number`` is the memory of ``bound`` as int32.
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
            edges[between] = edges[k]  # most edges lie inside a region by now: few are left for the second round
            between += 1
    for k in range(between):
        a, b = _pixels(edges[k], w, bits)
        i, j = root(parent, a), root(parent, b)
        if i != j and min(-parent[i], -parent[j]) < min_size:
            join(parent, i, j)
    for pixel in range(parent.size):
        number[pixel] = -1  # numbers of roots replace the bounds, which are not needed any more
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
