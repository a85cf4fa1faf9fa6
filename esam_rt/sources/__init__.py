"""Sources: where frames come from. Each public name is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esam_rt.sources.arrays import ArraySource
    from esam_rt.sources.frame import Frame
    from esam_rt.sources.photo_files import PhotoFolder
    from esam_rt.sources.source import ListedSource, Source

__all__ = ["ArraySource", "Frame", "ListedSource", "PhotoFolder", "Source"]

_MODULES = {
    "ArraySource": "arrays",
    "Frame": "frame",
    "ListedSource": "source",
    "PhotoFolder": "photo_files",
    "Source": "source",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
