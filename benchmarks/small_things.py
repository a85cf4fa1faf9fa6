"""How many of many small squares are found, with and without tiles?

    python -m benchmarks.small_things --json small_things.json

Each photo is a bright plane with dark squares in rows, of one size in each photo. A square counts as found if an entity
overlaps it with an IoU of 0.5 or more.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.lib.command_line import note, parser_of
from esam_rt import EntityMap, EntitySegmenter, Settings, __version__
from esam_rt.storage.atomic import write_json

PLANE, DARKEST = 200, 120


def squares(photo_px: int, square_px: int, pitch_px: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return a photo of squares, uint8 [H, W, 3], and their labels, int64 [H, W]."""
    rng = np.random.default_rng(0)
    photo, labels = np.full((photo_px, photo_px, 3), PLANE, np.uint8), np.zeros((photo_px, photo_px), np.int64)
    places = range(20, photo_px - square_px, pitch_px)
    for number, (y, x) in enumerate(((y, x) for y in places for x in places), 1):
        photo[y : y + square_px, x : x + square_px] = rng.integers(0, DARKEST, 3)
        labels[y : y + square_px, x : x + square_px] = number
    return photo, labels


def found(result: EntityMap, truth: NDArray[np.int64]) -> int:
    """Return how many true squares an entity overlaps with an IoU of 0.5 or more."""
    count = int(truth.max()) + 1
    both = np.bincount((result.labels.astype(np.int64) * count + truth).ravel(), minlength=count * (len(result) + 1))
    table = both.reshape(-1, count)[1:, 1:]
    union = result.area[:, None] + np.bincount(truth.ravel())[1:] - table
    return int((table / union >= 0.5).any(axis=0).sum())


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--checkpoint", type=Path, help="weights of the model, in place of those that ship")
    parser.add_argument("--preset", default="fast", choices=Settings.presets)
    parser.add_argument("--sizes", type=int, nargs="+", default=[40], help="sides of the squares, in pixels")
    a = parser.parse_args()
    base, rows = Settings.preset(a.preset), {}
    variants = {"whole photo": {}, "2 x 2 tiles": {"tiles.crop_n_layers": 1}, "tiles of 256 px": {"tiles.side_px": 256}}
    with EntitySegmenter(a.model, checkpoint=a.checkpoint) as loaded:
        for size in a.sizes:
            photo, truth = squares(1024, size, 70)
            for name, changes in variants.items():
                with EntitySegmenter(loaded.sam, settings=base.with_overrides(changes)) as segment:
                    result = segment(photo)
                rows[f"{size} px, {name}"] = {
                    "squares": int(truth.max()),
                    "found": found(result, truth),
                    "entities": len(result),
                }
                note(f"{size} px, {name}: {rows[f'{size} px, {name}']}")
    table = Table("", "squares", "found", "entities", title=f"{a.model}, {a.preset}: squares in 1024 x 1024 pixels")
    for name, row in rows.items():
        table.add_row(name, *map(str, row.values()))
    Console().print(table)
    if a.json:
        write_json(a.json, {"esam_rt": __version__, "model": a.model, "preset": a.preset, "rows": rows})


if __name__ == "__main__":
    main()
