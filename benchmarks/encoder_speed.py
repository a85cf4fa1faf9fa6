"""Seconds a photo of the exported encoders in ONNX Runtime against PyTorch.

`python -m benchmarks.encoder_speed [--model vit_b|vit_l|vit_h|vit_t] [--forms bias concat fused] [--json FILE]`. The whole
network at its real size with random weights, one process, turn by turn, medians. ViTs are compared with transformers'
`SamVisionEncoder`, in its faster attention (scaled_dot_product_attention or eager), each form of ours in turn;
MobileSAM's encoder with the PyTorch module of the tests. Ours begins with the bytes of the photo, PyTorch with the
normalised image. Memory is the growth of the resident set from a loaded network to the peak of encoding, each side in a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder

from benchmarks.lib.measure import in_fresh_process, seconds, status_mb
from benchmarks.lib.torch_sam import vision_config
from esam_rt.engines.onnxruntime.ort_engine import OnnxRuntimeEngine
from esam_rt.export.checkpoints.key_mapping import HUGGING_FACE, SAM
from esam_rt.export.checkpoints.weights import Weights
from esam_rt.export.configs import VIT_T, VitDims
from esam_rt.export.graphs.graph_writer import write_graph
from esam_rt.export.graphs.tinyvit import build_tinyvit_encoder
from esam_rt.export.graphs.vit import build_vit_encoder
from esam_rt.export.model import VITS, AttentionForm, Precision
from tests.support.tinyvit_torch import TinyVit

EAGER, SDPA = "pytorch eager", "pytorch sdpa"
PHOTO_HW_PX = (768, 1024)


def pytorch_vit(dims: VitDims, attention: str) -> torch.nn.Module:
    """transformers' encoder; random weights that let the photo through, with relative positions that matter."""
    torch.manual_seed(0)
    config = SamVisionConfig(**vision_config(dims), attn_implementation=attention.removeprefix("pytorch "))
    model = SamVisionEncoder(config).eval().requires_grad_(False)
    for name, p in model.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            p.normal_(0, 0.2)
        elif p.ndim > 1:
            p.normal_(0, 1 / p[0].numel() ** 0.5)
    return model


def pytorch_tinyvit() -> torch.nn.Module:
    """MobileSAM's encoder with random weights."""
    torch.manual_seed(0)
    return TinyVit().eval().requires_grad_(False)


@dataclass(frozen=True)
class Encoder:
    """One side of the comparison: photo uint8 [1, S, S, 3] → embedding."""

    name: str
    encode: Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def pytorch_encoder(model: str, side: str) -> Encoder:
    """In PyTorch; the image is normalised outside what is timed."""
    network = pytorch_tinyvit() if model == "vit_t" else pytorch_vit(VITS[model], side)
    image = torch.from_numpy(normalised(photo()))

    def encode(_photo: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            out = network(image)
        return (out if model == "vit_t" else out.last_hidden_state).numpy()

    return Encoder(side, encode)


def our_encoder(model: str, side: str, threads: int) -> Encoder:
    """Exported and in ONNX Runtime."""
    if model == "vit_t":
        arrays = {f"image_encoder.{name}": t.numpy() for name, t in pytorch_tinyvit().state_dict().items()}
        graph = build_tinyvit_encoder(VIT_T, Weights.of_arrays(Path("random weights"), arrays, SAM))
    else:
        state = pytorch_vit(VITS[model], EAGER).state_dict()
        arrays = {f"vision_encoder.{name}": tensor.numpy() for name, tensor in state.items()}
        weights = Weights.of_arrays(Path("random weights"), arrays, HUGGING_FACE)
        graph = build_vit_encoder(VITS[model], weights, Precision.FP32, AttentionForm(side))
    with TemporaryDirectory() as folder:
        engine = OnnxRuntimeEngine(write_graph(graph, Path(folder) / "encoder.onnx", {}, "0")[0], threads=threads)
    valid = np.array(PHOTO_HW_PX)
    return Encoder(side, lambda image: engine.infer({"image": image, "valid_hw_px": valid})["embedding"])


def photo() -> NDArray[np.uint8]:
    """Patches with noise, three quarters of the square."""
    rng = np.random.default_rng(0)
    h, w = PHOTO_HW_PX
    image = np.zeros((1, 1024, 1024, 3), np.uint8)
    coarse = rng.integers(0, 200, (h // 16, w // 16, 3)).repeat(16, 0).repeat(16, 1)
    image[0, :h, :w] = coarse + rng.integers(0, 56, coarse.shape)
    return image


def normalised(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """As SAM's preprocessing: [1, 3, S, S], zeros outside the photo."""
    h, w = PHOTO_HW_PX
    out = np.zeros((1, 3, 1024, 1024), np.float32)
    out[0, :, :h, :w] = ((image[0, :h, :w] - np.array(VIT_T.pixel_mean)) / np.array(VIT_T.pixel_std)).transpose(2, 0, 1)
    return out


def make(model: str, side: str, threads: int) -> Encoder:
    """The encoder of one side."""
    torch.set_num_threads(threads)
    return pytorch_encoder(model, side) if side.startswith("pytorch") else our_encoder(model, side, threads)


def growth_mb(model: str, side: str, threads: int) -> int:
    """Growth of the resident set of this process while encoding."""
    encoder, image = make(model, side, threads), photo()
    before = status_mb("VmRSS")
    for _ in range(2):
        encoder.encode(image)
    return round(status_mb("VmHWM") - before)


def compare(model: str, sides: Sequence[str], threads: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds a photo of each side, and how far its embedding is from that of the first."""
    encoders, image = [make(model, side, threads) for side in sides], photo()
    first = encoders[0].encode(image)
    errors = [float(np.abs(e.encode(image) - first).max() / np.abs(first).max()) for e in encoders]
    times: list[list[float]] = [[] for _ in encoders]
    for _ in range(rounds):
        for encoder, of_encoder in zip(encoders, times, strict=True):
            of_encoder.append(seconds(lambda encoder=encoder: encoder.encode(image)))  # type: ignore[misc]
    return [
        {"side": e.name, "s_per_photo": round(statistics.median(t), 3), "relative_error": error}
        for e, t, error in zip(encoders, times, errors, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*VITS, "vit_t"], default="vit_b")
    parser.add_argument("--forms", choices=list(AttentionForm), nargs="+", default=list(AttentionForm))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    a = parser.parse_args()
    sides = ["pytorch", "ours"] if a.model == "vit_t" else [SDPA, EAGER, *map(str, a.forms)]
    rows = compare(a.model, sides, a.threads, a.rounds)
    theirs = min(row["s_per_photo"] for row in rows if row["side"].startswith("pytorch"))
    print("          side | s a photo | PyTorch / side |    MB | relative error")
    for row in rows:
        row["ratio_to_pytorch"] = round(theirs / row["s_per_photo"], 2)
        row["memory_mb"] = in_fresh_process(growth_mb, a.model, row["side"], a.threads)
        print(
            f"{row['side']:>14} | {row['s_per_photo']:9.3f} | {row['ratio_to_pytorch']:14.2f} | {row['memory_mb']:5} | "
            f"{row['relative_error']:.1e}",
            flush=True,
        )
    if a.json:
        a.json.write_text(json.dumps({"model": a.model, "threads": a.threads, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
