"""Seconds a photo in the rows of the paper's Table 5, for every backend that is found, and for PyTorch beside them.

`python -m benchmarks.table5 --json table5.json --markdown table5.md` on the machine in question; `--list` shows what it
would measure, `--only 'ours*cuda*'` a part of that. Each column is measured in a process of its own, one after the
other, and what fails or takes too long is noted with its reason. Columns that the JSON file has are not measured again,
so a call that `--minutes` ends is gone on with by the same command; `--merge a.json b.json` puts files together. Where
packages are missing and there is no network: benchmarks/carry.py.

Without `--checkpoint` the weights are random, which is as fast, and half of the prompts pass the score filter. On a GPU
5,120 prompts are decoded, on a CPU fewer, and scaled. MMG, EMR and USR run on the CPU on what `tiny` finds in
scikit-image's photos with the preset `paper`, since random weights find nothing; it keeps fewer masks than SAM, so they
are lower bounds. `12 MP photo` is scaling and encoding one that lies on the host, or on the GPU. PyTorch is
transformers' `SamModel`, 64 prompts a call as in SAM's own mask generation; its masks stay logits, and it has no such
modules. `masks of 1,024` is automatic mask generation as a whole: the method `amg` against transformers' pipeline.
Parity: mean IoU of the masks of `tiny` with those of ONNX Runtime in fp32 on the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from skimage import data

from esam_rt import EntitySegmenter, Settings, __version__, load
from esam_rt.cache import sha256_of
from esam_rt.doctor import State, diagnose, gpu_finding
from esam_rt.export import VITS
from esam_rt.files import write_json, write_text
from esam_rt.load import Placement, load_sam
from esam_rt.prompts import point_grid
from esam_rt.runner import PACKAGES
from esam_rt.sam import Sam
from esam_rt.self_test import compare
from esam_rt.settings import Filters

from .isolated import measure_all
from .measure import in_fresh_process, seconds, status_mb
from .table5_rows import PAPER_PROMPTS, Row, markdown, merged, outdated, rows_of, selected

CPU_PROMPTS = 256
SAM_BATCH = 64
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
ROW_SECONDS = 400  # of a column at most, preparations included


@dataclass(frozen=True)
class Job:
    """model: of SAM's ViTs. checkpoint: its weights, None = random ones. folder: for what rows share. rounds: of which
    the median counts."""

    model: str
    checkpoint: Path | None
    folder: Path
    rounds: int


# What a process of its own measures.


def measure(row: Row, job: Job) -> dict[str, float]:
    """The figures of a row, in this process."""
    os.environ["ESAM_RT_CACHE"] = str(job.folder / "cache")
    kinds = {"modules": modules, "parity": parity, "ours": ours, "photo": photos, "pytorch": pytorch}
    return kinds[row.kind](row.side, job)


def modules(side: tuple[str, ...], job: Job) -> dict[str, float]:
    """Median seconds of MMG, EMR and USR with `tiny`."""
    with EntitySegmenter("tiny", settings=Settings.preset("paper")) as segment:
        segment(data.astronaut())
        times = [segment(getattr(data, name)()).times_s for name in PHOTOS for _ in range(max(1, job.rounds // 3))]
    return {name: statistics.median(t[name] for t in times) for name in ("mmg", "emr", "usr")}


def parity(side: tuple[str, ...], job: Job) -> dict[str, float]:
    """`tiny` on a backend against ONNX Runtime in fp32 on the CPU."""
    here, reference = load_sam("tiny", Placement(*side)), load_sam("tiny")
    found = [compare(here, reference, getattr(data, name)()) for name in PHOTOS]
    masks = sum(f.masks for f in found)
    return {
        "masks": masks,
        "iou": sum(f.iou * f.masks for f in found) / masks,
        "least_iou_of_a_photo": min(f.iou for f in found),
        "greatest_score_difference": max(f.score for f in found),
    }


def ours(side: tuple[str, ...], job: Job) -> dict[str, float]:
    """Seconds and memory of a backend."""
    in_fresh_process(prepare, side, job)
    before_mb = gpu_memory_mb()
    sam = our_sam(side, job)
    image, everything = photo(), Filters(score_min=-1.0, stability_min=0.0, stability_offset=1.0, min_area=1)
    encoder_s = median_s(lambda: sam.encode(image), job.rounds)
    encoded = sam.encode(image)
    points = prompts(side[1])
    best = np.full(128, -1.0)
    some = sam.decode(encoded, points[:128], 0, everything)
    np.maximum.at(best, some.point, some.score)
    half = {"filters.score_min": float(np.clip(np.median(best), -1, 1)), "filters.stability_min": 0.0}
    filters = Settings().with_overrides(half).completed(sam.row.own_settings()).filters
    decoder_s = median_s(lambda: sam.decode(encoded, points, 0, filters), job.rounds)
    figures = {"encoder": encoder_s, "decoder": decoder_s * PAPER_PROMPTS / len(points), "prompts": len(points)}
    if side[1] != "cpu":
        with EntitySegmenter(sam, method="amg", settings=Settings().with_overrides(half)) as segment:
            figures["amg"] = median_s(lambda: segment(image), max(1, job.rounds // 3))
    figures |= {"batch": sam.row.decode_batch, "memory_mb": status_mb("VmHWM")}
    return figures | {"gpu_memory_mb": gpu_memory_mb() - before_mb}


def photos(side: tuple[str, ...], job: Job) -> dict[str, float]:
    """Seconds to scale and encode a photo of 12 megapixels that lies on the host, and one that lies on the GPU; how far
    the two, scaled, lie apart."""
    from esam_rt.engines.cuda import CudaDevice, HostBuffer

    image = cv2.resize(data.astronaut(), (4000, 3000), interpolation=cv2.INTER_LINEAR)
    device = CudaDevice()
    on_gpu, staging = device.allocate(image.shape, np.uint8), HostBuffer(device).sized(image.nbytes)
    staging[:] = image.reshape(-1)
    device.upload(on_gpu, staging)
    device.synchronise()
    sam = our_sam(side, job)
    scaled = cv2.resize(image, (1024, 768), interpolation=cv2.INTER_AREA).astype(int)
    levels = np.abs(sam.photo(on_gpu).on_host((768, 1024)) - scaled)
    return {
        "photo": median_s(lambda: sam.encode(image), job.rounds),
        "gpu_photo": median_s(lambda: sam.encode(on_gpu), job.rounds),
        "greatest_difference": int(levels.max()),
        "mean_difference": float(levels.mean()),
    }


def prepare(side: tuple[str, ...], job: Job) -> None:
    """Export, build and test, whose memory does not count."""
    our_sam(side, job).close()


def our_sam(side: tuple[str, ...], job: Job) -> Sam:
    """The model on a backend. side: backend, device, precision, and perhaps a variant."""
    if side[3:] == ("fused",):
        load.GPU_ATTENTION = "fused"
    placement = Placement(*side[:3], cuda_graphs=side[3:] == ("graphs",))
    return load_sam(job.model, placement, checkpoint_of(job))


def pytorch(side: tuple[str, ...], job: Job) -> dict[str, float]:
    """Seconds and memory of transformers' SamModel with random weights."""
    import torch

    from .reference import sam_model

    device, dtype, mode = torch.device(side[0]), getattr(torch, side[1]), side[2]
    before_mb = gpu_memory_mb()
    network = sam_model(VITS[job.model], "eager" if mode == "eager" else "sdpa").to(device, dtype)

    def waited(call: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            with torch.inference_mode():
                call()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return run

    pixels = torch.rand(1, 3, 1024, 1024, device=device, dtype=dtype)
    points = torch.from_numpy(prompts(side[0])).to(device, dtype)[None, :, None] * 1024
    labels = torch.ones(points.shape[:3], device=device, dtype=torch.int)
    encode, decode = network.get_image_embeddings, network.forward
    if mode == "compiled":
        encode, decode = torch.compile(encode), torch.compile(decode)
    with torch.inference_mode():
        embedding = encode(pixels)

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
    return figures | {"memory_mb": status_mb("VmHWM"), "gpu_memory_mb": gpu_memory_mb() - before_mb}


def pipeline_s(network: Any, device: Any, score_min: float, rounds: int) -> float:
    """Seconds of transformers' own mask generation, 32×32 points, half of which pass."""
    from PIL import Image
    from transformers import SamImageProcessor
    from transformers import pipeline as make

    generate = make("mask-generation", model=network, image_processor=SamImageProcessor(), device=device)
    image, options = Image.fromarray(photo()), {"pred_iou_thresh": score_min, "stability_score_thresh": 0.0}
    return median_s(lambda: generate(image, points_per_batch=SAM_BATCH, **options), rounds)


def photo() -> Any:
    """uint8 [768, 1024, 3]."""
    return cv2.resize(data.astronaut()[:384], (1024, 768), interpolation=cv2.INTER_LINEAR)


def prompts(device: str) -> Any:
    """Of both grids, shuffled: float32 [N, 2]."""
    points = np.concatenate([point_grid(32), point_grid(64)])
    shuffled = points[np.random.default_rng(0).permutation(len(points))]
    return shuffled[:CPU_PROMPTS] if device == "cpu" else shuffled


def median_s(call: Callable[[], object], rounds: int, limit_s: float = 40) -> float:
    """Median seconds of a call that has run once before; fewer rounds where they take long."""
    call()
    times: list[float] = []
    while len(times) < rounds and sum(times) < limit_s:
        times.append(seconds(call))
    return statistics.median(times)


def checkpoint_of(job: Job) -> Path:
    """The weights; random ones are written once."""
    if job.checkpoint is not None:
        return job.checkpoint
    path = job.folder / f"{job.model}.pth"
    if not path.exists():
        from .export_memory import write_checkpoint

        in_fresh_process(write_checkpoint, job.model, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    return path


def gpu_memory_mb() -> float:
    """Memory in use on the first GPU, what CUDA itself takes included; 0 without one."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return float(subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0])
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=VITS, default="vit_h")
    parser.add_argument("--checkpoint", type=Path, help="real weights; default: random ones")
    parser.add_argument("--only", nargs="+", default=[], metavar="PATTERN", help="of rows, such as 'ours*' modules")
    parser.add_argument("--list", action="store_true", help="show the rows, and leave")
    parser.add_argument("--minutes", type=float, default=8.5, help="begin nothing that would end later")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "esam-rt-table5")
    parser.add_argument("--json", type=Path, help="figures; those that are there already stay")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    parser.add_argument("--merge", type=Path, nargs="+", help="measure nothing: put files of --json together")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    deadline = time.monotonic() + 60 * a.minutes
    job = Job(a.model, a.checkpoint, a.folder, a.rounds)
    if a.row:
        kind, *side = a.row.split()
        a.out.write_text(json.dumps(measure(Row(kind, tuple(side)), job)))
        return
    if a.list:
        print("\n".join(row.name for row in rows_here(a.only)))
        return
    earlier = a.merge or ([a.json] if a.json and a.json.exists() else [])
    result = merged([json.loads(path.read_text()) for path in earlier]) if earlier else None
    if not a.merge:
        result = measured_here(a, job, result, deadline)
    print(markdown(result))
    if a.json:
        write_json(a.json, result)
    if a.markdown:
        write_text(a.markdown, markdown(result))


def rows_here(only: list[str]) -> list[Row]:
    """What this machine has that some pattern fits."""
    return selected(rows_of(diagnose().backends, gpu_finding().state is State.OK), only)


def made_with(job: Job) -> dict[str, str]:
    """What figures depend on, besides the machine: versions, rounds, weights."""
    versions = {}
    for package in (*PACKAGES, "torch", "transformers", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    weights = {"checkpoint": sha256_of(job.checkpoint)[:16]} if job.checkpoint else {}
    return {"esam-rt": __version__, **versions, "rounds": str(job.rounds), **weights}


def measured_here(a: argparse.Namespace, job: Job, earlier: dict[str, Any] | None, deadline: float) -> dict[str, Any]:
    """Measure what this machine has and earlier results lack; the JSON file is whole after each row."""
    result: dict[str, Any] = {
        "model": a.model,
        "weights": a.checkpoint.name if a.checkpoint else "random weights",
        "gpu": gpu_finding().found,
        "cpu": f"{os.uname().machine}, {len(os.sched_getaffinity(0))} cores",
        "machine": {f.name: f.found for f in diagnose().findings},
        "rows": {},
    }
    result = merged([*([earlier] if earlier else []), result])
    made = made_with(job)
    for name, entry in list(result["rows"].items()):
        if differs := outdated(entry.get("made_with", {}), made):
            print(f"{name}: measured anew, it was of {', '.join(differs)}", flush=True)
            del result["rows"][name]
    job.folder.mkdir(parents=True, exist_ok=True)
    given = [f"--model={a.model}", f"--folder={a.folder}", f"--rounds={a.rounds}"]
    given += [f"--checkpoint={a.checkpoint}"] if a.checkpoint else []
    python = [sys.executable, "-m", "benchmarks.table5", *given]
    commands = {row.name: [*python, f"--row={row.name}", "--out"] for row in rows_here(a.only)}

    def tell(name: str, entry: Mapping[str, Any]) -> None:
        result["rows"][name]["made_with"] = made
        print(f"{name}: {entry.get('error') or entry['figures']} ({entry['took_s']} s)", flush=True)
        if a.json:
            write_json(a.json, result)

    left = measure_all(commands, result["rows"], deadline, ROW_SECONDS, tell)
    if left:
        print(f"No time for {', '.join(left)}: the same command goes on with them.", flush=True)
    return result


if __name__ == "__main__":
    main()
