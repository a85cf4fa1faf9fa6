"""The names that `--write` takes."""

from __future__ import annotations

WRITERS = ("labels", "coco", "overlay", "report")
