"""How much do MMG, EMR and USR recover of a known truth: E-SAM's Table 3 with a simulated promptable model?

    python -m benchmarks.known_truth bsds500/val --every 5 --json known_truth.json

A model that knows each photo's tree of regions replaces the networks. Objects are those of one annotator, the one with
the median count. Parts are the intersections of objects with the finest annotator's regions. Sub-parts are their
intersections with superpixels. A prompt gets the three regions under it, each with a boundary that wavers differently
for every prompt, and their true IoU as scores. The scenarios then take away what real models lack. Filters and
thresholds are those of SAM and the paper, and so is the whole grid. The table has AP against the objects and the
covered share, for each row of the ablation and for SAM's mask generation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.readings import READINGS, changes, in_place
from benchmarks.lib.simulated_sam import INPUT_PX, ROW, Scenario, SimulatedSam, entities_of, tree_of
from esam_rt import EntityMap, EntitySegmenter, Settings, __version__
from esam_rt.evaluation import average_precision
from esam_rt.evaluation.metrics.matching import PhotoMatches, match_photo
from esam_rt.evaluation.paper_tables.decode_cache import CachingSam, CachingSuperpixels
from esam_rt.evaluation.paper_tables.table_rows import WHOLE_GRID
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.predictor import Sam
from esam_rt.sources.decode import read_photo
from esam_rt.sources.photo_search import find_photos
from esam_rt.storage.atomic import write_json

Segment = Callable[[NDArray[np.uint8]], EntityMap]

SCENARIOS = {
    "truth": Scenario(),
    "wavering boundaries": Scenario(waver_cells=0.5, score_noise=0.02),
    "parts are preferred": Scenario(0.5, score_noise=0.02, part_bias=0.05),
    "object level often missing": Scenario(0.5, score_noise=0.02, missing=0.5),
    "blind spots": Scenario(0.5, score_noise=0.02, blind=0.4),
    "all of it": Scenario(0.5, missing=0.5, score_noise=0.02, part_bias=0.05, blind=0.4),
}
MODULES = ("mmg", "emr", "usr")
TABLE_3 = [(), ("mmg",), ("emr",), ("usr",), ("emr", "usr"), ("mmg", "usr"), ("mmg", "emr"), MODULES]


def ablation(sam: Sam, pixels: CachingSuperpixels, base: Settings) -> dict[str, Segment]:
    """Return the rows of Table 3 and SAM's mask generation."""
    return {
        "+".join(on).upper() or "none": EntitySegmenter(
            sam, settings=base.with_overrides({f"{m}.enabled": m in on for m in MODULES}), superpixels=pixels
        )
        for on in TABLE_3
    } | {"AMG": EntitySegmenter(sam, settings=base, method="amg", superpixels=pixels)}


def other_readings(sam: Sam, pixels: CachingSuperpixels, base: Settings) -> dict[str, Segment]:
    """Return all three modules by other readings of the paper."""

    def segment(name: str) -> Segment:
        segmenter = EntitySegmenter(sam, settings=base.with_overrides(changes(name)), superpixels=pixels)

        def call(image: NDArray[np.uint8]) -> EntityMap:
            with in_place(name):
                return segmenter(image)

        return call

    return {name: segment(name) for name in READINGS}


def run(
    folder: Path, scenario: Scenario, rows_of: Callable[[Sam, CachingSuperpixels], dict[str, Segment]], every: int
) -> dict[str, dict[str, float]]:
    """Return AP, AP50, AP75 and coverage in percent, and entities per photo, of each row."""
    simulated = SimulatedSam(scenario)
    sam, pixels = CachingSam(Sam(ROW, simulated.engines(), "0" * 64)), CachingSuperpixels()
    rows = rows_of(sam, pixels)
    matches: dict[str, list[PhotoMatches]] = {name: [] for name in rows}
    covered: dict[str, list[float]] = {name: [] for name in rows}
    photos = find_photos([folder / "images"])[::every]
    for seed, photo in enumerate(track(photos, console=Console(stderr=True)), 1):
        image = read_photo(photo.path, photo.name).image_hwc_rgb
        truth, levels = tree_of(folder, photo.path.stem, image)
        entities = entities_of(truth)
        simulated.look_at(levels, Geometry.of(truth.shape, INPUT_PX).grid_hw, seed)
        sam.clear()
        pixels.clear()
        for name, segment in rows.items():
            result = segment(image)
            matches[name].append(match_photo(entities, result.to_coco()))
            covered[name].append(float((result.labels > 0).mean()))
    return {
        name: {
            **{metric: round(average_precision(found)[metric], 2) for metric in ("AP", "AP50", "AP75")},
            "covered_percent": round(100 * float(np.mean(covered[name])), 1),
            "entities": round(float(np.mean([m.detections for m in found])), 1),
        }
        for name, found in matches.items()
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path, help="folder of BSDS500 with images/ and segmentations/")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th photo")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of all rows")
    parser.add_argument("--readings", action="store_true", help="other readings of the paper instead of the ablation")
    a = parser.parse_args()
    base = Settings().with_overrides({**WHOLE_GRID, **dict(item.split("=", 1) for item in a.set)})
    rows_of = partial(other_readings if a.readings else ablation, base=base)
    results = {}
    for name in a.scenarios:
        note(f"scenario: {name}")
        results[name] = run(a.folder, SCENARIOS[name], rows_of, a.every)
        note(", ".join(f"{row} {figures['AP']}" for row, figures in results[name].items()))
    table = Table("AP (covered %)", *results, title=f"{a.folder.parent.name}/{a.folder.name}, every {a.every}")
    for row in next(iter(results.values())):
        table.add_row(row, *(f"{r[row]['AP']:.1f} ({r[row]['covered_percent']:.0f})" for r in results.values()))
    Console(width=160).print(table)
    record = {
        "esam_rt": __version__,
        "photos": f"{a.folder.parent.name}/{a.folder.name}",
        "every": a.every,
        "set": a.set,
        "scenarios": {name: asdict(SCENARIOS[name]) for name in results},
        "results": results,
    }
    if a.json:
        write_json(a.json, record)


if __name__ == "__main__":
    main()
