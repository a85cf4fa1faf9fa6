"""The cache folder of esam-rt."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return the folder in ``ESAM_RT_CACHE``, or the user's cache folder of this platform. It may not exist yet."""
    override = os.environ.get("ESAM_RT_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("esam-rt", appauthor=False))
