"""Old import paths: each still works and names the new one."""

from __future__ import annotations

import subprocess
import sys
import warnings
from importlib import import_module

import pytest

from esam_rt import _moved

OLD = [(old, name, *place) for old in _moved.MOVED for name, place in _moved._places(old).items()]


@pytest.mark.parametrize(("old", "name", "module", "new_name"), OLD, ids=[f"{old}.{name}" for old, name, *_ in OLD])
def test_an_old_name_is_the_new_one_with_a_warning(old: str, name: str, module: str, new_name: str) -> None:
    with pytest.warns(
        DeprecationWarning, match=rf"^esam_rt\.{old}\.{name} has moved: import {new_name} from {module}\."
    ):
        found = getattr(import_module(f"esam_rt.{old}"), name)
    assert found is getattr(import_module(module), new_name)


@pytest.mark.parametrize("old", ["load", "sam"])
def test_other_names_are_missing_as_ever(old: str) -> None:
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec(f"from esam_rt.{old} import nothing")
    with pytest.raises(ModuleNotFoundError):
        import_module("esam_rt.never_was")


def test_the_warning_points_to_the_import() -> None:
    for line in ("from esam_rt.load import load_sam", "from esam_rt.sam import Sam", "from esam_rt.models import *"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            exec(compile(f"\n\n{line}\n", "user.py", "exec"), {})
        assert {(w.filename, w.lineno) for w in caught} == {("user.py", 3)}


def test_names_that_stayed_do_not_warn() -> None:
    from esam_rt.evaluation import average_precision
    from esam_rt.sources import find_photos, read_photo

    assert callable(average_precision) and callable(find_photos) and callable(read_photo)


def test_the_finder_is_there_once_and_imports_nothing() -> None:
    _moved.install()
    assert sum(isinstance(finder, _moved._OldModules) for finder in sys.meta_path) == 1
    script = (
        "import sys, esam_rt; sys.exit(', '.join({'numpy', 'importlib.abc', 'esam_rt.sam'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
