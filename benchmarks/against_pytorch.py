"""How many CPU seconds does one photo take, compared with mask generation in PyTorch?

    python -m benchmarks.against_pytorch --model vit_t --json against_pytorch_vit_t.json
    python -m benchmarks.against_pytorch --model vit_b --side 16 --json against_pytorch_vit_b.json

``pytorch`` is the pipeline ``mask-generation`` of transformers, with 64 prompts a call as in SAM's own code. Its own
grid has 32 points a side. It has no class for MobileSAM (``vit_t``). Its SamModel then gets the encoder of
tests/support/tinyvit_torch.py. All rows have the same random weights, the same photo and the same filter, so that half
of the points pass. All run in one process, turn by turn. Threads of PyTorch sleep while they wait, as ours do.

``amg`` is our automatic mask generation: it decodes the same points as PyTorch and no others. ``e-sam`` is the preset
`fast` with the same coarse points. It decodes more prompts for its gallery and for gaps, and PyTorch does not. ``fast``
is the preset with its own grids, if --side gives others. Random masks are no objects: they overlap everywhere, so E-SAM
asks for more of its gallery than with real weights, and leaves out fewer coarse points. Each row has the prompts that
it decoded, and the CPU seconds of the encoder, the prompts and the drawing. The highest scores of ``amg`` and
``pytorch`` agree. E-SAM averages scores of merged masks.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before PyTorch: threads that spin would count as its CPU time

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.table5_measure import SAM_BATCH, STABILITY_MIN, photo
from benchmarks.lib.torch_sam import random_sam
from esam_rt import EntitySegmenter, ExecutionConfig, Settings, __version__
from esam_rt.export.configs import VIT_B
from esam_rt.loading.loader import load_sam
from esam_rt.masks import MaskSet
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.point_grids import point_grid
from esam_rt.sam.predictor import Sam
from esam_rt.storage.atomic import write_json
from tests.support.checkpoints import mobile_sam_state_dict, sam_state_dict, save_pth
from tests.support.tinyvit_torch import TinyVit

Row = Callable[[], tuple[int, float]]
"""Runs once. Returns the prompts decoded and the highest score."""


class MeteredSam(Sam):
    """Our model. ``cpu_s`` has the CPU seconds of its calls since it was emptied."""

    def __init__(self, sam: Sam) -> None:
        super().__init__(sam.model, sam.engines, sam.checkpoint_sha256)
        self.cpu_s: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.cpu_s[name] += time.process_time() - start

    def encode(self, image_hwc_rgb: Any) -> EncodedImage:
        """Encode the photo."""
        with self._step("encoder"):
            return super().encode(image_hwc_rgb)

    def decode(self, *arguments: Any, **options: Any) -> MaskSet:
        """Decode prompts."""
        with self._step("prompts"):
            return super().decode(*arguments, **options)

    def logits(self, *arguments: Any, **options: Any) -> NDArray[np.float32]:
        """Draw masks."""
        with self._step("drawing"):
            return super().logits(*arguments, **options)


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


def both_models(name: str, threads: int) -> tuple[torch.nn.Module, MeteredSam]:
    """Make the model in PyTorch and in ONNX Runtime with the same random weights."""
    network: Any = random_sam(VIT_B)
    state = sam_state_dict(network)
    if name == "vit_t":
        state = mobile_sam_state_dict(network)
        network.vision_encoder = TinyVitEncoder(state)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"random_{name}.pth"
        save_pth(path, state)
        return network, MeteredSam(load_sam(name, ExecutionConfig(threads=threads), path))


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


def our_row(sam: Sam, method: str, changes: dict[str, object]) -> Row:
    """Return one of our methods."""
    segment = EntitySegmenter(sam, method=method, settings=Settings.preset("fast").with_overrides(changes))

    def run() -> tuple[int, float]:
        result = segment(photo())
        return result.prompts_decoded, float(result.score.max(initial=0))

    return run


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", choices=("vit_b", "vit_t"), default="vit_t")
    parser.add_argument(
        "--side", type=int, default=32, help="coarse points a side; the gallery has twice as many (default: PyTorch's)"
    )
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
    grids: dict[str, object] = {"prompts.coarse_side": a.side, "prompts.fine_side": 2 * a.side}
    ways = {"amg": our_row(sam, "amg", filters | grids), "e-sam": our_row(sam, "e-sam", filters | grids)}
    if a.side != Settings.preset("fast").prompts.coarse_side:
        ways["fast"] = our_row(sam, "e-sam", filters)
    ways["pytorch"] = pytorch_row(network, a.side, score_min)
    cpu_s: dict[str, list[float]] = {name: [] for name in ways}
    figures: dict[str, tuple[int, float]] = {}
    steps: dict[str, dict[str, float]] = {}
    for _ in range(a.rounds):
        for name, run in ways.items():
            sam.cpu_s.clear()
            start = time.process_time()
            figures[name] = run()
            cpu_s[name].append(time.process_time() - start)
            steps[name] = {step: round(taken, 2) for step, taken in sam.cpu_s.items()}
            note(f"{name}: {cpu_s[name][-1]:.1f} CPU s, {figures[name][0]} prompts")
    seconds = {name: statistics.median(times) for name, times in cpu_s.items()}
    rows = {
        name: {
            "cpu_s": round(seconds[name], 2),
            "times_as_fast_as_pytorch": round(seconds["pytorch"] / seconds[name], 2),
            "prompts": prompts,
            "highest_score": round(score, 4),
            "cpu_s_of_last_round": steps[name],
        }
        for name, (prompts, score) in figures.items()
    }
    for name, row in rows.items():
        print(
            f"{name:8} {row['cpu_s']:8.1f} CPU s {row['times_as_fast_as_pytorch']:6.1f} {row['prompts']:6} prompts",
            steps[name],
        )
    if a.json:
        options = {name: getattr(a, name) for name in ("model", "side", "threads", "rounds")}
        write_json(a.json, {"esam_rt": __version__, "weights": "random", **options, "rows": rows})


if __name__ == "__main__":
    main()
