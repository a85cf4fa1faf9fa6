"""Ground truth in the form of BSDS500: label maps of several annotators for each photo."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from esam_rt.errors import InputError
from esam_rt.evaluation.truth.true_photo import TruePhoto, read_label_map

_MAP = re.compile(r"(?P<photo>.+)_(?P<annotator>\d+)\.png")
_NOT_MAT = (OSError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError, MatReadError)


class RegionTruth:
    """Label maps of one or more annotators for each photo, for covering and boundaries.

    Args:
        path: The folder.
        photos: Photos, in the order of their ids.
        files: Files with label maps by image id.
    """

    form = "bsds"

    def __init__(self, path: Path, photos: Sequence[TruePhoto], files: Mapping[int, Sequence[Path]]) -> None:
        self.path, self.photos, self._files = path, photos, files

    def annotated(self, photo: TruePhoto) -> list[NDArray[np.int64]]:
        """Read the label maps int64 [H, W] of a photo, one for each annotator.

        Args:
            photo: A photo of this ground truth.

        Raises:
            InputError: A file cannot be read, or the maps differ in size.
        """
        files = self._files[photo.image_id]
        maps = [labels for file in files for labels in _read(file)]
        for labels in maps:
            if labels.shape != (photo.height, photo.width):
                found, expected = f"{labels.shape[1]} x {labels.shape[0]}", f"{photo.width} x {photo.height}"
                raise InputError(
                    f"{files[0]}: annotators' maps of one photo are {found} and {expected}; expected one "
                    "size. Check the files."
                )
        return maps


def read_bsds(folder: Path) -> RegionTruth:
    """Read ground truth from a folder or its sub-folder ``segmentations``.

    Args:
        folder: Holds label maps ``<photo>_<annotator>.png``, or the files ``<photo>.mat`` of BSDS500.

    Raises:
        InputError: The folder holds no ground truth.
    """
    place = folder / "segmentations" if (folder / "segmentations").is_dir() else folder
    by_photo: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(place.iterdir()):
        if match := _MAP.fullmatch(file.name):
            by_photo[match["photo"]].append(file)
        elif file.suffix == ".mat":
            by_photo[file.stem].append(file)
    if not by_photo:
        raise InputError(
            f"{place}: holds no ground truth; expected label maps <photo>_<annotator>.png or BSDS500's <photo>.mat. "
            "Check the path, or give a JSON file of COCO."
        )
    numbered = all(name.isascii() and name.isdecimal() for name in by_photo)
    names = sorted(by_photo, key=int) if numbered else sorted(by_photo)
    photos, files = [], {}
    for index, name in enumerate(names, 1):
        image_id = int(name) if numbered else index
        height, width = _read(by_photo[name][0])[0].shape
        photos.append(TruePhoto(image_id, name, width, height))
        files[image_id] = by_photo[name]
    return RegionTruth(folder, photos, files)


def _read(file: Path) -> list[NDArray[np.int64]]:
    """The label maps in a file: one in a PNG, those of all annotators in a .mat."""
    if file.suffix != ".mat":
        return [read_label_map(file)]
    try:
        annotators = loadmat(file, squeeze_me=True, struct_as_record=False)["groundTruth"]
        maps = [np.asarray(a.Segmentation).astype(np.int64) for a in np.atleast_1d(annotators)]
    except _NOT_MAT as e:
        raise InputError(
            f"{file}: cannot be read ({' '.join(str(e).split())}); expected BSDS500's groundTruth. Download it again."
        ) from e
    if not maps or any(labels.ndim != 2 for labels in maps):
        raise InputError(f"{file}: holds no label maps; expected BSDS500's groundTruth. Download it again.")
    return maps
