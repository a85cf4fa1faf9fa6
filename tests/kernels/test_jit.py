import ast
import gc
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numba import types
from numba.core.errors import TypingError

import esam_rt.kernels
from esam_rt.errors import SettingsError
from esam_rt.kernels import code_cache
from esam_rt.kernels.bits import areas_and_boxes
from esam_rt.kernels.jit import Kernel, kernel
from tests.kernels.kernel_modules import SOURCE, load_module, result, start
from tests.support.processes import GUARD_S

IMPOSSIBLE = """
@kernel(types.int64)
def impossible(x):
    return x.there_is_no_such_thing
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Kernels that were never compiled."""
    yield load_module(tmp_path / "mine.py", SOURCE + IMPOSSIBLE, monkeypatch)


def test_an_array_of_another_dtype_is_refused_not_reinterpreted() -> None:
    with pytest.raises(TypeError):
        areas_and_boxes(np.zeros((1, 2, 3), np.float64))


def test_a_kernel_may_be_called_by_python_and_by_another_kernel(mine: ModuleType) -> None:
    assert mine.half_and_one(10) == 6
    assert mine.half(10) == 5
    assert mine.half_and_one.callees == {mine.half}
    assert mine.half.callees == set()


def test_threads_that_call_first_at_once_wait_for_one_compilation(
    mine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_for = []
    load = code_cache.CodeCache.load_overload

    def counted(cache: code_cache.CodeCache, signature: Any, target_context: Any) -> Any:
        looked_for.append(cache)
        return load(cache, signature, target_context)

    monkeypatch.setattr(code_cache.CodeCache, "load_overload", counted)
    start = Barrier(8, timeout=GUARD_S)

    def call(i: int) -> int:
        start.wait()
        return int((mine.half, mine.half_and_one)[i % 2](10))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, range(8))) == [5, 6] * 4
    assert len(looked_for) == len(set(looked_for)) == 2


def test_what_cannot_be_compiled_says_so_at_each_call_and_keeps_no_other_from_it(mine: ModuleType) -> None:
    for _ in range(2):
        with pytest.raises(TypingError, match="there_is_no_such_thing"):
            mine.impossible(1)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(mine.half, 10).result(GUARD_S) == 5


def test_ctrl_c_while_a_kernel_is_compiled_is_not_lost_in_a_destructor(
    mine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Freed:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def compile_(kernel: Kernel, *arguments: Any, **options: Any) -> Any:
        del arguments, options
        Freed()
        return kernel.function

    monkeypatch.setattr(Kernel, "_dispatcher", compile_)
    with pytest.raises(KeyboardInterrupt):
        mine.half(10)
    assert mine.half(10) == 5  # what was compiled meanwhile is kept


def test_a_kernel_may_be_called_first_at_the_exit_of_the_interpreter(mine: ModuleType, tmp_path: Path) -> None:
    code = "import atexit, mine; atexit.register(lambda: print(mine.half(10)))"
    assert result(start(code, tmp_path / "cache")) == ("5", "")


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(mine: ModuleType, enabled: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        mine.half(10)
        with pytest.raises(TypingError):
            mine.impossible(1)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()


def test_a_numba_that_may_not_compile_is_an_error_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_cache.CONFIG, "DISABLE_JIT", 1)
    mine = load_module(tmp_path / "mine.py", SOURCE, monkeypatch)
    for _ in range(2):
        with pytest.raises(SettingsError, match=r"NUMBA_DISABLE_JIT is set.*Unset it"):
            mine.half(10)
    monkeypatch.setattr(code_cache.CONFIG, "DISABLE_JIT", 0)
    assert mine.half_and_one(10) == 6


def test_a_function_without_a_file_is_compiled_all_the_same() -> None:
    namespace: dict[str, Any] = {}
    exec("def doubled(x): return 2 * x", namespace)
    doubled: Any = kernel(types.int64)(namespace["doubled"])
    assert doubled(21) == 42
    assert doubled.cache.path is None


def test_functions_that_differ_from_call_to_call_are_not_mixed_up() -> None:
    def make(add: int) -> Any:
        @kernel(types.int64)
        def added(x: int) -> int:
            return x + add

        return added

    assert [make(add)(1) for add in (1, 2, 3)] == [2, 3, 4]


def test_the_kernels_import_numpy_and_numba_and_each_other_only() -> None:
    below = ("esam_rt.kernels", "esam_rt.storage", "esam_rt.errors", "esam_rt.usable_cpus")  # under the kernels
    known = {"numpy", "numba", "llvmlite", *sys.stdlib_module_names}
    for path in Path(*esam_rt.kernels.__path__).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                imported = [node.module or ""]
            else:
                continue
            foreign = [name for name in imported if name.partition(".")[0] not in known and not name.startswith(below)]
            assert not foreign, (path.name, foreign)
