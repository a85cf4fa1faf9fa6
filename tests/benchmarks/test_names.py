"""The names that benchmarks take from the package and from each other exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "benchmarks").rglob("*.py"))


def has_name(module: str, name: str) -> bool:
    if module.startswith("benchmarks"):  # may need packages of the extra "bench"
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None, module
        tree = ast.parse(Path(spec.origin).read_text("utf-8"))
        stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        defined = {getattr(node, "name", "") for node in tree.body} | stored
        taken = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
        return name in defined | taken or is_module(f"{module}.{name}")
    return hasattr(importlib.import_module(module), name) or is_module(f"{module}.{name}")


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imported_names_exist(path: Path) -> None:
    missing = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("esam_rt", "benchmarks", "tests"))
        for alias in node.names
        if not has_name(str(node.module), alias.name)
    ]
    assert missing == []
