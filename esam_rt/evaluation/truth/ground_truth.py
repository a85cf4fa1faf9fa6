"""Reads ground truth of any kind."""

from __future__ import annotations

from pathlib import Path

from esam_rt.evaluation.truth.bsds_truth import RegionTruth, read_bsds
from esam_rt.evaluation.truth.coco_truth import MaskTruth, read_coco

Truth = MaskTruth | RegionTruth


def read_truth(path: Path, pngs: Path | None = None) -> Truth:
    """Read ground truth. Masks and label maps are read later, when they are asked for.

    Args:
        path: JSON file of COCO (instances, panoptic, EntitySeg), or folder of BSDS500.
        pngs: Folder of the PNG files of a panoptic JSON; by default the folder beside the JSON with its name.

    Returns:
        Masks or label maps by photo.

    Raises:
        InputError: The file or folder is no such ground truth.
    """
    return read_bsds(path) if path.is_dir() else read_coco(path, pngs)
