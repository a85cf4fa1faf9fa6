"""The journal of a table: one JSON line for each finished photo, with the masks that every row found in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from esam_rt.errors import InputError
from esam_rt.evaluation.paper_tables.table_rows import Row
from esam_rt.storage.jsonl import append_line, read_lines

Found = Mapping[str, Sequence[Mapping[str, Any]]]
"""COCO annotations of one photo, by the name of the row that found them."""


def append_photo(journal: Path, image_id: int, found: Found, times_s: Mapping[str, float]) -> None:
    """Append a finished photo to the journal.

    Args:
        journal: File of JSON lines.
        image_id: Id of the photo in the ground truth.
        found: Annotations by row.
        times_s: Seconds by stage; empty unless the table is timed.
    """
    compact = {name: [_compact(annotation) for annotation in each] for name, each in found.items()}
    append_line(journal, json.dumps({"image_id": image_id, "found": compact, "times_s": times_s}))


def read_photos(journal: Path, rows: Sequence[Row]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the finished photos of a journal.

    Args:
        journal: File of JSON lines; may be missing.
        rows: The rows of the table. Each line must hold exactly these.

    Yields:
        Image id, and the record that ``row_annotations`` and the key ``times_s`` read.

    Raises:
        InputError: A line is damaged, repeats a photo, or belongs to other rows.
    """
    seen: set[int] = set()
    for number, line in enumerate(read_lines(journal), start=1):
        try:
            record = json.loads(line)
            image_id, found = int(record["image_id"]), set(record["found"])
        except (ValueError, KeyError, TypeError) as e:
            raise _unusable(journal, number, "was not written by esam-rt") from e
        if image_id in seen:
            raise _unusable(journal, number, f"repeats photo {image_id}")
        if found != {row.name for row in rows}:
            raise _unusable(journal, number, f"has the rows {', '.join(map(repr, sorted(found)))}")
        seen.add(image_id)
        yield image_id, record


def row_annotations(record: Mapping[str, Any], height: int, width: int) -> dict[str, list[dict[str, Any]]]:
    """Return a record's COCO annotations by row, with ``segmentation`` (compressed RLE) and ``score``.

    Args:
        record: A record from ``read_photos``.
        height: Height of the photo in pixels.
        width: Width of the photo in pixels.
    """
    return {
        name: [{"segmentation": {"size": [height, width], "counts": counts}, "score": s} for counts, s in each]
        for name, each in record["found"].items()
    }


def _compact(annotation: Mapping[str, Any]) -> list[Any]:
    return [annotation["segmentation"]["counts"], annotation["score"]]


def _unusable(journal: Path, number: int, why: str) -> InputError:
    return InputError(
        f"{journal}: line {number} {why}; expected each photo once, with the rows of this table. Give --overwrite or "
        "another --out."
    )
