"""A TensorRT logger that keeps error messages for our exceptions instead of printing them."""

from __future__ import annotations

import functools
import threading
from collections import deque
from types import ModuleType
from typing import Any

from esam_rt.engines.library_errors import MESSAGE_CHARS, is_out_of_memory_message, message_of

_LOCK = threading.Lock()


def keeping_logger(library: ModuleType) -> Any:
    """Get the logger of a library. It keeps the errors that the library logs in the calling thread.

    There is one logger for the life of the process: the library stores the first one that it gets, and would call it
    after it is garbage (seen with TensorRT-RTX 1.7).

    Args:
        library: The imported ``tensorrt`` or ``tensorrt_rtx``.

    Returns:
        An ``ILogger`` with three more methods: ``words()`` returns the kept messages, ``tells_out_of_memory()``
        searches them for a lack of memory, ``forget()`` drops them.
    """
    with _LOCK:
        return _logger(library)


def parser_messages(parser: Any) -> str:
    """Collect what a parser of the library found wrong.

    Args:
        parser: ``OnnxParser`` or ``OnnxParserRefitter``, after a failure.

    Returns:
        The messages, or an empty string.
    """

    def message(i: int) -> str:
        try:
            return str(parser.get_error(i))
        except UnicodeDecodeError as e:
            return message_of(e)

    return "; ".join(map(message, range(parser.num_errors)))


@functools.cache
def _logger(library: ModuleType) -> Any:
    """Make the logger. Two threads must not call this at once: the library would keep one logger, we the other."""

    class Logger(library.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self._local = threading.local()

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.Severity.ERROR, library.ILogger.Severity.INTERNAL_ERROR):
                self._messages().append(message.strip())

        def forget(self) -> None:
            self._messages().clear()

        def words(self) -> str:
            return " ".join(self._messages())[-MESSAGE_CHARS:] or "it does not say why."

        def tells_out_of_memory(self) -> bool:
            return is_out_of_memory_message(" ".join(self._messages()))

        def _messages(self) -> deque[str]:
            if not hasattr(self._local, "messages"):
                self._local.messages = deque[str](maxlen=8)
            messages: deque[str] = self._local.messages
            return messages

    return Logger()
