"""CancelToken: tells decoding in other threads to stop."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from esam_rt.errors import DecodingCancelledError


class CancelToken:
    """A flag that is set once. As a context manager it is set at the end of the block.

    Args:
        *parents: Tokens that cancel this one too.

    Example:
        >>> token = CancelToken()
        >>> threading.Timer(0.1, token.cancel).start()  # doctest: +SKIP
        >>> segmenter(image, cancel=token)  # doctest: +SKIP
        Traceback (most recent call last):
        esam_rt.errors.DecodingCancelledError: Decoding was cancelled.
    """

    def __init__(self, *parents: CancelToken) -> None:
        self._cancelled, self._parents = threading.Event(), parents

    @property
    def is_cancelled(self) -> bool:
        """True after ``cancel`` of this token or of a parent."""
        return self._cancelled.is_set() or any(parent.is_cancelled for parent in self._parents)

    def cancel(self) -> None:
        """Set the flag."""
        self._cancelled.set()

    def check(self) -> None:
        """Stop the caller if the flag is set.

        Raises:
            DecodingCancelledError: The flag is set.
        """
        if self.is_cancelled:
            raise DecodingCancelledError("Decoding was cancelled.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.cancel()
