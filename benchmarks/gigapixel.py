"""A raster of a gigapixel: time, memory, and entities that are joined over the seams of its windows.

`GDAL_CACHEMAX=64 python -m benchmarks.gigapixel` makes a tiled GeoTIFF of 32,768 x 32,768 pixels by windows, segments
it, and writes ids and polygons. It does the same with a half and a quarter of the height, each in a process of its own:
memory must not grow with the height. A stand-in finds the squares of the texture, so that their number is known;
`--model tiny` takes a model. The GeoTIFF lies in a temporary folder (TMPDIR).
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.lib.command_line import note, parser_of
from benchmarks.raster_run import SQUARE, make, squares
from esam_rt import EntitySegmenter, Settings
from esam_rt.rounding import ceil_div
from esam_rt.sinks import GeoPackage, GeoTiff
from esam_rt.sources import Raster
from esam_rt.sources.raster import opened_raster
from esam_rt.storage.atomic import write_json


def run(height: int, width: int, model: str | None) -> dict[str, Any]:
    """Make a raster, segment it, and return figures."""
    with TemporaryDirectory() as temporary:
        path, out = Path(temporary) / "scene.tif", Path(temporary) / "out"
        make(path, height, width)
        begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
        source, parts = Raster(path), 0
        segment = None if model is None else EntitySegmenter(model, settings=Settings.preset("fast"))
        with GeoTiff(out) as ids, GeoPackage(out) as polygons:
            for number, frame in enumerate(source):
                offset_xy = frame.header.offset_xy
                entities = squares(frame.image_hwc_rgb, offset_xy) if segment is None else segment(frame.image_hwc_rgb)
                parts += len(entities)
                ids.write(frame, entities)
                polygons.write(frame, entities)
                if number % 50 == 49:
                    note(f"{number + 1} of {source.length} windows")
            peak_before_mb = _peak_mb()
        seconds, cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
        with opened_raster(out / "entities.tif") as data:
            found = max(int(data.read(1, window=window).max()) for _, window in data.block_windows(1))
    return {
        "megapixels": height * width / 1e6,
        "height": height,
        "windows": source.length,
        "s_per_megapixel": seconds / (height * width / 1e6),
        "cpu_s_per_megapixel": cpu_s / (height * width / 1e6),
        "peak_mb": _peak_mb(),
        "peak_before_joining_mb": peak_before_mb,
        "entities": found,
        "expected": ceil_div(height, SQUARE) * ceil_div(width, SQUARE) if model is None else None,
        "joined": parts - found,
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure three heights and print a table."""
    parser = parser_of(__doc__)
    parser.add_argument("--width", type=int, default=32_768, help="pixels")
    parser.add_argument("--height", type=int, default=32_768, help="pixels")
    parser.add_argument("--model", help="a model instead of the stand-in, such as tiny")
    options = parser.parse_args()
    rows = []
    spawn = multiprocessing.get_context("spawn")
    print("| megapixels | height | windows | s a megapixel | CPU s a megapixel | peak memory | entities | joined |")
    print("|---|---|---|---|---|---|---|---|")
    for height in (options.height // 4, options.height // 2, options.height):
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            row = process.submit(run, height, options.width, options.model).result()
        rows.append(row)
        print(
            f"| {row['megapixels']:,.0f} | {height:,} | {row['windows']:,} | {row['s_per_megapixel']:.2f} "
            f"| {row['cpu_s_per_megapixel']:.2f} | {row['peak_mb']:,.0f} MB | {row['entities']:,} "
            f"| {row['joined']:,} |",
            flush=True,
        )
        if row["expected"] not in (None, row["entities"]):
            note(f"found {row['entities']} entities, expected {row['expected']}")
    if options.json:
        size = {"width": options.width, "height": options.height, "model": options.model}
        write_json(options.json, {**size, "rows": rows})


if __name__ == "__main__":
    main()
