"""The pool of workers on a stand-in for Ray, in which workers die at random and lose answers that were on their way."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from esam_rt.errors import (
    DeviceError,
    EngineError,
    EsamError,
    InputError,
    MissingDependencyError,
    OutputError,
    SettingsError,
)
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.run import RayOptions, RunOptions, segment_with_ray
from esam_rt.run.photo_worker import Job, PhotoWorker, WorkerFacts
from esam_rt.run.ray_cluster import Slot, connected, worker_count
from esam_rt.run.ray_pool import MOST_DEATHS, RayPool
from esam_rt.run.resume import RunFolder
from esam_rt.segmenter import SegmenterConfig
from esam_rt.sources.frame import Frame
from esam_rt.sources.source import FrameItem
from esam_rt.storage.provenance import package_versions
from tests.support.fake_segmenter import FakeSegmenter

FACTS = WorkerFacts("here", 1, package_versions(), {"name": "fake", "checkpoint_sha256": "00"})


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


@dataclass(eq=False)
class Call:
    """A call of an actor, and its answer after it ran."""

    actor: Actor
    run: Callable[[], Any]
    answer: Any = None


@dataclass
class Actor:
    """Runs its calls in their order. Returning `RayError` is a death: calls without an answer get one, too."""

    script: Script
    calls: list[Call] = field(default_factory=list)
    is_dead: bool = False

    @property
    def open(self) -> Any:
        return SimpleNamespace(remote=lambda: self.call(self.script.open))

    def segment(self, item: FrameItem) -> Call:
        return self.call(lambda: self.script.segment(item.name))

    def call(self, run: Callable[[], Any]) -> Call:
        self.calls.append(Call(self, run))
        return self.calls[-1]

    def die(self) -> None:
        self.is_dead = True
        for call in self.calls:
            call.answer = call.answer if call.answer is not None else RayError("it died\n the last line")


class Script:
    """What workers do. The parts are replaced by tests."""

    def __init__(self, random: Random, deadly: set[str], losses: float = 0, deaths: float = 0) -> None:
        self.random, self.deadly, self.losses, self.deaths = random, deadly, losses, deaths
        self.starts = Counter[str]()

    def open(self) -> Any:
        return FACTS

    def segment(self, name: str) -> Any:
        self.starts[name] += 1
        if name in self.deadly or self.random.random() < self.deaths:
            return RayError("killed")
        return InputError(f"{name} is bad") if name.startswith("bad") else f"line of {name}"


class FakeRay:
    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, script: Script) -> None:
        self.script, self.actors = script, list[Actor]()

    def start(self) -> Actor:
        self.actors.append(Actor(self.script))
        return self.actors[-1]

    def wait(self, calls: list[Call], num_returns: int = 1, timeout: float = 0) -> tuple[list[Call], list[Call]]:
        while not [call for call in calls if call.answer is not None]:
            alive = [actor for actor in self.actors if not actor.is_dead and any(c.answer is None for c in actor.calls)]
            if not alive:
                return [], calls
            for _ in range(self.script.random.randint(1, 2)):  # the second answer may be lost by a death in the third
                self.step(self.script.random.choice(alive))
        return [call for call in calls if call.answer is not None][:1], []

    def step(self, actor: Actor) -> None:
        call = next((call for call in actor.calls if call.answer is None), None)
        if call is None or actor.is_dead:
            return
        call.answer = call.run()
        if isinstance(call.answer, RayError):
            before = actor.calls[: actor.calls.index(call)]
            if before and self.script.random.random() < self.script.losses:
                before[-1].answer = call.answer
            actor.die()

    def get(self, call: Call) -> Any:
        if isinstance(call.answer, RayError):
            raise call.answer
        return call.answer

    def kill(self, actor: Actor) -> None:
        actor.die()


def frame_items(names: list[str]) -> list[FrameItem]:
    return [FrameItem(Frame(np.zeros((1, 1, 3), np.uint8), name)) for name in names]


def results(ray: FakeRay, names: list[str], count: int) -> dict[str, Any]:
    pool = RayPool(ray, ray.start)
    pool.open_first()
    found = list(pool.results(frame_items(names), count, lambda actor, item: actor.segment(item)))
    pool.close()
    assert all(actor.is_dead for actor in ray.actors)
    assert len({item.name for item, _ in found}) == len(found)
    return {item.name: answer for item, answer in found}


@pytest.mark.parametrize("seed", range(60))
def test_each_photo_ends_once_and_a_deadly_one_after_three_deaths(seed: int) -> None:
    random = Random(seed)
    names = [f"{'bad' if random.random() < 0.1 else ''}{i}" for i in range(random.randint(1, 40))]
    deadly = set(random.sample(names, min(len(names), random.randint(0, 4))))
    script = Script(random, deadly, losses=random.choice((0, 0.5, 1)))
    found = results(FakeRay(script), names, random.randint(1, 6))
    assert set(found) == set(names)
    for name in names:
        if name in deadly:
            assert f"{name}: 3 workers ended while they had it" in str(found[name])
            assert script.starts[name] in (2, 3)  # 2 if the first of the three died of the photo before it
        elif name.startswith("bad"):
            assert isinstance(found[name], InputError)
        else:
            assert found[name] == f"line of {name}"
            assert script.starts[name] <= 2


@pytest.mark.parametrize("seed", range(20))
def test_workers_that_die_at_random_lose_no_photo(seed: int) -> None:
    random = Random(seed)
    names = [str(i) for i in range(30)]
    found = results(FakeRay(Script(random, set(), losses=0.5, deaths=0.1)), names, 3)
    assert set(found) == set(names)


def test_there_are_no_more_workers_than_photos() -> None:
    ray = FakeRay(Script(Random(0), set()))
    results(ray, ["a", "b"], 8)
    assert len(ray.actors) == 2
    results(ray, [], 8)
    assert len(ray.actors) == 3  # the first one says which model it is


@pytest.mark.parametrize("error", [OutputError("the disk is full"), DeviceError("no memory")])
def test_an_error_that_stops_one_process_stops_the_pool(error: EsamError) -> None:
    script = Script(Random(0), set())
    script.segment = lambda name: error if name == "5" else name  # type: ignore[method-assign]
    with pytest.raises(type(error), match=str(error)):
        results(FakeRay(script), [str(i) for i in range(9)], 2)


def test_a_defect_in_a_worker_is_raised() -> None:
    script = Script(Random(0), set())
    script.segment = lambda name: RayTaskError("KeyError")  # type: ignore[method-assign]
    with pytest.raises(RayTaskError):
        results(FakeRay(script), ["a"], 1)


def test_a_first_worker_that_cannot_work_stops_the_run() -> None:
    script = Script(Random(0), set())
    for answer, words in (
        (EngineError("no engine"), "no engine"),
        (replace(FACTS, host="node7", versions={**FACTS.versions, "numba": "0.1"}), r"numba is 0\.1 on node7 and"),
        (replace(FACTS, versions={"python": "3.9"}), "is missing on here"),
    ):  # fmt: skip
        script.open = lambda answer=answer: answer  # type: ignore[method-assign, misc]
        with pytest.raises(EsamError, match=words):
            RayPool(ray := FakeRay(script), ray.start).open_first()


@pytest.mark.parametrize(
    "other",
    [
        replace(FACTS, host="other", model={"name": "fake", "checkpoint_sha256": "11"}),
        replace(FACTS, host="other", versions={**FACTS.versions, "numpy": "1"}),
        InputError("photos are missing on other"),
    ],
)
def test_a_later_worker_that_does_not_fit_is_left_out_with_a_warning(
    other: Any, caplog: pytest.LogCaptureFixture
) -> None:
    script, answers = Script(Random(0), set()), [FACTS]
    script.open = lambda: answers.pop() if answers else other  # type: ignore[method-assign]
    ray = FakeRay(script)
    names = [str(i) for i in range(20)]
    with caplog.at_level(logging.WARNING, "esam_rt"):
        assert set(results(ray, names, 2)) == set(names)
    assert "other" in caplog.text
    assert "The other workers go on." in caplog.text
    assert not [call for actor in ray.actors[1:] for call in actor.calls[1:]]


def test_workers_that_die_before_they_are_open_stop_the_run() -> None:
    script = Script(Random(0), set())
    script.open = lambda: RayError("ImportError\n no module esam_rt\n")  # type: ignore[method-assign]
    ray = FakeRay(script)
    with pytest.raises(DeviceError, match=r"3 workers died before .*\(no module esam_rt\)"):
        RayPool(ray, ray.start).open_first()
    assert len(ray.actors) == MOST_DEATHS


def test_a_cluster_without_room_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    script, silent = Script(Random(0), set()), [1, 2, 3]
    ray = FakeRay(script)
    wait = ray.wait
    ray.wait = lambda calls, **o: ([], calls) if silent and silent.pop() else wait(calls, **o)  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING, "esam_rt"):
        results(ray, ["a"], 1)
    assert caplog.text.count("Ray has opened no worker in 60 s") == 1


def test_hosts_are_counted_for_the_record() -> None:
    pool = RayPool(FakeRay(Script(Random(0), set())), lambda: None)
    pool.facts = [replace(FACTS, host=host) for host in ("b", "a", "b")]
    assert [(host["host"], host["processes"]) for host in pool.hosts()] == [("a", 1), ("b", 2)]


@pytest.mark.parametrize(
    ("slot", "count"), [(Slot(1, 0), 12), (Slot(3, 0), 3), (Slot(1, 0.1), 20), (Slot(1, 1), 2), (Slot(4, 0.5), 2)]
)
def test_workers_fit_into_each_machine(slot: Slot, count: int) -> None:
    machines = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}, {"CPU": 64.0}, {}]
    nodes = [{"Alive": number != 2, "Resources": machine} for number, machine in enumerate(machines)]
    ray = SimpleNamespace(nodes=lambda: nodes)
    expected = min(count, 8) if slot == Slot(1, 0.1) else count
    assert worker_count(ray, RayOptions(), slot) == expected
    assert worker_count(ray, RayOptions(workers=100), slot) == 100


def test_a_cluster_without_gpus_is_refused() -> None:
    ray = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": {"CPU": 8.0}}])
    with pytest.raises(DeviceError, match=r"no machine has 1 CPUs and 0\.5 GPUs for a worker"):
        worker_count(ray, RayOptions(), Slot(1, 0.5))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"address": ""}, "expected local"),
        ({"address": "ray://a:1"}, "expected local"),
        ({"workers": 0}, "at least 1"),
        ({"gpus": float("nan")}, "from 0 on"),
    ],
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        RayOptions(**options)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").touch()
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"write": ["labels", "video"]}, "--write video: it needs all photos in one process"),
        ({"write": ["mcap"]}, "--write mcap"),
        ({"profile": True}, "--profile"),
        ({"segmenter": SegmenterConfig(execution=ExecutionConfig(device="cuda", gpu=1))}, "--gpu"),
    ],
)
def test_what_needs_one_process_is_refused(photos: Path, change: dict[str, Any], words: str) -> None:
    options = replace(RunOptions([photos], photos.parent / "out", write=["labels"]), **change)
    with pytest.raises(SettingsError, match=words):
        segment_with_ray(options)
    assert not options.out.exists()


def test_a_missing_ray_is_one_sentence(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'esam-rt\[ray\]'"):
        segment_with_ray(RunOptions([photos], photos.parent / "out", write=["labels"]))


def test_a_cluster_that_cannot_be_reached_is_one_sentence() -> None:
    pytest.importorskip("ray")
    with (
        pytest.raises(DeviceError, match=r"--ray 127\.0\.0\.1:1: .*ray start --head"),
        connected(RayOptions("127.0.0.1:1"), Slot(1, 0)),
    ):
        pass


def test_a_ray_that_starts_too_slowly_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def init(*_: Any, **__: Any) -> None:
        raise Exception("The current node timed out during startup.")  # as Ray does

    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.raises(DeviceError, match=r"--ray local: .*timed out during startup"),
        connected(RayOptions("local"), Slot(1, 0)),
    ):
        pass


def test_a_worker_that_sees_other_folders_says_so(photos: Path, tmp_path: Path) -> None:
    options = RunOptions([photos], tmp_path / "out", write=["labels"])
    worker = PhotoWorker(Job(options, FakeSegmenter().open))
    assert isinstance(worker.open(), WorkerFacts)
    item = frame_items(["a.png"])[0]
    folder = RunFolder(options.out)
    for record in (None, {"program": "esam-rt", "started": "yesterday"}):
        if record:
            folder.write_record(record)
        assert "does not see the folder of this run" in str(worker.segment(item, "a", "today"))
    folder.write_record({"program": "esam-rt", "started": "today"})
    assert '"name":"a.png"' in str(worker.segment(item, "a", "today"))
    assert (options.out / "labels" / "a.png").is_file()

    lost = PhotoWorker(Job(replace(options, sources=[tmp_path / "gone"]), FakeSegmenter().open))
    assert "gone is missing on" in str(lost.open())
