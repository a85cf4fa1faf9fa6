"""Runs of `esam-rt run` that are killed, or meet a full disk or a limit, and are resumed. A seed decides where.

    python -m tests.support.faulty_runs kill PHOTOS FOLDER 7 1      repeats one

The process imports all and loads the kernels first. Each run is a fork of it, which takes milliseconds. No network is
loaded: the segmenter finds two halves.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

import esam_rt.cli.app
import esam_rt.cli.progress
import esam_rt.run.folder_run
import esam_rt.run.ray_run
import esam_rt.run.stream_run
import esam_rt.segmenter
from esam_rt.__main__ import main as esam_rt_main
from esam_rt.kernels.warmup import start_warmup
from tests.support.fake_segmenter import FakeSegmenter

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree")
HANG_S = 300  # a run takes milliseconds
PR_SET_PDEATHSIG = 1


class Fault:
    """Calls `act` at the n-th change of a file below `folder`."""

    def __init__(self, folder: Path, number: int, act: Callable[[], None]) -> None:
        self.folder, self.number, self.act, self.count = str(folder), number, act, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, flags = arguments[0], arguments[2]
            is_change = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
        else:
            path, is_change = arguments[0] if arguments else "", event in CHANGES
        if is_change and isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(self.folder):
            self.count += 1
            if self.count == self.number:
                self.act()


def attempt(photos: Path, out: Path, prepare: Callable[[], None], resume: bool) -> tuple[int, str]:
    """Run the command in a fork. Return its exit code (negative: the signal) and what it printed."""
    reader, writer = os.pipe()  # a limit on the size of files does not hold for it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads of NumPy
        pid = os.fork()
    if pid == 0:
        signal.alarm(HANG_S)  # ends the process
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        sys.argv = ["esam-rt", "run", str(photos), "--out", str(out), *(["--resume"] if resume else [])]
        code = 99
        try:
            prepare()
            esam_rt_main()
            code = 0
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8", errors="replace") as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


def faults(kind: str, random: Random, out: Path, changes: int) -> Callable[[], None]:
    """What is set up in the process that is to fail."""
    number, size = random.randint(1, changes), random.choice((0, 10, 100, 1000, 3000, 10_000))
    if kind == "kill" and random.random() < 0.5:  # in the middle of a file

        def die_at_the_limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        return die_at_the_limit
    if kind == "kill":
        return lambda: sys.addaudithook(Fault(out, number, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    if kind == "full":

        def no_space() -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return lambda: sys.addaudithook(Fault(out, number, no_space))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def check_whole(out: Path) -> None:
    """Each file that has its final name can be read."""
    for path in out.rglob("*"):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix in (".png", ".jpg"):
            Image.open(path).load()
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".jsonl":
            for line in path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):  # the last line may be torn: it counts as missing
                    json.loads(line)


def contents(out: Path) -> dict[str, str]:
    """SHA-256 of each file, hidden ones too. Those with times count by their names."""
    files = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if p.is_file()}
    timed = {name for name in files if name.endswith((".html", ".js", ".jsonl")) or name == "run.json"}
    return {n: "" if n in timed else hashlib.sha256(p.read_bytes()).hexdigest() for n, p in files.items()}


def trial(kind: str, seed: int, photos: Path, folder: Path, changes: int, expected: dict[str, str]) -> int:
    """One folder that fails one to three times and is then finished. Return how often it failed."""
    random, out, failed = Random(f"{kind} {seed}"), folder / f"{kind}{seed}", 0
    for _ in range(random.randint(1, 3)):
        code, said = attempt(photos, out, faults(kind, random, out, changes), resume=(out / "run.json").exists())
        failed += code != 0
        allowed = (0, -signal.SIGKILL, -signal.SIGXFSZ) if kind == "kill" else (0, 1, 2, 3, 4)
        assert code in allowed, (code, said[-500:])
        assert "Traceback" not in said and (code <= 0 or "error: " in said), said
        check_whole(out)
    code, said = attempt(photos, out, lambda: None, resume=(out / "run.json").exists())
    assert code == 0, (code, said)
    found = contents(out)
    wrong = {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)}
    assert not wrong, wrong
    shutil.rmtree(out)
    return failed


def main() -> None:
    kind, photos, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    first, count = int(sys.argv[4]), int(sys.argv[5])
    esam_rt.segmenter.EntitySegmenter = lambda model, **options: FakeSegmenter()  # type: ignore[misc, assignment]
    start_warmup().join()
    reference = folder / "reference"
    code, said = attempt(photos, reference, lambda: None, resume=False)
    assert code == 0, said
    expected = contents(reference)
    changes = 3 * len(expected) + 20  # a file is made, synced and renamed; more than that is a run without a fault
    failed, broken = 0, []
    for seed in range(first, first + count):
        try:
            failed += trial(kind, seed, photos, folder, changes, expected)
        except (AssertionError, OSError, ValueError, SyntaxError) as e:
            broken.append(f"seed {seed} of {kind}: {type(e).__name__}: {e!s:.600}")
    print(json.dumps({"folders": count, "failed_runs": failed, "broken": broken}))


if __name__ == "__main__":
    main()
