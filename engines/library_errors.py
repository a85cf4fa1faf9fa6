"""Read the error messages of GPU libraries."""

from __future__ import annotations

MESSAGE_CHARS = 600
"""Characters of a library's messages that an error of ours quotes."""

_OUT_OF_MEMORY = (
    *("out of memory", "outofmemory", "could not be allocated", "failed to allocate"),
    *("alloc_failed", "bad_alloc", "bad allocation"),
    "is smaller than requested bytes",  # ONNX Runtime's arena with a limit
)


def is_out_of_memory_message(message: str) -> bool:
    """Find out if a library's message reports that memory ran out. Libraries have no error code for it.

    Args:
        message: Text of the library, in any case.

    Returns:
        True if the message has one of the known phrases.
    """
    text = message.lower()
    return any(phrase in text for phrase in _OUT_OF_MEMORY)
