"""How much less does the lazy gallery decode than the exact one, and what does it change?

    python -m benchmarks.gallery_effect photos/ --votes 16 32 64 --json gallery.json

photos/ holds images/ and, for AP, entities.json (COCO). Every photo is segmented with all prompts of the fine grid
decoded, then with a lazy gallery for each number of votes. The model remembers each prompt of a photo, so all runs see
the same masks. A pixel has changed if its entities in the two maps do not match each other with an IoU of at least 0.5.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.lib.command_line import note, parser_of
from esam_rt import EntityMap, EntitySegmenter, Settings, __version__
from esam_rt.evaluation import average_precision, read_truth
from esam_rt.evaluation.metrics.matching import PhotoMatches, match_photo
from esam_rt.evaluation.paper_tables.decode_cache import CachingSam, CachingSuperpixels
from esam_rt.evaluation.paper_tables.table_rows import WHOLE_GRID
from esam_rt.evaluation.truth.coco_truth import MaskTruth
from esam_rt.loading.loader import load_sam
from esam_rt.masks import MaskSet
from esam_rt.sam.point_grids import point_grid
from esam_rt.sam.predictor import Sam
from esam_rt.sources.decode import read_photo
from esam_rt.sources.photo_search import find_photos
from esam_rt.storage.atomic import write_json

COLUMNS = ("fine_prompts", "all_prompts", "identical_percent", "changed_pixels_percent", "AP")
EVERY_NOTE = 10  # photos between two lines of progress


class CountingSam(CachingSam):
    """A model that remembers a photo's masks and counts the prompts of the fine grid that it is asked for."""

    def __init__(self, sam: Sam, fine_side: int) -> None:
        super().__init__(sam)
        self._fine = {tuple(point) for point in point_grid(fine_side).tolist()}
        self.fine_prompts = 0

    def decode(self, photo: Any, points_norm_xy: NDArray[np.float32], *rest: Any, **options: Any) -> MaskSet:
        """Decode prompts and count them if they are of the fine grid."""
        if all(tuple(point) in self._fine for point in points_norm_xy.tolist()):
            self.fine_prompts += len(points_norm_xy)
        return super().decode(photo, points_norm_xy, *rest, **options)


def changed_share(a: NDArray[np.uint16], b: NDArray[np.uint16]) -> float:
    """Return the share of pixels whose labels in two maps [H, W] do not match. 0 counts as a label."""
    n, m = int(a.max()) + 1, int(b.max()) + 1
    both = np.bincount(a.ravel().astype(np.int64) * m + b.ravel(), minlength=n * m).reshape(n, m)
    union = both.sum(1, keepdims=True) + both.sum(0, keepdims=True) - both
    return 1 - float(both[both >= 0.5 * np.maximum(union, 1)].sum() / a.size)


def means_of(columns: dict[str, dict[str, list[float]]], matches: dict[str, list[PhotoMatches]]) -> dict[str, Any]:
    """Return the means over photos of each variant, and AP if there is a truth."""
    rows = {name: {key: round(float(np.mean(v)), 2) for key, v in row.items()} for name, row in columns.items()}
    for name, found in matches.items():
        if found:
            rows[name]["AP"] = round(average_precision(found)["AP"], 2)
    return rows


def run(folder: Path, sam: Sam, base: Settings, votes: list[int], every: int) -> dict[str, dict[str, float]]:
    """Segment the photos in all variants (`exact`, and each number of votes) and return the columns of each."""
    photos = find_photos([folder / "images"])[::every]
    truth = read_truth(folder / "entities.json") if (folder / "entities.json").is_file() else None
    true_photos = {photo.name: photo for photo in truth.photos} if truth else {}
    counting, pixels = CountingSam(sam, base.prompts.fine_side), CachingSuperpixels()
    settings = {"exact": base.with_overrides({"emr.gallery": "exact"})} | {
        f"{n} votes": base.with_overrides({"emr.gallery": "lazy", "emr.votes": n}) for n in votes
    }
    variants = {name: EntitySegmenter(counting, settings=s, superpixels=pixels) for name, s in settings.items()}
    coarse = base.prompts.coarse_side**2
    columns: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in variants}
    matches: dict[str, list[PhotoMatches]] = {name: [] for name in variants}
    for number, photo in enumerate(track(photos, console=Console(stderr=True), description="photos"), 1):
        image = read_photo(photo.path, photo.name).image_hwc_rgb
        counting.clear()
        pixels.clear()
        exact: EntityMap | None = None
        for name, segment in variants.items():  # exact first
            counting.fine_prompts = 0
            result = segment(image)
            exact = exact or result
            row = columns[name]
            row["fine_prompts"].append(counting.fine_prompts)
            row["all_prompts"].append(counting.fine_prompts + coarse)
            row["identical_percent"].append(100.0 * np.array_equal(result.labels, exact.labels))
            row["changed_pixels_percent"].append(100 * changed_share(exact.labels, result.labels))
            if isinstance(truth, MaskTruth):
                matches[name].append(match_photo(truth.entities(true_photos[photo.name]), result.to_coco()))
        if number % EVERY_NOTE == 0:
            note(f"after {number} photos: {means_of(columns, matches)}")
    return means_of(columns, matches)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("photos", type=Path, help="folder with images/ and perhaps entities.json")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--votes", type=int, nargs="+", default=[8, 16, 32, 64], help="values of emr.votes")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th photo")
    a = parser.parse_args()
    sam = load_sam(a.model)
    rows = run(a.photos, sam, Settings.preset(a.preset).with_overrides(WHOLE_GRID), a.votes, a.every)
    name = f"{a.photos.parent.name}/{a.photos.name}"
    table = Table("gallery", *COLUMNS, title=f"{a.model}, preset {a.preset}, {name}, means per photo")
    for variant, row in rows.items():
        table.add_row(variant, *(f"{row[c]:g}" if c in row else "" for c in COLUMNS))
    Console(width=140).print(table)
    if a.json:
        record = {"esam_rt": __version__, "model": a.model, "preset": a.preset, "photos": name, "every": a.every}
        write_json(a.json, record | {"means": rows})


if __name__ == "__main__":
    main()
