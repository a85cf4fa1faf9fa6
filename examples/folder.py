"""Segment a folder of photos into label maps, COCO annotations, overlays and a report.

    python examples/folder.py photos/ result/

Run it again after an interruption: it continues where it stopped.
"""

import sys
from pathlib import Path

from esam_rt import SegmenterConfig, Settings
from esam_rt.run import RunOptions, run_photos


def main(photos: str, out: str) -> None:
    """Segment `photos` into the folder `out`."""
    options = RunOptions(
        sources=(Path(photos),),
        out=Path(out),
        segmenter=SegmenterConfig(model="tiny", settings=Settings.preset("fast")),
        resume=(Path(out) / "run.json").exists(),
    )
    summary = run_photos(options)
    print(f"{summary.done} photos segmented, {summary.failed} failed, {summary.entities} entities")
    sys.exit(summary.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
