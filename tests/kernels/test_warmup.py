"""Compiling ahead: which kernels, into which cache, and in the background of a program."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from esam_rt import EntitySegmenter, Settings
from esam_rt.cli import app
from esam_rt.kernels import code_cache, warmup
from esam_rt.kernels.jit import KERNELS, Kernel
from esam_rt.segmenter import METHODS  # importing it brings all that calls kernels
from tests.kernels.kernel_modules import ROOT, SOURCE, load_module, result, start
from tests.support.processes import GUARD_S, wait_for

MAIN = "import sys; from esam_rt.__main__ import main; sys.argv[1:] = {!r}; main()"


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module with three kernels in place of all; the folder of its cache."""
    module = load_module(tmp_path / "mine.py", SOURCE, monkeypatch)
    monkeypatch.setattr(warmup, "KERNELS", [module.half, module.half_and_one, module.doubled])
    monkeypatch.setattr(warmup, "ALL_MODULES", ("mine",))
    return tmp_path / "cache"


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]


def is_kernel(function: ast.FunctionDef) -> bool:
    return any(isinstance(d, ast.Call) and ast.unparse(d.func) == "kernel" for d in function.decorator_list)


def test_every_kernel_of_the_package_is_compiled_ahead_itself_or_within_one_that_is() -> None:
    sources = [path for path in (ROOT / "esam_rt").rglob("*.py") if path.name != "jit.py"]
    written = {function.name for path in sources for function in functions(path) if is_kernel(function)}
    entries = warmup.entry_kernels(warmup.ALL_MODULES)
    ahead = set(entries)
    while inner := {callee for kernel in ahead for callee in kernel.callees} - ahead:
        ahead |= inner
    assert {kernel.__name__ for kernel in ahead} == written
    assert len(entries) == len(set(entries)) < len(ahead)
    # Those within others are not called from Python too: they would be compiled at that call.
    within = ahead - set(entries)
    for path in sources:
        module = sys.modules.get(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for function in functions(path):
            if not is_kernel(function):
                used = [getattr(module, node.id, None) for node in ast.walk(function) if isinstance(node, ast.Name)]
                assert within.isdisjoint(k for k in used if isinstance(k, Kernel)), (path, function.name)


def test_a_kernel_uses_nothing_of_a_file_that_the_cache_does_not_look_at() -> None:
    looked_at = re.compile(r"numpy|numba|(esam_rt)?\.*kernels\.\w+")
    for path in (ROOT / "esam_rt").rglob("*.py"):
        imports = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.ImportFrom)]
        other = {
            alias.asname or alias.name
            for node in imports
            if path.parent.name != "kernels" and not looked_at.fullmatch("." * node.level + (node.module or ""))
            for alias in node.names
        }
        for function in filter(is_kernel, functions(path)):
            body = ast.Module(function.body, [])
            used = {node.id for node in ast.walk(body) if isinstance(node, ast.Name)}
            assert not used & other, (path, function.name)


def test_what_a_photo_needs_is_part_of_all() -> None:
    photo_kernels = warmup.entry_kernels(warmup.PHOTO_MODULES)
    assert set(photo_kernels) < set(warmup.entry_kernels(warmup.ALL_MODULES)) < set(KERNELS)


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_needs_is_what_it_calls(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = set[Kernel]()

    def call(kernel: Kernel, *arguments: Any) -> Any:
        called.add(kernel)
        return kernel.compile()(*arguments)

    monkeypatch.setattr(Kernel, "__call__", call)
    with EntitySegmenter("tiny", settings=Settings.preset("fast"), method=method) as segment:
        segment(data.astronaut())
    assert {kernel.__module__ for kernel in called} == set(warmup.METHOD_MODULES[method])
    assert called <= set(warmup.entry_kernels(warmup.METHOD_MODULES[method]))


def test_run_compiles_beside_loading_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    monkeypatch.setattr(warmup, "start_warmup", lambda modules, with_process: begun.append((modules, with_process)))
    Image.fromarray(data.astronaut()[:64, :64]).save(tmp_path / "photo.png")
    said = CliRunner().invoke(app.app, ["run", str(tmp_path / "missing"), "--out", str(tmp_path / "out")])
    assert said.exit_code == 1 and not begun
    arguments = ["run", str(tmp_path / "photo.png"), "--out", str(tmp_path / "out"), "--method", "superpixels"]
    assert CliRunner().invoke(app.app, arguments).exit_code == 0
    assert begun == [(warmup.METHOD_MODULES["superpixels"], True)]


def test_the_command_compiles_what_the_cache_lacks(tmp_path: Path, copy_kernels: Callable[[Path], list[Path]]) -> None:
    reports = []
    lacking = sorted(copy_kernels(tmp_path / "cache"), key=lambda path: path.stat().st_size)[:3]
    for path in lacking:
        path.unlink()
    for _ in range(2):
        code = MAIN.format(["compile-kernels", "--json"])
        out, err = result(start(code, tmp_path / "cache"))
        assert err == ""
        reports.append(json.loads(out))
    first, second = reports
    assert first["kernels"] == second["kernels"] > 10
    assert (first["compiled"], second["compiled"]) == (len(lacking), 0)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(files) == first["kernels"]
    assert {str(path.parent) for path in files} == {first["folder"]} == {second["folder"]}


def test_the_command_says_how_many_and_where(few: Path) -> None:
    said = CliRunner().invoke(app.app, ["compile-kernels"])
    assert (said.exit_code, said.stderr) == (0, "")
    assert said.stdout.startswith(f"2 kernels in {few / 'kernels'}")
    assert ", 2 of them compiled now, in " in said.stdout


def test_the_command_fails_where_nothing_can_be_written(few: Path) -> None:
    few.write_text("a file")
    said = CliRunner().invoke(app.app, ["compile-kernels"])
    assert (said.exit_code, said.stdout) == (1, "")
    assert said.stderr.startswith("error: ") and said.stderr.count("\n") == 1
    assert str(few) in said.stderr and "ESAM_RT_CACHE" in said.stderr


def test_a_cache_that_cannot_be_searched_is_said_in_one_line(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_below(few, monkeypatch)
    said = CliRunner().invoke(app.app, ["compile-kernels"])
    assert (said.exit_code, said.stdout) == (1, ""), said.exception
    assert said.stderr.startswith("error: ") and said.stderr.count("\n") == 1
    assert str(few) in said.stderr and "Permission denied" in said.stderr
    said = CliRunner().invoke(app.app, ["models"])
    assert (said.exit_code, said.stderr) == (0, ""), said.exception


def refuse_below(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No system call finds anything in the folder, as for a user who may not search it."""

    def refused(call: Any) -> Any:
        def refusing(path: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(path, str | Path) and folder in Path(path).parents:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return call(path, *arguments, **options)

        return refusing

    for name in ("stat", "lstat", "mkdir", "open", "scandir"):
        monkeypatch.setattr(os, name, refused(getattr(os, name)))


def test_the_command_fails_where_the_sources_cannot_be_read(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esam_rt.kernels.code_cache.SOURCES", [])
    module = load_module(few.parent / "mine.py", SOURCE, monkeypatch)
    monkeypatch.setattr(warmup, "KERNELS", [module.doubled])
    said = CliRunner().invoke(app.app, ["compile-kernels"])
    assert said.exit_code == 1
    assert "mine: cannot be cached" in said.stderr


@pytest.mark.parametrize("command", [["compile-kernels"], ["run", "photo.png", "--method", "superpixels"]])
def test_a_numba_that_may_not_compile_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    Image.fromarray(data.astronaut()[:64, :64]).save(tmp_path / "photo.png")
    process = start(MAIN.format(command), tmp_path / "cache")
    out, err = process.communicate(timeout=GUARD_S)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: NUMBA_DISABLE_JIT is set") and err.count("\n") == 1


def test_a_thread_compiles_while_the_program_calls(few: Path) -> None:
    thread = warmup.start_warmup(("mine",))
    calls = [(kernel, kernel(10)) for kernel in reversed(warmup.KERNELS)]
    thread.join(GUARD_S)
    assert not thread.is_alive()
    assert [answer for _, answer in calls] == [20, 6, 5]
    assert all(kernel.cache.saved for kernel, _ in calls)


def test_a_cache_of_no_use_is_said_to_the_one_who_calls(few: Path, caplog: pytest.LogCaptureFixture) -> None:
    few.write_text("a file")
    warmup.start_warmup(("mine",)).join(GUARD_S)
    assert not caplog.messages
    warmup.KERNELS[0](10)
    assert [str(few) in message for message in caplog.messages] == [True]


def test_another_process_compiles_from_the_other_end(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.syspath_prepend(few.parent)
    started = []

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)
            assert self.wait(GUARD_S) == 0  # before this process compiles anything

    monkeypatch.setattr(warmup.subprocess, "Popen", Popen)
    for _ in range(2):
        warmup.start_warmup(("mine",), with_process=True).join(GUARD_S)
    assert len(started) == 1  # the second time nothing lacks
    assert [kernel.cache.loaded for kernel in warmup.entry_kernels(("mine",))] == [True, True]


@pytest.mark.parametrize("why", ["one core", "no interpreter", "frozen", "no more processes"])
def test_without_another_process_all_is_compiled_here(few: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        assert why == "no more processes"
        raise BlockingIOError("Resource temporarily unavailable")

    cores = {0} if why == "one core" else {0, 1}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cores, raising=False)
    monkeypatch.setattr(warmup.subprocess, "Popen", fail)
    if why == "no interpreter":
        monkeypatch.setattr(sys, "executable", "")
    if why == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    warmup.start_warmup(("mine",), with_process=True).join(GUARD_S)
    assert [kernel.cache.saved for kernel in warmup.entry_kernels(("mine",))] == [True, True]


def test_the_other_process_ends_where_nothing_can_be_written(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few.write_text("a file")
    warmup.fill_cache(("mine",), code_cache.temporary_prefix)
    half_and_one, doubled = warmup.entry_kernels(("mine",))
    assert doubled.cache.trouble and not half_and_one.cache.trouble


def test_the_other_process_is_ended_and_leaves_nothing_half_written(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.syspath_prepend(few.parent)
    # Another process that is as far as to write its first file, which never ends.
    (few.parent / "mine.py").write_text(
        SOURCE
        + """
import time
from esam_rt.kernels import code_cache
code_cache.Path.replace = lambda *_: time.sleep(600)
"""
    )
    others = code_cache.code_folder() / "0" / f".{code_cache.temporary_prefix}0"
    others.parent.mkdir(parents=True)
    others.touch()
    with warmup._second_process(("mine",)):
        wait_for(lambda: any(p.is_file() and p != others for p in few.rglob("*")))
        temporary = [p for p in few.rglob("*") if p.is_file() and p != others]
    assert temporary[0].name.startswith(".")
    assert [p for p in few.rglob("*") if p.is_file()] == [others]


@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
def test_the_other_process_is_ended_with_a_command_that_is(tmp_path: Path) -> None:
    code = "import os; os.sched_getaffinity = lambda pid: {0, 1}\n" + MAIN.format(["compile-kernels"])
    process = start(code, tmp_path / "cache")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_for(lambda: any((tmp_path / "cache").rglob("*.kernel")), process)
    (other,) = children.read_text().split()
    process.terminate()
    out, err = process.communicate(timeout=GUARD_S)
    assert (process.returncode, out, err) == (130, "", "error: interrupted\n")
    assert not Path(f"/proc/{other}").exists()


def test_a_program_that_ends_does_not_wait_for_all_kernels(tmp_path: Path) -> None:
    code = """
import time
from esam_rt.kernels import warmup
warmup.start_warmup(with_process=True)
print(len(warmup.entry_kernels(warmup.PHOTO_MODULES)))
time.sleep(0.2)
"""
    out, err = result(start(code, tmp_path / "cache"))
    assert err == ""
    assert len(list((tmp_path / "cache").rglob("*.kernel"))) < int(out)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_forked_meanwhile_can_call_kernels(tmp_path: Path) -> None:
    """It is forked when a thread is amid a compilation, which goes on once the fork waits for it."""
    code = """
import os, signal, threading, warnings
import numpy as np
from numba.core.compiler_lock import global_compiler_lock
amid, waits, acquire = threading.Event(), threading.Event(), global_compiler_lock.acquire
def watched():
    if amid.is_set() and threading.current_thread() is threading.main_thread():
        waits.set()
    acquire()
global_compiler_lock.acquire = watched
from esam_rt.kernels import warmup
from esam_rt.kernels.bits import areas_and_boxes
from esam_rt.kernels.jit import Kernel
dispatcher = Kernel._dispatcher
def slow(*arguments, **options):
    amid.set()
    waits.wait(900)
    return dispatcher(*arguments, **options)
Kernel._dispatcher = slow
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
warmup.start_warmup()
assert amid.wait(900)
pid = os.fork()
if pid == 0:
    waits.set()
    signal.alarm(300)
    with global_compiler_lock:  # the thread of the call may have the number of the one that held it, and be let in
        signal.alarm(900)
    area, _ = areas_and_boxes(np.full((1, 2, 3), 3, np.uint64))
    os._exit(int(area[0] != 12))
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
waits.set()
"""
    assert result(start(code, tmp_path / "cache")) == ("0", "")


def test_importing_compiles_nothing(tmp_path: Path) -> None:
    code = """
import esam_rt.segmenter
from esam_rt.kernels.jit import KERNELS
print(len(KERNELS) > 10, any(kernel.cache.saved or kernel.cache.loaded for kernel in KERNELS))
"""
    assert result(start(code, tmp_path / "cache"))[0] == "True False"
    assert not (tmp_path / "cache").exists()
