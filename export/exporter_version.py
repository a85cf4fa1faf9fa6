"""The version of the graphs that this exporter writes."""

from __future__ import annotations

EXPORTER_VERSION = "7"
"""Raise it if the same checkpoint gives other graphs. It is part of the cache key and of the metadata of each file."""
