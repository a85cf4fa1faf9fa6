"""Does a photo take as long with one checkpoint of `tiny` as with another?

    python -m benchmarks.two_checkpoints A.safetensors B.safetensors --json two_checkpoints.json

Both take turns on scikit-image's photos in one process, and who begins changes from photo to photo. The figures are
seconds of processor time: of the encoder, of a prompt (decoder and mask head, all masks kept), and of the whole of
E-SAM on a photo. A photo's time also depends on how many prompts the masks leave to decode, so that number is printed
too. The first round is a warm-up and does not count. Ratios are B / A of the same photo and round: the median, and
between the quartiles.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from skimage import data

from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.measure import quartiles
from esam_rt import EntitySegmenter, ExecutionConfig, Settings, __version__
from esam_rt.loading.loader import load_sam
from esam_rt.sam.point_grids import point_grid
from esam_rt.storage.atomic import write_json

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
EVERYTHING = None  # no filter
PARTS = ("encoder_s", "prompt_s", "photo_s", "prompts")


def cpu_s(call: Callable[[], object]) -> float:
    """Return the processor time of one call, of all threads."""
    start = time.process_time()
    call()
    return time.process_time() - start


class Checkpoint:
    """One checkpoint of `tiny`, loaded."""

    def __init__(self, path: Path, threads: int, preset: str) -> None:
        self.path = path
        self._sam = load_sam("tiny", ExecutionConfig(threads=threads), path)
        self._segment = EntitySegmenter(self._sam, settings=Settings.preset(preset))
        self._points = point_grid(12)

    def measure(self, photo_name: str) -> dict[str, float]:
        """Measure the PARTS of a photo."""
        photo = getattr(data, photo_name)()
        found = self._segment(photo)
        encoded = self._sam.encode(photo)
        return {
            "encoder_s": cpu_s(lambda: self._sam.encode(photo)),
            "prompt_s": cpu_s(lambda: self._sam.decode(encoded, self._points, 0, EVERYTHING)) / len(self._points),
            "photo_s": cpu_s(lambda: self._segment(photo)),
            "prompts": found.prompts_decoded,
        }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("checkpoints", type=Path, nargs=2, metavar="CHECKPOINT")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--preset", default="fast")
    a = parser.parse_args()
    two = [Checkpoint(path, a.threads, a.preset) for path in a.checkpoints]
    found: list[list[dict[str, float]]] = [[], []]
    for turn in range(a.rounds + 1):
        for number, name in enumerate(PHOTOS):
            for i in (0, 1) if (turn + number) % 2 else (1, 0):
                row = two[i].measure(name)
                if turn:
                    found[i].append(row)
        note(f"round {turn} of {a.rounds}" if turn else "warm-up")
    table = Table("median", "A", "B", "B / A", "quartiles", title=f"tiny, {a.preset}")
    record: dict[str, object] = {
        "esam_rt": __version__,
        "checkpoints": [str(c.path) for c in two],
        "preset": a.preset,
        "threads": a.threads,
        "rounds": a.rounds,
        "photos": PHOTOS,
        "load": round(os.getloadavg()[0], 1),
    }
    for part in PARTS:
        medians = [statistics.median(row[part] for row in rows) for rows in found]
        ratio = quartiles([second[part] / first[part] for first, second in zip(*found, strict=True)], 3)
        table.add_row(
            part, *(f"{m:.4g}" for m in medians), f"{ratio['median']:.2f}", f"{ratio['low']:.2f} to {ratio['high']:.2f}"
        )
        record[part] = {"medians": [round(m, 5) for m in medians], "ratio": ratio}
    Console().print(table)
    if a.json:
        write_json(a.json, record)


if __name__ == "__main__":
    main()
