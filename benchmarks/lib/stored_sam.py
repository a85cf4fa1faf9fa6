"""A model that keeps a photo's masks in a file, so that a later run decodes only new prompts."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from esam_rt.evaluation.paper_tables.decode_cache import CachingSam
from esam_rt.masks import MaskSet
from esam_rt.sam.predictor import Sam

MASK_FIELDS = tuple(f.name for f in fields(MaskSet) if f.name != "width")


class StoredSam(CachingSam):
    """A ``CachingSam`` whose memory may be a file for each photo. Prompts have one point and no labels.

    The file knows the photo by its name alone. Another model or other weights need another folder.

    Args:
        sam: The model to ask for missing results.
        folder: Folder of the files. None keeps nothing after ``save``.
    """

    def __init__(self, sam: Sam, folder: Path | None) -> None:
        super().__init__(sam)
        self._folder, self._known = folder, 0
        self._file = Path()

    def open(self, photo_name: str) -> None:
        """Forget the photo before, and read the file of this one."""
        self.clear()
        self._known = 0
        if self._folder is None:
            return
        self._file = self._folder / f"{photo_name}.npz"
        if self._file.is_file():
            with np.load(self._file) as stored:
                self._read(stored)

    def _read(self, stored: Any) -> None:
        arrays = {name: stored[name] for name in stored.files}
        ends = np.cumsum([0, *arrays["counts"]])
        for k, (point, thresholds) in enumerate(zip(arrays["points"], arrays["thresholds"].tolist(), strict=True)):
            some = slice(ends[k], ends[k + 1])
            masks = MaskSet(width=int(arrays["width"]), **{name: arrays[name][some] for name in MASK_FIELDS})
            self._masks[0, (point.tobytes(), b""), *thresholds] = masks
        for point, index, logits in zip(
            arrays["logit_points"], arrays["logit_index"].tolist(), arrays["logits"], strict=True
        ):
            self._logits[0, (point.tobytes(), b""), index] = logits
        self._known = len(self._masks) + len(self._logits)

    def save(self) -> None:
        """Write the photo's file, if there is a folder and something new."""
        if self._folder is None or len(self._masks) + len(self._logits) == self._known:
            return
        if any(window for window, *_ in [*self._masks, *self._logits]):
            raise SystemExit(f"{self._file}: a photo with tiles is not stored. Leave tiles out.")
        masks = MaskSet.concatenate(list(self._masks.values()))
        self._folder.mkdir(parents=True, exist_ok=True)
        np.savez(
            self._file,
            counts=np.array([len(found) for found in self._masks.values()]),
            points=np.array([np.frombuffer(point, np.float32) for _, (point, _), _, _ in self._masks]),
            thresholds=np.array([key[2:] for key in self._masks]),
            width=np.array(masks.width),
            **{name: getattr(masks, name) for name in MASK_FIELDS},
            logit_points=np.array([np.frombuffer(point, np.float32) for _, (point, _), _ in self._logits]),
            logit_index=np.array([index for _, _, index in self._logits]),
            logits=np.array(list(self._logits.values())),
        )
