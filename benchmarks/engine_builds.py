"""How long does building TensorRT-RTX engines take, and how large are they?

    python -m benchmarks.engine_builds --models vit_b vit_h --precisions fp16 bf16 --target sm_86,sm_89,sm_120

The engines are built for GPUs that need not be here. Random weights are written as torch.save does, then exported and
built in a process of their own. Memory is the peak of the resident set, with interpreter and libraries. No engine is
run: that takes the GPU.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.measure import in_fresh_process, seconds, status_mb
from benchmarks.lib.random_checkpoint import write_checkpoint
from esam_rt.engines.tensorrt.builder import BuildOptions
from esam_rt.export.model import VITS, Precision
from esam_rt.loading.engine_cache import engine_set
from esam_rt.loading.engine_spec import EngineSpec
from esam_rt.sam.models import MODELS
from esam_rt.storage.atomic import write_json


def build(model: str, checkpoint: Path, spec: EngineSpec, cache: Path) -> dict[str, Any]:
    """Export and build in this process."""
    os.environ["ESAM_RT_CACHE"] = str(cache)
    made: list[Any] = []
    taken = seconds(lambda: made.append(engine_set(MODELS[model], spec, checkpoint)))
    sidecar = made[0].record.to_json()
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
    parser = parser_of(__doc__)
    parser.add_argument("--models", choices=VITS, nargs="+", default=["vit_b", "vit_h"])
    parser.add_argument("--precisions", choices=list(Precision), nargs="+", default=["fp16", "bf16", "fp32"])
    parser.add_argument("--target", default="sm_86,sm_89,sm_120", help="compute capabilities to build for")
    parser.add_argument("--folder", type=Path, help="folder for all files; default: the temporary folder")
    a = parser.parse_args()
    options, rows = BuildOptions(tuple(a.target.split(","))), []
    print("model | precision | fused |  whole | encoder MB | peak MB")
    for model in a.models:
        with TemporaryDirectory(dir=a.folder) as name:
            checkpoint = Path(name) / "sam.pth"
            note(f"writing a checkpoint of {model}")
            in_fresh_process(write_checkpoint, model, checkpoint)
            for precision in a.precisions:
                note(f"building {model} in {precision}")
                spec = EngineSpec("tensorrt-rtx", precision, options=options)
                row = in_fresh_process(build, model, checkpoint, spec, Path(name) / "cache")
                rows.append(row)
                encoder = row["engines"]["encoder.engine"]
                line = f"{model} | {precision:9} | {encoder['attention']:5} | {row['s']:5.0f} s"
                print(f"{line} | {encoder['size_bytes'] / 1e6:10.0f} | {row['peak_mb']:7}", flush=True)
                if a.json:
                    write_json(a.json, rows)


if __name__ == "__main__":
    main()
