"""Chooses the number of prompts of a decoder call that fits into a memory limit."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from esam_rt.engines.tensorrt.trt_cuda_graphs import MAX_GRAPHS
from esam_rt.errors import SettingsError
from esam_rt.networks import Networks
from esam_rt.sam.batching import AHEAD
from esam_rt.sam.models import ModelSpec
from esam_rt.sam.predictor import IMAGE_FEATURES, PROMPT_FEATURES

if TYPE_CHECKING:
    from esam_rt.engines.tensorrt.trt_engine import CallBytes, TensorRTEngine

MB = 1 << 20
GPU_BATCH = 64  # prompts of a decoder call on a GPU; engines are built for as many
MARGIN = 0.9  # of the free memory: memory pools keep some, and other programs may want some
HALF_ON_CPU = 1.3  # times float32: CPUs widen what they lack kernels for; MobileSAM in fp16 took 469 MB, in fp32 384

Need: TypeAlias = Callable[[int], int]
"""Returns the most bytes that the engines of a model take with so many prompts in a decoder call."""


def onnxruntime_need(row: ModelSpec, precision: str) -> Need:
    """Estimate the memory of ONNX Runtime on a CPU from measurements.

    Args:
        row: The model.
        precision: ``fp32`` or ``fp16``.

    Returns:
        Bytes by number of prompts.

    Raises:
        SettingsError: The model was not measured.
    """
    footprint = row.footprint
    if footprint is None:
        raise SettingsError(f"Memory: the memory of model {row.name} was not measured. Run it without a limit.")
    factor = HALF_ON_CPU if precision != "fp32" else 1

    def need(batch: int) -> int:
        return math.ceil(factor * max(footprint.least, footprint.weights + batch * footprint.prompt) * MB)

    return need


def tensorrt_need(engines: Networks[TensorRTEngine], cuda_graphs: bool = False, overlaps: bool = False) -> Need:
    """Compute the memory of TensorRT from the figures of its engines.

    It is the sum of the weights, the features of one image, and the largest call.

    Args:
        engines: The loaded engines.
        cuda_graphs: Decoder calls are captured, and each graph keeps its memory.
        overlaps: Batches are decoded while others wait for their masks; see ``Sam``.

    Returns:
        Bytes by number of prompts.
    """
    weights = sum(engine.engine_bytes for engine in engines)
    graphs = 0 if not cuda_graphs else MAX_GRAPHS if overlaps else 1
    encoded = engines.encoder.call_bytes({})
    image = sum(encoded.tensors[name] for name in IMAGE_FEATURES)

    def call(engine: TensorRTEngine, batch: int) -> CallBytes:
        """A call in which all prompts pass the score filter and the image fills the grid."""
        largest = {name: high for name, (_, high) in engine.ranges.items()}
        return engine.call_bytes({name: s if name == "cells" else (batch, *s[1:]) for name, s in largest.items()})

    def need(batch: int) -> int:
        decoding = call(engines.decoder, batch)
        decoded, waiting = decoding.total, (AHEAD - 1) * sum(decoding.tensors[name] for name in PROMPT_FEATURES)
        of_masks = max(image + call(engine, batch).total for engine in (engines.mask_head, engines.logits))
        prompted = decoded + of_masks - image + waiting if overlaps else max(decoded, of_masks)
        # A graph has its own memory, but it reads the image's features where the encoder left them.
        return weights + max(encoded.total, prompted) + graphs * (decoded - image)

    return need


def largest_batch(need: Need, budget_bytes: float, most: int) -> int:
    """Find the largest batch that fits.

    Args:
        need: Bytes by number of prompts. It must not fall.
        budget_bytes: Memory limit.
        most: Largest number of prompts.

    Returns:
        A number from 1 to ``most``; 0 if nothing fits.
    """
    return bisect.bisect_right(range(1, most + 1), budget_bytes, key=need)


def batch_within(memory_mb: int, need: Need, most: int, who: str) -> int:
    """Find the largest batch within the limit that the user set.

    Args:
        memory_mb: Memory limit in MB.
        need: Bytes by number of prompts.
        most: Largest number of prompts.
        who: Model and backend, for the message.

    Returns:
        A number from 1 to ``most``.

    Raises:
        SettingsError: A single prompt is too much. The message states the minimum.
    """
    batch = largest_batch(need, memory_mb * MB, most)
    if batch == 0:
        raise SettingsError(
            f"Memory: found {memory_mb} MB, expected at least {math.ceil(need(1) / MB)} MB: {who} needs that with one "
            "prompt a call. Allow more memory, or use a smaller model."
        )
    return batch
