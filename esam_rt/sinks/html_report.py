"""HtmlReport: one page with all photos of a run, opened from disk without a server."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from esam_rt._version import __version__
from esam_rt.entity_map import EntityMap
from esam_rt.sinks.drawing import jpeg, shrink, tint
from esam_rt.sinks.file_sink import FileSink
from esam_rt.sinks.html_page import render
from esam_rt.sinks.palette import entity_colors
from esam_rt.sinks.photo_record import PhotoRecord
from esam_rt.sources.frame import Frame
from esam_rt.stages import Stage
from esam_rt.storage.atomic import utf8_text, write_bytes, write_text
from esam_rt.storage.nested import flatten

FOLDER = "report"
_PHOTO_SIDE = 1600  # pixels; a label map of this size is some 30 KB
_THUMB_SIDE = 480
_FACTS = ("model", "method", "backend", "device")
_STAGE_NAMES = {
    Stage.MMG: "MMG",
    Stage.EMR: "EMR",
    Stage.USR: "USR",
    Stage.AMG: "AMG",
    Stage.SAM_O: "SAM-O",
    Stage.SUPERPIXELS: "superpixels",
}


class HtmlReport(FileSink):
    """Write ``report/index.html``: the run, its totals, and a thumbnail of each photo that opens the photo.

    The files of one photo are ``report/photos/<stem>.jpg`` (the photo, at most 1,600 pixels a side),
    ``report/photos/<stem>.js`` (label map, entities, times) and ``report/thumbs/<stem>.jpg`` (the overlay, small).

    Args:
        folder: Folder for ``report/``. Default: the folder of the run.

    Example:
        >>> with HtmlReport("out") as sink:  # doctest: +SKIP
        ...     for frame in PhotoFolder("photos"):
        ...         sink.write(frame, segmenter(frame.image_hwc_rgb))
    """

    outputs = (FOLDER,)

    def write(self, frame: Frame, entities: EntityMap) -> None:
        """Write the files of one photo.

        Args:
            frame: The photo.
            entities: Its entities.

        Raises:
            OutputError: If a file cannot be written.
        """
        self.remember(frame, entities)
        colors = entity_colors(entities)
        image, labels = shrink(frame.image_hwc_rgb, entities.labels, _PHOTO_SIDE)
        height, width = entities.labels.shape
        columns = (entities.score, entities.area, entities.stage, entities.box_xyxy)
        data = {
            "stem": _address(self.run.stem(frame.name)),
            "name": utf8_text(frame.name),
            "width": width,
            "height": height,
            # A data: address, because a page on disk may draw other files on a canvas but not read their pixels back.
            "labels": "data:image/png;base64," + base64.b64encode(_label_png(labels)).decode("ascii"),
            "colors": [int(c) for c in colors @ np.array([1, 1 << 8, 1 << 16])],
            "entities": [
                [round(float(score), 4), int(area), _STAGE_NAMES[Stage(stage)], int(box[2]), int(box[1])]
                for score, area, stage, box in zip(*columns, strict=True)
            ],
            "times_s": {name: round(seconds, 6) for name, seconds in entities.times_s.items()},
        }
        photos, thumbs = f"{FOLDER}/photos", f"{FOLDER}/thumbs"
        write_bytes(self.path(photos, frame.name, ".jpg"), jpeg(image, quality=88))
        write_text(self.path(photos, frame.name, ".js"), f"esamPhoto({json.dumps(data, allow_nan=False)})\n")
        # Tinted before it is shrunk: outlines stay soft, while lines one pixel wide would break up.
        thumb, _ = shrink(tint(image, labels, colors), labels, _THUMB_SIDE)
        write_bytes(self.path(thumbs, frame.name, ".jpg"), jpeg(thumb, quality=82))

    def close(self, summary: Mapping[str, Any]) -> None:
        """Write the page.

        Args:
            summary: The run. ``model`` (its ``name`` if it is a mapping), ``method``, ``backend`` and ``device`` are
                shown at the top. Everything is in a table to unfold, with dots between nested keys.

        Raises:
            OutputError: If the page cannot be written.
        """
        cards = [_card(record) for record in self.run.records()]
        template = resources.files(__package__).joinpath("run_report.html").read_text("utf-8")
        entities, total_s = sum(card["entities"] for card in cards), sum(card["seconds"] for card in cards)
        count = max(1, len(cards))
        page = render(
            template,
            version=__version__,
            title="Entities found by esam-rt",
            facts=[(key, _fact(summary[key])) for key in _FACTS if key in summary],
            totals=[
                (f"{len(cards):,}", "photos"),
                (f"{entities:,}", "entities"),
                (f"{entities / count:.1f}", "entities a photo"),
                (f"{total_s / count:.2f}", "seconds a photo"),
            ],
            details=[(key, _text(value)) for key, value in flatten(summary).items()],
            cards=cards,
        )
        write_text(self.look_at, page)

    @property
    def look_at(self) -> Path:
        """The page."""
        return self.folder / FOLDER / "index.html"


def _address(stem: str) -> str:
    """Return the relative address of a stem. Names that are not UTF-8 keep their bytes."""
    return quote(os.fsencode(stem))


def _label_png(labels: NDArray[np.uint16]) -> bytes:
    """Encode an RGB PNG with label = R + 256 G: browsers read 8 bits a channel."""
    rgb = np.stack([labels & 255, labels >> 8, np.zeros_like(labels)], axis=2).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, "PNG")
    return data.getvalue()


def _card(record: PhotoRecord) -> dict[str, Any]:
    """Return the values of a photo's card. Its seconds are the measured total, or the sum of the stages."""
    seconds = record.times_s.get("total", sum(record.times_s.values()))
    return {
        "name": record.name,
        "address": _address(record.stem),
        "entities": len(record.entities),
        "seconds": seconds,
    }


def _fact(value: Any) -> str:
    return str(value.get("name", "") if isinstance(value, Mapping) else value)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(_text(v) for v in value) if isinstance(value, list | tuple) else str(value)
