"""How many CPU seconds does one photo take, compared with mask generation in PyTorch?

    python -m benchmarks.against_pytorch --model vit_t --json against_pytorch_vit_t.json

``pytorch`` is the pipeline ``mask-generation`` of transformers, with 64 prompts a call as in SAM's own code. It has no
class for MobileSAM (``vit_t``). Its SamModel then gets the encoder of tests/support/tinyvit_torch.py. All rows have the
same random weights, the same photo, the same grid of coarse points and the same filter, so that half of the points
pass. All run in one process, turn by turn.

``amg`` is our automatic mask generation: it decodes the same points as PyTorch and no others. ``e-sam`` is the preset
`fast`. It decodes more prompts for its gallery and for gaps, and PyTorch does not. Random masks are no objects: they
overlap everywhere, so E-SAM asks for more of its gallery than with real weights. Each row has the prompts that it
decoded. The highest scores of ``amg`` and ``pytorch`` agree. E-SAM averages scores of merged masks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.table5_measure import SAM_BATCH, STABILITY_MIN, photo
from benchmarks.lib.torch_sam import random_sam
from esam_rt import EntitySegmenter, ExecutionConfig, Settings, __version__
from esam_rt.export.configs import VIT_B
from esam_rt.loading.loader import load_sam
from esam_rt.sam.point_grids import point_grid
from esam_rt.sam.predictor import Sam
from esam_rt.storage.atomic import write_json
from tests.support.checkpoints import mobile_sam_state_dict, sam_state_dict, save_pth
from tests.support.tinyvit_torch import TinyVit

Row = Callable[[], tuple[int, float]]
"""Runs once. Returns the prompts decoded and the highest score."""


class TinyVitEncoder(torch.nn.Module):
    """MobileSAM's encoder in the place of SamModel's."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.own = TinyVit().eval().requires_grad_(False)
        own = "image_encoder."
        self.own.load_state_dict({k.removeprefix(own): v for k, v in state.items() if k.startswith(own)})

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        """Return the embedding as SamModel expects it."""
        return (self.own(pixel_values),)


def both_models(name: str, threads: int) -> tuple[torch.nn.Module, Sam]:
    """Make the model in PyTorch and in ONNX Runtime with the same random weights."""
    network: Any = random_sam(VIT_B)
    state = sam_state_dict(network)
    if name == "vit_t":
        state = mobile_sam_state_dict(network)
        network.vision_encoder = TinyVitEncoder(state)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"random_{name}.pth"
        save_pth(path, state)
        return network, load_sam(name, ExecutionConfig(threads=threads), path)


def pytorch_row(network: torch.nn.Module, side: int, score_min: float) -> Row:
    """Return the pipeline of transformers."""
    from transformers import SamImageProcessor, pipeline

    generate: Any = pipeline("mask-generation", model=network, image_processor=SamImageProcessor(), device="cpu")
    options = {"pred_iou_thresh": score_min, "stability_score_thresh": STABILITY_MIN}
    options |= {"points_per_crop": side, "points_per_batch": SAM_BATCH}

    def run() -> tuple[int, float]:
        with torch.inference_mode():
            found = generate(Image.fromarray(photo()), **options)
        return side * side, float(found["scores"].max())

    return run


def our_row(sam: Sam, method: str, side: int, changes: dict[str, object]) -> Row:
    """Return one of our methods."""
    grids = {"prompts.coarse_side": side, "prompts.fine_side": 2 * side}
    segment = EntitySegmenter(sam, method=method, settings=Settings.preset("fast").with_overrides(grids | changes))

    def run() -> tuple[int, float]:
        result = segment(photo())
        return result.prompts_decoded, float(result.score.max(initial=0))

    return run


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", choices=("vit_b", "vit_t"), default="vit_t")
    parser.add_argument("--side", type=int, default=16, help="coarse points a side; the gallery has twice as many")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    with EntitySegmenter("tiny", settings=Settings.preset("fast")) as tiny:
        tiny.warm_up([(64, 64)])  # compiles the kernels; the model itself would decode hundreds of prompts
    network, sam = both_models(a.model, a.threads)
    scores = sam.decode(sam.encode(photo()), point_grid(a.side), 0, None)
    best = np.zeros(a.side**2)
    np.maximum.at(best, scores.prompt_index, scores.predicted_iou)
    score_min = float(np.median(best))
    filters: dict[str, object] = {"filters.score_min": score_min, "filters.stability_min": STABILITY_MIN}
    ways = {
        "amg": our_row(sam, "amg", a.side, filters),
        "e-sam": our_row(sam, "e-sam", a.side, filters),
        "pytorch": pytorch_row(network, a.side, score_min),
    }
    cpu_s: dict[str, list[float]] = {name: [] for name in ways}
    figures: dict[str, tuple[int, float]] = {}
    for _ in range(a.rounds):
        for name, run in ways.items():
            start = time.process_time()
            figures[name] = run()
            cpu_s[name].append(time.process_time() - start)
            note(f"{name}: {cpu_s[name][-1]:.1f} CPU s, {figures[name][0]} prompts")
    seconds = {name: statistics.median(times) for name, times in cpu_s.items()}
    rows = {
        name: {
            "cpu_s": round(seconds[name], 2),
            "times_as_fast_as_pytorch": round(seconds["pytorch"] / seconds[name], 2),
            "prompts": prompts,
            "highest_score": round(score, 4),
        }
        for name, (prompts, score) in figures.items()
    }
    for name, row in rows.items():
        print(f"{name:8} {row['cpu_s']:8.1f} CPU s {row['times_as_fast_as_pytorch']:6.1f} {row['prompts']:6} prompts")
    if a.json:
        options = {name: getattr(a, name) for name in ("model", "side", "threads", "rounds")}
        write_json(a.json, {"esam_rt": __version__, "weights": "random", **options, "rows": rows})


if __name__ == "__main__":
    main()
