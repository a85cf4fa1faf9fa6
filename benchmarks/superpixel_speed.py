"""How fast is our Felzenszwalb segmentation, and does it cut the same regions as scikit-image?

    python -m benchmarks.superpixel_speed --photos photos/ --sizes 512 1024 --json superpixels.json

OpenCV-contrib is measured too if it is installed. Photos have their own size or are scaled to squares. The parameters
are the defaults, which grow with the area.

- Regions: the adjusted Rand index with scikit-image, of every photo.
- Time: one thread each, in one process, turn by turn, over --timed photos. The ratio is that of their sums per round.
- Memory: growth of the resident set to its peak, each side in its own process.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.measure import in_fresh_process, seconds, status_mb
from benchmarks.lib.photos import Image, at_size, photos
from benchmarks.lib.superpixel_libraries import SIDES, ours, rand_index, scikit_image
from esam_rt.storage.atomic import write_json


def agreement(images: Iterator[tuple[str, Image]]) -> dict[str, Any]:
    """Compute the adjusted Rand index of ours with scikit-image, photo by photo."""
    index = {name: rand_index(ours(image), scikit_image(image)) for name, image in images}
    return {
        "photos": len(index),
        "equal": sum(value == 1 for value in index.values()),
        "mean": round(statistics.mean(index.values()), 6),
        "least": round(min(index.values()), 6),
        "below_1": {name: round(value, 6) for name, value in index.items() if value < 1},
    }


def times(images: list[Image], rounds: int) -> dict[str, Any]:
    """Measure milliseconds per photo (median over rounds), and the ratio of each other side to ours."""
    totals: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        of_round = dict.fromkeys(SIDES, 0.0)
        for image in images:
            for side, segment in SIDES.items():
                of_round[side] += seconds(lambda segment=segment, image=image: segment(image))  # type: ignore[misc]
        for side, total in of_round.items():
            totals[side].append(total)
    ratios = {
        side: [other / own for other, own in zip(total, totals["ours"], strict=True)]
        for side, total in totals.items()
        if side != "ours"
    }
    return {
        "ms_per_photo": {side: round(statistics.median(t) / len(images) * 1e3, 1) for side, t in totals.items()},
        "ratio_to_ours": {
            side: {"median": round(statistics.median(r), 2), "least": round(min(r), 2), "most": round(max(r), 2)}
            for side, r in ratios.items()
        },
    }


def growth_mb(side: str, image: Image) -> float:
    """Measure the growth of this process's resident set while it segments, after its code is loaded."""
    SIDES[side](image[:64, :64].copy())
    before = status_mb("VmRSS")
    SIDES[side](image)
    return round(status_mb("VmHWM") - before, 1)


def print_row(row: dict[str, Any], timed: int, rounds: int) -> None:
    """Print the figures of one size."""
    size, index = row["size_px"], row["adjusted_rand_index"]
    print(f"{f'{size} x {size} px' if size else 'own size'}, {timed} photos timed, {rounds} rounds")
    for side in SIDES:
        ratio = row["ratio_to_ours"].get(side)
        print(
            f"  {side:14} {row['ms_per_photo'][side]:8.1f} ms {row['memory_bytes_per_pixel'][side]:5} bytes per pixel"
            + (f"  {ratio['median']:.1f} times ours ({ratio['least']:.1f} to {ratio['most']:.1f})" if ratio else "")
        )
    print(
        f"  adjusted Rand index with scikit-image: least {index['least']:.4f}, mean {index['mean']:.6f}, "
        f"equal regions in {index['equal']} of {index['photos']} photos",
        flush=True,
    )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--photos", type=Path, help="folder of photos; default: the photos of scikit-image")
    parser.add_argument("--sizes", type=int, nargs="*", default=[512, 1024], help="sides of the squares, pixels")
    parser.add_argument("--timed", type=int, default=5, help="number of photos to time, spread over the folder")
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    cv2.setNumThreads(1)
    if "opencv-contrib" not in SIDES:
        note("OpenCV-contrib is not installed and is left out. To add it: pip install opencv-contrib-python-headless")
    found = photos(a.photos)
    timed = [read() for read in list(found.values())[:: max(1, len(found) // a.timed)][: a.timed]]
    ours(timed[0])
    rows = []
    for size in (None, *a.sizes):
        images = [at_size(image, size) for image in timed]
        note(f"timing, {f'{size} px' if size else 'own size'}")
        row: dict[str, Any] = {"size_px": size} | times(images, a.rounds)
        note(f"comparing the regions of {len(found)} photos")
        row["adjusted_rand_index"] = agreement((name, at_size(read(), size)) for name, read in found.items())
        row["memory_mb"] = {side: in_fresh_process(growth_mb, side, images[0]) for side in SIDES}
        pixels = images[0].size / 3
        row["memory_bytes_per_pixel"] = {side: round(mb * 2**20 / pixels) for side, mb in row["memory_mb"].items()}
        rows.append(row)
        print_row(row, len(images), a.rounds)
        if a.json:
            write_json(a.json, {"photos": len(found), "threads": 1, "rows": rows})


if __name__ == "__main__":
    main()
