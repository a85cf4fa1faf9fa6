"""How far a score would swing with other photos: confidence intervals by the bootstrap.

A resample draws as many photos as there are, with replacement; the score is computed anew for each. The interval is
that between percentiles of these scores. Seeded: equal numbers of photos draw the same, so that the difference of two
runs over the same photos can be resampled in pairs.
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
    """A score over all photos and its confidence interval; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None


class Scores(Protocol):
    """Scores of a set of photos, for any weights of them."""

    def metrics(self, weights: NDArray[np.int64]) -> Mapping[str, NDArray[np.float64]]:
        """float64 [B] a metric, for weights int64 [B, P]."""
        ...


def resamples(photos: int, number: int, seed: int) -> NDArray[np.int64]:
    """How often each photo is drawn in each resample: int64 [number, photos], each row sums to `photos`."""
    if photos == 0:
        return np.zeros((number, 0), np.int64)
    return np.random.default_rng(seed).multinomial(photos, np.full(photos, 1 / photos), size=number)


def estimates(scores: Scores, weights: NDArray[np.int64]) -> dict[str, Estimate]:
    """Each metric over all photos, with the interval over the resamples `weights` [B, P]."""
    everything, sampled = scores.metrics(np.ones((1, weights.shape[1]), np.int64)), scores.metrics(weights)
    return {name: _estimate(value, sampled[name]) for name, value in everything.items()}


def differences(ours: Scores, theirs: Scores, weights: NDArray[np.int64]) -> dict[str, Estimate]:
    """`ours` minus `theirs` over the same photos; each resample takes both."""
    ones = np.ones((1, weights.shape[1]), np.int64)
    a, b, sampled_a, sampled_b = (s.metrics(w) for w in (ones, weights) for s in (ours, theirs))
    return {name: _estimate(a[name] - b[name], sampled_a[name] - sampled_b[name]) for name in a}


def _estimate(value: NDArray[np.float64], sampled: NDArray[np.float64]) -> Estimate:
    """Resamples in which the score is undefined (no large entity among the photos, say) are left out."""
    defined = sampled[np.isfinite(sampled)]
    if not np.isfinite(value[0]):
        return Estimate(None, None, None)
    if len(defined) == 0:
        return Estimate(float(value[0]), None, None)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value[0]), float(low), float(high))
