"""Samples of more than 8 bits to 8 bits: which value becomes black, and which one becomes white."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from esam_rt.errors import InputError, SettingsError

# auto: by percentiles of the photo. full: all that the samples can hold. Two numbers: from black to white.
SampleRange = Literal["auto", "full"] | tuple[float, float]

_log = logging.getLogger("esam_rt")
_PERCENTILES = (0.5, 99.5)
_PERCENTILE_SAMPLES = 4_000_000  # of larger photos, samples in a regular grid are used
_STRIP = 256  # rows


def read_range(text: str) -> SampleRange:
    """Read ``--range``.

    Args:
        text: ``auto``, ``full`` or two numbers with a comma between them.

    Returns:
        The range.

    Raises:
        SettingsError: If it is something else.
    """
    if text == "auto":
        return "auto"
    if text == "full":
        return "full"
    try:
        low, high = (float(number) for number in text.split(","))
    except ValueError:
        low = high = math.nan
    return check_range((low, high), f"--range {text}")


def check_range(sample_range: SampleRange, name: str = "sample_range") -> SampleRange:
    """Check a range.

    Args:
        sample_range: The range.
        name: How the message calls it.

    Returns:
        The range.

    Raises:
        SettingsError: If it is unknown, or its numbers do not rise.
    """
    if sample_range in ("auto", "full"):
        return sample_range
    if isinstance(sample_range, tuple) and len(sample_range) == 2:
        low, high = sample_range
        if math.isfinite(low) and math.isfinite(high) and low < high:
            return sample_range
    shown = "" if name.startswith("--") else f" {sample_range!r}"
    raise SettingsError(f"{name}{shown}: expected auto, full, or two numbers that rise, such as 0,4095.")


def to_8_bits(samples: NDArray[Any], bits: int, sample_range: SampleRange, path: Path | str) -> NDArray[np.uint8]:
    """Convert samples of more than 8 bits. Values outside of the range become black or white, NaN becomes black.

    Args:
        samples: Integers or floats, at least two axes. The first axis has the rows.
        bits: Bits of a sample that are in use, for example 12 or 16.
        sample_range: Value of black and of white.
        path: The photo, for messages.

    Returns:
        uint8, same shape.

    Raises:
        InputError: If the range is ``full`` and it is unknown how far the samples reach.
    """
    if sample_range == "full" and samples.dtype.kind == "u" and bits <= 16:
        warn_if_dark(int(samples.max()), bits, path)
        scaled = np.empty(samples.shape, np.uint8)
        for y in range(0, len(samples), _STRIP):
            scaled[y : y + _STRIP] = samples[y : y + _STRIP] >> (bits - 8)
        return scaled
    if sample_range == "full":
        low, high = _full_range(samples, bits, path)
    elif sample_range == "auto":
        low, high = percentiles(samples)
    else:
        low, high = sample_range
    scaled = np.empty(samples.shape, np.uint8)
    for y in range(0, len(samples), _STRIP):
        with np.errstate(all="ignore"):  # a damaged photo may hold any float
            rows = (samples[y : y + _STRIP].astype(np.float64) - low) * (255 / (high - low))
        scaled[y : y + _STRIP] = np.clip(np.nan_to_num(rows, nan=0), 0, 255) + 0.5
    return scaled


def warn_if_dark(largest: int, bits: int, path: Path | str) -> None:
    """Log a warning if samples use less than an eighth of their range.

    Args:
        largest: No sample of the photo is larger.
        bits: Bits of a sample.
        path: The photo.
    """
    if 0 < largest < 1 << (bits - 3):
        most = (1 << bits) - 1
        _log.warning("%s: no sample is above %d of %d, so it is nearly black; try --range auto.", path, largest, most)


def _full_range(samples: NDArray[Any], bits: int, path: Path | str) -> tuple[float, float]:
    """Return 0 to 1 for floats in this range. Other samples do not tell how far they reach."""
    used = samples[np.isfinite(samples)] if samples.dtype.kind == "f" else samples
    low, high = (used.min(), used.max()) if used.size else (0, 0)
    if samples.dtype.kind == "f" and low >= 0 and high <= 1:
        return 0.0, 1.0
    kind = {"u": "unsigned", "i": "signed", "f": "float"}[samples.dtype.kind]
    raise InputError(
        f"{path} has {kind} {bits}-bit samples from {low:g} to {high:g}, and black and white are unknown. Give --range "
        "auto, or --range LOW,HIGH."
    )


def percentiles(samples: NDArray[Any]) -> tuple[float, float]:
    """Return the values that become black and white with ``auto``: percentiles of samples in a regular grid.

    If they are equal, they are the least and the largest sample.

    Args:
        samples: Integers or floats, at least two axes.
    """
    step = max(1, math.ceil(math.sqrt(samples.size / _PERCENTILE_SAMPLES)))
    used = samples[::step, ::step]
    used = used[np.isfinite(used)] if samples.dtype.kind == "f" else used
    if not used.size:
        return 0.0, 1.0
    low, high = np.percentile(used, _PERCENTILES)
    if low == high:
        low, high = used.min(), used.max()
    return float(low), float(high) if high > low else float(low) + 1
