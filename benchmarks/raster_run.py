"""Memory and CPU time of a raster beside segmentation: reading windows, joining seams, writing ids and polygons.

`python -m benchmarks.raster_run` makes two rasters, one four times as large as the other, and runs both with a stand-in
that finds squares. It prints the growth of memory, and CPU seconds a window.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.sinks import GeoPackage, GeoTiff
from esam_rt.sources import Raster
from esam_rt.sources.raster import import_rasterio

SQUARE = 160  # pixels; not a divisor of the windows' steps


def make(path: Path, height: int, width: int) -> None:
    """Write squares of random colors, block by block."""
    rasterio = import_rasterio()
    place = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000)
    colors = np.random.default_rng(0).integers(1, 255, (height // SQUARE + 1, width // SQUARE + 1, 3), np.uint8)
    options = {"crs": "EPSG:32633", "transform": place, "tiled": True, "compress": "deflate", "bigtiff": "if_safer"}
    with rasterio.open(path, "w", "GTiff", width, height, 3, dtype="uint8", **options) as data:
        for _, window in data.block_windows(1):
            rows, columns = window.toslices()
            y, x = np.arange(rows.start, rows.stop) // SQUARE, np.arange(columns.start, columns.stop) // SQUARE
            data.write(np.moveaxis(colors[y[:, None], x], -1, 0), window=window)


def squares(image: NDArray[np.uint8], offset_xy: tuple[int, int]) -> EntityMap:
    """Return the squares of a window as its entities."""
    y, x = (np.arange(n) + o for n, o in zip(image.shape[:2], offset_xy[::-1], strict=True))
    y, x = y // SQUARE - y[0] // SQUARE, x // SQUARE - x[0] // SQUARE
    labels = y[:, None] * (x[-1] + 1) + x + 1
    return EntityMap.from_labels(labels, np.full(labels.max(), 0.9), np.zeros(labels.max(), int))


def run(path: Path, out: Path) -> dict[str, Any]:
    """Segment a raster, and return figures."""
    begin_s, windows = time.process_time(), 0
    with GeoTiff(out) as ids, GeoPackage(out) as polygons:
        for frame in Raster(path):
            entities = squares(frame.image_hwc_rgb, frame.header.offset_xy)
            ids.write(frame, entities)
            polygons.write(frame, entities)
            windows += 1
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"windows": windows, "cpu_s": time.process_time() - begin_s, "peak_mb": peak_mb}


def main() -> None:
    """Run both rasters and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=4000, help="side of the smaller raster, pixels")
    side = parser.parse_args().side
    with TemporaryDirectory() as temporary:
        folder, before = Path(temporary), 0.0
        for number, one in enumerate((512, side, 2 * side)):  # the first one loads the libraries
            make(folder / f"{number}.tif", one, one)
            found = run(folder / f"{number}.tif", folder / str(number))
            if number:
                cpu_s = found["cpu_s"] / found["windows"]
                megapixels = one * one / 1e6
                print(f"{megapixels:.0f} megapixels, {found['windows']} windows: {cpu_s:.3f} CPU s a window, "
                      f"peak {found['peak_mb']:.0f} MB, {found['peak_mb'] - before:+.0f} MB")  # fmt: skip
            before = found["peak_mb"]


if __name__ == "__main__":
    main()
