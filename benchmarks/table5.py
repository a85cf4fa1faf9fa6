"""Seconds a photo in the rows of the paper's Table 5, for every backend that is found, and for PyTorch beside them.

`python -m benchmarks.table5 [--model vit_h] [--checkpoint FILE] [--prompts 4096] [--json FILE] [--markdown FILE]`.
Without `--checkpoint` the weights are random, which is as fast, and half of the prompts pass the score filter. Each
side has a process of its own, one after the other. What decodes fewer prompts than 5,120 is scaled, and says so. MMG,
EMR and USR run on the CPU on what `tiny` finds in scikit-image's photos with the preset `paper`, since random weights
find nothing; it keeps fewer masks than SAM, so they are lower bounds. PyTorch is transformers' `SamModel`, 64 prompts a
call as in SAM's own mask generation; its masks stay logits, and it has no such modules.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from skimage import data

from esam_rt import EntitySegmenter, Settings, __version__
from esam_rt.doctor import State, diagnose, gpu_finding
from esam_rt.export import VITS
from esam_rt.load import Placement, load_sam
from esam_rt.prompts import point_grid
from esam_rt.settings import Filters

from .measure import in_fresh_process, seconds, status_mb

PAPER_PROMPTS = 32 * 32 + 64 * 64
SAM_BATCH = 64
ROWS = ("encoder", "decoder", "mmg", "emr", "usr", "total", "memory_mb", "gpu_memory_mb")
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")


def sides(has_gpu: bool) -> Iterator[dict[str, str]]:
    """What can run here: ours by backend, device and precision, then PyTorch by dtype, attention and compilation."""
    for backend in diagnose().backends:
        if backend == "onnxruntime":
            yield {"side": "ours", "backend": backend, "device": "cpu", "precision": "fp32"}
        if has_gpu:
            for precision in ("fp32", "fp16"):
                yield {"side": "ours", "backend": backend, "device": "cuda", "precision": precision}
    if has_gpu:
        for dtype, attention, mode in (
            ("float32", "eager", "eager"),
            ("float16", "sdpa", "eager"),
            ("float16", "sdpa", "compiled"),
            ("float16", "sdpa", "pipeline"),
        ):
            yield {"side": "pytorch", "device": "cuda", "dtype": dtype, "attention": attention, "mode": mode}
    else:
        yield {"side": "pytorch", "device": "cpu", "dtype": "float32", "attention": "sdpa", "mode": "eager"}


def photo() -> Any:
    """uint8 [768, 1024, 3]."""
    return cv2.resize(data.astronaut()[:384], (1024, 768), interpolation=cv2.INTER_LINEAR)


def median_s(call: Callable[[], object], rounds: int) -> float:
    """Median seconds of a call that has run once before."""
    call()
    return statistics.median(seconds(call) for _ in range(rounds))


def ours(model: str, checkpoint: Path, side: dict[str, str], prompts: int, rounds: int) -> dict[str, float]:
    """Seconds and memory of a backend, in this process."""
    before_mb = gpu_memory_mb()
    sam = load_sam(model, Placement(side["backend"], side["device"], side["precision"]), checkpoint)
    image = photo()
    encoder_s = median_s(lambda: sam.encode(image), rounds)
    encoded = sam.encode(image)
    grid = point_grid(64)
    points = grid[np.random.default_rng(0).permutation(len(grid))][: min(prompts, len(grid))]
    everything = Filters(score_min=0.0, stability_min=0.0, stability_offset=1.0)
    some = sam.decode(encoded, points[:128], 0, everything)
    best = np.zeros(128)
    np.maximum.at(best, some.point, some.score)
    half = Filters(score_min=float(np.median(best)), stability_min=0.0, stability_offset=1.0)
    decoder_s = (
        median_s(lambda: sam.decode(encoded, points, 0, half), max(1, rounds // 3)) * PAPER_PROMPTS / len(points)
    )
    after_mb = gpu_memory_mb()
    sam.close()
    return {
        "encoder": encoder_s,
        "decoder": decoder_s * PAPER_PROMPTS / len(points),
        "decoded_prompts": len(points),
        "memory_mb": status_mb("VmHWM"),
        "gpu_memory_mb": after_mb - before_mb,
    }


def pytorch(model: str, side: dict[str, str], prompts: int, rounds: int) -> dict[str, float]:
    """Seconds and memory of transformers' SamModel with random weights, in this process."""
    import torch

    from .reference import sam_model

    device, dtype = torch.device(side["device"]), getattr(torch, side["dtype"])
    network = sam_model(VITS[model], side["attention"]).to(device, dtype)
    if side["mode"] == "pipeline":
        return pipeline(network, device, rounds)
    pixels = torch.rand(1, 3, 1024, 1024, device=device, dtype=dtype)
    points = torch.rand(1, min(prompts, PAPER_PROMPTS), 1, 2, device=device, dtype=dtype) * 1024
    labels = torch.ones(*points.shape[:3], device=device, dtype=torch.int)
    encode, decode = network.get_image_embeddings, network.forward
    if side["mode"] == "compiled":
        encode, decode = torch.compile(encode), torch.compile(decode)

    def waited(call: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            with torch.inference_mode():
                call()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return run

    with torch.inference_mode():
        embedding = encode(pixels)

    def decode_all() -> None:
        for start in range(0, points.shape[1], SAM_BATCH):
            part = slice(start, start + SAM_BATCH)
            decode(image_embeddings=embedding, input_points=points[:, part], input_labels=labels[:, part])

    encoder_s = median_s(waited(lambda: encode(pixels)), rounds)
    decoder_s = median_s(waited(decode_all), max(1, rounds // 3)) * PAPER_PROMPTS / points.shape[1]
    return {
        "encoder": encoder_s,
        "decoder": decoder_s,
        "decoded_prompts": points.shape[1],
        "memory_mb": status_mb("VmHWM"),
        "gpu_memory_mb": torch.cuda.max_memory_reserved() / 2**20 if device.type == "cuda" else 0,
    }


def pipeline(network: Any, device: Any, rounds: int) -> dict[str, float]:
    """transformers' own mask generation, 32×32 points: encoder, decoder and masks together, in the decoder's row."""
    import torch
    from PIL import Image
    from transformers import SamImageProcessor
    from transformers import pipeline as make

    generate = make("mask-generation", model=network, image_processor=SamImageProcessor(), device=device)
    image = Image.fromarray(photo())
    taken = median_s(lambda: generate(image, points_per_batch=SAM_BATCH), max(1, rounds // 3))
    return {
        "encoder": 0.0,
        "decoder": taken * PAPER_PROMPTS / 1024,
        "decoded_prompts": 1024,
        "memory_mb": status_mb("VmHWM"),
        "gpu_memory_mb": torch.cuda.max_memory_reserved() / 2**20,
    }


def modules(rounds: int) -> dict[str, float]:
    """Median seconds of MMG, EMR and USR with `tiny`, in this process."""
    with EntitySegmenter("tiny", settings=Settings.preset("paper")) as segment:
        segment(data.astronaut())
        times = [segment(getattr(data, name)()).times_s for name in PHOTOS for _ in range(rounds)]
    return {name: statistics.median(t[name] for t in times) for name in ("mmg", "emr", "usr")}


def gpu_memory_mb() -> float:
    """Memory in use on the first GPU; 0 without one."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return float(subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0])
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return 0.0


def title(side: dict[str, str]) -> str:
    """Head of a column."""
    return " ".join(value for key, value in side.items() if key != "side" or value == "pytorch")


def markdown(result: dict[str, Any]) -> str:
    """The table, and what it is of."""
    columns = result["columns"]
    lines = [
        f"{result['model']}, {result['weights']}, {PAPER_PROMPTS:,} prompts, {result['gpu']}, {result['cpu']}",
        "",
        f"| | {' | '.join(column['title'] for column in columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for row in ROWS:
        cells = (column["figures"].get(row) for column in columns)
        digits = 0 if row.endswith("_mb") else 3
        lines.append(f"| {row} | {' | '.join('-' if c is None else f'{c:,.{digits}f}' for c in cells)} |")
    counts = {column["title"]: int(column["figures"]["decoded_prompts"]) for column in columns}
    scaled = ", ".join(f"{name} from {n:,}" for name, n in counts.items() if n != PAPER_PROMPTS)
    lines += ["", f"Seconds; memory in MB. Decoder scaled: {scaled or 'none'}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=VITS, default="vit_h")
    parser.add_argument("--checkpoint", type=Path, help="real weights; default: random ones")
    parser.add_argument("--prompts", type=int, default=4096, help="decoded by each side, at most 4,096")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    a = parser.parse_args()
    gpu = gpu_finding()
    has_gpu = gpu.state is State.OK
    columns: list[dict[str, Any]] = []
    with TemporaryDirectory() as name:
        checkpoint = a.checkpoint or Path(name) / "sam.pth"
        if a.checkpoint is None:
            from .export_memory import write_checkpoint

            in_fresh_process(write_checkpoint, a.model, checkpoint)
        of_modules = in_fresh_process(modules, max(1, a.rounds // 3))
        for side in sides(has_gpu):
            if side["side"] == "ours":
                figures = in_fresh_process(ours, a.model, checkpoint, side, a.prompts, a.rounds) | of_modules
            else:
                figures = in_fresh_process(pytorch, a.model, side, a.prompts, a.rounds)
            figures["total"] = sum(figures.get(row, 0) for row in ("encoder", "decoder", "mmg", "emr", "usr"))
            columns.append({"title": title(side), **side, "figures": figures})
            print(f"{title(side)}: {figures['total']:.3f} s", flush=True)
    result = {
        "esam_rt": __version__,
        "model": a.model,
        "weights": str(a.checkpoint.name) if a.checkpoint else "random weights",
        "gpu": gpu.found,
        "cpu": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "columns": columns,
    }
    print(markdown(result))
    if a.json:
        a.json.write_text(json.dumps(result, indent=2) + "\n")
    if a.markdown:
        a.markdown.write_text(markdown(result))


if __name__ == "__main__":
    main()
