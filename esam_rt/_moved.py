"""Old import paths. For one release they work, each with a ``DeprecationWarning`` that names the new path.

``install`` is called when ``esam_rt`` is imported. It adds a finder behind all others, so that it costs nothing until
a module is not found. To move a public name again, change its line in ``MOVED``.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Old module: new modules, each with its names; OLD=NEW for a renamed one. All are inside esam_rt.
MOVED: dict[str, dict[str, str]] = {
    "artifacts": {
        "loading.checkpoints": "checkpoint_of is_downloaded",
        "networks": "GRAPHS",
        "loading.onnx_cache": "OnnxModel onnx_model export_to exported",
        "export.checkpoints.checkpoint_hash": "checkpoint_sha256",
    },
    "entities": {"entity_map": "EntityMap MOST_LABELS", "stages": "Stage"},
    "frames": {"sources.frame": "Frame"},
    "load": {
        "loading.loader": "load_sam",
        "loading.execution": "BACKENDS DEVICES PRECISIONS Placement=ExecutionConfig",
    },
    "models": {"sam.models": "MODELS WEIGHTS Remote ModelRow=ModelSpec get_model"},
    "prompts": {"sam.point_grids": "point_grid scattered"},
    "runner": {
        "run.folder_run": "run_photos",
        "run.run_options": "RunOptions RunSummary Segmenter Listener open_segmenter",
    },
    "sam": {
        "sam.predictor": "Sam Engines",
        "sam.encoded_image": "EncodedPhoto=EncodedImage",
        "sam.geometry": "Geometry CELL_PX PATCH_PX",
    },
    "sources.photos": {
        "sources.decode": "read_photo pixel_count",
        "sources.photo_search": "PHOTO_SUFFIXES PhotoFile find_photos",
    },
    "superpixels": {"method.superpixels": "SuperpixelMap reduced_hw regions superpixels"},
    "trace": {"tracing": "Span Trace", "run.trace_writer": "Profile=TraceWriter"},
    "writers": {
        "sinks.sink_table": "WRITERS=SINKS",
        "sinks.output_names": "output_stems",
        "sinks.overlays": "draw_overlay",
        "sinks.photo_record": "PhotoRecord",
    },
}
PACKAGE = "esam_rt"


def moved_names(old_module: str) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of an old module.

    Args:
        old_module: Full name, for example ``esam_rt.sam``. A package of that name may still exist.

    Returns:
        A function from an old name to the object in its new module. It warns at each use.
    """
    places = _places(old_module.removeprefix(f"{PACKAGE}."))

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {old_module!r} has no attribute {name!r}")
        module, new_name = places[name]
        message = f"{old_module}.{name} has moved: import {new_name} from {module}. The old path works for one release."
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return getattr(import_module(module), new_name)

    return find


def install() -> None:
    """Let imports find the old modules. A second call does nothing."""
    if not any(isinstance(finder, _OldModules) for finder in sys.meta_path):
        sys.meta_path.append(_OldModules())


def _places(old: str) -> dict[str, tuple[str, str]]:
    """New module and new name of each old name."""
    places = {}
    for module, names in MOVED[old].items():
        for word in names.split():
            name, _, new_name = word.partition("=")
            places[name] = f"{PACKAGE}.{module}", new_name or name
    return places


class _OldModules:
    """Finder and loader of modules that only have moved names. `importlib.abc` would take 10 ms to import."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, old = name.partition(".")
        return ModuleSpec(name, self) if package == PACKAGE and old in MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Take an ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__.removeprefix(f"{PACKAGE}.")
        module.__doc__ = "An old path; see `esam_rt._moved`."
        module.__dict__.update(__getattr__=moved_names(module.__name__), __all__=sorted(_places(old)))
