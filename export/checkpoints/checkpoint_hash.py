"""SHA-256 of a checkpoint file or folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from esam_rt.storage.hashing import remembered_sha256


def checkpoint_sha256(checkpoint: Path) -> str:
    """Compute the SHA-256 of a checkpoint.

    Args:
        checkpoint: A file, or a folder of Hugging Face. A folder's hash is the hash of the hashes of its tensor files.

    Returns:
        The hash, hexadecimal.

    Raises:
        ModelError: The checkpoint is missing or cannot be read.
    """
    if not checkpoint.is_dir():
        return remembered_sha256(checkpoint)
    from esam_rt.export.checkpoints.checkpoint_reader import checkpoint_files

    return hashlib.sha256("".join(map(remembered_sha256, checkpoint_files(checkpoint))).encode()).hexdigest()
