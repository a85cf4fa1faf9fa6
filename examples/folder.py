"""Segment a folder of photos into label maps, COCO annotations, overlays and a report.

    python examples/folder.py photos/ result/

Run it again after an interruption: it continues where it stopped.
"""

import sys
from pathlib import Path

from esam_rt import EntitySegmenter, Settings
from esam_rt.run import segment_source
from esam_rt.sinks import CocoJson, HtmlReport, LabelMaps, Overlays
from esam_rt.sources import PhotoFolder


def main(photos: str, out: str) -> None:
    """Segment `photos` into the folder `out`."""
    source = PhotoFolder(photos)
    sinks = [LabelMaps(), CocoJson(), Overlays(), HtmlReport()]
    resume = (Path(out) / "run.json").exists()
    with EntitySegmenter("tiny", settings=Settings.preset("fast")) as segment:
        summary = segment_source(source, segment, sinks, Path(out), resume=resume)
    print(f"{summary.done} photos segmented, {summary.failed} failed, {summary.entities} entities")
    sys.exit(summary.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
