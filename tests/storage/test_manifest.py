"""Folders of files that are written as one and checked before use."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest

from esam_rt.errors import ModelError, OutputError
from esam_rt.storage.manifest import MANIFEST, is_whole, listed_files, remove_leftovers, written_together
from esam_rt.storage.permissions import restrict_writing
from tests.storage.test_json_files import DAMAGE

FILES = {"a.bin": b"first", "b.bin": b"second"}


def write(folder: Path, files: dict[str, bytes] = FILES) -> None:
    with written_together(folder) as temporary:
        for name, content in files.items():
            (temporary / name).write_bytes(content)


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != MANIFEST}


def test_files_appear_with_their_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    write(folder)
    assert content(folder) == FILES
    assert set(listed_files(folder, ["a.bin"])) == set(FILES)
    assert is_whole(folder, FILES)
    assert not is_whole(folder, ["c.bin"])
    assert not is_whole(tmp_path / "elsewhere", [])


def test_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("of somebody else")
    write(tmp_path)
    write(tmp_path, {"a.bin": b"new"})
    assert content(tmp_path) == FILES | {"a.bin": b"new", "manifest.json": b"of somebody else"}
    assert set(listed_files(tmp_path, [])) == {"a.bin"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ModelError("broken"), ValueError("bug")])
def test_earlier_files_outlive_what_fails(tmp_path: Path, error: BaseException) -> None:
    write(tmp_path)
    with pytest.raises(type(error)), written_together(tmp_path) as temporary:
        (temporary / "a.bin").write_bytes(b"half")
        raise error
    assert content(tmp_path) == FILES
    assert is_whole(tmp_path, FILES)


def test_an_interrupt_while_files_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    replace = Path.replace

    def interrupt(self: Path, target: Path) -> Path:
        if self.name == "b.bin":
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, {"a.bin": b"third", "b.bin": b"fourth"})
    assert not is_whole(tmp_path, FILES)


@pytest.mark.parametrize("damage", ["removed", "cut", "changed", "linked"])
def test_damage(tmp_path: Path, damage: str) -> None:
    write(tmp_path)
    file = tmp_path / "a.bin"
    if damage == "removed":
        file.unlink()
    elif damage == "linked":
        file.rename(tmp_path / "c.bin")
        file.symlink_to("c.bin")
    else:
        file.write_bytes(b"firs" if damage == "cut" else b"First")
    assert not is_whole(tmp_path, FILES)


def test_a_copy_is_whole(tmp_path: Path) -> None:
    write(tmp_path)
    os.utime(tmp_path / "a.bin", (0, 0))
    assert is_whole(tmp_path, FILES)


def test_one_bit_is_noticed_with_the_size_and_the_times_of_before(tmp_path: Path) -> None:
    write(tmp_path)
    file = tmp_path / "a.bin"
    state = file.stat()
    file.write_bytes(bytes([FILES["a.bin"][0] ^ 0x80]) + FILES["a.bin"][1:])
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert not is_whole(tmp_path, FILES)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_manifest_lists_nothing(tmp_path: Path, damage: str) -> None:
    write(tmp_path)
    (tmp_path / MANIFEST).unlink()
    DAMAGE[damage](tmp_path / MANIFEST)
    assert listed_files(tmp_path, FILES) == {}
    assert not is_whole(tmp_path, FILES)


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"a.bin": 3}', '{"a.bin": {}, "b.bin": {}}'])
def test_a_manifest_of_another_kind(tmp_path: Path, text: str) -> None:
    write(tmp_path)
    (tmp_path / MANIFEST).write_text(text)
    assert not is_whole(tmp_path, FILES)


@pytest.mark.parametrize("name", ["../a.bin", "/dev/zero", "", ".", "sub/a.bin"])
def test_a_manifest_that_names_files_elsewhere(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps(manifest | {name: manifest["a.bin"]}))
    assert listed_files(tmp_path, FILES) == {}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no modes")
@pytest.mark.parametrize("name", [".", "a.bin", MANIFEST])
def test_what_others_can_write_is_not_whole(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    write(folder)
    path = folder / name
    path.chmod(path.stat().st_mode | 0o020)
    assert not is_whole(folder, FILES)
    restrict_writing(path)
    assert is_whole(folder, FILES)


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        write(tmp_path / "file" / "out")


def test_full_disk(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the disk or quota is full") as e, written_together(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(e.value).startswith(f"{tmp_path}/out cannot be written")
    assert content(tmp_path / "out") == {}


def test_leftovers_of_killed_processes(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / ".esam-rt-killed").mkdir()
    (tmp_path / ".esam-rt-killed" / "a.bin").write_bytes(b"half")
    (tmp_path / ".esam-rt-0123.json").write_bytes(b"half a manifest")
    remove_leftovers(tmp_path)
    assert content(tmp_path) == FILES
