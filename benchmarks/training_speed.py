"""How much faster does `tiny` train on a CPU with our convolutions, and with bfloat16?

    python -m benchmarks.training_speed --json training_speed.json

Every side makes the same steps of the training, turn by turn, in one process on one thread. The views are drawn scenes:
what a step costs doesn't depend on what it shows. Sides:

- pytorch: PyTorch's convolutions, float32.
- ours: those of `export/train_tiny/fast_conv.py`, float32.
- bf16: as ours, with products in bfloat16. Some CPUs compute these slower; then this side says so.

The ratio is that of the CPU time of a round: what PyTorch's side takes for each second of the other.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.lib.command_line import note, parser_of
from esam_rt.export.configs import MASK_STRIDE
from esam_rt.export.train_tiny import layers
from esam_rt.export.train_tiny.fast_conv import conv2d
from esam_rt.export.train_tiny.schedule import FULL_PX, SMALL_PX, Schedule
from esam_rt.export.train_tiny.synthetic import scene
from esam_rt.export.train_tiny.train import Run, keep_freed_memory, start
from esam_rt.export.train_tiny.training_data import Sample
from esam_rt.sam.models import WEIGHTS
from esam_rt.storage.atomic import write_json

PROMPTS = 12
VIEWS = {SMALL_PX: 4, FULL_PX: 2}  # of a step, by their size


def pytorch_conv2d(x: Tensor, weight: Tensor, bias: Tensor, stride: int, pad: int, groups: int) -> Tensor:
    """The convolution as PyTorch makes it."""
    return F.conv2d(x, weight, bias, stride, pad, 1, groups)


SIDES: dict[str, tuple[Callable[..., Tensor], bool]] = {
    "pytorch": (pytorch_conv2d, False),
    "ours": (conv2d, False),
    "bf16": (conv2d, True),
}


def drawn(size_px: int, rng: np.random.Generator) -> Sample:
    """A drawn scene with prompts at random cells."""
    view = scene(size_px, rng)
    maps = view.tiles[0].maps
    y, x = rng.integers(0, size_px // MASK_STRIDE, (2, PROMPTS))
    points = (np.stack([x, y], 1).astype(np.float32) + 0.5) * MASK_STRIDE
    targets = np.stack([maps == maps[:, at_y, at_x][:, None, None] for at_y, at_x in zip(y, x, strict=True)])
    return Sample(view.image, view.valid, points, targets, np.ones((PROMPTS, 3), np.float32), (0, 0))


def step_s(run: Run, side: str, batch: list[Sample]) -> float:
    """CPU seconds of one step."""
    layers.conv2d, run.bf16 = SIDES[side]
    begun = time.process_time()
    run.learn(batch)
    return time.process_time() - begun


def measured(run: Run, size_px: int, rounds: int) -> dict[str, Any]:
    """Seconds a step of every side, and PyTorch's ratio to it: medians over rounds."""
    rng = np.random.default_rng(size_px)
    took: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds + 1):
        batch = [drawn(size_px, rng) for _ in range(VIEWS[size_px])]
        for side in SIDES:
            seconds = step_s(run, side, batch)
            if number:  # the first round compiles and reserves memory
                took[side].append(seconds)
    return {
        side: {
            "step_s": round(statistics.median(seconds), 3),
            "ratio": round(statistics.median(p / s for p, s in zip(took["pytorch"], seconds, strict=True)), 2),
        }
        for side, seconds in took.items()
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    a = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    run = start(Schedule(10_000), WEIGHTS / "tiny.safetensors", "cpu")
    rows = {}
    for size_px, views in VIEWS.items():
        note(f"{views} views of {size_px} px")
        rows[f"{size_px} px"] = row = measured(run, size_px, a.rounds)
        for side, found in row.items():
            print(
                f"{size_px} px  {side:8} {found['step_s']:.3f} s a step  {found['ratio']:.2f} times as fast", flush=True
            )
    if a.json:
        write_json(a.json, {"threads": 1, "prompts": PROMPTS, "rounds": a.rounds, "rows": rows})


if __name__ == "__main__":
    main()
