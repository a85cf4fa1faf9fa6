"""What TensorRT complains of, kept for errors in place of printed."""

from __future__ import annotations

import functools
import threading
from collections import deque
from types import ModuleType
from typing import Any

OUT_OF_MEMORY = ("out of memory", "outofmemory", "could not be allocated", "bad_alloc")
_WORDS = 600  # characters of the complaints in an error
_MAKING = threading.Lock()


def keeping_logger(library: ModuleType) -> Any:
    """The logger of `library`, with what it complained of in the calling thread: `words()`, `tells_out_of_memory()`,
    and `forget()`.

    One for as long as the process lives: the library keeps the first that it is given for itself, and would call it
    after it is gone (seen of TensorRT-RTX 1.7).
    """
    with _MAKING:
        return _made(library)


@functools.cache
def _made(library: ModuleType) -> Any:
    """Not to be called by two threads at once: one of their loggers would be kept, and the other used."""

    class Logger(library.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self._of_thread = threading.local()

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.Severity.ERROR, library.ILogger.Severity.INTERNAL_ERROR):
                self._complaints().append(message.strip())

        def forget(self) -> None:
            self._complaints().clear()

        def words(self) -> str:
            return " ".join(self._complaints())[-_WORDS:] or "it does not say why."

        def tells_out_of_memory(self) -> bool:
            text = " ".join(self._complaints()).lower()
            return any(sign in text for sign in OUT_OF_MEMORY)

        def _complaints(self) -> deque[str]:
            if not hasattr(self._of_thread, "complaints"):
                self._of_thread.complaints = deque[str](maxlen=8)
            complaints: deque[str] = self._of_thread.complaints
            return complaints

    return Logger()
