"""How much longer does a command take on a fresh machine, where no kernel is compiled yet?

    python -m benchmarks.first_call --rounds 3 --json first_call.json

Each command runs in its own process, first with an empty kernel cache and then with the cache that it filled, turn by
turn. Figures are medians of wall clock and CPU time. The model is exported before. --package names a folder with
another version of esam_rt to run. At the end, one more process compiles kernel by kernel, and prints the seconds of
each and the share of LLVM.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from skimage import data

from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.measure import in_fresh_process
from esam_rt.storage.atomic import write_json

ROOT = Path(__file__).parents[1]
RUN = ("-m", "esam_rt", "run", "PHOTO", "--out", "OUT", "--overwrite", "--quiet")
COMMANDS = {
    "import esam_rt": ("-c", "import esam_rt"),
    "models": ("-m", "esam_rt", "models"),
    "doctor": ("-m", "esam_rt", "doctor"),
    "run, superpixels": (*RUN, "--method", "superpixels"),
    "run, amg": (*RUN, "--method", "amg"),
    "run, fast": (*RUN, "--preset", "fast"),
    "run, paper": RUN,
    "compile-kernels": ("-m", "esam_rt", "compile-kernels"),
}


class Machine:
    """Runs commands with their own kernel cache and output folder. The model is in the user's cache."""

    def __init__(self, folder: Path, package: Path, photo: Path) -> None:
        self.kernels, self._out, self._photo = folder / "kernels", folder / "out", photo
        self._environment = os.environ | {"PYTHONPATH": str(package), "NUMBA_CACHE_DIR": str(self.kernels)}
        self._folder = folder

    def seconds(self, arguments: tuple[str, ...]) -> dict[str, float]:
        """Run a command and return its wall-clock seconds and the CPU seconds of all cores."""
        names = {"PHOTO": str(self._photo), "OUT": str(self._out)}
        command = [sys.executable, *(names.get(argument, argument) for argument in arguments)]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, env=self._environment, cwd=self._folder, capture_output=True, text=True)
        taken, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")
        return {"s": taken, "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}

    def first_and_later(self, arguments: tuple[str, ...], rounds: int) -> dict[str, float]:
        """Return the medians of both runs over the rounds, and of their difference within a round."""
        turns: dict[str, list[float]] = {}
        for _ in range(rounds):
            shutil.rmtree(self.kernels, ignore_errors=True)
            first, later = self.seconds(arguments), self.seconds(arguments)
            for unit in first:
                turns.setdefault(f"first_{unit}", []).append(first[unit])
                turns.setdefault(f"later_{unit}", []).append(later[unit])
                turns.setdefault(f"delay_{unit}", []).append(first[unit] - later[unit])
        return {name: round(statistics.median(values), 2) for name, values in turns.items()}


def kernel_seconds(folder: Path) -> list[dict[str, Any]]:
    """Compile all kernels in this process and time each, and LLVM in it. The first row is the start of Numba."""
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    start = time.perf_counter()
    import numba
    from numba.core import event

    numba.njit("int64(int64)")(lambda x: x)
    rows = [{"kernel": "(Numba itself)", "s": time.perf_counter() - start, "llvm_s": 0.0}]
    from esam_rt.kernels.warmup import ALL_MODULES, entry_kernels

    for kernel in entry_kernels(ALL_MODULES):
        start, llvm_s = time.perf_counter(), []
        with event.install_timer("numba:llvm_lock", llvm_s.append):
            kernel.compile()
        name = f"{kernel.__module__.rpartition('.')[2]}.{kernel.__name__}"
        rows.append({"kernel": name, "s": time.perf_counter() - start, "llvm_s": sum(llvm_s)})
    return [{key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()} for row in rows]


def main() -> None:
    parser = parser_of(__doc__)
    default = Path(data.__path__[0]) / "astronaut.png"
    parser.add_argument("--photo", type=Path, default=default, help="default: the astronaut of scikit-image")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=COMMANDS,
        default=list(COMMANDS),
        metavar="NAME",
        help="commands to run",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--package", type=Path, default=ROOT, help="folder with the esam_rt to run; default: this one")
    a = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as name:
        machine = Machine(Path(name), a.package.resolve(), a.photo.resolve())
        note("exporting the model")
        machine.seconds((*RUN, "--preset", "fast"))
        print(f"{'':18}   first    later    delay s    delay s of CPU")
        for title in a.only:
            note(f"{title}: {a.rounds} rounds")
            rows[title] = row = machine.first_and_later(COMMANDS[title], a.rounds)
            print(
                f"{title:18} {row['first_s']:7.2f}  {row['later_s']:7.2f}  {row['delay_s']:7.2f}  "
                f"{row['delay_cpu_s']:7.2f}",
                flush=True,
            )
    kernels: list[dict[str, Any]] = []
    if a.package == ROOT:
        note("compiling kernel by kernel")
        with TemporaryDirectory() as name:
            kernels = in_fresh_process(kernel_seconds, Path(name))
        print(f"\n{'':32} compiling s   LLVM s")
        for kernel in kernels:
            print(f"{kernel['kernel']:32} {kernel['s']:11.3f}  {kernel['llvm_s']:7.3f}")
        print(f"{'together':32} {sum(k['s'] for k in kernels):11.3f}  {sum(k['llvm_s'] for k in kernels):7.3f}")
    if a.json:
        cores = os.cpu_count()
        result = {
            "machine": platform.machine(),
            "cores": cores,
            "rounds": a.rounds,
            "commands": rows,
            "kernels": kernels,
        }
        write_json(a.json, result)


if __name__ == "__main__":
    main()
