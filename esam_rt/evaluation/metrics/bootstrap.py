"""Confidence intervals by the bootstrap: how far a score may change with other photos.

A resample of P photos draws P photos with replacement. The score is computed for each resample. The interval lies
between percentiles of these scores. A seed fixes the draws, so two runs over the same photos are resampled in pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A score and its confidence interval.

    Attributes:
        value: Score over all photos; None if it is undefined.
        low: Lower end of the interval; None if there is no interval.
        high: Upper end of the interval; None if there is no interval.
    """

    value: float | None
    low: float | None
    high: float | None


class Scores(Protocol):
    """Scores of P photos for any weights of the photos."""

    def metrics(self, weights: NDArray[np.int64]) -> Mapping[str, NDArray[np.float64]]:
        """Return float64 [B] for each metric.

        Args:
            weights: int64 [B, P], how often each photo counts in each of B sets.
        """
        ...


def resamples(photos: int, number: int, seed: int) -> NDArray[np.int64]:
    """Draw resamples.

    Args:
        photos: Number of photos.
        number: Number of resamples.
        seed: Seed of the generator.

    Returns:
        How often each resample draws each photo: int64 [number, photos]; each row sums to ``photos``.
    """
    if photos == 0:
        return np.zeros((number, 0), np.int64)
    return np.random.default_rng(seed).multinomial(photos, np.full(photos, 1 / photos), size=number)


def estimates(scores: Scores, weights: NDArray[np.int64]) -> dict[str, Estimate]:
    """Return each metric over all photos with its interval.

    Args:
        scores: Scores of P photos.
        weights: Resamples int64 [B, P].
    """
    everything, sampled = scores.metrics(np.ones((1, weights.shape[1]), np.int64)), scores.metrics(weights)
    return {name: _estimate(value, sampled[name]) for name, value in everything.items()}


def differences(candidate: Scores, baseline: Scores, weights: NDArray[np.int64]) -> dict[str, Estimate]:
    """Return ``candidate`` minus ``baseline`` for each metric, with its interval. Each resample scores both.

    Args:
        candidate: Scores of P photos.
        baseline: Scores of the same photos.
        weights: Resamples int64 [B, P].
    """
    ones = np.ones((1, weights.shape[1]), np.int64)
    a, b, sampled_a, sampled_b = (s.metrics(w) for w in (ones, weights) for s in (candidate, baseline))
    return {name: _estimate(a[name] - b[name], sampled_a[name] - sampled_b[name]) for name in a}


def _estimate(value: NDArray[np.float64], sampled: NDArray[np.float64]) -> Estimate:
    """Interval over the resamples with a defined score. AP_large, for one, is undefined without large entities."""
    defined = sampled[np.isfinite(sampled)]
    if not np.isfinite(value[0]):
        return Estimate(None, None, None)
    if len(defined) == 0:
        return Estimate(float(value[0]), None, None)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value[0]), float(low), float(high))
