"""How many prompts per second does the exported decoder process in ONNX Runtime, compared with PyTorch?

    python -m benchmarks.decoder_speed --model sam --json decoder.json

``sam`` is the decoder of ViT-B, L, H and MobileSAM, compared with transformers' SamModel. ``tiny`` is the decoder of
the model that ships, compared with its training code. Both sides have the same random weights, features and points,
and take turns in one process. PyTorch returns logits and scores. ONNX Runtime also thresholds, measures and packs the
masks, once for all prompts and once for the half with the higher scores, as a score filter would. Figures are medians
over the rounds. Memory is the growth of the resident set while decoding, each side and batch in its own process.

PyTorch is fastest with small batches on a CPU. SAM's own mask generation decodes 64 prompts per call. Both ratios are
printed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.measure import in_fresh_process, seconds, status_mb
from benchmarks.lib.torch_sam import sam_model
from esam_rt.engines.onnxruntime.ort_engine import OnnxRuntimeEngine
from esam_rt.export.checkpoints.key_mapping import HUGGING_FACE, OURS, Naming
from esam_rt.export.checkpoints.weights import Weights
from esam_rt.export.configs import SAM_DECODER, TINY, VIT_B, DecoderDims
from esam_rt.export.graphs.graph import Graph
from esam_rt.export.graphs.mask_decoder import add_image_features, build_decoder, build_masks
from esam_rt.sam.predictor import IMAGE_FEATURES, PROMPT_FEATURES
from esam_rt.storage.atomic import write_json

SAM_BATCH = 64  # points_per_batch of SAM's automatic mask generation
Arrays = dict[str, NDArray[Any]]
Predict = Callable[[Arrays, NDArray[np.float32]], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Network:
    """One decoder. predict, in PyTorch: features of the encoder, points [B, 2] → logits [B, 3, G, G], scores [B, 3]."""

    dims: DecoderDims
    tensors: Arrays
    naming: Naming
    predict: Predict

    def weights(self) -> Weights:
        """Return the tensors for the exporter."""
        return Weights.of_arrays(Path("random weights"), self.tensors, self.naming)


def sam() -> Network:
    """Make SAM's decoder in transformers, with random weights that give logits of both signs."""
    torch.manual_seed(0)
    model = sam_model(replace(VIT_B, depth=1))
    for name, p in model.named_parameters():
        p.mul_(5 if "hypernetworks" in name or "upscale_conv" in name else 3 if "transformer" in name else 1)

    def predict(features: Arrays, points: NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
        xy, label = torch.from_numpy(points)[None, :, None], torch.ones(1, len(points), 1, dtype=torch.int)
        sparse, dense = model.prompt_encoder(xy, label, None, None)
        out = model.mask_decoder(
            image_embeddings=torch.from_numpy(features["embedding"]),
            image_positional_embeddings=position,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        return out[0][0], out[1][0]

    position = model.get_image_wide_positional_embeddings()
    tensors = {k: v.numpy() for k, v in model.state_dict().items() if not k.startswith("vision_encoder.")}
    return Network(SAM_DECODER, tensors, HUGGING_FACE, predict)


def tiny() -> Network:
    """Make the decoder of `tiny`."""
    from esam_rt.export.train_tiny.tiny_model import TinySam

    torch.manual_seed(0)
    model = TinySam().eval().requires_grad_(False)
    for name, p in model.decoder.named_parameters():
        if "fine" in name or "near" in name:  # zeros before training
            p.normal_(0, 0.05)

    def predict(features: Arrays, points: NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
        embedding, fine = (torch.from_numpy(features[name][0]) for name in ("embedding", "fine"))
        out = model.decoder(embedding, fine, torch.from_numpy(points), model.dims.input_px)
        return out.logits, out.iou

    return Network(TINY.decoder, {k: v.numpy() for k, v in model.state_dict().items()}, OURS, predict)


NETWORKS = {"sam": sam, "tiny": tiny}


def write(graph: Graph, path: Path) -> Path:
    """Save a graph."""
    path.write_bytes(ir.to_proto(graph.model({}, "0")).SerializeToString())
    return path


def export(network: Network, folder: Path) -> tuple[Path, Path, Path]:
    """Export the decoder, the mask head, and a graph from the encoder's features to image features."""
    dims, weights = network.dims, network.weights()
    features = Graph("image_features")
    for name, shape in shapes(dims).items():
        given = features.input(f"given_{name}", np.float32, shape)
        if name == "fine":
            features.keep(given, name)
        else:
            features.output(features.op("Identity", given), name, np.float32, shape)
    add_image_features(features, dims, weights)
    graphs = (build_decoder(dims, weights), build_masks(dims, weights), features)
    decoder, mask_head, image_features = (write(graph, folder / f"{graph.name}.onnx") for graph in graphs)
    return decoder, mask_head, image_features


class Ours:
    """The exported decoder and mask head."""

    def __init__(self, network: Network, features: Arrays, threads: int) -> None:
        with TemporaryDirectory() as folder:
            decoder, mask_head, image_features = export(network, Path(folder))
            self._decoder, self._masks = (OnnxRuntimeEngine(path, threads=threads) for path in (decoder, mask_head))
            with OnnxRuntimeEngine(image_features, threads=threads) as engine:
                given = {f"given_{name}": array for name, array in features.items()}
                self._features = engine.infer(given, outputs_on_device=IMAGE_FEATURES)
        del self._features["embedding"]
        self._dims = network.dims

    def __call__(self, points: NDArray[np.float32], score_min: float = -np.inf) -> Arrays:
        """Decode single foreground points [B, 2]."""
        xy = np.zeros((len(points), self._dims.points, 2), np.float32)
        xy[:, 0] = points
        labels = np.full(xy.shape[:2], -1)
        labels[:, 0] = 1
        feed = {**self._features, "points_xy_px": xy, "labels": labels}
        prompts = self._decoder.infer(feed, outputs_on_device=PROMPT_FEATURES)
        score = prompts.pop("predicted_iou")
        cells = self._dims.embedding_cells
        asked = {
            "index": np.flatnonzero(score.max(1) >= score_min),
            "cells": np.arange(cells * cells).reshape(cells, cells),
            "valid_hw": np.array([self._dims.grid_cells] * 2),
            "stability_offset": np.array([1], np.float32),
        }
        return self._masks.infer(prompts | asked) | {"predicted_iou": score}


def shapes(dims: DecoderDims) -> dict[str, list[int]]:
    """Return the shapes of what the encoder hands to the decoder: the embedding and, of `tiny`, the fine map."""
    side, fine_side = dims.embedding_cells, 2 * dims.embedding_cells
    fine = {"fine": [1, dims.fine_width, fine_side, fine_side]} if dims.fine_width else {}
    return {"embedding": [1, dims.width, side, side]} | fine


def inputs(network: Network, batch: int) -> tuple[Arrays, NDArray[np.float32]]:
    """Make random features and points."""
    rng = np.random.default_rng(0)
    features = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes(network.dims).items()}
    return features, rng.uniform(0, network.dims.input_px, (batch, 2)).astype(np.float32)


def compare(network: Network, batch: int, threads: int, rounds: int) -> dict[str, Any]:
    """Measure one batch size: prompts per second in three ways, largest difference of scores, least IoU of masks."""
    features, points = inputs(network, batch)
    torch.set_num_threads(threads)
    ours = Ours(network, features, threads)
    with torch.inference_mode():
        logits, score = network.predict(features, points)
        out = ours(points)
        bits, masks = np.unpackbits(out["bits"], axis=-1, bitorder="little").astype(bool), (logits > 0).numpy()
        union = (bits | masks).sum((2, 3))
        iou = np.where(union, (bits & masks).sum((2, 3)) / np.maximum(union, 1), 1)
        difference = float(np.abs(out["predicted_iou"] - score.numpy()).max())
        median = float(score.amax(1).median())
        del logits, out, bits, masks
        ways: dict[str, Callable[[], object]] = {
            "pytorch": lambda: network.predict(features, points),
            "ours": lambda: ours(points),
            "ours, half kept": lambda: ours(points, median),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, call in ways.items():
                times[way].append(seconds(call))
    return {
        "batch": batch,
        "prompts_per_s": {way: round(batch / statistics.median(t), 1) for way, t in times.items()},
        "score_difference": difference,
        "least_mask_iou": round(float(iou.min()), 6),
    }


def growth_mb(model: str, side: str, batch: int, threads: int) -> int:
    """Measure the growth of this process's resident set while decoding."""
    network = NETWORKS[model]()
    features, points = inputs(network, batch)
    torch.set_num_threads(threads)
    ours = Ours(network, features, threads)
    before = status_mb("VmRSS")
    with torch.inference_mode():
        for _ in range(3):
            _ = ours(points) if side == "ours" else network.predict(features, points)
    return round(status_mb("VmHWM") - before)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", choices=NETWORKS, default="sam")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64], help="prompts per call")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=64, help="prompts to decode in each way and batch size")
    a = parser.parse_args()
    network = NETWORKS[a.model]()
    rows = []
    print("       | prompts a second            |       | MB              | least")
    print(" batch |  PyTorch     ours half kept | ratio |  PyTorch   ours |  IoU")
    for batch in a.batches:
        note(f"batch {batch}")
        row = compare(network, batch, a.threads, max(5, a.prompts // batch))
        row["memory_mb"] = {
            side: in_fresh_process(growth_mb, a.model, side, batch, a.threads) for side in ("pytorch", "ours")
        }
        rows.append(row)
        theirs, ours, half = row["prompts_per_s"].values()
        print(
            f"{batch:6} | {theirs:8.1f} {ours:8.1f} {half:9.1f} | {ours / theirs:5.1f} | "
            f"{row['memory_mb']['pytorch']:8} {row['memory_mb']['ours']:6} | {row['least_mask_iou']:.4f}",
            flush=True,
        )
    rate = {way: {row["batch"]: row["prompts_per_s"][way] for row in rows} for way in rows[0]["prompts_per_s"]}
    best = {way: max(by_batch, key=lambda b: by_batch[b]) for way, by_batch in rate.items()}
    result = {
        "model": a.model,
        "threads": a.threads,
        "rows": rows,
        "best_batch": best,
        "ratio_best_of_each": round(rate["ours"][best["ours"]] / rate["pytorch"][best["pytorch"]], 2),
    }
    print(f"best batch of each ({best['ours']} and {best['pytorch']}): {result['ratio_best_of_each']} times PyTorch")
    if SAM_BATCH in rate["pytorch"]:
        result["ratio_to_pytorch_at_64"] = round(rate["ours"][best["ours"]] / rate["pytorch"][SAM_BATCH], 2)
        print(f"ours at {best['ours']}, PyTorch at SAM's {SAM_BATCH}: {result['ratio_to_pytorch_at_64']} times")
    if a.json:
        write_json(a.json, result)


if __name__ == "__main__":
    main()
