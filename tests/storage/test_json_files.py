"""JSON files that are damaged or hostile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from esam_rt.storage.json_files import bounded_json

DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),  # without a writer, reading it would wait for ever
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(b'{"a": '),
    "no UTF-8": lambda path: path.write_bytes(b'{"a": "\xff"}'),
    "nested": lambda path: path.write_bytes(b"[" * 1_000_000 + b"]" * 1_000_000),
    "a long number": lambda path: path.write_bytes(b"1" * 10_000),
    "huge": lambda path: (path.write_bytes(b"{}"), os.truncate(path, 1 << 40)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_an_error_that_callers_expect(tmp_path: Path, damage: str) -> None:
    DAMAGE[damage](tmp_path / "x.json")
    with pytest.raises((OSError, ValueError)):
        bounded_json(tmp_path / "x.json")


def test_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"[1, 2]")
    assert bounded_json(path, 6) == [1, 2]
    with pytest.raises(ValueError, match="more than 5 bytes"):
        bounded_json(path, 5)
