"""Progress of fetching, exporting and building a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelListener:
    """What to tell while a model is fetched (bytes there, bytes of the whole), while its graphs or engines are written
    (name of each file), and while an engine is built (phases of the library)."""

    downloaded: Callable[[int, int], None] | None = None
    writing: Callable[[str], None] | None = None
    building: Callable[[str], None] | None = None


SILENT = ModelListener()
