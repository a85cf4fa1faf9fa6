"""Versions, the time, and flat keys, for the records of results."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from esam_rt._version import __version__
from esam_rt.storage.nested import flatten
from esam_rt.storage.provenance import package_versions, utc_now


def test_versions_of_installed_packages() -> None:
    versions = package_versions(["numpy", "no-such-package"])
    assert list(versions) == ["python", "esam-rt", "numpy"]
    assert (versions["esam-rt"], versions["numpy"]) == (__version__, np.__version__)
    assert "numba" in package_versions()


def test_the_time_is_in_utc_and_has_no_fraction() -> None:
    now = datetime.fromisoformat(utc_now())
    assert now.tzinfo == UTC
    assert now.microsecond == 0
    assert abs((datetime.now(UTC) - now).total_seconds()) < 60


def test_nested_mappings_are_flattened() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": {}, "f": None}) == {"a.b.c": 1, "a.d": [2], "f": None}
