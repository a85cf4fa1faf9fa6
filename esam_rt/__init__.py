"""esam-rt: segment every entity in a photo, training-free (E-SAM, ICCV 2025), without PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esam_rt import _moved
from esam_rt._lazy import lazy_names
from esam_rt._version import __version__

if TYPE_CHECKING:
    from esam_rt.entity_map import EntityMap
    from esam_rt.loading.execution import ExecutionConfig
    from esam_rt.loading.loader import load_sam
    from esam_rt.sam.cancel_token import CancelToken
    from esam_rt.segmenter import EntitySegmenter, SegmenterConfig
    from esam_rt.settings import Settings
    from esam_rt.sources.frame import Frame

__all__ = [
    "CancelToken",
    "EntityMap",
    "EntitySegmenter",
    "ExecutionConfig",
    "Frame",
    "SegmenterConfig",
    "Settings",
    "__version__",
    "load_sam",
]

_HOMES = {
    "CancelToken": ".sam.cancel_token",
    "EntityMap": ".entity_map",
    "EntitySegmenter": ".segmenter",
    "ExecutionConfig": ".loading.execution",
    "Frame": ".sources.frame",
    "SegmenterConfig": ".segmenter",
    "Settings": ".settings",
    "load_sam": ".loading.loader",
}
_moved.install()
# Numba and scikit-image take seconds to import; `esam-rt --help` must not wait for them.
__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
