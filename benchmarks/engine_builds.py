"""Time, size and memory of building TensorRT-RTX engines for GPUs that are not here.

`python -m benchmarks.engine_builds [--models vit_b vit_h] [--precisions fp16 bf16] [--target sm_86,sm_89,sm_120]
[--json FILE]`. Random weights, written as `torch.save` does, exported and built by `engine_store.engine_set` in a
process of its own; peaks of the resident set, interpreter and libraries included. Nothing is run: that takes the GPU.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.export_memory import write_checkpoint
from benchmarks.lib.measure import in_fresh_process, seconds, status_mb
from esam_rt.engines.tensorrt.builder import BuildOptions
from esam_rt.export.model import VITS, Precision
from esam_rt.loading.engine_cache import engine_set
from esam_rt.loading.engine_record import EngineSpec
from esam_rt.sam.models import MODELS


def build(model: str, checkpoint: Path, spec: EngineSpec, cache: Path) -> dict[str, Any]:
    """Export and build in this process."""
    os.environ["ESAM_RT_CACHE"] = str(cache)
    made: list[Any] = []
    taken = seconds(lambda: made.append(engine_set(MODELS[model], spec, checkpoint)))
    sidecar = made[0].sidecar
    return {
        "model": model,
        "precision": spec.precision,
        "targets": sidecar["targets"],
        "backend": f"{sidecar['backend']} {sidecar['backend_version']}",
        "s": round(taken, 1),
        "peak_mb": round(status_mb("VmHWM")),
        "engines": {
            name: {key: entry[key] for key in ("size_bytes", "layers", "attention", "seconds")}
            for name, entry in sidecar["engines"].items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", choices=VITS, nargs="+", default=["vit_b", "vit_h"])
    parser.add_argument("--precisions", choices=list(Precision), nargs="+", default=["fp16", "bf16", "fp32"])
    parser.add_argument("--target", default="sm_86,sm_89,sm_120")
    parser.add_argument("--folder", type=Path, help="where there is room; default: the system's temporary folder")
    parser.add_argument("--json", type=Path, help="write the figures here")
    a = parser.parse_args()
    options, rows = BuildOptions(tuple(a.target.split(","))), []
    print("model | precision | fused |  whole | encoder MB | peak MB")
    for model in a.models:
        with TemporaryDirectory(dir=a.folder) as name:
            checkpoint = Path(name) / "sam.pth"
            in_fresh_process(write_checkpoint, model, checkpoint)
            for precision in a.precisions:
                spec = EngineSpec("tensorrt-rtx", precision, options=options)
                row = in_fresh_process(build, model, checkpoint, spec, Path(name) / "cache")
                rows.append(row)
                encoder = row["engines"]["encoder.engine"]
                line = f"{model} | {precision:9} | {encoder['attention']:5} | {row['s']:5.0f} s"
                print(f"{line} | {encoder['size_bytes'] / 1e6:10.0f} | {row['peak_mb']:7}", flush=True)
    if a.json:
        a.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
