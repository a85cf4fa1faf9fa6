"""Draws score over prompts and over CPU time. Bars are the paired intervals of the differences to the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

STYLES = {"exact": ("s", 6, "tab:blue"), "lazy": ("o", 6, "tab:orange"), "adaptive": ("*", 11, "tab:green")}


def plot(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw one column for each data set. The simulated model has no CPU time.

    Args:
        records: Results of ``benchmarks.prompts_decoded``.
        path: PNG file to write.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(records), figsize=(4.6 * len(records), 7), squeeze=False, layout="constrained")
    for (above, below), record in zip(axes.T, records, strict=True):
        above.set_title(f"{record['model']}\n{record['photos'].partition(',')[0]}", fontsize=10)
        for axis, key, label in ((above, "prompts", "prompts decoded"), (below, "cpu_s", "CPU seconds")):
            if key == "cpu_s" and record["model"].startswith("simulated"):
                axis.axis("off")
                continue
            _draw(axis, record, key)
            axis.set(xscale="log", xlabel=label, ylabel=record["metric"])
            axis.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:g}"))
            axis.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
            axis.margins(x=0.12)
            axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw(axis: Any, record: Mapping[str, Any], key: str) -> None:
    """Draw one line for each strategy, with the sides of the grids at each point."""
    for strategy, (marker, size, color) in STYLES.items():
        rows = {name.partition(" ")[2]: row for name, row in record["rows"].items() if name.startswith(strategy)}
        if not rows:
            continue
        names, found = zip(*sorted(rows.items(), key=lambda item: item[1][key]), strict=True)
        x, y = [row[key] for row in found], [row[record["metric"]][0] for row in found]
        gain, low, high = np.array([row["difference"] for row in found]).T
        style = {"marker": marker, "markersize": size, "color": color, "linewidth": 1, "capsize": 2}
        axis.errorbar(x, y, (gain - low, high - gain), label=strategy, **style)
        for name, *place in zip(names, x, y, strict=True):
            axis.annotate(name, place, textcoords="offset points", xytext=(5, -11), fontsize=7)
