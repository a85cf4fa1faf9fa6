"""Metrics: AP, covering, boundaries, intervals."""
