"""TimeBudget: the time that is left for a photo, and what its steps cost."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Literal, TypeAlias

from esam_rt.errors import SettingsError

Clock: TypeAlias = Callable[[], float]
"""Returns seconds. Only differences count."""

Size: TypeAlias = tuple[int, int]
"""Height and width of a photo, in pixels."""

Step: TypeAlias = Literal["encoder", "prompt", "drawing", "drawings", "rest"]
"""A cost: seconds of the encoder, of a prompt, of the logits of a mask; number of drawn masks; all other seconds."""

NEWEST = 0.25  # weight of the newest photo or batch in the moving averages
CAUTION = 2.0  # mean deviations that an expected cost lies above the average
FORGETTING = 0.95  # factor of all costs after a photo without a prompt: one slow photo does not stop all later ones
MOST_SIZES = 64  # sizes of photos that are remembered


def check_deadline(deadline_s: float | None) -> None:
    """Refuse a deadline that no image can have.

    Args:
        deadline_s: Seconds that an image may take. None: no limit.

    Raises:
        SettingsError: It is no number above 0.
    """
    if deadline_s is not None and not (isinstance(deadline_s, Real) and 0 < deadline_s < math.inf):
        raise SettingsError(f"deadline_s: found {deadline_s!r}, expected a number of seconds above 0, or None.")


class Costs:
    """Costs of the steps, learned from earlier photos of the same size. Threads may share it.

    A device and a model have costs of their own, so a segmenter has its own object.
    """

    def __init__(self) -> None:
        self._of: dict[tuple[Size, Step], tuple[float, float]] = {}  # mean and mean deviation, the newest last
        self._lock = threading.Lock()

    def learn(self, size: Size, step: Step, value: float, weight: float = 1.0) -> None:
        """Add a measurement to the moving average.

        Args:
            size: Height and width of the photo.
            step: The step.
            value: Seconds, or the number of drawings.
            weight: Share of the usual weight, 0 to 1.
        """
        with self._lock:
            mean, deviation = self._of.pop((size, step), (value, 0.0))
            error, newest = value - mean, NEWEST * weight
            self._of[size, step] = mean + newest * error, deviation + newest * (abs(error) - deviation)
            while len(self._of) > 5 * MOST_SIZES:
                del self._of[next(iter(self._of))]

    def expected(self, size: Size, step: Step, unknown: float = 0.0) -> float:
        """Return the cost to count on: the average and some of its deviation.

        Args:
            size: Height and width of the photo. If it is new, the photo before it counts.
            step: The step.
            unknown: Returned if nothing is known of the step.
        """
        with self._lock:
            found = self._of.get((size, step))
            if found is None:
                found = next((self._of[key] for key in reversed(self._of) if key[1] == step), None)
        return unknown if found is None else found[0] + CAUTION * found[1]

    def forget_some(self) -> None:
        """Lower all costs a little."""
        with self._lock:
            self._of = {key: (FORGETTING * a, FORGETTING * b) for key, (a, b) in self._of.items()}


class TimeBudget:
    """The time of one photo. It begins on construction.

    It keeps back the time for all that follows the prompts: MMG, EMR, USR, the logits of the masks that are drawn, and
    the label map. It measures each step also if there is no deadline.

    Args:
        costs: Costs of earlier photos.
        size: Height and width of the photo.
        batch_size: Most prompts of one call of the decoder.
        deadline_s: Seconds that the photo may take. Default: no limit.
        clock: Returns the time.

    Attributes:
        prompts_decoded: Number of prompts that were decoded.
    """

    def __init__(
        self,
        costs: Costs,
        size: Size,
        batch_size: int = 1,
        deadline_s: float | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._costs, self._size, self._batch_size, self._clock = costs, size, batch_size, clock
        self._start = clock()
        self._end = math.inf if deadline_s is None else self._start + deadline_s
        self._measured_s = 0.0
        self._drawings = 0
        self._is_over = False
        self.prompts_decoded = 0

    @property
    def is_limited(self) -> bool:
        """True if there is a deadline."""
        return self._end < math.inf

    def may_encode(self) -> bool:
        """Return True if there is time for the encoder, one prompt and the rest, as far as is known."""
        left_s = self._end - self._clock()
        return left_s > 0 and self._expected("encoder") + self._needed_s(1) <= left_s

    def next_batch(self, wanted: int) -> int:
        """Return how many prompts may be decoded now in one call. After the first 0 it is always 0.

        Args:
            wanted: Number of prompts that wait.
        """
        if not self.is_limited:
            return wanted
        left_s = self._end - self._clock()
        most = 0 if self._is_over or left_s <= 0 else min(wanted, self._batch_size)
        count = next((n for n in range(most, 0, -1) if self._needed_s(n) <= left_s), 0)
        self._is_over = count == 0
        return count

    def _needed_s(self, prompts: int) -> float:
        """Seconds to decode more prompts, and of all that follows."""
        prompt_s = self._expected("prompt")
        drawings = min(self.prompts_decoded + prompts, self._expected("drawings", math.inf))
        return prompts * prompt_s + drawings * self._expected("drawing", prompt_s) + self._expected("rest")

    @contextmanager
    def step(self, step: Step, count: int = 1) -> Iterator[None]:
        """Measure the block.

        Args:
            step: The step.
            count: Number of prompts or masks in it.
        """
        start = self._clock()
        yield
        seconds = self._clock() - start
        self._measured_s += seconds
        if step == "prompt":
            self.prompts_decoded += count
        if step == "drawing":
            self._drawings = count
        if count:  # each call has a fixed cost, so a small batch says little about a prompt
            weight = min(1.0, count / self._batch_size) if step == "prompt" else 1.0
            self._costs.learn(self._size, step, seconds / count, weight)

    def finish(self) -> None:
        """Learn the cost of the photo beside the measured steps."""
        if self.prompts_decoded == 0:
            self._costs.forget_some()
            return
        self._costs.learn(self._size, "drawings", self._drawings)
        self._costs.learn(self._size, "rest", max(0.0, self._clock() - self._start - self._measured_s))

    def _expected(self, step: Step, unknown: float = 0.0) -> float:
        return self._costs.expected(self._size, step, unknown)
