"""The report: one page to look at all photos of a run, opened from disk without a server."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from esam_rt._version import __version__
from esam_rt.entity_map import EntityMap
from esam_rt.sinks.overlays import jpeg, shrink, tint
from esam_rt.sinks.palette import entity_colors
from esam_rt.sinks.photo_record import PhotoRecord
from esam_rt.sources.frame import Frame
from esam_rt.stages import Stage
from esam_rt.storage.atomic import write_bytes, write_text

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


def write_report_photo(out: Path, frame: Frame, result: EntityMap, stem: str) -> None:
    """Write what the page shows of one photo: `report/photos/<stem>.jpg` (the photo, at most 1,600 pixels a side),
    `report/photos/<stem>.js` (label map, entities, times) and `report/thumbs/<stem>.jpg` (the overlay, small)."""
    colors = entity_colors(result)
    image, labels = shrink(frame.image_hwc_rgb, result.labels, _PHOTO_SIDE)
    height, width = result.labels.shape
    data = {
        "stem": _address(stem),
        "name": frame.name,
        "width": width,
        "height": height,
        # In a data: address: a page on disk may draw other files on a canvas, but not read their pixels back.
        "labels": "data:image/png;base64," + base64.b64encode(_label_png(labels)).decode("ascii"),
        "colors": [int(c) for c in colors @ np.array([1, 1 << 8, 1 << 16])],
        "entities": [
            [round(float(score), 4), int(area), _STAGE_NAMES[Stage(stage)], int(box[2]), int(box[1])]
            for score, area, stage, box in zip(result.score, result.area, result.stage, result.box_xyxy, strict=True)
        ],
        "times_s": {name: round(seconds, 6) for name, seconds in result.times_s.items()},
    }
    write_bytes(out / "report" / "photos" / f"{stem}.jpg", jpeg(image, quality=88))
    write_text(out / "report" / "photos" / f"{stem}.js", f"esamPhoto({json.dumps(data, allow_nan=False)})\n")
    # Tinted first: outlines shrunk with the photo stay soft, where lines one pixel wide would break up.
    thumb, _ = shrink(tint(image, labels, colors), labels, _THUMB_SIDE)
    write_bytes(out / "report" / "thumbs" / f"{stem}.jpg", jpeg(thumb, quality=82))


def write_report(out: Path, records: Iterable[PhotoRecord], run: Mapping[str, Any]) -> Path:
    """Write `report/index.html`: the run, its totals, and a thumbnail of each photo, which opens it.

    run: what `run.json` holds. `model` (its `name` where it is a mapping), `method`, `backend` and `device`
    are shown at the top; everything, nested mappings with dots between their keys, in a table to unfold.
    """
    cards: list[str] = []
    entities, total_s = 0, 0.0
    for record in records:
        seconds = _seconds(record.times_s)
        entities += len(record.entities)
        total_s += seconds
        cards.append(_card(record, seconds))
    count = max(1, len(cards))
    totals = {
        "photos": f"{len(cards):,}",
        "entities": f"{entities:,}",
        "entities a photo": f"{entities / count:.1f}",
        "seconds a photo": f"{total_s / count:.2f}",
    }
    parts = {
        "version": html.escape(__version__),
        "title": "Entities found by esam-rt",
        "facts": "".join(_fact(key, run[key]) for key in _FACTS if key in run),
        "totals": "".join(f"<div><b>{value}</b><span>{label}</span></div>" for label, value in totals.items()),
        "details": "".join(_setting(key, value) for key, value in _flat(run).items()),
        "cards": "\n".join(cards),
    }
    template = resources.files(__package__).joinpath("run_report.html").read_text("utf-8")
    path = out / "report" / "index.html"
    # One pass: a photo whose name looks like a place of the template stays a name.
    write_text(path, re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template))
    return path


def _address(stem: str) -> str:
    """The relative address of a stem; the bytes of names that are not UTF-8 are kept."""
    return quote(os.fsencode(stem))


def _label_png(labels: np.ndarray[Any, np.dtype[np.uint16]]) -> bytes:
    """RGB PNG with label = R + 256 G: browsers read 8 bits a channel."""
    rgb = np.stack([labels & 255, labels >> 8, np.zeros_like(labels)], axis=2).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, "PNG")
    return data.getvalue()


def _seconds(times_s: Mapping[str, float]) -> float:
    """Seconds of a photo: their sum, unless the caller measured the total as well."""
    return times_s["total"] if "total" in times_s else sum(times_s.values())


def _card(record: PhotoRecord, seconds: float) -> str:
    name, address, number = html.escape(record.name), _address(record.stem), len(record.entities)
    entities = "1 entity" if number == 1 else f"{number:,} entities"
    return (
        f'<a class="card" href="#photo={address}" data-entities="{number}" data-seconds="{seconds:.6f}" title="{name}">'
        f'<img loading="lazy" src="thumbs/{address}.jpg" alt=""><b>{name}</b>'
        f'<span class="number">{entities} &middot; {seconds:.2f} s</span></a>'
    )


def _fact(key: str, value: Any) -> str:
    shown = value.get("name", "") if isinstance(value, Mapping) else value
    return f"<span>{html.escape(key)} <b>{html.escape(str(shown))}</b></span>"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as one, with dots between the keys."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + str(key)] = _text(value)
    return flat


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(_text(v) for v in value) if isinstance(value, (list, tuple)) else str(value)


def _setting(key: str, value: str) -> str:
    return f"<div><span>{html.escape(key)}</span><code>{html.escape(value)}</code></div>"
