"""How much memory do ONNX Runtime's engines take on the CPU, by model and prompts per decoder call?

    python -m benchmarks.engine_memory --models tiny vit_b --batches 1 4 8 16 --json memory.json

Figures are growth of the resident set, each row in its own process: from the imported libraries to the loaded engines,
to the encoder's first peak, and to the peak of everything after three photos that fill the grid. All prompts pass the
score filter. SAM's ViTs have random weights unless --checkpoint is given. The table of ``loading.memory_budget`` holds
these figures.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import onnxruntime  # noqa: F401  (import it before measuring: the import does not count)
from skimage import data

from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.measure import in_fresh_process, status_mb
from benchmarks.lib.random_checkpoint import write_checkpoint
from esam_rt.export.model import VITS
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.loader import load_sam
from esam_rt.loading.memory_budget import MB, onnxruntime_need
from esam_rt.loading.onnx_cache import onnx_model
from esam_rt.sam.models import MODELS
from esam_rt.sam.point_grids import point_grid
from esam_rt.sam.predictor import Sam
from esam_rt.storage.atomic import write_json


def export(model: str, checkpoint: Path | None, precision: str) -> None:
    """Export to the cache in this process."""
    onnx_model(MODELS[model], checkpoint, precision)


def measure(model: str, checkpoint: Path | None, precision: str, batch: int) -> dict[str, Any]:
    """Measure one row in this process."""
    image = cv2.resize(data.astronaut(), (1024, 1024))
    before = status_mb("VmRSS")
    loaded = load_sam(model, ExecutionConfig(precision=precision), checkpoint)
    row: dict[str, Any] = {"model": model, "precision": precision, "batch": batch}
    row["loaded_mb"] = round(status_mb("VmHWM") - before)
    sam = Sam(replace(loaded.model, decode_batch=batch), loaded.engines, loaded.checkpoint_sha256)
    points = point_grid(16)[: 4 * batch]
    everything = None
    for turn in range(3):
        photo = sam.encode(image)
        if turn == 0:
            row["encoder_mb"] = round(status_mb("VmHWM") - before)
        sam.decode(photo, points, 0, everything)
        sam.logits(photo, points, np.zeros(len(points), np.uint8))
    row["all_mb"] = round(status_mb("VmHWM") - before)
    row["expected_mb"] = round(onnxruntime_need(sam.model, precision)(batch) / MB)
    return row


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--models", choices=MODELS, nargs="+", default=["tiny", "vit_b"])
    parser.add_argument("--checkpoint", type=Path, help="weights, for a single model")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 16], help="prompts per decoder call")
    parser.add_argument("--precision", default="fp32")
    a = parser.parse_args()
    rows = []
    for model in a.models:
        with TemporaryDirectory() as name:
            checkpoint = a.checkpoint
            if model in VITS and checkpoint is None:
                checkpoint = Path(name) / "sam.pth"
                note(f"writing a checkpoint of {model}")
                in_fresh_process(write_checkpoint, model, checkpoint)
            note(f"exporting {model}")
            in_fresh_process(export, model, checkpoint, a.precision)
            for batch in a.batches:
                rows.append(in_fresh_process(measure, model, checkpoint, a.precision, batch))
                print(" ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
                if a.json:
                    write_json(a.json, rows)


if __name__ == "__main__":
    main()
