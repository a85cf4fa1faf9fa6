"""Seconds and memory a photo, preset `fast` beside preset `paper`, with the model that ships, on scikit-image's photos.

    python -m benchmarks.end_to_end --rounds 3 --out end_to_end.json

The presets take turns in one process; the first round is a warm-up and does not count. Prints the median seconds of
each stage and the ratio. `--only fast` runs one preset alone and gives its peak of resident memory, which a second
preset in the process would hide.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from skimage import data

from esam_rt import EntitySegmenter, Settings, __version__
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.loader import load_sam

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
STAGES = ("encoder", "superpixels", "decoder", "mmg", "emr", "usr", "upsampling", "total")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("fast", "paper"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    presets = [a.only] if a.only else ["fast", "paper"]
    sam = load_sam("tiny", ExecutionConfig(threads=a.threads))
    segmenters = {p: EntitySegmenter(sam, settings=Settings.preset(p)) for p in presets}
    photos = [getattr(data, name)() for name in PHOTOS]
    times: dict[str, dict[str, list[float]]] = {p: defaultdict(list) for p in presets}
    for turn in range(a.rounds + 1):
        for photo in photos:
            for preset, segment in segmenters.items():
                start = time.perf_counter()
                result = segment(photo)
                total = time.perf_counter() - start
                if turn > 0:
                    for stage, seconds in {**result.times_s, "total": total}.items():
                        times[preset][stage].append(seconds)
    medians = {p: {s: round(statistics.median(times[p][s]), 4) for s in STAGES} for p in presets}
    peak_mb = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    table = Table("stage", *presets, *(["paper / fast"] if len(presets) == 2 else []), title="median s a photo")
    for stage in STAGES:
        values = [medians[p][stage] for p in presets]
        ratio = [f"{values[1] / values[0]:.1f}"] if len(values) == 2 else []
        table.add_row(stage, *(f"{v:.3f}" for v in values), *ratio)
    console = Console(width=100)
    console.print(table)
    console.print(f"peak resident memory of the process: {peak_mb} MB; {os.cpu_count()} CPU cores")
    record = {
        "esam_rt": __version__,
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "photos": PHOTOS,
        "rounds": a.rounds,
        "median_s": medians,
        "peak_rss_mb": peak_mb,
    }
    if a.out:
        a.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
