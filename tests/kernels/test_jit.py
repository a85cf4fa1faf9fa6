import ast
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import types

import esam_rt.kernels
from esam_rt.kernels.bits import areas_and_boxes
from esam_rt.kernels.jit import kernel


def test_a_function_that_cannot_be_cached_is_compiled_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    namespace: dict[str, Any] = {}
    exec("def doubled(x): return 2 * x", namespace)  # no file, so no place for its cache
    with caplog.at_level(logging.WARNING, "esam_rt"):
        doubled = kernel(types.int64)(namespace["doubled"])
    assert doubled(21) == 42
    assert "doubled" in caplog.text
    assert "NUMBA_CACHE_DIR" in caplog.text


def test_an_array_of_another_dtype_is_refused_not_reinterpreted() -> None:
    with pytest.raises(TypeError):
        areas_and_boxes(np.zeros((1, 2, 3), np.float64))


def test_the_kernels_import_numpy_and_numba_and_each_other_only() -> None:
    for path in Path(*esam_rt.kernels.__path__).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level <= 1, path.name
                imported = [] if node.level else [node.module or ""]
            else:
                continue
            allowed = {"numpy", "numba", *sys.stdlib_module_names}
            assert {name.partition(".")[0] for name in imported} <= allowed, path.name
