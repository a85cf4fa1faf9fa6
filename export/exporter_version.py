"""The version of the graphs that this exporter writes."""

from __future__ import annotations

EXPORTER_VERSION = "5"
"""Raised whenever the same checkpoint gives other graphs; part of the cache's key and of every file's metadata."""
