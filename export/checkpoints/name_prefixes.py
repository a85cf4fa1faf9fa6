"""Names before the names of a model's tensors: those of programs that wrap the model, and of tensors beside it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from esam_rt.errors import ModelError
from esam_rt.export.checkpoints.key_mapping import NAMINGS

T = TypeVar("T")
_log = logging.getLogger("esam_rt")
LONGEST_PREFIX = 8  # parts; a hostile name may have a million
# PyTorch adds these where DataParallel, torch.compile, FSDP or activation checkpoints wrap a module.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def without_prefix(path: Path, tensors: Mapping[str, T]) -> dict[str, T]:
    """Take the tensors of the model, under names without prefix.

    A prefix is found by a tensor that only one kind of checkpoint has. ``model.mask_decoder.…`` has the prefix
    ``model.``. Wrappers inside of the names are removed, too. Tensors with another prefix, such as those of a loss, are
    left out, and a warning says how many.

    Args:
        path: The checkpoint, for messages.
        tensors: All tensors by their names.

    Returns:
        The tensors of the model. All tensors if no name is known.

    Raises:
        ModelError: There are several models, or two names become one.
    """
    prefixes = _prefixes(tensors)
    if len(prefixes) > 1:
        shown = ", ".join(f"{prefix}…" if prefix else "without prefix" for prefix in sorted(prefixes)[:3])
        raise ModelError(f"{path}: found the tensors of {len(prefixes)} models ({shown:.160}), expected one: save one.")
    prefix = min(prefixes, default="")
    taken: dict[str, T] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            plain = _without_wrappers(name.removeprefix(prefix).split("."))
            if plain in taken:
                raise ModelError(
                    f"{path}: found tensor {plain!r:.80} twice, with and without wrapper: save one of them."
                )
            taken[plain] = tensor
    if others := sorted(name for name in tensors if not name.startswith(prefix)):
        shown = ", ".join(f"{name:.60}" for name in others[:3]) + (", …" if len(others) > 3 else "")
        left = f"{len(others)} {'tensor is' if len(others) == 1 else 'tensors are'} left out"
        _log.warning("%s: the model's tensors are named %s…; %s (%s).", path, prefix, left, shown)
    return taken


def _prefixes(names: Iterable[str]) -> set[str]:
    """Find what stands before the names that only one kind of checkpoint has."""
    names = list(names)
    for naming in NAMINGS:  # the pattern of the last one is wide: it counts only without the others
        found = set()
        for name in names:
            parts = name.split(".")
            for start, part in enumerate(parts[:LONGEST_PREFIX]):
                if part not in WRAPPERS and naming.is_signature(_without_wrappers(parts[start:])):
                    found.add("".join(f"{before}." for before in parts[:start]))
                    break
        if found:
            return found
    return set()


def _without_wrappers(parts: Iterable[str]) -> str:
    return ".".join(part for part in parts if part not in WRAPPERS)
