"""Read the error messages of libraries."""

from __future__ import annotations

MESSAGE_CHARS = 600
"""Characters of a library's messages that an error of ours quotes."""

_OUT_OF_MEMORY = (
    *("out of memory", "outofmemory", "could not be allocated", "failed to allocate"),
    *("alloc_failed", "bad_alloc", "bad allocation"),
    "is smaller than requested bytes",  # ONNX Runtime's arena with a limit
)


def message_of(error: BaseException) -> str:
    """Read the message of a library's exception.

    A C++ library may put bytes of a damaged file into its message. If they are no UTF-8, Python raises a
    ``UnicodeDecodeError`` in place of the library's exception, and that error holds the bytes.

    Args:
        error: Exception that the library raised.

    Returns:
        The message in one line. Bytes that are no UTF-8 are escaped.
    """
    text = error.object.decode("utf-8", "backslashreplace") if isinstance(error, UnicodeDecodeError) else str(error)
    return " ".join(text.split())


def is_out_of_memory_message(message: str) -> bool:
    """Find out if a library's message reports that memory ran out. Libraries have no error code for it.

    Args:
        message: Text of the library, in any case.

    Returns:
        True if the message has one of the known phrases.
    """
    text = message.lower()
    return any(phrase in text for phrase in _OUT_OF_MEMORY)
