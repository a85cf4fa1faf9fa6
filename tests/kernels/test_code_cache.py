import os
import shutil
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from esam_rt.kernels import code_cache
from esam_rt.storage.permissions import is_only_ours
from tests.kernels.kernel_modules import ROOT, load_module, result, start

SOURCE = """
from numba import types
from esam_rt.kernels.jit import kernel

@kernel(types.int64)
def doubled(x):
    return 2 * x

@kernel(types.int64)
def trebled(x):
    return 3 * x
"""
Load = Callable[..., ModuleType]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """The module as the next process has it."""

    def load(source: str = SOURCE) -> ModuleType:
        return load_module(tmp_path / "mine.py", source, monkeypatch)

    return load


def files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


def test_one_process_compiles_and_the_next_reads(load: Load, tmp_path: Path) -> None:
    first = load().doubled
    assert first(21) == 42
    assert (first.cache.saved, first.cache.loaded) == (True, False)
    assert files(tmp_path / "cache") == [first.cache.path]
    second = load().doubled
    assert second(21) == 42
    assert (second.cache.saved, second.cache.loaded) == (False, True)
    with pytest.raises(TypeError):  # read from the cache it is as strict
        second("21")


def test_a_kernel_that_makes_arrays_is_read(load: Load, tmp_path: Path) -> None:
    """Its code calls what Numba's target knows only once it has been refreshed."""
    load(SOURCE + "import numpy as np\n@kernel(types.int64)\ndef made(x):\n    return np.empty(x).size\n")
    code = "import mine; print(mine.made(7), mine.made.cache.loaded)"
    assert [result(start(code, tmp_path / "cache"))[0] for _ in range(2)] == ["7 False", "7 True"]


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut in the checksum": lambda content: content[:10],
    "the checksum alone": lambda content: content[:32],
    "cut in half": lambda content: content[: len(content) // 2],
    "cut by one byte": lambda content: content[:-1],
    "one byte more": lambda content: content + b"\0",
    "one bit of the code": lambda content: content[:900] + bytes([content[900] ^ 4]) + content[901:],
    "one bit of the checksum": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "zeros": lambda content: bytes(len(content)),
    "a pickle of something else": lambda content: b"\x80\x04]\x94.",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_file_is_compiled_anew_and_mended(load: Load, how: str) -> None:
    first = load().doubled
    first(21)
    whole = first.cache.path.read_bytes()
    first.cache.path.write_bytes(BROKEN[how](whole))
    second = load().doubled
    assert second(21) == 42
    assert (second.cache.saved, second.cache.loaded) == (True, False)
    third = load().doubled
    assert (third(21), third.cache.loaded) == (42, True)


def test_the_file_of_another_kernel_is_not_taken_for_its_own(load: Load) -> None:
    mine = load()
    mine.doubled(21), mine.trebled(21)
    shutil.copyfile(mine.trebled.cache.path, mine.doubled.cache.path)
    assert load().doubled(21) == 42


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no modes")
@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_write_is_not_read(load: Load, mode: int) -> None:
    first = load().doubled
    first(21)
    first.cache.path.chmod(mode)
    second = load().doubled
    assert (second(21), second.cache.loaded, second.cache.trouble) == (42, False, None)
    assert stat.S_IMODE(second.cache.path.stat().st_mode) & 0o022 == 0
    assert load().doubled(21) == 42


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no modes")
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_to_another_file_of_this_user_is_not_read_and_is_replaced(
    load: Load, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    first = load().doubled
    first(21)
    path = first.cache.path
    path.rename(tmp_path / "download")  # the right content, so that nothing else keeps it from being read
    link(tmp_path / "download", path)
    second = load().doubled
    assert (second(21), second.cache.loaded, second.cache.saved, second.cache.trouble) == (42, False, True, None)
    assert not path.is_symlink() and path.stat().st_nlink == 1
    third = load().doubled
    assert (third(21), third.cache.loaded) == (42, True)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no modes")
@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("how", ["group", "all", "link"])
def test_nothing_is_read_from_a_folder_that_others_can_write(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture, depth: int, how: str
) -> None:
    first = load().doubled
    first(21)
    before = first.cache.path.read_bytes()
    folder = first.cache.path.parents[depth]
    if how == "link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.chmod({"group": 0o775, "all": 0o777}[how])
    mine = load()
    assert (mine.doubled(21), mine.trebled(21)) == (42, 63)
    assert not mine.doubled.cache.loaded and not mine.doubled.cache.saved
    (line,) = caplog.messages
    assert str(first.cache.path.parent) in line and "others could" in line and "ESAM_RT_CACHE" in line
    assert files(tmp_path / "cache") == ([] if how == "link" else [first.cache.path])
    assert first.cache.path.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no modes")
def test_a_folder_that_all_can_write_may_be_above(load: Load, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o1777)
    load().doubled(21)
    second = load().doubled
    assert (second(21), second.cache.loaded) == (42, True)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no modes")
@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_a_file_is_of_use_under_any_umask(load: Load, umask: int) -> None:
    was = os.umask(umask)
    try:
        load().doubled(21)
    finally:
        os.umask(was)
    second = load().doubled
    assert (second(21), second.cache.loaded) == (42, True)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no owners")
def test_code_of_this_user_and_of_the_administrator_is_trusted_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    def is_ours(owner: int, mode: int) -> bool:
        return is_only_ours(os.stat_result((stat.S_IFREG | mode, 0, 0, 1, owner, 0, 0, 0, 0, 0)))

    assert is_ours(1000, 0o644) and is_ours(1000, 0o600) and is_ours(0, 0o444)
    assert not is_ours(1001, 0o644)
    assert not is_ours(1000, 0o662)


def test_a_file_of_others_that_cannot_be_replaced_is_said_once(
    load: Load, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mine = load()
    mine.doubled(21), mine.trebled(21)

    def refuse(path: Path, content: bytes) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(code_cache, "is_only_ours", lambda state: stat.S_ISDIR(state.st_mode))
    monkeypatch.setattr(code_cache, "_write", refuse)
    mine = load()
    assert (mine.doubled(21), mine.trebled(21)) == (42, 63)
    (line,) = caplog.messages
    assert str(mine.doubled.cache.path.parent) in line
    assert "Permission denied" in line and "ESAM_RT_CACHE" in line


def test_what_is_in_a_cache_that_cannot_be_written_is_used_without_a_word(
    load: Load, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load().doubled(21)

    def refuse(path: Path, content: bytes) -> None:
        raise AssertionError(path)

    monkeypatch.setattr(code_cache, "_write", refuse)
    assert load().doubled(21) == 42
    assert not caplog.messages


def test_where_no_folder_can_be_made_every_process_compiles(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    mine = load()
    assert (mine.doubled(21), mine.trebled(21)) == (42, 63)
    (line,) = caplog.messages
    assert str(tmp_path / "cache") in line


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_disk_that_becomes_full_leaves_no_half_file(load: Load, tmp_path: Path) -> None:
    load()
    code = """
import resource
import mine
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
print(mine.doubled(21))
"""
    out, err = result(start(code, tmp_path / "cache"))
    assert out == "42"
    assert err.count("\n") == 0 and "cannot be cached" in err
    assert files(tmp_path / "cache") == []
    second = load().doubled
    assert (second(21), second.cache.saved) == (42, True)


def test_many_processes_on_an_empty_cache(load: Load, tmp_path: Path) -> None:
    load()
    code = """
import pathlib, sys, time
import mine
pathlib.Path(f"ready{sys.argv[1]}").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.001)
print(mine.doubled(21), mine.trebled(21), mine.doubled.cache.trouble)
"""
    processes = [start(code, tmp_path / "cache", str(i)) for i in range(4)]
    while len(list(tmp_path.glob("ready*"))) < len(processes) and all(p.poll() is None for p in processes):
        pass
    (tmp_path / "go").touch()
    assert [result(process) for process in processes] == [("42 63 None", "")] * len(processes)
    mine = load()
    assert (mine.doubled(21), mine.trebled(21)) == (42, 63)
    assert mine.doubled.cache.loaded and mine.trebled.cache.loaded
    assert files(tmp_path / "cache") == sorted([mine.doubled.cache.path, mine.trebled.cache.path])


def test_a_change_to_the_file_of_a_kernel_is_seen(load: Load) -> None:
    assert load().doubled(21) == 42
    changed = load(SOURCE.replace("2 * x", "2 * x + 1"))
    assert (changed.doubled(21), changed.doubled.cache.loaded) == (43, False)
    again = load()
    assert (again.doubled(21), again.doubled.cache.loaded) == (42, True)


def test_an_upgrade_below_a_running_process_does_not_file_old_code_as_new(load: Load) -> None:
    old = load()
    new = load(SOURCE.replace("2 * x", "2 * x + 1"))
    assert old.doubled(21) == 42  # compiled after its file has changed
    assert (new.doubled(21), new.doubled.cache.loaded) == (43, False)


def test_a_change_to_what_a_kernel_calls_in_another_file_is_seen(tmp_path: Path) -> None:
    package = tmp_path / "site"
    kernels = package / "esam_rt" / "kernels"
    ignored = shutil.ignore_patterns("__pycache__", "weights")
    shutil.copytree(ROOT / "esam_rt", package / "esam_rt", symlinks=True, ignore=ignored)
    head = "from numba import types\nfrom .jit import kernel\n"
    callee = head + "@kernel(types.int64)\ndef callee(x): return x + {}\n"
    (kernels / "one.py").write_text(callee.format(1))
    (kernels / "two.py").write_text(
        head + "from .one import callee\n@kernel(types.int64)\ndef caller(x): return callee(x)"
    )
    code = "from esam_rt.kernels.two import caller; print(caller(1), caller.cache.loaded)"

    def run() -> str:
        return result(start(code, tmp_path / "cache", package=package))[0]

    assert run() == "2 False"
    assert run() == "2 True"
    (kernels / "one.py").write_text(callee.format(2))
    assert run() == "3 False"


def test_settings_of_numba_that_change_the_code_have_code_of_their_own(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    load().doubled(21)
    monkeypatch.setattr(code_cache.CONFIG, "BOUNDSCHECK", 1)
    checked = load().doubled
    assert (checked(21), checked.cache.loaded) == (42, False)


@pytest.fixture
def unused(load: Load, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of another version of Numba, its code in a folder that was last used 31 days ago."""
    with monkeypatch.context() as patch:
        patch.setattr(code_cache.CONFIG, "OPT", 1)
        mine = load()
        assert mine.doubled(21) == 42
        assert mine.trebled.cache.path.parent == mine.doubled.cache.path.parent
    make_old(mine.doubled.cache.path.parent)
    return mine


def make_old(folder: Path) -> None:
    then = time.time() - 31 * 24 * 3600
    os.utime(folder, (then, then))


def test_code_that_nobody_used_for_long_is_removed_when_other_code_is_made(load: Load, unused: ModuleType) -> None:
    old = unused.doubled.cache.path.parent
    others = [old.with_name("0" * 16 + old.name[16:]), old.with_name("mine")]
    for folder in others:  # of another machine, and of somebody else
        shutil.copytree(old, folder)
        make_old(folder)
    mine = load()
    assert mine.doubled(21) == 42
    assert sorted(old.parent.iterdir()) == sorted([*others, mine.doubled.cache.path.parent])
    assert unused.trebled(21) == 63  # by a process that knows the folder that is gone
    assert unused.trebled.cache.saved


def test_code_that_is_used_stays(load: Load, unused: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(code_cache.CONFIG, "OPT", 1)
        again = load()
        assert (again.doubled(21), again.doubled.cache.loaded) == (42, True)
    load().doubled(21)
    assert unused.doubled.cache.path.exists()


def test_code_that_is_half_removed_or_cannot_be_marked_is_in_nobodys_way(
    load: Load, unused: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "rmdir", refuse)
    monkeypatch.setattr(os, "utime", refuse)
    assert load().doubled(21) == 42
    again = load()
    assert (again.doubled(21), again.doubled.cache.loaded) == (42, True)
    assert list(unused.doubled.cache.path.parent.iterdir()) == []
    monkeypatch.setattr(code_cache.CONFIG, "OPT", 1)
    anew = load()
    assert (anew.doubled(21), anew.doubled.cache.path) == (42, unused.doubled.cache.path)
    assert (anew.doubled.cache.saved, anew.doubled.cache.trouble) == (True, None)


def test_numba_cache_dir_goes_before_the_cache_of_esam_rt(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubled = load().doubled
    monkeypatch.setattr(code_cache.CONFIG, "CACHE_DIR", str(tmp_path / "numba"))
    doubled(21)
    assert files(tmp_path / "numba" / "esam-rt") == [doubled.cache.path]
    assert not (tmp_path / "cache").exists()
