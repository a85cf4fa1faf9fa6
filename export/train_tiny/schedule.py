"""Views, prompts and learning rate of each step of a training run: they follow from the step's number alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from esam_rt.export.train_tiny.training_data import INFERENCE_MIX, Mix, Sample, Samples

SMALL_PX, FULL_PX = 256, 512
WARM_UP_STEPS = 200


@dataclass(frozen=True)
class Schedule:
    """A run of `steps` steps.

    images: views of 256 px a step; of 512 px it is half of them, so that a step costs twice. prompts: a view.
    full_from, full_to: share of the steps at 512 px at the start, and from `calm_from` on. calm_from: share of the run
    after which prompts are drawn as at inference. seed: of all chance.
    """

    steps: int
    images: int = 4
    prompts: int = 12
    full_from: float = 0.3
    full_to: float = 0.8
    calm_from: float = 2 / 3
    seed: int = 0

    def size_px(self, step: int) -> int:
        """Side of the views of a step."""
        share = self.full_to
        if step < self.calm_from * self.steps:
            share = self.full_from + (self.full_to - self.full_from) * step / (self.calm_from * self.steps)
        return FULL_PX if np.random.default_rng([self.seed, step, 1]).random() < share else SMALL_PX

    def rate(self, step: int) -> float:
        """Share of the peak of the learning rate: a short rise, then half a cosine."""
        rise = min(1.0, (step + 1) / WARM_UP_STEPS)
        return rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))


class Batches:
    """The views of each step, for a data loader: `batches[step]` is a list of samples.

    number, count: this process makes every `count`-th view, from view `number` on.
    """

    def __init__(self, samples: Samples, schedule: Schedule, number: int = 0, count: int = 1) -> None:
        self.samples, self.schedule = samples, schedule
        self.number, self.count = number, count

    def __len__(self) -> int:
        return self.schedule.steps

    def __getitem__(self, step: int) -> list[Sample]:
        s = self.schedule
        size_px = s.size_px(step)
        images = max(1, s.images // 2) if size_px == FULL_PX else s.images
        mix = Mix() if step < s.calm_from * s.steps else INFERENCE_MIX
        mine = range(self.number, images, self.count)
        return [self.samples.sample(step * s.images + i, size_px, s.prompts, mix) for i in mine]
