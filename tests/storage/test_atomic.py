"""Files appear whole or not at all, and say what to do when they cannot be written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from esam_rt.errors import OutputError
from esam_rt.storage.atomic import atomic_path, write_bytes, write_json, write_text


def test_the_file_appears_only_when_the_body_is_done(tmp_path: Path) -> None:
    final = tmp_path / "a" / "b" / "picture.jpg"
    with atomic_path(final) as temporary:
        assert temporary.parent == final.parent
        assert temporary.suffix == ".jpg"
        temporary.write_bytes(b"half")
        assert not final.exists()
        temporary.write_bytes(b"whole")
    assert final.read_bytes() == b"whole"
    assert list(final.parent.iterdir()) == [final]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    final = tmp_path / "x.json"
    final.write_text("old")
    with pytest.raises(error), atomic_path(final) as temporary:
        temporary.write_text("ne")
        raise error
    assert final.read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_the_data_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append("fsync"), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda self, target: (seen.append("replace"), replace(self, target)))
    write_bytes(tmp_path / "x", b"1")
    assert seen == ["fsync", "replace"]


def test_the_file_has_the_usual_permissions(tmp_path: Path) -> None:
    write_bytes(tmp_path / "ours", b"")
    (tmp_path / "usual").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "full; free some space"),
        (errno.EDQUOT, "full; free some space"),
        (errno.EACCES, "no permission; change"),
        (errno.EPERM, "no permission; change"),
        (errno.EROFS, "read-only; write to another folder"),
        (errno.EIO, "Input/output error; write to another folder"),
    ],
)
def test_system_errors_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str) -> None:
    final = tmp_path / "x.txt"
    final.write_text("old")

    def fail(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=says) as caught:
        write_text(final, "new")
    assert str(final) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert final.read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    for path in (tmp_path / "out" / "x.png", tmp_path / "out" / "labels" / "x.png"):
        with pytest.raises(OutputError, match="a file stands where a folder is needed"):
            write_bytes(path, b"")


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.png").mkdir()
    with pytest.raises(OutputError, match="a folder stands where the file is needed"):
        write_bytes(tmp_path / "x.png", b"")
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_our_own_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="mine"), atomic_path(tmp_path / "x"):
        raise OutputError("mine")


def test_json_is_ascii_and_has_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"name": "写真\udcff.jpg", "values": [1, 2.5, None]})
    assert json.loads(path.read_bytes().decode("ascii")) == {"name": "写真\udcff.jpg", "values": [1, 2.5, None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, float("nan"))
    assert len(list(tmp_path.iterdir())) == 1


def test_text_is_utf8_whatever_the_names(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "é\udcff\ud800😀")
    assert (tmp_path / "x").read_text("utf-8") == "é\\udcff\\ud800😀"
