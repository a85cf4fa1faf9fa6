"""How much CPU time does a photo take with one thread and with two, and how long is the wait?

    python -m benchmarks.thread_count --json thread_count.json

The model is `tiny` with the preset `fast`. The thread counts take turns on scikit-image's photos in one process. The
first round is a warm-up and does not count. Ratios are medians over photos and rounds.
"""

from __future__ import annotations

import os
import statistics
import time

from rich.console import Console
from rich.table import Table
from skimage import data

from benchmarks.lib.command_line import note, parser_of
from esam_rt import EntitySegmenter, ExecutionConfig, Settings, __version__
from esam_rt.storage.atomic import write_json

PHOTOS = ("astronaut", "coffee")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--threads", type=int, nargs=2, default=(1, 2), metavar="N")
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    segmenters = [
        EntitySegmenter("tiny", settings=Settings.preset("fast"), execution=ExecutionConfig(threads=n))
        for n in a.threads
    ]
    seconds: list[list[tuple[float, float]]] = [[], []]  # CPU and wall clock
    for turn in range(a.rounds + 1):
        for name in PHOTOS:
            photo = getattr(data, name)()
            for segment, taken in zip(segmenters, seconds, strict=True):
                cpu, wall = time.process_time(), time.perf_counter()
                segment(photo)
                if turn:
                    taken.append((time.process_time() - cpu, time.perf_counter() - wall))
        note(f"round {turn} of {a.rounds}")
    load = os.getloadavg()[0]
    record = {"esam_rt": __version__, "threads": list(a.threads), "photos": len(seconds[0]), "load": round(load, 1)}
    table = Table("", *(f"{n} threads" for n in a.threads), "ratio")
    for i, kind in enumerate(("cpu_s", "wall_s")):
        medians = [statistics.median(s[i] for s in taken) for taken in seconds]
        ratio = statistics.median(two[i] / one[i] for one, two in zip(*seconds, strict=True))
        record |= {kind: [round(m, 4) for m in medians], f"{kind}_ratio": round(ratio, 3)}
        table.add_row(kind, *(f"{m:.3f}" for m in medians), f"{ratio:.2f}")
    Console().print(table, f"load: {load:.1f}")
    if a.json:
        write_json(a.json, record)


if __name__ == "__main__":
    main()
