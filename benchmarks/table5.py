"""How many seconds does a photo take in the rows of the paper's Table 5, for every backend found and for PyTorch?

    python -m benchmarks.table5 --json table5.json --markdown table5.md

--list shows the rows that can be measured here; --only 'ours*cuda*' selects some. Each row runs in its own process, one
after the other. A row that fails or takes too long is recorded with the reason. Rows that the JSON file has are not
measured again, so the same command continues a run that --minutes ended. --merge a.json b.json merges files. To bring
packages to a machine without network, see benchmarks/lib/carry.py.

- Weights: both sides have the same. Without --checkpoint they are random, with smooth masks (``random_sam`` in
  benchmarks/lib/torch_sam.py). Half of the prompts pass the score filter.
- Decoder: 5,120 prompts on a GPU. On a CPU fewer, and the time is scaled.
- MMG, EMR, USR: on the CPU, on the masks of `tiny` in scikit-image's photos with preset `paper`, because random masks
  are no objects. `tiny` keeps fewer masks than SAM, so these times are lower bounds.
- 12 MP photo: scaling and encoding a photo on the host, or on the GPU.
- PyTorch: transformers' SamModel, 64 prompts per call as in SAM's own mask generation; `compiled` uses CUDA graphs. Its
  masks stay logits, and it has no such modules.
- masks of 1,024: automatic mask generation as a whole, our method `amg` and transformers' pipeline. Ours suppresses by
  masks, theirs by boxes. With random weights theirs has few masks left to finish, ours many.
- Memory: peak of the resident set after loading.
- Parity: mean IoU of the masks of `tiny` with those of ONNX Runtime in fp32 on the CPU.
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

from benchmarks.lib.command_line import parser_of
from benchmarks.lib.isolated import measure_all
from benchmarks.lib.table5_measure import Job, measure
from benchmarks.lib.table5_rows import Row, cards_and_driver, markdown, merged, outdated, rows_of, selected
from esam_rt import __version__
from esam_rt.engines.onnxruntime.providers import PROVIDERS, missing_tensorrt
from esam_rt.export.model import VITS
from esam_rt.loading.doctor import State, diagnose, gpu_finding
from esam_rt.storage.atomic import write_json, write_text
from esam_rt.storage.hashing import sha256_of
from esam_rt.storage.provenance import PACKAGES

ROW_SECONDS = 400  # limit of a row, with preparations


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", choices=VITS, default="vit_h")
    parser.add_argument("--checkpoint", type=Path, help="weights; default: random ones")
    parser.add_argument("--only", nargs="+", default=[], metavar="PATTERN", help="rows, such as 'ours*' modules")
    parser.add_argument("--list", action="store_true", help="print the rows and exit")
    parser.add_argument("--minutes", type=float, default=8.5, help="stop after so many minutes")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "esam-rt-table5",
        help="folder to work in",
    )
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--merge", type=Path, nargs="+", help="measure nothing; merge these JSON files")
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
    """Return the rows of this machine that match a pattern."""
    backends = diagnose().backends
    return selected(rows_of(backends, gpu_finding().state is State.OK, has_tensorrt_provider(backends)), only)


def has_tensorrt_provider(backends: Sequence[str]) -> bool:
    """Return True if ONNX Runtime has its TensorRT provider and finds the TensorRT that it needs."""
    if "onnxruntime" not in backends:
        return False
    import onnxruntime

    return PROVIDERS["tensorrt"] in onnxruntime.get_available_providers() and missing_tensorrt(onnxruntime) is None


def gpu_here() -> tuple[str, dict[str, str]]:
    """Return name, memory and capability of the GPUs, or why they are missing, and their driver."""
    gpu = gpu_finding()
    if gpu.state is not State.OK:
        return gpu.found, {}
    cards, driver = cards_and_driver(gpu.found)
    return cards, {"driver": driver}


def made_with(job: Job) -> dict[str, str]:
    """Return all that figures depend on besides the machine: versions, rounds, weights."""
    versions = {}
    for package in (*PACKAGES, "torch", "transformers", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    weights = {"checkpoint": sha256_of(job.checkpoint)[:16]} if job.checkpoint else {}
    return {"esam-rt": __version__, **versions, "rounds": str(job.rounds), **weights}


def measured_here(a: argparse.Namespace, job: Job, earlier: dict[str, Any] | None, deadline: float) -> dict[str, Any]:
    """Measure the rows that earlier results lack. The JSON file is complete after each row."""
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
            print(f"{name}: measuring again, because it was made with {', '.join(differs)}", flush=True)
            del result["rows"][name]
    job.folder.mkdir(parents=True, exist_ok=True)
    given = [f"--model={a.model}", f"--folder={a.folder}", f"--rounds={a.rounds}"]
    given += [f"--checkpoint={a.checkpoint}"] if a.checkpoint else []
    python = [sys.executable, "-m", "benchmarks.table5", *given]
    commands = {row.name: [*python, f"--row={row.name}", "--out"] for row in rows_here(a.only)}

    def on_progress(name: str, entry: Mapping[str, Any]) -> None:
        result["rows"][name]["made_with"] = made
        print(f"{name}: {entry.get('error') or entry['figures']} ({entry['took_s']} s)", flush=True)
        if a.json:
            write_json(a.json, result)

    left = measure_all(commands, result["rows"], deadline, ROW_SECONDS, on_progress)
    if left:
        print(f"No time left for {', '.join(left)}. Run the same command again to continue.", flush=True)
    return result


if __name__ == "__main__":
    main()
