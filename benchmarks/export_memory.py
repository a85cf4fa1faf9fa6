"""How much memory and time does an export take, and opening its graphs?

    python -m benchmarks.export_memory --model vit_h --precision fp32 --json export.json

A checkpoint of random weights is written as torch.save does. One process exports it, another opens the four graphs in
ONNX Runtime. Memory is the peak of the resident set, with interpreter and libraries. The temporary folder needs room
for twice the checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.measure import in_fresh_process, seconds, status_mb
from benchmarks.lib.random_checkpoint import write_checkpoint
from esam_rt.engines.onnxruntime.ort_engine import OnnxRuntimeEngine
from esam_rt.export.model import VITS, Precision, export_model
from esam_rt.storage.atomic import write_json


def export(model: str, checkpoint: Path, precision: str, out: Path) -> dict[str, Any]:
    """Export in this process."""
    seconds_taken = seconds(lambda: export_model(model, checkpoint, out, Precision(precision)))
    files = {f.name: f.stat().st_size for f in sorted(out.iterdir())}
    return {"s": round(seconds_taken, 1), "peak_mb": round(status_mb("VmHWM")), "file_bytes": files}


def open_graphs(out: Path) -> dict[str, Any]:
    """Open the graphs in this process."""
    engines: list[OnnxRuntimeEngine] = []
    seconds_taken = seconds(lambda: engines.extend(OnnxRuntimeEngine(f) for f in sorted(out.glob("*.onnx"))))
    return {"s": round(seconds_taken, 1), "peak_mb": round(status_mb("VmHWM")), "graphs": len(engines)}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", choices=VITS, default="vit_h")
    parser.add_argument("--precision", choices=list(Precision), default=Precision.FP32)
    parser.add_argument("--folder", type=Path, help="folder for checkpoint and graphs; default: the temporary folder")
    a = parser.parse_args()
    with TemporaryDirectory(dir=a.folder) as name:
        folder = Path(name)
        note(f"writing a checkpoint of {a.model}")
        size = in_fresh_process(write_checkpoint, a.model, folder / "sam.pth")
        result = {"model": a.model, "precision": str(a.precision), "checkpoint_bytes": size}
        for step, call in (
            ("export", (export, a.model, folder / "sam.pth", str(a.precision), folder / "onnx")),
            ("open", (open_graphs, folder / "onnx")),
        ):
            note(step)
            result[step] = in_fresh_process(*call)
            print(json.dumps({step: result[step]}, indent=2), flush=True)
    if a.json:
        write_json(a.json, result)


if __name__ == "__main__":
    main()
