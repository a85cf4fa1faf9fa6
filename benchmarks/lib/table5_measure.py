"""The measurements of benchmarks/table5.py. Each row runs in its own process."""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from skimage import data

from benchmarks.lib.measure import forget_peak, in_fresh_process, seconds, status_mb
from benchmarks.lib.random_checkpoint import write_checkpoint
from benchmarks.lib.table5_rows import PAPER_PROMPTS, Row
from esam_rt import EntitySegmenter, Settings
from esam_rt.export.configs import SAM_MEAN, SAM_STD
from esam_rt.loading import onnxruntime_loader
from esam_rt.loading.engine_self_test import compare
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.loader import load_sam
from esam_rt.sam.point_grids import point_grid
from esam_rt.sam.predictor import Sam

CPU_PROMPTS = 256
SAM_BATCH, SAM_SIDE = 64, 32  # prompts per call and per side of the grid in SAM's own mask generation
STABILITY_MIN = 0.01  # nearly all masks pass; with 0 transformers would skip the filter
PHOTO_WH_PX = (1024, 768)
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")


@dataclass(frozen=True)
class Job:
    """The options that all rows share.

    Attributes:
        model: One of SAM's ViTs.
        checkpoint: Weights of the model. None: random weights.
        folder: Folder of files that rows share.
        rounds: Number of rounds. The median counts.
    """

    model: str
    checkpoint: Path | None
    folder: Path
    rounds: int


def measure(row: Row, job: Job) -> dict[str, float]:
    """Measure a row in this process."""
    os.environ["ESAM_RT_CACHE"] = str(job.folder / "cache")
    kinds = {"modules": modules, "parity": parity, "ours": ours, "photo": photos, "pytorch": pytorch}
    return kinds[row.kind](row.side, job)


def modules(side: tuple[str, ...], job: Job) -> dict[str, float]:
    """Measure the median seconds of MMG, EMR and USR with `tiny`."""
    with EntitySegmenter("tiny", settings=Settings.preset("paper")) as segment:
        segment(data.astronaut())
        times = [segment(getattr(data, name)()).times_s for name in PHOTOS for _ in range(max(1, job.rounds // 3))]
    return {name: statistics.median(t[name] for t in times) for name in ("mmg", "emr", "usr")}


def parity(side: tuple[str, ...], job: Job) -> dict[str, float]:
    """Compare `tiny` on a backend with ONNX Runtime in fp32 on the CPU."""
    here, reference = load_sam("tiny", ExecutionConfig(*side)), load_sam("tiny")
    found = [compare(here, reference, getattr(data, name)()) for name in PHOTOS]
    masks = sum(f.masks for f in found)
    return {
        "masks": masks,
        "iou": sum(f.iou * f.masks for f in found) / masks,
        "least_iou_of_a_photo": min(f.iou for f in found),
        "greatest_score_difference": max(f.score for f in found),
    }


def ours(side: tuple[str, ...], job: Job) -> dict[str, float]:
    """Measure seconds and memory of a backend."""
    in_fresh_process(prepare, side, job)
    before_mb = gpu_memory_mb()
    sam = our_sam(side, job)
    knows_peak = forgets_loading()
    image, everything = photo(), None
    encoder_s = median_s(lambda: sam.encode(image), job.rounds)
    encoded = sam.encode(image)
    points = prompts(side[1])
    best = np.full(len(points[:SAM_BATCH]), -1.0)
    some = sam.decode(encoded, points[:SAM_BATCH], 0, everything)
    np.maximum.at(best, some.prompt_index, some.predicted_iou)
    score_min = float(np.clip(np.median(best), 0, 1))
    half = {"filters.score_min": score_min, "filters.stability_min": STABILITY_MIN, "prompts.coarse_side": SAM_SIDE}
    filters = Settings().with_overrides(half).with_model_defaults(sam.model.default_thresholds()).filters
    decoder_s = median_s(lambda: sam.decode(encoded, points, 0, filters), job.rounds)
    figures = {"encoder": encoder_s, "decoder": decoder_s * PAPER_PROMPTS / len(points), "prompts": len(points)}
    if side[1] != "cpu":
        with EntitySegmenter(sam, method="amg", settings=Settings().with_overrides(half)) as segment:
            figures["amg"] = median_s(lambda: segment(image), max(1, job.rounds // 3))
    return figures | {"batch": sam.model.decode_batch} | memory_mb(before_mb, knows_peak)


def photos(side: tuple[str, ...], job: Job) -> dict[str, float]:
    """Measure seconds to scale and encode a photo of 12 megapixels on the host and on the GPU, and their difference."""
    from esam_rt.engines.cuda.device import CudaDevice, HostBuffer

    image = cv2.resize(data.astronaut(), (4000, 3000), interpolation=cv2.INTER_LINEAR)
    device = CudaDevice()
    on_gpu, staging = device.allocate(image.shape, np.uint8), HostBuffer(device).sized(image.nbytes)
    staging[:] = image.reshape(-1)
    device.upload(on_gpu, staging)
    device.synchronize()
    sam = our_sam(side, job)
    scaled = cv2.resize(image, (1024, 768), interpolation=cv2.INTER_AREA).astype(int)
    levels = np.abs(sam.check_image(on_gpu).on_host((768, 1024)) - scaled)
    return {
        "photo": median_s(lambda: sam.encode(image), job.rounds),
        "gpu_photo": median_s(lambda: sam.encode(on_gpu), job.rounds),
        "greatest_difference": int(levels.max()),
        "mean_difference": float(levels.mean()),
    }


def prepare(side: tuple[str, ...], job: Job) -> None:
    """Export, build and test in another process: its memory does not count."""
    our_sam(side, job).close()


def our_sam(side: tuple[str, ...], job: Job) -> Sam:
    """Load the model on a backend. side: backend, device, precision, and perhaps a variant."""
    if side[3:] == ("fused",):
        onnxruntime_loader.GPU_ATTENTION = "fused"
    execution = ExecutionConfig(*side[:3], cuda_graphs=side[3:] == ("graphs",))
    return load_sam(job.model, execution, checkpoint_of(job))


def pytorch(side: tuple[str, ...], job: Job) -> dict[str, float]:
    """Measure seconds and memory of transformers' SamModel with the same weights."""
    import torch

    from benchmarks.lib.torch_sam import pytorch_model

    device, dtype, mode = torch.device(side[0]), getattr(torch, side[1]), side[2]
    before_mb = gpu_memory_mb()
    attention = "eager" if mode == "eager" else "sdpa"
    network = pytorch_model(job.model, checkpoint_of(job), attention).to(device, dtype)
    knows_peak = forgets_loading()

    def waited(call: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            with torch.inference_mode():
                call()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return run

    pixels = torch.from_numpy(normalised(photo())).to(device, dtype)
    points = torch.from_numpy(prompts(side[0]) * np.float32(PHOTO_WH_PX)).to(device)[None, :, None]
    labels = torch.ones(points.shape[:3], device=device, dtype=torch.int)
    encode, decode = network.get_image_embeddings, network.forward
    if mode == "compiled":
        encode, decode = compiled(encode), compiled(decode)
    with torch.inference_mode():
        embedding = encode(pixels).clone()  # a compiled call overwrites its earlier result

    def decode_all() -> None:
        for start in range(0, points.shape[1], SAM_BATCH):
            part = slice(start, start + SAM_BATCH)
            decode(image_embeddings=embedding, input_points=points[:, part], input_labels=labels[:, part])

    if mode == "pipeline":
        with torch.inference_mode():
            part = {"input_points": points[:, :SAM_BATCH], "input_labels": labels[:, :SAM_BATCH]}
            score_min = float(decode(image_embeddings=embedding, **part).iou_scores.amax(-1).median())
        figures = {"amg": pipeline_s(network, device, score_min, max(1, job.rounds // 3))}
    else:
        scale = PAPER_PROMPTS / points.shape[1]
        figures = {"encoder": median_s(waited(lambda: encode(pixels)), job.rounds)}
        figures |= {"decoder": median_s(waited(decode_all), job.rounds) * scale, "prompts": points.shape[1]}
    if mode == "compiled":
        figures["without_graphs"] = torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]
    return figures | memory_mb(before_mb, knows_peak)


def compiled(call: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a call of PyTorch with CUDA graphs. Each call overwrites the result of the one before."""
    import torch

    graphed = torch.compile(call, mode="reduce-overhead")

    def run(*arguments: Any, **options: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # else the earlier result may count as still in use
        return graphed(*arguments, **options)

    return run


def pipeline_s(network: Any, device: Any, score_min: float, rounds: int) -> float:
    """Measure the seconds of transformers' own mask generation. Half of the points pass."""
    from PIL import Image
    from transformers import SamImageProcessor
    from transformers import pipeline as make

    processor = with_float32_scores(SamImageProcessor())
    generate = make("mask-generation", model=network, image_processor=processor, device=device)
    image, options = Image.fromarray(photo()), {"pred_iou_thresh": score_min, "stability_score_thresh": STABILITY_MIN}
    options |= {"points_per_crop": SAM_SIDE, "points_per_batch": SAM_BATCH}
    return median_s(lambda: generate(image, **options), rounds)


def with_float32_scores(processor: Any) -> Any:
    """Make an image processor accept fp16 scores, which torchvision's NMS refuses together with float32 boxes."""
    process = processor.post_process_for_mask_generation

    def in_float32(masks: Any, scores: Any, *rest: Any) -> Any:
        return process(masks, scores.float(), *rest)

    processor.post_process_for_mask_generation = in_float32
    return processor


def photo() -> Any:
    """Return a photo, uint8 [768, 1024, 3]."""
    return cv2.resize(data.astronaut()[:384], PHOTO_WH_PX, interpolation=cv2.INTER_LINEAR)


def normalised(image_hwc_rgb: Any) -> Any:
    """Normalize a photo for SAM in PyTorch: float32 [1, 3, 1024, 1024]."""
    width, height = PHOTO_WH_PX
    pixels = np.zeros((1, 3, width, width), np.float32)
    pixels[0, :, :height] = ((image_hwc_rgb - np.array(SAM_MEAN)) / SAM_STD).transpose(2, 0, 1)
    return pixels


def prompts(device: str) -> Any:
    """Return the points of both grids, shuffled: float32 [N, 2]."""
    points = np.concatenate([point_grid(32), point_grid(64)])
    shuffled = points[np.random.default_rng(0).permutation(len(points))]
    return shuffled[:CPU_PROMPTS] if device == "cpu" else shuffled


def median_s(call: Callable[[], object], rounds: int, limit_s: float = 40) -> float:
    """Return the median seconds of a call after a warm-up. Long calls get fewer rounds."""
    call()
    times: list[float] = []
    while len(times) < rounds and sum(times) < limit_s:
        times.append(seconds(call))
    return statistics.median(times)


def checkpoint_of(job: Job) -> Path:
    """Return the checkpoint. Random weights are written once."""
    if job.checkpoint is not None:
        return job.checkpoint
    path = job.folder / f"random_{job.model}.pth"
    if not path.exists():
        in_fresh_process(write_checkpoint, job.model, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    return path


def forgets_loading() -> bool:
    """Reset the peak of the resident set after loading a model. Returns False if a sandbox forbids it."""
    gc.collect()
    try:
        forget_peak()
    except OSError:
        return False
    return True


def memory_mb(gpu_before_mb: float, knows_peak: bool) -> dict[str, float]:
    """Return the peak of the resident set since loading, if known, and the growth of the GPU's memory."""
    host = {"memory_mb": status_mb("VmHWM")} if knows_peak else {}
    return {**host, "gpu_memory_mb": gpu_memory_mb() - gpu_before_mb}


def gpu_memory_mb() -> float:
    """Return the memory in use on the first GPU, including CUDA's own, in MB. 0 without a GPU."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return float(subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0])
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return 0.0
