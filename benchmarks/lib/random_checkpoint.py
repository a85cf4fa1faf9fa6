"""Checkpoints of random weights. PyTorch is imported on use, so that it does not count in processes that measure."""

from __future__ import annotations

from pathlib import Path


def write_checkpoint(model: str, path: Path) -> int:
    """Write a checkpoint of ``random_sam`` as torch.save does, with SAM's names.

    Args:
        model: One of ``VITS``.
        path: The file.

    Returns:
        The size in bytes.
    """
    from benchmarks.lib.torch_sam import random_sam
    from esam_rt.export.model import VITS
    from tests.support.checkpoints import sam_state_dict, save_pth

    save_pth(path, sam_state_dict(random_sam(VITS[model])))
    return path.stat().st_size
