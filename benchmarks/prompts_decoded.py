"""How good is a map for the prompts decoded, and for the CPU time?

    python -m benchmarks.prompts_decoded coco/panoptic_dev --json prompts_coco.json
    python -m benchmarks.prompts_decoded bsds500/val --every 5 --json prompts_bsds.json
    python -m benchmarks.prompts_decoded bsds500/val --every 5 --simulated "all of it" --json prompts_simulated.json
    python -m benchmarks.prompts_decoded coco/panoptic_dev --galleries --base "lazy 16/32" --json galleries_coco.json
    python -m benchmarks.prompts_decoded --plot prompts.png --from prompts_*.json

A folder with entities.json (COCO) is scored by AP, one with segmentations/ (BSDS500) by covering. --simulated replaces
the model by one that knows the truth (see ``benchmarks.known_truth``), and scores by AP. A row is a strategy and the
sides of its two grids. ``exact`` decodes both grids, ``lazy`` the coarse grid and the gallery on demand, ``adaptive``
leaves out points. ``benchmarks.deadlines`` measures deadlines. --galleries compares numbers of votes with the grids of
`fast`: ``whole`` decodes the whole coarse grid and lets it vote.

All rows see the same masks: a prompt of a photo is decoded once. CPU seconds are put together: the prices of the
encoder, a prompt and the logits of a mask are measured at the start, all else in each row. Differences to the row of
``--base`` are paired and have 95 % intervals over photos.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.known_truth import SCENARIOS
from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.priced_sam import PricedSam, Prices
from benchmarks.lib.prompts_plot import plot
from benchmarks.lib.scored_photos import ScoredPhotos, SimulatedFolder, TruthFolder, figures
from benchmarks.lib.simulated_sam import SimulatedSam
from esam_rt import EntitySegmenter, ExecutionConfig, Settings, __version__
from esam_rt.evaluation.metrics.bootstrap import differences, estimates, resamples
from esam_rt.evaluation.paper_tables.table_rows import WHOLE_GRID
from esam_rt.loading.loader import load_sam
from esam_rt.sam.predictor import Sam
from esam_rt.storage.atomic import write_json

BASE = "lazy 32/64"
ROWS: dict[str, Mapping[str, object]] = {
    f"{name} {coarse}/{fine}": {"prompts.coarse_side": coarse, "prompts.fine_side": fine, **changes}
    for name, coarse, fine, changes in (
        *(("exact", side, 2 * side, {**WHOLE_GRID, "emr.gallery": "exact"}) for side in (4, 8, 16, 32)),
        *(("lazy", side, 2 * side, WHOLE_GRID) for side in (16, 32)),
        *(("adaptive", side, 2 * side, {"prompts.strategy": "adaptive"}) for side in (16, 32)),
    )
}
FAST = {"prompts.coarse_side": 16, "prompts.fine_side": 32}
ADAPTIVE_FAST: dict[str, object] = {**FAST, "prompts.strategy": "adaptive"}
GALLERIES: dict[str, Mapping[str, object]] = {
    "lazy 16/32, 16 votes": {**FAST, **WHOLE_GRID, "emr.votes": 16},
    "lazy 16/32, 4 votes": {**FAST, **WHOLE_GRID, "emr.votes": 4},
    **{f"whole 16/32, {n} votes": {**ADAPTIVE_FAST, "adaptive.agree": 256, "adaptive.votes": n} for n in (64, 16, 4)},
    **{f"adaptive 16/32, {n} agree": {**ADAPTIVE_FAST, "adaptive.agree": n} for n in (8, 24, 48)},
}
FEW_AGREE = {"adaptive 32/64, 8 agree": {"prompts.strategy": "adaptive", "adaptive.agree": 8}}
ALL_ROWS = {**ROWS, **GALLERIES, **FEW_AGREE}
RESAMPLES, SEED, PRICE_PHOTOS = 2000, 0, 4
EVERY_NOTE = 5  # photos between two lines of progress


def run(
    photos: ScoredPhotos, sam: Sam, prices: Prices, names: list[str], base_row: str, store: Path | None
) -> dict[str, Any]:
    """Segment the photos in all rows, and return the figures of each row."""
    priced = PricedSam(sam, prices, store)
    segmenters = {name: EntitySegmenter(priced, settings=Settings().with_overrides(ALL_ROWS[name])) for name in names}
    scored: dict[str, list[Any]] = {name: [] for name in names}
    prompts: dict[str, list[int]] = defaultdict(list)
    cpu_s: dict[str, list[float]] = defaultdict(list)
    for number, (name, image, truth) in enumerate(track(photos, console=Console(stderr=True)), 1):
        priced.open(name)
        for row, segment in segmenters.items():
            start = priced.clock()
            result = segment(image)
            cpu_s[row].append(priced.clock() - start)
            prompts[row].append(result.prompts_decoded)
            scored[row].append(photos.score(truth, result))
        priced.save()
        if number % EVERY_NOTE == 0:
            note(f"{number} of {len(photos)} photos")
    weights = resamples(len(photos), RESAMPLES, SEED)
    base = photos.scores(scored[base_row])
    rows = {}
    for row in names:
        found = photos.scores(scored[row])
        rows[row] = {
            photos.metric: figures(estimates(found, weights)[photos.metric]),
            "difference": figures(differences(found, base, weights)[photos.metric]),
            "prompts": round(float(np.mean(prompts[row])), 1),
            "cpu_s": round(float(np.mean(cpu_s[row])), 3),
        }
    return rows


def _print(record: Mapping[str, Any]) -> None:
    metric = record["metric"]
    table = Table("row", metric, f"difference to {record['base']}", "prompts", "CPU s", title=record["photos"])
    for name, row in record["rows"].items():
        value, (gain, low, high) = row[metric][0], row["difference"]
        table.add_row(
            name, f"{value:.3f}", f"{gain:+.3f} ({low:+.3f} to {high:+.3f})", f"{row['prompts']:.0f}",
            f"{row['cpu_s']:.2f}",
        )  # fmt: skip
    Console(width=120).print(table)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="folder of photos with their truth")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--simulated", choices=SCENARIOS, help="scenario of a simulated model")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th photo")
    parser.add_argument("--limit", type=int, metavar="N", help="take at most N photos")
    parser.add_argument("--rows", nargs="+", choices=ALL_ROWS, metavar="ROW")
    parser.add_argument("--galleries", action="store_true", help="rows of galleries, and lazy and adaptive 16/32")
    parser.add_argument(
        "--base", choices=ALL_ROWS, default=BASE, metavar="ROW", help="row that the others are compared to"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime")
    parser.add_argument("--store", type=Path, help="keep decoded masks in this folder, for a later run")
    parser.add_argument("--plot", type=Path, help="draw the results of --from")
    parser.add_argument("--from", type=Path, nargs="+", default=[], dest="results", help="JSON files of earlier runs")
    a = parser.parse_args()
    if a.plot:
        plot([json.loads(path.read_text()) for path in a.results], a.plot)
        return
    a.rows = a.rows or (["lazy 16/32", "adaptive 16/32", *GALLERIES] if a.galleries else list(ROWS))
    if a.folder is None or a.base not in a.rows:
        parser.error(f"expected a folder, and {a.base} among the rows")
    photos: ScoredPhotos
    if a.simulated:
        photos = SimulatedFolder(a.folder, a.every, a.limit, SimulatedSam(SCENARIOS[a.simulated]))
        sam, prices = photos.sam(), Prices()
    else:
        photos, sam = TruthFolder(a.folder, a.every, a.limit), load_sam(a.model, ExecutionConfig(threads=a.threads))
        settings = Settings().with_model_defaults(sam.model.default_thresholds())
        prices = Prices.measured(sam, [image for _, image, _ in islice(photos, PRICE_PHOTOS)], settings.filters)
    record = {
        "esam_rt": __version__,
        "model": f"simulated: {a.simulated}" if a.simulated else a.model,
        "photos": f"{a.folder.parent.name}/{a.folder.name}, every {a.every}",
        "number_of_photos": len(photos),
        "metric": photos.metric,
        "prices": vars(prices),
        "base": a.base,
        "rows": run(photos, sam, prices, a.rows, a.base, a.store),
    }
    _print(record)
    if a.json:
        write_json(a.json, record)


if __name__ == "__main__":
    main()
