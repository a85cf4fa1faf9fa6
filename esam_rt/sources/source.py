"""The protocols of a source of frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar, runtime_checkable

from esam_rt.sources.frame import Frame


class Source(Protocol):
    """Frames in order. A run iterates over a source once, on the thread that reads ahead."""

    @property
    def length(self) -> int | None:
        """Number of frames, or None if it is unknown."""
        ...

    @property
    def is_live(self) -> bool:
        """True for a camera or a topic. Frames that are not read in time are lost."""
        ...

    def __iter__(self) -> Iterator[Frame]:
        """Return the frames in order.

        Raises:
            InputError: If the source fails. The run then stops.
        """
        ...


class SourceItem(Protocol):
    """A frame that is not read yet."""

    @property
    def name(self) -> str:
        """Name of the frame, see `Frame`."""
        ...

    @property
    def path(self) -> str:
        """Path of the file without links, or an empty string if the frame is not in a file."""
        ...

    def pixel_count(self) -> int:
        """Return the number of pixels, without decoding them. 0 means unknown."""
        ...

    def read(self) -> Frame:
        """Read the frame.

        Raises:
            InputError: If this frame cannot be used. The run lists it and continues with the next one.
        """
        ...


@runtime_checkable
class ListedSource(Source, Protocol):
    """A source that knows the names of all frames in advance. A run over such a source can be resumed."""

    def items(self) -> Sequence[SourceItem]:
        """Return all frames, not read yet, in order."""
        ...


Item = TypeVar("Item", bound=SourceItem)


class ItemSource(Generic[Item]):
    """A `ListedSource` with items that do not change: its protocol. A subclass finds the items.

    Args:
        items: All frames in order, not read yet.
    """

    is_live = False

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    @property
    def length(self) -> int:
        """Number of frames."""
        return len(self._items)

    def __iter__(self) -> Iterator[Frame]:
        """Read the frames in order.

        Raises:
            InputError: At the first frame that cannot be used. Use `items` to continue after it.
        """
        return (item.read() for item in self._items)

    def items(self) -> list[Item]:
        """Return all frames, not read yet, in order."""
        return list(self._items)


class FrameItem:
    """`SourceItem` of a frame that is in memory.

    Args:
        frame: The frame.
    """

    path = ""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self.name = frame.name

    def pixel_count(self) -> int:
        """Return the number of pixels."""
        height, width = self._frame.image_hwc_rgb.shape[:2]
        return int(height * width)

    def read(self) -> Frame:
        """Return the frame."""
        return self._frame
