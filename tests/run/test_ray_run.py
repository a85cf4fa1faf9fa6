"""Runs on a real Ray of this machine: the results of one process, whoever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from esam_rt.run import RayOptions, RunOptions, RunSummary, run_photos, segment_with_ray
from esam_rt.run.bucket_run_folder import PARTS
from esam_rt.run.output_folder import PHOTOS
from esam_rt.run.ray_cluster import Slot, connected
from esam_rt.storage.atomic import TEMPORARY
from tests.run.test_folder_run import Log, lines
from tests.support import folder_bucket
from tests.support.fake_segmenter import FakeSegmenter
from tests.support.processes import wait_for
from tests.support.ray_segmenters import Orders
from tests.support.run_contents import contents
from tests.support.trials import ROOT, scaled

pytest.importorskip("ray")
WRITE = ["labels", "coco", "panoptic", "overlay", "report"]
WORKERS = RayOptions(workers=2)
COUNT = min(max(12, scaled(12)), 250)  # ESAM_RT_TRIALS=17 makes it 204; a pixel holds the number
MARK = "ESAM_RT_TEST_OF_RAY"
COMMAND = [sys.executable, "-m", "tests.support.ray_segmenters"]


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One Ray for the runs in this process. Its processes end with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, "module")
        with connected(WORKERS, Slot(1, 0)):
            assert marked_processes("module")
            yield
        wait_for(lambda: not marked_processes("module"))


def marked_processes(mark: str) -> set[int]:
    """Other processes that run and have the mark in their environment: Ray's, and their parents."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with suppress(OSError):
                is_dead = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0") and not is_dead:
                    found.add(int(folder.name))
    return found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """0.png, 1.png and so on, numbered in pixel 0, 0; 3.png is no photo."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(COUNT):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), np.uint8)
        pixels[0, 0] = i
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "3.png").write_text("not a photo")
    return folder


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    (tmp_path / "orders").mkdir()
    return Orders(tmp_path / "orders")


def run(photos: Path, out: Path | str, orders: Orders, log: Log | None = None, **options: Any) -> RunSummary:
    return segment_with_ray(RunOptions([photos], out, write=WRITE, **options), WORKERS, log, orders)


@pytest.fixture
def expected(photos: Path, tmp_path: Path) -> dict[str, object]:
    """Files of a run in one process."""
    options = RunOptions([photos], tmp_path / "expected", write=WRITE)
    run_photos(options, Log(), FakeSegmenter().open)
    return contents(options.out)


@pytest.mark.usefixtures("ray")
def test_the_files_are_those_of_one_process(
    photos: Path, tmp_path: Path, orders: Orders, expected: dict[str, object]
) -> None:
    log, out = Log(), tmp_path / "out"
    summary = run(photos, out, orders, log)
    assert (summary.done, summary.failed, summary.left, summary.exit_code) == (COUNT - 1, 1, 0, 1)
    assert contents(out) == expected
    assert "errors.jsonl" in expected
    assert len(lines(out / PHOTOS)) == COUNT - 1
    assert log.events[0] == ("begun", COUNT, 0)
    assert log.events.count(("done",)) == COUNT - 1
    assert {event[1] for event in log.events if event[0] == "photo"} == {f"{i}.png" for i in range(COUNT)}
    record = json.loads((out / "run.json").read_text())
    (host,) = record["workers"]
    assert host["processes"] in (1, 2)
    assert host["versions"] == record["versions"]

    again = run(photos, out, orders, resume=True)
    assert (again.done, again.done_before, again.failed) == (0, COUNT - 1, 1)
    assert len(orders.calls()) == COUNT - 1  # 3.png was read again, and nothing was segmented
    assert contents(out) == expected


@pytest.mark.usefixtures("ray")
def test_a_worker_that_is_killed_is_replaced_and_its_photo_is_done_by_another(
    photos: Path, tmp_path: Path, orders: Orders, expected: dict[str, object]
) -> None:
    gate = orders.folder / "gate"
    gate.write_text("6")

    def kill_one() -> int:
        wait_for(lambda: len(orders.waiting()) == 2)
        process = orders.waiting()[0]
        os.kill(process, signal.SIGKILL)
        gate.unlink()
        return process

    with ThreadPoolExecutor(1) as other:
        future = other.submit(kill_one)
        summary = run(photos, tmp_path / "out", orders)
        killed = future.result()
    lost = [number for number, process in orders.calls() if process == killed][-1]
    assert [number for number, _ in orders.calls()].count(lost) == 2
    assert (summary.done, summary.failed) == (COUNT - 1, 1)
    assert len(lines(tmp_path / "out" / PHOTOS)) == COUNT - 1
    assert contents(tmp_path / "out") == expected


@pytest.mark.usefixtures("ray")
def test_a_photo_that_kills_its_worker_is_given_up_after_three_starts(
    photos: Path, tmp_path: Path, orders: Orders
) -> None:
    (orders.folder / "deadly").write_text("5")
    summary = run(photos, tmp_path / "out", orders)
    assert (summary.done, summary.failed, summary.left, summary.exit_code) == (COUNT - 2, 2, 0, 1)
    assert [number for number, _ in orders.calls()].count(5) == 3
    errors = lines(tmp_path / "out" / "errors.jsonl")
    assert [error["name"] for error in errors] == ["3.png", "5.png"]
    assert "5.png: 3 workers ended while they had it" in errors[1]["message"]
    assert not list((tmp_path / "out").rglob(f"{TEMPORARY}*"))


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize(
    ("number", "url"), [(signal.SIGKILL, ""), (signal.SIGTERM, ""), (signal.SIGKILL, folder_bucket.URL)]
)
def test_a_driver_that_is_killed_or_interrupted_is_resumed_elsewhere(
    photos: Path,
    tmp_path: Path,
    orders: Orders,
    expected: dict[str, object],
    number: signal.Signals,
    url: str,
) -> None:
    """With a URL, the results go into a bucket."""
    out, gate = tmp_path / "out", orders.folder / "gate"
    gate.write_text("6")
    options = ["--ray", "local", "--ray-workers", "2", "--write", ",".join(WRITE), "--json"]
    command = [*COMMAND, str(orders.folder), "run", str(photos), "--out", f"{url}{out}", *options]
    printed, errors, environment = tmp_path / "printed", tmp_path / "errors", {**os.environ, MARK: number.name}
    with (
        printed.open("w") as stdout,
        errors.open("w") as stderr,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stdout, stderr=stderr, text=True) as driver,
    ):
        wait_for(lambda: len(orders.waiting()) == 2, driver)
        os.kill(orders.waiting()[0], signal.SIGKILL)  # a third one comes
        wait_for(lambda: len(orders.waiting()) == 3, driver)
        driver.send_signal(number)
        code = driver.wait()
    wait_for(lambda: not marked_processes(number.name))
    gate.unlink()
    bad_photo, *more = errors.read_text().splitlines()  # nothing of Ray
    assert "3.png is not a photo" in bad_photo
    if number == signal.SIGKILL:
        assert (code, more, printed.read_text()) == (-signal.SIGKILL, [], "")
    else:
        assert (code, more) == (130, ["error: interrupted"])
        assert json.loads(printed.read_text())["done"] == len(lines(out / PHOTOS)) > 0
        assert not list(out.rglob(f"{TEMPORARY}*"))
    journals = [*(out / PARTS).glob("*")] if url else [out / PHOTOS]
    finished = {record["name"] for journal in journals for record in lines(journal)}
    before = len(orders.calls())
    summary = run(photos, f"{url}{out}", orders, resume=True)
    assert (summary.done, summary.done_before, summary.failed) == (COUNT - 1 - len(finished), len(finished), 1)
    assert not finished & {f"{number}.png" for number, _ in orders.calls()[before:]}
    assert len(lines(out / PHOTOS)) == COUNT - 1
    assert contents(out) == expected
