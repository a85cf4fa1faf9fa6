"""Removes specks and small holes from a label map at the photo's resolution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from esam_rt.kernels.pieces import find_pieces, join_pieces
from esam_rt.settings import Cleanup

SIDE_PX = 512  # the sizes in the settings are those of a photo with this longer side

LENGTH = 2.5  # a small piece stays if it is this much longer than a square of the smallest size: lines are thin


def clean_up(labels: NDArray[np.uint16], settings: Cleanup) -> None:
    """Join small pieces of entities and small gaps with the neighbor that has the longest border with them.

    The largest piece of an entity stays, so that no entity disappears. A piece in an empty region becomes empty.

    Args:
        labels: Label map uint16 [H, W], C-contiguous; changed.
        settings: Smallest sizes.
    """
    scale = (max(labels.shape) / SIDE_PX) ** 2
    min_piece, min_gap = settings.min_piece * scale, settings.fill_holes * scale
    if max(min_piece, min_gap) <= 1:
        return
    pieces = find_pieces(labels)
    largest = np.zeros(int(pieces.label.max()) + 1, np.int32)
    np.maximum.at(largest, pieces.label, pieces.area)
    is_gap = pieces.label == 0
    is_speck = (pieces.area < min_piece) & (pieces.side < LENGTH * np.sqrt(min_piece))
    is_small = np.where(is_gap, pieces.area < min_gap, is_speck & (pieces.area < largest[pieces.label]))
    join_pieces(labels, pieces, is_small)
