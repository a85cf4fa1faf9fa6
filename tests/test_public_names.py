"""The names that the package root offers."""

from __future__ import annotations

import subprocess
import sys

import pytest

import esam_rt


@pytest.mark.parametrize("name", esam_rt.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(esam_rt, name) is not None
    assert name in dir(esam_rt)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Segmenter'"):
        _ = esam_rt.Segmenter


def test_the_root_imports_nothing_until_a_name_is_used() -> None:
    code = "import sys, esam_rt; print(*{'numpy', 'numba', 'pydantic'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
