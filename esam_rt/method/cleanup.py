"""Removes specks and small holes from a label map at the photo's resolution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from esam_rt.kernels.pieces import find_pieces, join_pieces
from esam_rt.settings import Cleanup

SIDE_PX = 512  # the sizes in the settings are those of a photo with this longer side

LENGTH = 2.5  # a small piece stays if it is this much longer than a square of the smallest size: lines are thin


def clean_up(
    labels: NDArray[np.uint16], settings: Cleanup, *, shown_side_px: int | None = None, wraps: bool = False
) -> None:
    """Join small pieces of entities and small gaps with the neighbor that has the longest border with them.

    The largest piece of an entity stays, so that no entity disappears. A piece in an empty region becomes empty.

    Args:
        labels: Label map uint16 [H, W], C-contiguous; changed.
        settings: Smallest sizes.
        shown_side_px: Longer side of the part of the photo that the model has seen at once. Default: the whole photo.
        wraps: The left and the right edge are one. Pieces that go on over the edge stay.
    """
    scale = ((shown_side_px or max(labels.shape)) / SIDE_PX) ** 2
    min_piece, min_gap = settings.min_piece * scale, settings.fill_holes * scale
    if max(min_piece, min_gap) <= 1:
        return
    pieces = find_pieces(labels)
    largest = np.zeros(int(pieces.label.max()) + 1, np.int32)
    np.maximum.at(largest, pieces.label, pieces.area)
    is_gap = pieces.label == 0
    is_speck = (pieces.area < min_piece) & (pieces.side < LENGTH * np.sqrt(min_piece))
    is_small = np.where(is_gap, pieces.area < min_gap, is_speck & (pieces.area < largest[pieces.label]))
    if wraps:
        left, right = pieces.piece[pieces.row_first[:-1]], pieces.piece[pieces.row_first[1:] - 1]
        goes_on = labels[:, 0] == labels[:, -1]
        is_small[left[goes_on]] = is_small[right[goes_on]] = False
    join_pieces(labels, pieces, is_small)
