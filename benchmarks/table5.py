"""Seconds a photo in the rows of the paper's Table 5, for every backend that is found, and for PyTorch beside them.

`python -m benchmarks.table5 --json table5.json --markdown table5.md` on the machine in question; `--list` shows what it
would measure, `--only 'ours*cuda*'` a part of that. Each column is measured in a process of its own, one after the
other, and what fails or takes too long is noted with its reason. Columns that the JSON file has are not measured again,
so a call that `--minutes` ends is gone on with by the same command; `--merge a.json b.json` puts files together. Where
packages are missing and there is no network: benchmarks/carry.py.

Both sides have the same weights, photo and prompts. Without `--checkpoint` the weights are random, with smooth masks
(`random_sam` in benchmarks/reference.py). Half of the prompts pass the score filter. On a GPU 5,120 prompts are
decoded, on a CPU fewer, and scaled. MMG, EMR and USR run on the CPU on what `tiny` finds in scikit-image's photos with
the preset `paper`, since random masks are no objects; it keeps fewer masks than SAM, so they are lower bounds. `12 MP
photo` is scaling and encoding one that lies on the host, or on the GPU. PyTorch is transformers' `SamModel`, 64 prompts
a call as in SAM's own mask generation, `compiled` with CUDA graphs; its masks stay logits, and it has no such modules.
`masks of 1,024` is automatic mask generation as a whole: the method `amg` against transformers' pipeline. Ours
suppresses by masks, theirs by boxes: of random weights theirs has few masks left to finish, ours many. Memory is the
peak of the resident set after loading. Parity: mean IoU of the masks of `tiny` with those of ONNX Runtime in fp32 on
the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.isolated import measure_all
from benchmarks.table5_measure import Job, measure
from benchmarks.table5_rows import Row, cards_and_driver, markdown, merged, outdated, rows_of, selected
from esam_rt import __version__
from esam_rt.engines.onnxruntime.providers import PROVIDERS, missing_tensorrt
from esam_rt.export.model import VITS
from esam_rt.loading.doctor import State, diagnose, gpu_finding
from esam_rt.storage.atomic import write_json, write_text
from esam_rt.storage.hashing import sha256_of
from esam_rt.storage.provenance import PACKAGES

ROW_SECONDS = 400  # of a column at most, preparations included


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
        write_json(a.out, measure(Row(kind, tuple(side)), job))
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
    backends = diagnose().backends
    return selected(rows_of(backends, gpu_finding().state is State.OK, has_tensorrt_provider(backends)), only)


def has_tensorrt_provider(backends: Sequence[str]) -> bool:
    """Whether ONNX Runtime has its TensorRT provider, and that the TensorRT that it needs."""
    if "onnxruntime" not in backends:
        return False
    import onnxruntime

    return PROVIDERS["tensorrt"] in onnxruntime.get_available_providers() and missing_tensorrt(onnxruntime) is None


def gpu_here() -> tuple[str, dict[str, str]]:
    """Name, memory and capability of the GPUs, or why there is none; their driver."""
    gpu = gpu_finding()
    if gpu.state is not State.OK:
        return gpu.found, {}
    cards, driver = cards_and_driver(gpu.found)
    return cards, {"driver": driver}


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
    gpu, driver = gpu_here()
    result: dict[str, Any] = {
        "model": a.model,
        "weights": a.checkpoint.name if a.checkpoint else "random weights",
        "gpu": gpu,
        "cpu": f"{os.uname().machine}, {len(os.sched_getaffinity(0))} cores",
        "machine": {f.name: f.found for f in diagnose().findings},
        "rows": {},
    }
    result = merged([*([earlier] if earlier else []), result])
    made = {**made_with(job), **driver}
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
