"""Felzenszwalb's segmentation: ours against scikit-image's, and OpenCV-contrib's where that is installed.

`python -m benchmarks.superpixel_speed [--photos FOLDER] [--sizes 512 1024] [--json FILE]`. Photos at their own size and
scaled to squares, with the default settings, which grow with the area. Regions: the adjusted Rand index of ours with
scikit-image's, of every photo. Time: one thread each, in one process, turn by turn, over `--timed` photos; the ratio
is that of their sums, once a round. Memory is the growth of the resident set to its peak, each side in a process of its
own.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
import skimage.segmentation
from numpy.typing import NDArray

from benchmarks.lib.measure import in_fresh_process, seconds, status_mb
from esam_rt.kernels.felzenszwalb import felzenszwalb
from esam_rt.settings import Superpixels
from esam_rt.sources.decode import read_photo

PHOTOS_OF_SKIMAGE = ("astronaut", "chelsea", "coffee", "rocket", "retina", "hubble_deep_field", "immunohistochemistry")
SUFFIXES = (".jpg", ".jpeg", ".png")
Image = NDArray[np.uint8]
Labels = NDArray[np.integer]


def parameters(image: Image) -> dict[str, Any]:
    """scale, sigma and min_size at the size of the photo, as the product has them."""
    defaults, growth = Superpixels(), (max(image.shape) / 512) ** 2
    min_size = max(1, round(defaults.min_size * growth))
    return {"scale": defaults.scale * growth, "sigma": defaults.sigma, "min_size": min_size}


def ours(image: Image) -> Labels:
    return felzenszwalb(image, **parameters(image))


def scikit_image(image: Image) -> Labels:
    return np.asarray(skimage.segmentation.felzenszwalb(image, channel_axis=-1, **parameters(image)))


def opencv_contrib(image: Image) -> Labels:
    p = parameters(image)
    graph = cv2.ximgproc.segmentation.createGraphSegmentation(p["sigma"], p["scale"], p["min_size"])
    return np.asarray(graph.processImage(image))


SIDES: dict[str, Callable[[Image], Labels]] = {"scikit-image": scikit_image, "ours": ours}
if hasattr(cv2, "ximgproc"):
    SIDES["opencv-contrib"] = opencv_contrib


def rand_index(a: Labels, b: Labels) -> float:
    """Adjusted for chance (Hubert and Arabie 1985): 1 for the same partition, about 0 for unrelated ones."""

    def pairs(counts: NDArray[np.integer]) -> float:
        return float((counts * (counts - 1.0) / 2).sum())

    together = pairs(np.unique(a.astype(np.int64) * (int(b.max()) + 1) + b, return_counts=True)[1])
    in_a, in_b = (pairs(np.bincount(labels.ravel())) for labels in (a, b))
    chance, most = in_a * in_b / pairs(np.array(a.size)), (in_a + in_b) / 2
    return 1.0 if most == chance else (together - chance) / (most - chance)


def photos(folder: Path | None) -> dict[str, Callable[[], Image]]:
    """How to read each photo, by name."""
    if folder is None:
        return {name: getattr(skimage.data, name) for name in PHOTOS_OF_SKIMAGE}
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"{folder}: no photo there; expected files that end in {', '.join(SUFFIXES)}.")
    return {path.name: lambda path=path: read_photo(path, path.name).image_hwc_rgb for path in paths}  # type: ignore[misc]


def at_size(image: Image, size_px: int | None) -> Image:
    """The photo as a square of that side; as it is without one."""
    if size_px is None:
        return image
    shrinks = size_px < min(image.shape[:2])
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (size_px, size_px), interpolation=how), np.uint8)


def agreement(images: Iterator[tuple[str, Image]]) -> dict[str, Any]:
    """The adjusted Rand index of ours with scikit-image's regions, photo by photo."""
    index = {name: rand_index(ours(image), scikit_image(image)) for name, image in images}
    return {
        "photos": len(index),
        "equal": sum(value == 1 for value in index.values()),
        "mean": round(statistics.mean(index.values()), 6),
        "least": round(min(index.values()), 6),
        "below_1": {name: round(value, 6) for name, value in index.items() if value < 1},
    }


def times(images: list[Image], rounds: int) -> dict[str, Any]:
    """Milliseconds a photo, median over the rounds, and how many times ours each other side takes."""
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
    """Growth of the resident set of this process while segmenting; its code is loaded before."""
    SIDES[side](image[:64, :64].copy())
    before = status_mb("VmRSS")
    SIDES[side](image)
    return round(status_mb("VmHWM") - before, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of photos; without one, those of scikit-image")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--timed", type=int, default=5, help="photos to take the time of, spread over the folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    a = parser.parse_args()
    cv2.setNumThreads(1)
    if "opencv-contrib" not in SIDES:
        print("OpenCV-contrib is not installed: left out (pip install opencv-contrib-python-headless)")
    found = photos(a.photos)
    timed = [read() for read in list(found.values())[:: max(1, len(found) // a.timed)][: a.timed]]
    ours(timed[0])
    rows = []
    for size in (None, *a.sizes):
        images = [at_size(image, size) for image in timed]
        row: dict[str, Any] = {"size_px": size} | times(images, a.rounds)
        row["adjusted_rand_index"] = index = agreement((name, at_size(read(), size)) for name, read in found.items())
        row["memory_mb"] = {side: in_fresh_process(growth_mb, side, images[0]) for side in SIDES}
        pixels = images[0].size / 3
        row["memory_bytes_per_pixel"] = {side: round(mb * 2**20 / pixels) for side, mb in row["memory_mb"].items()}
        rows.append(row)
        print(f"{f'{size} x {size} px' if size else 'own size'}, {len(images)} photos timed, {a.rounds} rounds")
        for side in SIDES:
            ratio = row["ratio_to_ours"].get(side)
            print(
                f"  {side:14} {row['ms_per_photo'][side]:8.1f} ms {row['memory_bytes_per_pixel'][side]:5} bytes a pixel"
                + (f"  {ratio['median']:.1f} times ours ({ratio['least']:.1f} to {ratio['most']:.1f})" if ratio else "")
            )
        print(
            f"  adjusted Rand index with scikit-image: least {index['least']:.4f}, mean {index['mean']:.6f}, "
            f"the same regions in {index['equal']} of {index['photos']} photos",
            flush=True,
        )
    if a.json:
        a.json.write_text(json.dumps({"photos": len(found), "threads": 1, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
