"""How much longer does the first photo take than the others, with and without `warm_up`?

    python -m benchmarks.warm_up --json warm_up.json

Each case runs in a fresh process. The model is `tiny` with the preset `fast` and is exported before. Kernels are in the
cache. The table has the CPU seconds of the first photo divided by the median of the next ones.
"""

from __future__ import annotations

import statistics
import time

from rich.console import Console
from rich.table import Table
from skimage import data

from benchmarks.lib.command_line import parser_of
from benchmarks.lib.measure import in_fresh_process
from esam_rt import EntitySegmenter, Settings, __version__
from esam_rt.storage.atomic import write_json


def ratio(is_warm: bool, photos: int) -> float:
    """Return the time of the first photo over the median of the next ones."""
    photo, taken = data.coffee(), []
    with EntitySegmenter("tiny", settings=Settings.preset("fast")) as segment:
        if is_warm:
            segment.warm_up([photo.shape[:2]])
        for _ in range(photos + 1):
            start = time.process_time()
            segment(photo)
            taken.append(time.process_time() - start)
    return taken[0] / statistics.median(taken[1:] or taken)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photos", type=int, default=5)
    a = parser.parse_args()
    ratio(False, 0)  # exports the model and compiles the kernels
    ratios = {
        name: [in_fresh_process(ratio, name == "warm_up", a.photos) for _ in range(a.rounds)]
        for name in ("warm_up", "without")
    }
    table = Table("", "first photo / median")
    for name, values in ratios.items():
        table.add_row(name, ", ".join(f"{v:.2f}" for v in values))
    Console().print(table)
    if a.json:
        write_json(a.json, {"esam_rt": __version__, **{n: [round(v, 3) for v in vs] for n, vs in ratios.items()}})


if __name__ == "__main__":
    main()
