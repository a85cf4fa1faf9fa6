"""What a command costs on a fresh machine, where no kernel is compiled yet, beyond what it costs later.

`python -m benchmarks.first_call [--photo FILE] [--only NAME ...] [--rounds 3] [--package FOLDER] [--json FILE]`. Each
command runs in a process of its own with an empty cache of kernels and then with the one that it left, turn by turn;
medians of the wall clock and of the CPU. The model is exported before. `--package` is the folder of another esam_rt to
run, an earlier one say. Then kernel by kernel: seconds of compiling it and those that it calls, and the share of LLVM,
in one more process.
"""

from __future__ import annotations

import argparse
import json
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

from benchmarks.measure import in_fresh_process

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
    """Processes with a cache of kernels and an output folder of their own; the model is in the user's cache."""

    def __init__(self, folder: Path, package: Path, photo: Path) -> None:
        self.kernels, self._out, self._photo = folder / "kernels", folder / "out", photo
        self._environment = os.environ | {"PYTHONPATH": str(package), "NUMBA_CACHE_DIR": str(self.kernels)}
        self._folder = folder

    def seconds(self, arguments: tuple[str, ...]) -> dict[str, float]:
        """Of the wall clock and of all CPUs together."""
        names = {"PHOTO": str(self._photo), "OUT": str(self._out)}
        command = [sys.executable, *(names.get(argument, argument) for argument in arguments)]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, env=self._environment, cwd=self._folder, capture_output=True, text=True)
        taken, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}. {done.stderr.strip()}")
        return {"s": taken, "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}

    def first_and_later(self, arguments: tuple[str, ...], rounds: int) -> dict[str, float]:
        """Medians over the rounds, and of the difference within a round."""
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
    """Compile all kernels in this process: seconds each, and those of LLVM. The first row is Numba's own start."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(data.__path__[0]) / "astronaut.png"
    parser.add_argument("--photo", type=Path, default=default, help="default: one that scikit-image carries")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--package", type=Path, default=ROOT, help="folder that holds esam_rt; default: this one")
    parser.add_argument("--json", type=Path, help="write the figures here")
    a = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as name:
        machine = Machine(Path(name), a.package.resolve(), a.photo.resolve())
        machine.seconds((*RUN, "--preset", "fast"))  # exports the model
        print(f"{'':18}   first    later    delay s    delay s of CPU")
        for title in a.only:
            rows[title] = row = machine.first_and_later(COMMANDS[title], a.rounds)
            print(
                f"{title:18} {row['first_s']:7.2f}  {row['later_s']:7.2f}  {row['delay_s']:7.2f}  "
                f"{row['delay_cpu_s']:7.2f}",
                flush=True,
            )
    kernels: list[dict[str, Any]] = []
    if a.package == ROOT:
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
        a.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
