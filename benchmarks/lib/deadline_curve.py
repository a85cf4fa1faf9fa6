"""The score of maps over the deadline, with a clock that counts prices: the same run gives the same curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.command_line import note
from benchmarks.lib.priced_sam import PricedSam, Prices
from benchmarks.lib.scored_photos import ScoredPhotos, figures
from esam_rt import EntitySegmenter, Settings
from esam_rt.evaluation.metrics.bootstrap import differences, estimates, resamples
from esam_rt.evaluation.paper_tables.decode_cache import CachingSuperpixels
from esam_rt.sam.predictor import Sam

DEADLINES_S = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
RESAMPLES, SEED = 2000, 0
EVERY_NOTE = 5  # photos between two lines of progress


def measure(
    photos: ScoredPhotos, sam: Sam, prices: Prices, settings: Settings, store: Path | None
) -> list[dict[str, Any]]:
    """Segment the photos at each deadline. Each deadline has its own segmenter, which learns its costs.

    Args:
        photos: Photos with their truth.
        sam: The model.
        prices: Prices of its calls. Nothing else takes time.
        settings: Numbers of the method.
        store: Folder of decoded masks, see ``StoredSam``.

    Returns:
        For each deadline: the score with its interval, the paired difference to the deadline before, means a photo of
        prompts and complete maps, and the latest map.
    """
    priced, pixels = PricedSam(sam, prices, store), CachingSuperpixels()
    segmenters = {
        s: EntitySegmenter(priced, settings=settings, superpixels=pixels, clock=priced.charged) for s in DEADLINES_S
    }
    scored: dict[float, list[Any]] = {s: [] for s in DEADLINES_S}
    found: dict[float, list[tuple[float, ...]]] = {s: [] for s in DEADLINES_S}
    for number, (name, image, truth) in enumerate(photos, 1):
        priced.open(name)
        pixels.clear()
        for deadline_s, segment in segmenters.items():
            if number == 1:
                segment(image)  # costs are unknown before
            start = priced.charged()
            result = segment(image, deadline_s=deadline_s)
            late_s = priced.charged() - start - deadline_s
            scored[deadline_s].append(photos.score(truth, result))
            found[deadline_s].append((result.prompts_decoded, result.complete, late_s))
        priced.save()
        if number % EVERY_NOTE == 0:
            note(f"{number} of {len(photos)} photos")
    weights, metric = resamples(len(photos), RESAMPLES, SEED), photos.metric
    rows, before = [], photos.scores(scored[DEADLINES_S[0]])
    for deadline_s in DEADLINES_S:
        now = photos.scores(scored[deadline_s])
        prompts, complete, late_s = np.array(found[deadline_s]).T
        rows.append(
            {
                "deadline_s": deadline_s,
                metric: figures(estimates(now, weights)[metric]),
                "step": figures(differences(now, before, weights)[metric]),
                "prompts": round(float(prompts.mean()), 1),
                "complete": round(float(complete.mean()), 3),
                "late_ms": round(1000 * max(0.0, float(late_s.max())), 1),
            }
        )
        before = now
    return rows


def draw(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw one curve for each data set. Bars are the paired intervals of the step from the deadline before.

    Args:
        records: Results of ``benchmarks.deadlines --curve``.
        path: PNG file to write.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(records), figsize=(5.2 * len(records), 4), squeeze=False, layout="constrained")
    for axis, record in zip(axes[0], records, strict=True):
        rows, metric = record["rows"], record["metric"]
        x, y = [row["deadline_s"] for row in rows], [row[metric][0] for row in rows]
        step, low, high = np.array([row["step"] for row in rows]).T
        axis.errorbar(x, y, (step - low, high - step), marker="o", markersize=5, linewidth=1, capsize=2)
        for row, *place in zip(rows, x, y, strict=True):
            axis.annotate(f"{row['prompts']:.0f}", place, textcoords="offset points", xytext=(4, -12), fontsize=7)
        axis.axvline(record["prices"]["encoder_s"], color="0.6", linestyle=":", label="cost of the encoder")
        axis.set(xscale="log", ylabel=metric)
        axis.set_xlabel("deadline, s\nnumbers: prompts; bars: change since the deadline before")
        axis.set_title(f"{record['model']}, {record['photos'].partition(',')[0]}", fontsize=10)
        axis.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        axis.margins(x=0.1)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)
