"""Versions of the packages, and the time, for the records of results."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata

from esam_rt._version import __version__

# Packages that the numbers of a run depend on.
PACKAGES = (
    *("numpy", "numba", "scikit-image", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu"),
    *("tensorrt", "tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "cuda-python", "cuda-bindings"),
)


def package_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Collect versions.

    Args:
        packages: Names of packages. Missing packages are left out.

    Returns:
        Versions of Python, esam-rt and the packages, by name.
    """
    versions = {"python": platform.python_version(), "esam-rt": __version__}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def utc_now() -> str:
    """Return the time in ISO 8601, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
