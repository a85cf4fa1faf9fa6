"""The tree: a file name occurs once, and modules are short."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from tests.docs.conftest import ROOT

FOLDERS = ("esam_rt", "export", "engines", "benchmarks", "docs", "examples")
MOST_LINES = 400
GENERATED = {"_build", "__pycache__"}


def files() -> list[Path]:
    """All files of the tree except tests, links and generated ones."""
    found = []
    for top in FOLDERS:
        for folder, names, leaves in os.walk(ROOT / top):  # does not follow links
            names[:] = [name for name in names if name not in GENERATED]
            found += [Path(folder) / leaf for leaf in leaves]
    return [path for path in found if not path.is_symlink()]


def test_a_file_name_occurs_once() -> None:
    places = defaultdict(list)
    for path in files():
        if path.name != "__init__.py":
            places[path.name].append(path.relative_to(ROOT).as_posix())
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_modules_are_short() -> None:
    package = [path for path in files() if path.suffix == ".py" and "benchmarks" not in path.parts]
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in package}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_architecture_names_every_wing() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    names = [
        f"{path.name}/" if path.is_dir() else path.name
        for path in (ROOT / "esam_rt").iterdir()
        if not path.name.startswith(("_", ".")) and path.name not in ("py.typed", "weights")
    ]
    assert [name for name in names if f"`{name}`" not in page] == []
