"""Memory and time of an export, and of opening its graphs.

`python -m benchmarks.export_memory [--model vit_h] [--precision fp32] [--json FILE]`. A checkpoint of random weights is
written as `torch.save` does; a process of its own exports it, another opens the three graphs in ONNX Runtime. Peaks of
the resident set, interpreter and libraries included. Twice the checkpoint is needed in the temporary folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.lib.measure import in_fresh_process, seconds, status_mb
from esam_rt.engines.onnxruntime.ort_engine import OnnxRuntimeEngine
from esam_rt.export.model import VITS, Precision, export_model


def write_checkpoint(model: str, path: Path) -> int:
    """A checkpoint with SAM's names; returns its size in bytes."""
    from benchmarks.lib.torch_sam import random_sam
    from tests.support.checkpoints import sam_state_dict, save_pth

    save_pth(path, sam_state_dict(random_sam(VITS[model])))
    return path.stat().st_size


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=VITS, default="vit_h")
    parser.add_argument("--precision", choices=list(Precision), default=Precision.FP32)
    parser.add_argument("--folder", type=Path, help="where there is room; default: the system's temporary folder")
    parser.add_argument("--json", type=Path, help="write the figures here")
    a = parser.parse_args()
    with TemporaryDirectory(dir=a.folder) as name:
        folder = Path(name)
        size = in_fresh_process(write_checkpoint, a.model, folder / "sam.pth")
        result = {"model": a.model, "precision": str(a.precision), "checkpoint_bytes": size}
        result["export"] = in_fresh_process(export, a.model, folder / "sam.pth", str(a.precision), folder / "onnx")
        result["open"] = in_fresh_process(open_graphs, folder / "onnx")
    print(json.dumps(result, indent=2))
    if a.json:
        a.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
