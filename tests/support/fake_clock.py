"""A clock that moves only when a network runs, and a scene whose networks take such time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from esam_rt.sam.predictor import Engines, Sam
from tests.support.scene import ROW, FakeEngine, Scene


@dataclass
class FakeClock:
    """Seconds that pass by calls of networks.

    Attributes:
        encoder_s: Seconds of the encoder.
        prompt_s: Seconds of the decoder for each prompt.
        drawing_s: Seconds of the logits of each mask, beside its prompt.
        jitter: Each cost is multiplied by a random number from 1 to 1 + jitter.
        now_s: The time.
        batches: Prompts of each decoder call, in order, also of those that draw.
        drawn: Number of masks whose logits were drawn.
    """

    encoder_s: float = 0.03
    prompt_s: float = 0.002
    drawing_s: float = 0.001
    jitter: float = 0.0
    now_s: float = 100.0
    batches: list[int] = field(default_factory=list)
    drawn: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __call__(self) -> float:
        return self.now_s

    def passes(self, seconds: float) -> None:
        self.now_s += seconds * (1 + self.jitter * self.rng.random())

    def sam(self, scene: Scene) -> Sam:
        """Make a model of a scene whose networks take time."""

        def encode(feed: Mapping[str, Any]) -> dict[str, Any]:
            self.passes(self.encoder_s)
            return scene.encode(feed)

        def decode(feed: Mapping[str, Any]) -> dict[str, Any]:
            self.batches.append(len(feed["points_xy_px"]))
            self.passes(self.prompt_s * len(feed["points_xy_px"]))
            return scene.decode(feed)

        def logits(feed: Mapping[str, Any]) -> dict[str, Any]:
            self.drawn += len(feed["mask_index"])
            self.passes(self.drawing_s * len(feed["mask_index"]))
            return scene.logits(feed)

        answers: tuple[Callable[..., Any], ...] = (encode, decode, scene.upscale, logits)
        return Sam(ROW, Engines(*map(FakeEngine, answers)), "0" * 64)
