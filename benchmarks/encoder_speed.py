"""How fast are the exported encoders in ONNX Runtime, compared with PyTorch?

    python -m benchmarks.encoder_speed --model vit_b --forms bias concat fused --json encoder.json

Each side runs the whole network at its real size with the same random weights, in one process, turn by turn. Seconds
are medians over the rounds. ViTs are compared with transformers' SamVisionEncoder, with scaled_dot_product_attention
and eager attention; MobileSAM's encoder with the PyTorch module of the tests. Ours starts from the bytes of the photo,
PyTorch from the normalized image. Memory is the growth of the resident set while encoding, each side in its own
process.
"""

from __future__ import annotations

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

from benchmarks.lib.command_line import note, parser_of
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
from esam_rt.storage.atomic import write_json
from tests.support.tinyvit_torch import TinyVit

EAGER, SDPA = "pytorch eager", "pytorch sdpa"
PHOTO_HW_PX = (768, 1024)


def pytorch_vit(dims: VitDims, attention: str) -> torch.nn.Module:
    """Make transformers' encoder, with random weights that keep the signal and relative positions that matter."""
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
    """Make MobileSAM's encoder with random weights."""
    torch.manual_seed(0)
    return TinyVit().eval().requires_grad_(False)


@dataclass(frozen=True)
class Encoder:
    """One side of the comparison. encode: photo uint8 [1, S, S, 3] → embedding float32 [1, C, S/16, S/16]."""

    name: str
    encode: Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def pytorch_encoder(model: str, side: str) -> Encoder:
    """Make an encoder in PyTorch. Normalizing the image is not timed."""
    network = pytorch_tinyvit() if model == "vit_t" else pytorch_vit(VITS[model], side)
    image = torch.from_numpy(normalized(photo()))

    def encode(_photo: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            out = network(image)
        return (out if model == "vit_t" else out.last_hidden_state).numpy()

    return Encoder(side, encode)


def our_encoder(model: str, side: str, threads: int) -> Encoder:
    """Export an encoder and load it in ONNX Runtime."""
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
    """Make noisy patches in three quarters of the square: uint8 [1, 1024, 1024, 3]."""
    rng = np.random.default_rng(0)
    h, w = PHOTO_HW_PX
    image = np.zeros((1, 1024, 1024, 3), np.uint8)
    coarse = rng.integers(0, 200, (h // 16, w // 16, 3)).repeat(16, 0).repeat(16, 1)
    image[0, :h, :w] = coarse + rng.integers(0, 56, coarse.shape)
    return image


def normalized(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Normalize as SAM does: float32 [1, 3, S, S], zeros outside the photo."""
    h, w = PHOTO_HW_PX
    out = np.zeros((1, 3, 1024, 1024), np.float32)
    out[0, :, :h, :w] = ((image[0, :h, :w] - np.array(VIT_T.pixel_mean)) / np.array(VIT_T.pixel_std)).transpose(2, 0, 1)
    return out


def make(model: str, side: str, threads: int) -> Encoder:
    """Make the encoder of one side."""
    torch.set_num_threads(threads)
    return pytorch_encoder(model, side) if side.startswith("pytorch") else our_encoder(model, side, threads)


def growth_mb(model: str, side: str, threads: int) -> int:
    """Measure the growth of this process's resident set while encoding."""
    encoder, image = make(model, side, threads), photo()
    before = status_mb("VmRSS")
    for _ in range(2):
        encoder.encode(image)
    return round(status_mb("VmHWM") - before)


def compare(model: str, sides: Sequence[str], threads: int, rounds: int) -> list[dict[str, Any]]:
    """Measure seconds per photo of each side, and how far its embedding is from that of the first side."""
    encoders: list[Encoder] = []
    for side in sides:
        note(f"making {side}")
        encoders.append(make(model, side, threads))
    image = photo()
    first = encoders[0].encode(image)
    errors = []
    for encoder in encoders:
        note(f"comparing the embedding of {encoder.name}")
        errors.append(float(np.abs(encoder.encode(image) - first).max() / np.abs(first).max()))
    times: list[list[float]] = [[] for _ in encoders]
    for turn in range(1, rounds + 1):
        for encoder, of_encoder in zip(encoders, times, strict=True):
            of_encoder.append(seconds(lambda encoder=encoder: encoder.encode(image)))  # type: ignore[misc]
        taken = ", ".join(f"{e.name} {t[-1]:.2f} s" for e, t in zip(encoders, times, strict=True))
        note(f"round {turn} of {rounds}: {taken}")
    return [
        {"side": e.name, "s_per_photo": round(statistics.median(t), 3), "relative_error": error}
        for e, t, error in zip(encoders, times, errors, strict=True)
    ]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", choices=[*VITS, "vit_t"], default="vit_b")
    parser.add_argument("--forms", choices=list(AttentionForm), nargs="+", default=list(AttentionForm))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    sides = ["pytorch", "ours"] if a.model == "vit_t" else [SDPA, EAGER, *map(str, a.forms)]
    rows = compare(a.model, sides, a.threads, a.rounds)
    baseline = min(row["s_per_photo"] for row in rows if row["side"].startswith("pytorch"))
    print("          side | s a photo | PyTorch / side |    MB | relative error", flush=True)
    for row in rows:
        row["ratio_to_pytorch"] = round(baseline / row["s_per_photo"], 2)
        row["memory_mb"] = in_fresh_process(growth_mb, a.model, row["side"], a.threads)
        print(
            f"{row['side']:>14} | {row['s_per_photo']:9.3f} | {row['ratio_to_pytorch']:14.2f} | {row['memory_mb']:5} | "
            f"{row['relative_error']:.1e}",
            flush=True,
        )
    if a.json:
        write_json(a.json, {"model": a.model, "threads": a.threads, "rows": rows})


if __name__ == "__main__":
    main()
