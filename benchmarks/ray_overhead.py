"""CPU time that Ray adds to a photo, and two workers of one thread against one process of two threads.

    python -m benchmarks.ray_overhead --json benchmarks/results/ray_overhead.json

The photos come with scikit-image, scaled to one size and turned. A figure is the CPU time from the end of the first
photos to the end of the last one: no start is counted. Ray's own processes take CPU time by the clock, not by the
photo, and are told apart from this process and the workers. The files of all ways are compared byte by byte.
"""

from __future__ import annotations

import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.photos import at_size, photos
from esam_rt import Settings
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.run import RayOptions, RunOptions, run_photos, segment_with_ray
from esam_rt.run.run_options import NoListener
from esam_rt.segmenter import SegmenterConfig
from esam_rt.storage.atomic import write_json
from esam_rt.storage.provenance import package_versions, utc_now

NAMES = ("astronaut", "chelsea", "coffee", "rocket")
SIDE_PX = 320
FIRST = 2  # photos that warm up the workers


class Clock(NoListener):
    """Notes CPU time and time when the first photos are done, and when the last one is."""

    def __init__(self) -> None:
        self.count, self.done = 0, 0
        self.notes: list[tuple[float, float, float]] = []

    def begun(self, total: int, done: int) -> None:
        """Remember the number of photos."""
        self.count = total

    def photo_done(self) -> None:
        """Note the times."""
        self.done += 1
        if self.done in (FIRST, self.count):
            self.notes.append((*tree_cpu_s(), time.perf_counter()))

    def a_photo(self) -> dict[str, float]:
        """Seconds a photo: CPU time of this process and the workers, time, and CPU time of Ray in each second."""
        (cpu_0, ray_0, s_0), (cpu_1, ray_1, s_1) = self.notes
        photos = self.count - FIRST
        return {"cpu_s": (cpu_1 - cpu_0) / photos, "s": (s_1 - s_0) / photos, "ray": (ray_1 - ray_0) / (s_1 - s_0)}


def tree_cpu_s() -> tuple[float, float]:
    """CPU seconds of this process and the workers, and of all other descendants."""
    ticks: dict[int, int] = {}
    workers = {os.getpid()}
    children: dict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                children[int(fields[1])].append(int(folder.name))
                ticks[int(folder.name)] = sum(map(int, fields[11:13]))
                if (folder / "cmdline").read_bytes().startswith(b"ray::PhotoWorker"):
                    workers.add(int(folder.name))
    sums, left = [0, 0], [os.getpid()]
    while left:
        process = left.pop()
        sums[process not in workers] += ticks.get(process, 0)
        left += children[process]
    return sums[0] / os.sysconf("SC_CLK_TCK"), sums[1] / os.sysconf("SC_CLK_TCK")


def make_photos(folder: Path, count: int) -> Path:
    """Write photos, no two the same."""
    folder.mkdir()
    found = photos(None)
    for i in range(count):
        image = Image.fromarray(at_size(found[NAMES[i % len(NAMES)]](), SIDE_PX))
        image.rotate(360 * i / count).save(folder / f"{i}.png")
    return folder


def results(out: Path) -> dict[str, bytes]:
    """The label maps and ``entities.json``."""
    return {path.name: path.read_bytes() for path in [*(out / "labels").iterdir(), out / "entities.json"]}


def ways() -> dict[str, tuple[int, Callable[[RunOptions, Clock], Any]]]:
    """Threads of the segmenter, and the run, by name."""
    return {
        "plain, 1 thread": (1, run_photos),
        "ray, 1 worker of 1 thread": (1, lambda o, clock: segment_with_ray(o, RayOptions(workers=1), clock)),
        "plain, 2 threads": (2, run_photos),
        "ray, 2 workers of 1 thread": (1, lambda o, clock: segment_with_ray(o, RayOptions(workers=2), clock)),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    figures: dict[str, list[dict[str, float]]] = defaultdict(list)
    with TemporaryDirectory() as temporary:
        made = make_photos(Path(temporary) / "photos", arguments.photos)
        same = None
        for _ in range(arguments.rounds):
            for number, (name, (threads, run)) in enumerate(ways().items()):
                config = SegmenterConfig(settings=Settings.preset("fast"), execution=ExecutionConfig(threads=threads))
                out = Path(temporary) / str(number)
                options = RunOptions([made], out, config, ["labels", "coco"], overwrite=True)
                clock = Clock()
                run(options, clock)
                figures[name].append(clock.a_photo())
                same = same or results(out)
                assert results(out) == same, f"{name}: other bytes"
                note(f"{name}: {figures[name][-1]}")
    best = {
        name: {key: min(row[key] for row in rows) for key in ("cpu_s", "s", "ray")} for name, rows in figures.items()
    }
    plain, ray, threads_2, workers_2 = best.values()
    result = {
        "overhead_of_driver_and_worker": round(ray["cpu_s"] / plain["cpu_s"] - 1, 3),
        "cpus_of_ray_itself": round(ray["ray"], 3),
        "two_workers_against_two_threads_cpu": round(workers_2["cpu_s"] / threads_2["cpu_s"], 3),
        "two_workers_against_two_threads_time": round(workers_2["s"] / threads_2["s"], 3),
        "a_photo": best,
        "photos": arguments.photos,
        "rounds": arguments.rounds,
        "date": utc_now(),
        "platform": platform.platform(),
        "versions": package_versions(["numpy", "onnxruntime", "ray"]),
    }
    for key, value in result.items():
        print(f"{key}: {value}")
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
