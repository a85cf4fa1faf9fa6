"""Records of an MCAP from its beginning, so that a file without its end can be read too."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_log = logging.getLogger("esam_rt")


def mcap_records(
    path: Path, is_wanted: Callable[[Any, Any], bool], warn: bool = True
) -> Iterator[tuple[Any, Any, Any]]:
    """Yield schema, channel and message up to the end of the file, or to where it is cut off.

    Args:
        path: The file.
        is_wanted: Tells by schema and channel if a message is wanted.
        warn: Warn if the file is cut off.
    """
    from mcap.records import Channel, Message, Schema
    from mcap.stream_reader import StreamReader

    schemas: dict[int, Any] = {0: Schema(data=b"", encoding="", id=0, name="")}  # 0: a channel without a schema
    channels: dict[int, Any] = {}
    last_ns = None
    try:
        with path.open("rb") as file:
            for record in StreamReader(file, record_size_limit=1 << 30).records:
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    channels[record.id] = record
                elif isinstance(record, Message):
                    channel = channels[record.channel_id]
                    schema = schemas[channel.schema_id]
                    if is_wanted(schema, channel):
                        last_ns = record.log_time
                        yield schema, channel, record
    except Exception as e:  # of its libraries: zstd, lz4, struct
        if warn:
            warn_of_end(path, last_ns, e)


def warn_of_end(path: Path, last_ns: int | None, cause: Exception) -> None:
    """Warn that a bag is cut off.

    Args:
        path: The bag.
        last_ns: Time of the last message that was wanted, or None.
        cause: What the reader said.
    """
    place = "before its first image" if last_ns is None else f"after {last_ns / 1e9:.3f} s"
    _log.warning("%s: is cut off or damaged %s (%s).", path, place, str(cause) or type(cause).__name__)
