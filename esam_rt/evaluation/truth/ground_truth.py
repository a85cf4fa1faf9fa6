"""Ground truth of any kind."""

from __future__ import annotations

from pathlib import Path

from esam_rt.evaluation.truth.bsds_truth import RegionTruth, read_bsds
from esam_rt.evaluation.truth.coco_truth import MaskTruth, read_coco

Truth = MaskTruth | RegionTruth


def read_truth(path: Path, pngs: Path | None = None) -> Truth:
    """Ground truth in a file (COCO's JSON: instances, panoptic, EntitySeg) or in a folder (BSDS500).

    pngs: folder of a panoptic JSON's PNGs; by default the one beside it that has its name. Raises `InputError` for what
    is no such ground truth; masks and maps are looked at when they are asked for.
    """
    return read_bsds(path) if path.is_dir() else read_coco(path, pngs)
