"""RayPool: hands photos to workers of Ray, one by one, and replaces workers that die.

It uses Ray's actors. The operators of Ray Data repeat whole blocks of photos after a death, without an end. This pool
knows the photo that a worker held: finished photos are not done again, and one that ends its workers is given up.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from esam_rt.errors import DeviceError, EsamError, InputError, SettingsError
from esam_rt.run.photo_worker import WorkerFacts
from esam_rt.sources.source import SourceItem
from esam_rt.storage.provenance import package_versions

_log = logging.getLogger("esam_rt")
MOST_DEATHS = 3  # of workers that had the same photo, or that were not open yet
HELD = 2  # photos of a worker: it need not wait for the next one
SILENCE_S = 60.0  # without any worker, until a warning
END_S = 30.0  # for workers to be gone

Answer = tuple[SourceItem, str | InputError]


@dataclass
class _Worker:
    """A worker, and its calls that have not been answered: the photo of each, or None for the opening."""

    actor: Any
    calls: dict[Any, SourceItem | None] = field(default_factory=dict)
    is_open: bool = False


class RayPool:
    """Workers of Ray.

    Args:
        ray: The module, connected.
        start: Starts an actor of `PhotoWorker`.

    Attributes:
        facts: Facts of all workers that were opened.
        has_lost_photos: True if a worker was ended while it had a photo. It may have left a temporary file.
    """

    def __init__(self, ray: Any, start: Callable[[], Any]) -> None:
        self._ray, self._start = ray, start
        self._workers: list[_Worker] = []
        self._queue: deque[SourceItem] = deque()
        self._deaths = Counter[str]()  # of workers, by the photos that they held
        self._died_opening = 0
        self._is_warned = False
        self.facts: list[WorkerFacts] = []
        self.has_lost_photos = False

    def open_first(self) -> WorkerFacts:
        """Open one worker. It makes what the others find in the cache.

        Returns:
            Its facts. All other workers must have the same versions and model.

        Raises:
            EsamError: If it cannot work.
        """
        self._add()
        while not self.facts:
            self._next_answer()
        return self.facts[0]

    def results(
        self,
        items: Iterable[SourceItem],
        count: int,
        begin: Callable[[Any, SourceItem], Any],
    ) -> Iterator[Answer]:
        """Let the workers segment photos.

        Args:
            items: The photos.
            count: Most workers.
            begin: Calls an actor for a photo, and returns the reference of its answer.

        Yields:
            Each photo once, in the order in which they end: its line of the journal, or why it cannot be used.

        Raises:
            EsamError: If a worker cannot go on, or all workers are gone.
        """
        self._queue.extend(items)
        while len(self._workers) < min(count, len(self._queue)):
            self._add()
        while self._queue or any(item for worker in self._workers for item in worker.calls.values()):
            for worker in self._workers:
                while self._queue and self._may_take(worker, self._queue[0]):
                    item = self._queue.popleft()
                    worker.calls[begin(worker.actor, item)] = item
            answer = self._next_answer()
            if answer is not None:
                yield answer

    def close(self) -> None:
        """End all workers, and wait until those that work are gone."""
        left = [call for worker in self._workers for call in worker.calls]
        for worker in self._workers:
            self.has_lost_photos |= any(worker.calls.values())
            self._ray.kill(worker.actor)
        self._workers.clear()
        if left:
            self._ray.wait(left, num_returns=len(left), timeout=END_S)

    def hosts(self) -> list[dict[str, Any]]:
        """List the machines, with the number of their workers and the versions, for run.json."""
        by_host = Counter(facts.host for facts in self.facts)
        versions = {facts.host: facts.versions for facts in self.facts}
        return [{"host": host, "processes": by_host[host], "versions": versions[host]} for host in sorted(by_host)]

    def _may_take(self, worker: _Worker, item: SourceItem) -> bool:
        """Tell if a worker has room for a photo. Photos that a dead worker held are alone: one of them ended it."""
        is_suspect = any(photo and self._deaths[photo.name] for photo in (item, *worker.calls.values()))
        return worker.is_open and len(worker.calls) < (1 if is_suspect else HELD)

    def _add(self) -> None:
        worker = _Worker(self._start())
        worker.calls[worker.actor.open.remote()] = None
        self._workers.append(worker)

    def _next_answer(self) -> Answer | None:
        """Wait for a worker. Return the end of a photo, or None if something else happened."""
        holders = {call: worker for worker in self._workers for call in worker.calls}
        ready, _ = self._ray.wait(list(holders), timeout=SILENCE_S)
        if not ready:
            self._warn_of_silence()
            return None
        worker = holders[ready[0]]
        call, item = ready[0], worker.calls[ready[0]]
        try:
            answer = self._ray.get(call)
        except self._ray.exceptions.RayTaskError:  # a defect in the worker's code
            raise
        except self._ray.exceptions.RayError as e:
            return self._replace(worker, e)
        del worker.calls[call]
        if isinstance(answer, WorkerFacts):
            self._note_open(worker, answer)
            return None
        if item is None:
            self._refuse(worker, answer)
            return None
        if isinstance(answer, EsamError) and not isinstance(answer, InputError):
            raise answer
        return item, answer

    def _note_open(self, worker: _Worker, facts: WorkerFacts) -> None:
        error = _misfit(facts, self.facts[0] if self.facts else None)
        if error is not None:
            self._refuse(worker, error)
            return
        self._died_opening, worker.is_open = 0, True
        self.facts.append(facts)

    def _refuse(self, worker: _Worker, error: EsamError) -> None:
        """Go on without a worker that cannot work, if there are others."""
        self._drop(worker)
        if not self._workers:
            raise error
        _log.warning("%s The other workers go on.", error)

    def _replace(self, worker: _Worker, cause: Exception) -> Answer | None:
        """Start another worker for one that died. Return a photo that was there too often."""
        self._drop(worker)
        held = [item for item in worker.calls.values() if item is not None]
        if not held:
            self._died_opening += 1
            if self._died_opening == MOST_DEATHS:
                raise DeviceError(
                    f"Ray: {MOST_DEATHS} workers died before they had opened the segmenter ({_last_line(cause)}). "
                    "Install esam-rt on each machine, and look into Ray's logs."
                ) from cause
            self._add()
            return None
        self.has_lost_photos = True
        self._deaths.update(item.name for item in held)
        given_up = next((item for item in held if self._deaths[item.name] == MOST_DEATHS), None)
        self._queue.extendleft(item for item in reversed(held) if item is not given_up)
        if self._queue:
            self._add()
        if given_up is None:
            return None
        return given_up, InputError(
            f"{given_up.path or given_up.name}: {MOST_DEATHS} workers ended while they had it, such as by lack of "
            "memory. Try it alone, without --ray."
        )

    def _drop(self, worker: _Worker) -> None:
        self._ray.kill(worker.actor)
        self._workers.remove(worker)

    def _warn_of_silence(self) -> None:
        if not self._is_warned and not any(worker.is_open for worker in self._workers):
            self._is_warned = True
            _log.warning("Ray has opened no worker in %g s. It may wait for free CPUs or GPUs.", SILENCE_S)


def _misfit(facts: WorkerFacts, first: WorkerFacts | None) -> EsamError | None:
    """Return why a worker would give other results, or None."""
    here = package_versions()
    for name in sorted(here.keys() | facts.versions.keys()):
        ours, theirs = here.get(name, "missing"), facts.versions.get(name, "missing")
        if ours != theirs:
            return SettingsError(
                f"Ray: {name} is {theirs} on {facts.host} and {ours} here. Install the same versions on each machine."
            )
    if first is not None and facts.model != first.model:
        return SettingsError(
            f"Ray: the model on {facts.host} is {facts.model}, on {first.host} it is {first.model}. Give each machine "
            "the same checkpoint."
        )
    return None


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
