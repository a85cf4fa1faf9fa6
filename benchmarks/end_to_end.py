"""How long does a photo take with the presets `fast` and `paper`, and how much memory?

    python -m benchmarks.end_to_end --rounds 3 --json end_to_end.json

The model is `tiny`, the photos are scikit-image's. The presets take turns in one process. The first round is a warm-up
and does not count. The table has the median seconds of each stage and the ratio. --only fast runs one preset alone,
whose peak memory a second preset would hide.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import time
from collections import defaultdict

from rich.console import Console
from rich.table import Table
from skimage import data

from benchmarks.lib.command_line import note, parser_of
from esam_rt import EntitySegmenter, Settings, __version__
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.loader import load_sam
from esam_rt.storage.atomic import write_json

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
STAGES = ("encoder", "superpixels", "decoder", "mmg", "emr", "usr", "upsampling", "total")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("fast", "paper"), help="run one preset alone")
    parser.add_argument("--threads", type=int, help="threads of ONNX Runtime; default: its own choice")
    a = parser.parse_args()
    presets = [a.only] if a.only else ["fast", "paper"]
    sam = load_sam("tiny", ExecutionConfig(threads=a.threads))
    segmenters = {p: EntitySegmenter(sam, settings=Settings.preset(p)) for p in presets}
    photos = [getattr(data, name)() for name in PHOTOS]
    times: dict[str, dict[str, list[float]]] = {p: defaultdict(list) for p in presets}
    for turn in range(a.rounds + 1):
        for photo_name, photo in zip(PHOTOS, photos, strict=True):
            seconds_of = {}
            for preset, segment in segmenters.items():
                start = time.perf_counter()
                result = segment(photo)
                total = seconds_of[preset] = time.perf_counter() - start
                if turn > 0:
                    for stage, seconds in {**result.times_s, "total": total}.items():
                        times[preset][stage].append(seconds)
            taken = ", ".join(f"{preset} {taken:.2f} s" for preset, taken in seconds_of.items())
            note(f"{f'round {turn} of {a.rounds}' if turn else 'warm-up'}, {photo_name}: {taken}")
    medians = {p: {s: round(statistics.median(times[p][s]), 4) for s in STAGES} for p in presets}
    peak_mb = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    table = Table("stage", *presets, *(["paper / fast"] if len(presets) == 2 else []), title="median s per photo")
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
    if a.json:
        write_json(a.json, record)


if __name__ == "__main__":
    main()
