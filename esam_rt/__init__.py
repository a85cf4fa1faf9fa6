"""esam-rt: segment every entity in a photo, training-free (E-SAM, ICCV 2025), without PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .entities import EntityMap
from .settings import Settings

if TYPE_CHECKING:
    from .segmenter import EntitySegmenter

__version__ = "0.1.0"
__all__ = ["EntityMap", "EntitySegmenter", "Settings", "__version__"]


def __getattr__(name: str) -> Any:
    # Numba and scikit-image take seconds to import: `esam-rt --help` does not wait for them.
    if name == "EntitySegmenter":
        from .segmenter import EntitySegmenter

        return EntitySegmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
