"""Does every deadline give a valid map in time, and does more time give a better map?

    python -m benchmarks.deadlines bsds500/val --json deadlines.json
    python -m benchmarks.deadlines coco/panoptic_dev --curve --json deadline_curve_coco.json
    python -m benchmarks.deadlines --plot deadline_curve.png --from deadline_curve_*.json

The model is `tiny` with one thread. Random deadlines, even on a logarithmic scale, are spread over photos of BSDS500. A
map is valid if each of its labels has pixels, and if area and box fit them. The table has one row for each sixth of the
deadlines: the covering, the prompts, the share of complete maps, and the time beyond the deadline. The clock counts the
CPU seconds of this process, which other work on the machine does not change. --wall uses the time of day.

--curve segments each photo at 13 deadlines from 50 ms to 5 s. A folder with entities.json (COCO) is scored by AP, one
with segmentations/ (BSDS500) by covering. The clock is a fake one: it advances by the measured CPU prices of the
encoder, a prompt and the logits of a mask, and by nothing else. --prices gives the prices of an earlier run, and the
curve is then the same. Each step from one deadline to the next is paired, with a 95 % interval over photos. The score
falls if the whole interval of a step lies below zero.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.lib.command_line import parser_of
from benchmarks.lib.deadline_curve import draw, measure
from benchmarks.lib.priced_sam import Prices
from benchmarks.lib.scored_photos import TruthFolder
from esam_rt import EntityMap, EntitySegmenter, ExecutionConfig, Settings, __version__
from esam_rt.evaluation.metrics.region_scores import contingency, covering
from esam_rt.evaluation.truth.bsds_truth import read_bsds
from esam_rt.loading.loader import load_sam
from esam_rt.sources.decode import read_photo
from esam_rt.storage.atomic import write_json

ROWS = 6
PRICE_PHOTOS = 4


def is_valid(result: EntityMap, orig_hw: tuple[int, int]) -> bool:
    """Compare each entity with its pixels."""
    ok = result.labels.shape == orig_hw and int(result.labels.max(initial=0)) == len(result)
    for i in range(len(result)):
        y, x = np.nonzero(result.labels == i + 1)
        ok = ok and len(y) > 0 and result.area[i] == len(y)
        ok = ok and result.box_xyxy[i].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    return ok


def curve(a: argparse.Namespace) -> dict[str, Any]:
    """Return the score at each deadline."""
    photos, sam = TruthFolder(a.folder, a.every, a.limit), load_sam("tiny", ExecutionConfig(threads=1))
    settings = Settings.preset(a.preset)
    filters = settings.with_model_defaults(sam.model.default_thresholds()).filters
    measured = [image for _, image, _ in islice(photos, PRICE_PHOTOS)]
    prices = Prices(*a.prices) if a.prices else Prices.measured(sam, measured, filters)
    rows = measure(photos, sam, prices, settings, a.store)
    metric = photos.metric
    table = Table("deadline, s", metric, "step", "prompts", "complete", "late, ms")
    for row in rows:
        table.add_row(
            f"{row['deadline_s']:g}",
            f"{row[metric][0]:.3f}",
            "{:+.3f} ({:+.3f} to {:+.3f})".format(*row["step"]),
            *(f"{row['prompts']:.0f}", f"{row['complete']:.0%}", f"{row['late_ms']:.0f}"),
        )
    Console(width=120).print(table)
    return {
        "esam_rt": __version__,
        "model": "tiny",
        "preset": a.preset,
        "photos": f"{a.folder.parent.name}/{a.folder.name}, every {a.every}",
        "number_of_photos": len(photos),
        "metric": metric,
        "prices": vars(prices),
        "falls_at_s": [row["deadline_s"] for row in rows if row["step"][2] < 0],
        "rows": rows,
    }


def random_deadlines(a: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of each sixth of the deadlines."""
    clock = time.perf_counter if a.wall else time.process_time
    truth = read_bsds(a.folder)
    photos = truth.photos[:: max(1, len(truth.photos) // a.photos)][: a.photos]
    rng = np.random.default_rng(0)
    deadlines = np.sort(np.exp(rng.uniform(np.log(a.least), np.log(a.most), a.deadlines)))
    which = rng.permutation(np.arange(a.deadlines) % len(photos))
    found = np.zeros((a.deadlines, 5))  # covering, prompts, complete, seconds beyond the deadline, valid
    with EntitySegmenter(
        "tiny", settings=Settings.preset(a.preset), execution=ExecutionConfig(threads=1), clock=clock
    ) as segment:
        segment.warm_up([(321, 481), (481, 321)])
        order = rng.permutation(a.deadlines)  # deadlines of all lengths take turns, as the costs are learned meanwhile
        for k in track(sorted(order, key=lambda k: which[k]), console=Console(stderr=True)):
            photo = photos[which[k]]
            image = read_photo(a.folder / "images" / f"{photo.name}.jpg", photo.name).image_hwc_rgb
            start = clock()
            result = segment(image, deadline_s=float(deadlines[k]))
            late_s = clock() - start - deadlines[k]
            score = np.mean([covering(contingency(labels, result.labels)) for labels in truth.annotated(photo)])
            valid = is_valid(result, image.shape[:2])
            found[k] = score, result.prompts_decoded, result.complete, late_s, valid
    table = Table("deadline, ms", "covering", "prompts", "complete", "late, ms: median", "95 %", "most", "valid")
    rows = []
    for part in np.array_split(np.arange(a.deadlines), ROWS):
        values = found[part]
        late_ms = 1000 * np.maximum(values[:, 3], 0)
        rows.append(
            {
                "deadlines_ms": [round(1000 * float(deadlines[part[i]]), 1) for i in (0, -1)],
                "covering": round(float(values[:, 0].mean()), 4),
                "covering_error": round(float(values[:, 0].std() / len(part) ** 0.5), 4),
                "prompts": round(float(values[:, 1].mean()), 1),
                "complete": round(float(values[:, 2].mean()), 3),
                "late_ms": {q: round(float(np.quantile(late_ms, q)), 1) for q in (0.5, 0.95, 1.0)},
                "valid": int(values[:, 4].sum()),
            }
        )
        low, high = rows[-1]["deadlines_ms"]
        table.add_row(
            *(f"{low:.0f} to {high:.0f}", f"{rows[-1]['covering']:.3f}", f"{rows[-1]['prompts']:.0f}"),
            *(f"{rows[-1]['complete']:.0%}", *(f"{v:.0f}" for v in rows[-1]["late_ms"].values())),
            f"{rows[-1]['valid']} of {len(part)}",
        )
    Console(width=120).print(table)
    options = {name: getattr(a, name) for name in ("photos", "deadlines", "least", "most", "preset", "wall")}
    return {"esam_rt": __version__, "options": options, "rows": rows}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="folder of photos with their truth")
    parser.add_argument("--curve", action="store_true", help="score at fixed deadlines, by a fake clock")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="--curve: take every N-th photo")
    parser.add_argument("--limit", type=int, metavar="N", help="--curve: take at most N photos")
    parser.add_argument("--store", type=Path, help="--curve: keep decoded masks in this folder, for a later run")
    parser.add_argument(
        "--prices", type=float, nargs=3, metavar=("ENCODER", "PROMPT", "MASK"), help="--curve: seconds of each"
    )
    parser.add_argument("--plot", type=Path, help="draw the curves of --from")
    parser.add_argument("--from", type=Path, nargs="+", default=[], dest="results", help="JSON files of curves")
    parser.add_argument("--photos", type=int, default=20, metavar="N")
    parser.add_argument("--deadlines", type=int, default=1000, metavar="N")
    parser.add_argument("--least", type=float, default=0.02, metavar="S", help="shortest deadline, in seconds")
    parser.add_argument("--most", type=float, default=2.0, metavar="S", help="longest deadline, in seconds")
    parser.add_argument("--preset", default="fast", choices=Settings.presets)
    parser.add_argument("--wall", action="store_true", help="use the time of day")
    a = parser.parse_args()
    if a.plot:
        draw([json.loads(path.read_text()) for path in a.results], a.plot)
        return
    if a.folder is None:
        parser.error("expected a folder")
    record = curve(a) if a.curve else random_deadlines(a)
    if a.json:
        write_json(a.json, record)


if __name__ == "__main__":
    main()
