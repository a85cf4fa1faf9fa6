"""Prompts per second of the exported decoder in ONNX Runtime against the PyTorch decoder of `tiny`.

`python -m benchmarks.decoder [--json FILE]`: the same random weights and points, one process, turn by turn. PyTorch
returns logits and scores; ONNX Runtime also thresholds, measures and packs the masks, once of all prompts and once of
the half with the higher scores (what a score filter leaves to upscale). Wall time is the median over the rounds. CPU
time is the least over the rounds: with one thread it is the figure to trust on a machine that has other work to do.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from esam_rt.engines.onnxruntime import OnnxRuntimeEngine
from esam_rt.export import export_model
from esam_rt.export.tiny.model import TinySam


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(model: TinySam, decoder: Path, batch: int, threads: int, rounds: int) -> dict[str, Any]:
    """One batch size and thread number: prompts per second of the three ways, and the greatest difference of scores."""
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(1, model.dims.width, 32, 32)).astype(np.float32)
    points = rng.uniform(0, model.dims.input_px, (batch, 2)).astype(np.float32)
    image, prompts = torch.from_numpy(embedding[0]), torch.from_numpy(points)
    torch.set_num_threads(threads)
    with OnnxRuntimeEngine(decoder, threads=threads) as engine, torch.inference_mode():
        theirs = model.decoder(image, prompts, model.dims.input_px)
        median = float(theirs.iou.amax(1).median())

        def ours(score_min: float) -> dict[str, NDArray[Any]]:
            return engine.infer(
                {
                    "embedding": embedding,
                    "points_xy_px": points,
                    "valid_hw": np.array([96, 128]),
                    "score_min": np.array(score_min, np.float32),
                    "stability_offset": np.array(1, np.float32),
                }
            )

        difference = float(np.abs(ours(-np.inf)["score"] - theirs.iou.numpy()).max())
        ways: dict[str, Callable[[], object]] = {
            "pytorch": lambda: model.decoder(image, prompts, model.dims.input_px),
            "onnxruntime": lambda: ours(-np.inf),
            "onnxruntime, half kept": lambda: ours(median),
        }
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, call in ways.items():
                times[way].append(seconds(call))
    rate = {way: round(batch / float(np.median([wall for wall, _ in t])), 1) for way, t in times.items()}
    cpu_rate = {way: round(batch / min(cpu for _, cpu in t), 1) for way, t in times.items()}
    return {
        "batch": batch,
        "threads": threads,
        "prompts_per_s": rate,
        "prompts_per_cpu_s": cpu_rate,
        "score_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prompts", type=int, default=320, help="prompts of each way and batch size")
    parser.add_argument("--json", type=Path, help="write the figures here")
    a = parser.parse_args()
    torch.manual_seed(0)
    model = TinySam().eval().requires_grad_(False)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "tiny.safetensors"
        save_file({name: tensor.numpy() for name, tensor in model.state_dict().items()}, checkpoint)
        decoder = export_model("tiny", checkpoint, Path(folder)).decoder
        print(
            f"{'threads':>7} {'batch':>5} | {'PyTorch':>8} {'ours':>8} {'half kept':>9} prompts/s | ratio | of CPU time"
        )
        for threads in a.threads:
            for batch in a.batches:
                row = compare(model, decoder, batch, threads, max(4, a.prompts // batch))
                rows.append(row)
                wall, cpu = (list(row[k].values()) for k in ("prompts_per_s", "prompts_per_cpu_s"))
                print(
                    f"{threads:7} {batch:5} | {wall[0]:8.1f} {wall[1]:8.1f} {wall[2]:9.1f} {'':9} | "
                    f"{wall[1] / wall[0]:5.1f} | {cpu[0]:.1f} {cpu[1]:.1f} {cpu[2]:.1f}: {cpu[1] / cpu[0]:.1f}",
                    flush=True,
                )
    ratios = {}
    for threads in a.threads:
        rates = [row["prompts_per_s"] for row in rows if row["threads"] == threads]
        best = {way: max(rate[way] for rate in rates) for way in rates[0]}
        ratios[threads] = round(best["onnxruntime"] / best["pytorch"], 2)
        print(f"{threads} threads, best batch of each: {ratios[threads]} times as many prompts per second as PyTorch")
    result = {"rows": rows, "ratio_by_threads": ratios}
    print(json.dumps(result))
    if a.json:
        a.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
