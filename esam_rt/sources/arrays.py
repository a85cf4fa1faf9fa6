"""Frames from arrays in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from esam_rt.errors import InputError
from esam_rt.sources.frame import Frame
from esam_rt.sources.source import FrameItem


class ArraySource:
    """Frames from arrays in memory. The arrays are never changed.

    Args:
        images: uint8 [H, W, 3] arrays, RGB, upright. A mapping gives each array its name. The arrays of a sequence
            are named ``000000``, ``000001`` and so on.

    Raises:
        InputError: If an array has another type or shape.

    Example:
        >>> source = ArraySource({"left": left, "right": right})  # doctest: +SKIP
        >>> summary = segment_source(source, segmenter, [LabelMaps()], Path("out"))  # doctest: +SKIP
    """

    is_live = False

    def __init__(self, images: Sequence[NDArray[np.uint8]] | Mapping[str, NDArray[np.uint8]]) -> None:
        named = images if isinstance(images, Mapping) else {f"{i:06}": image for i, image in enumerate(images)}
        self._frames = [Frame(_read_only(image, name), name) for name, image in named.items()]

    @property
    def length(self) -> int:
        """Number of arrays."""
        return len(self._frames)

    def __iter__(self) -> Iterator[Frame]:
        """Return the frames in order."""
        return iter(self._frames)

    def items(self) -> list[FrameItem]:
        """Return the frames in order."""
        return [FrameItem(frame) for frame in self._frames]


def _read_only(image: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"{name}: found {found}, expected a NumPy array uint8 [H, W, 3]. Convert the image first.")
    view = image.view()
    view.flags.writeable = False
    return view
