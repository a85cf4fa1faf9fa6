"""Short keys of texts and paths for file names, and the size of a folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def text_key(*words: str) -> str:
    """Make a key for a file name from texts.

    Args:
        *words: Texts without zero bytes.

    Returns:
        16 hexadecimal digits. Other texts give other digits.
    """
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


def path_key(path: Path) -> str:
    """Make a key for a file name from a path.

    Args:
        path: Links are followed. It may be missing, or a link to itself.

    Returns:
        16 hexadecimal digits. All names of one file give the same digits.
    """
    return hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:16]


def folder_bytes(folder: Path) -> int:
    """Add up the files of a folder.

    Args:
        folder: May be missing.

    Returns:
        Bytes of all files, in sub-folders too.
    """
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
