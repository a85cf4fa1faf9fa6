"""How many prompts a decoder call may have within a budget of memory."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from esam_rt.engines.tensorrt.trt_cuda_graphs import MAX_GRAPHS
from esam_rt.errors import SettingsError
from esam_rt.sam.models import ModelSpec
from esam_rt.sam.predictor import AHEAD, IMAGE_FEATURES, PROMPT_FEATURES

if TYPE_CHECKING:
    from esam_rt.engines.tensorrt.trt_engine import CallBytes, TensorRTEngine

MB = 1 << 20
GPU_BATCH = 64  # prompts a decoder call on a GPU, as engines are built for
MARGIN = 0.9  # of the memory that is free: pools keep pieces, and others may want some

Need: TypeAlias = Callable[[int], int]
"""Bytes that a model's engines take at most, with so many prompts a decoder call."""


@dataclass(frozen=True)
class Footprint:
    """What ONNX Runtime takes on the CPU in float32, in MB. weights: once loaded. least: at the peak of several photos,
    with a few prompts a call, which live of the encoder's memory. prompt: what each of a larger call takes."""

    weights: float
    least: float
    prompt: float


FOOTPRINTS = {  # benchmarks/memory.py, x86-64, ONNX Runtime 1.32, two threads
    "tiny": Footprint(45, 150, 7),
    "vit_t": Footprint(80, 390, 56),
    "vit_b": Footprint(400, 970, 56),
    "vit_l": Footprint(1275, 1925, 56),
    "vit_h": Footprint(2575, 3350, 56),
}
HALF_ON_CPU = 1.3  # times float32: what CPUs have no kernels for is widened; MobileSAM in fp16: 469 MB against 384


def onnxruntime_need(row: ModelSpec, precision: str) -> Need:
    """What ONNX Runtime takes on a CPU, from measurements."""
    of, factor = FOOTPRINTS[row.name], HALF_ON_CPU if precision != "fp32" else 1

    def need(batch: int) -> int:
        return math.ceil(factor * max(of.least, of.weights + batch * of.prompt) * MB)

    return need


def tensorrt_need(
    encoder: TensorRTEngine,
    decoder: TensorRTEngine,
    masks: TensorRTEngine,
    logits: TensorRTEngine,
    cuda_graphs: bool = False,
    overlaps: bool = False,
) -> Need:
    """What TensorRT takes, by its own figures: weights, what the encoder leaves of one photo for all prompts, and the
    greatest of all calls; with CUDA graphs the decoder calls whose memory stays. overlaps: whether batches are decoded
    while others wait for their masks; see `Sam`."""
    weights = sum(engine.engine_bytes for engine in (encoder, decoder, masks, logits))
    replays = 0 if not cuda_graphs else MAX_GRAPHS if overlaps else 1
    encoded = encoder.call_bytes({})
    photo = sum(encoded.tensors[name] for name in IMAGE_FEATURES)

    def call(engine: TensorRTEngine, batch: int) -> CallBytes:
        """With `batch` prompts, all of which pass the score filter, of a photo that fills the grid."""
        most = {name: high for name, (_, high) in engine.ranges.items()}
        return engine.call_bytes({name: s if name == "cells" else (batch, *s[1:]) for name, s in most.items()})

    def need(batch: int) -> int:
        decoding = call(decoder, batch)
        decoded, waiting = decoding.total, (AHEAD - 1) * sum(decoding.tensors[name] for name in PROMPT_FEATURES)
        of_prompts = max(photo + call(engine, batch).total for engine in (masks, logits))
        prompted = decoded + of_prompts - photo + waiting if overlaps else max(decoded, of_prompts)
        return weights + max(encoded.total, prompted) + replays * decoded

    return need


def largest_batch(need: Need, budget_bytes: float, most: int) -> int:
    """The largest of 1 … most that needs at most the budget; 0 where there is none."""
    return bisect.bisect_right(range(1, most + 1), budget_bytes, key=need)


def batch_within(memory_mb: int, need: Need, most: int, who: str) -> int:
    """`largest_batch`; SettingsError with the least that `who` needs where a single prompt is too much."""
    batch = largest_batch(need, memory_mb * MB, most)
    if batch == 0:
        raise SettingsError(
            f"Memory: found {memory_mb} MB, expected at least {math.ceil(need(1) / MB)} MB, which {who} needs with one "
            "prompt a call; give it more, or use a smaller model."
        )
    return batch
