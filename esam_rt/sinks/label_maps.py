"""Label maps: one 16-bit PNG a photo."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from esam_rt.entity_map import EntityMap
from esam_rt.storage.atomic import write_bytes


def write_labels(out: Path, stem: str, result: EntityMap) -> Path:
    """Write `labels/<stem>.png`: 16-bit grey at the photo's resolution, 0 = none, i + 1 = entity i; `stem` from
    `output_stems`. Lossless."""
    path = out / "labels" / f"{stem}.png"
    data = io.BytesIO()
    # Level 3: 0.20 s for 12 megapixels against 0.32 s at the default 6, for files half as large again.
    Image.fromarray(result.labels).save(data, "PNG", compress_level=3)
    write_bytes(path, data.getvalue())
    return path
