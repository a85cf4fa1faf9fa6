"""How do other readings of the paper change the scores, at points that the paper leaves open?

    python -m benchmarks.paper_readings --gt entities.json --images images/ --out folder/
    python -m benchmarks.paper_readings --gt BSDS500/val --out folder/

The first row is E-SAM as implemented. Each other row differs in one point, by a setting or by a replaced function.
Gains are paired differences with 95 % intervals over photos. The table is written as by ``esam-rt eval --table``.
--resume continues an interrupted run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from benchmarks.lib.readings import READINGS, changes, in_place
from esam_rt import EntityMap, EntitySegmenter, Settings
from esam_rt.evaluation.paper_tables.table_rows import WHOLE_GRID, Row
from esam_rt.evaluation.paper_tables.tables import MARKDOWN, run_table
from esam_rt.evaluation.plan import EvalOptions
from esam_rt.evaluation.run_evaluation import prepare
from esam_rt.loading.loader import load_sam
from esam_rt.run.run_options import RunOptions
from esam_rt.segmenter import SegmenterConfig


def segmenter_of(row: Row) -> type[EntitySegmenter]:
    """Return the class that segments by a reading."""

    class Reading(EntitySegmenter):
        def __call__(self, image_hwc_rgb: NDArray[np.uint8]) -> EntityMap:
            with in_place(row.name):
                return super().__call__(image_hwc_rgb)

    return Reading


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gt", type=Path, required=True, help="ground truth: a COCO file or a folder of BSDS500")
    parser.add_argument("--images", type=Path, help="folder of the photos")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the table to")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--only", nargs="+", choices=READINGS, metavar="READING", default=list(READINGS))
    parser.add_argument("--limit", type=int, help="number of photos")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier table")
    a = parser.parse_args()
    run = RunOptions((), a.out, SegmenterConfig(a.model, settings=Settings.preset(a.preset).with_overrides(WHOLE_GRID)))
    plan = prepare(
        EvalOptions(a.gt, a.out, images=a.images, run=run, limit=a.limit, resume=a.resume, overwrite=a.overwrite)
    )
    rows = [Row(name, changes(name)) for name in READINGS if name in ("as it is", *a.only)]
    title = f"Readings of the paper: {a.model}, {a.gt.resolve().parent.name}/{a.gt.name}, {len(plan.photos)} photos"
    sam = load_sam(a.model)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("photos", total=len(plan.photos))
        run_table(plan, rows, sam, title, lambda photo: progress.advance(task), segmenter_of)
    sam.close()
    print((a.out / MARKDOWN).read_text())


if __name__ == "__main__":
    main()
