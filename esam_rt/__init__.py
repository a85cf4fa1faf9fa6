"""esam-rt: segment every entity in a photo, training-free (E-SAM, ICCV 2025), without PyTorch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esam_rt.entities import EntityMap
    from esam_rt.segmenter import EntitySegmenter
    from esam_rt.settings import Settings

__version__ = "0.1.0"
__all__ = ["EntityMap", "EntitySegmenter", "Settings", "__version__"]


def __getattr__(name: str) -> Any:
    # Numba and scikit-image take seconds to import: `esam-rt --help` does not wait for them, nor Ctrl-C for NumPy.
    module = {"EntityMap": "entities", "EntitySegmenter": "segmenter", "Settings": "settings"}.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{module}", __name__), name)
