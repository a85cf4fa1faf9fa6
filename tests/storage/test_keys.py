"""Keys of paths."""

from __future__ import annotations

from pathlib import Path

from esam_rt.storage.keys import path_key


def test_all_names_of_a_file_give_one_key(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    assert path_key(tmp_path / "link") == path_key(tmp_path / "x" / ".." / "file") == path_key(tmp_path / "file")
    assert path_key(tmp_path / "other") != path_key(tmp_path / "file")


def test_a_link_to_itself_has_a_key(tmp_path: Path) -> None:
    """A command that names it fails when it reads or writes there, with a message."""
    (tmp_path / "loop").symlink_to("loop")
    assert path_key(tmp_path / "loop") == path_key(tmp_path / "loop")
