"""What TensorRT complains of, kept for errors in place of printed."""

from __future__ import annotations

from collections import deque
from types import ModuleType
from typing import Any

OUT_OF_MEMORY = ("out of memory", "outofmemory", "could not be allocated", "bad_alloc")
_WORDS = 600  # characters of the complaints in an error


def keeping_logger(library: ModuleType) -> Any:
    """A logger of `library` with `words()`, the last complaints, and `tells_out_of_memory()`."""

    class Logger(library.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.complaints: deque[str] = deque(maxlen=8)

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.Severity.ERROR, library.ILogger.Severity.INTERNAL_ERROR):
                self.complaints.append(message.strip())

        def words(self) -> str:
            return " ".join(self.complaints)[-_WORDS:] or "it does not say why."

        def tells_out_of_memory(self) -> bool:
            text = " ".join(self.complaints).lower()
            return any(sign in text for sign in OUT_OF_MEMORY)

    return Logger()
