"""The lazy gallery beside the exact one: how much less is decoded, and what it changes.

    python -m benchmarks.gallery photos/ --votes 16 32 64 --out gallery.json

photos/: a folder with images/ and, for AP, entities.json (COCO). Every photo is segmented with every prompt of the fine
grid decoded, and then with a lazy gallery for each number of votes, which takes its masks from the first run; each
prompt is decoded on its own, so they are those that it would decode. A pixel has changed when its entities in the two
maps are not each other's match by an IoU of 0.5 or more.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from esam_rt import EntityMap, EntitySegmenter, Settings, __version__
from esam_rt.evaluation import MaskTruth, PhotoMatches, average_precision, match_photo, read_truth
from esam_rt.evaluation.paper_tables.decode_cache import CachingEngines, CachingSuperpixels
from esam_rt.loading.loader import load_sam
from esam_rt.masks import Level, MaskSet
from esam_rt.sam.cancel_token import CancelToken
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.predictor import Sam
from esam_rt.settings import Filters
from esam_rt.sources.decode import read_photo
from esam_rt.sources.photo_files import find_photos

COLUMNS = ("fine_prompts", "all_prompts", "identical_percent", "changed_pixels_percent", "AP")


class RecordingSam(Sam):
    """Keeps what a gallery gets. It takes the fine grid's masks from `recorded`, once there is one."""

    recorded: MaskSet | None = None
    seen: MaskSet | None = None
    asked = 0
    fine_prompts = 0

    def decode(
        self,
        encoded: EncodedImage,
        points_norm_xy: NDArray[np.float32],
        first_point: int,
        filters: Filters | None,
        levels: tuple[Level, ...] = tuple(Level),
        labels: NDArray[np.integer] | None = None,
        cancel: CancelToken | None = None,
    ) -> MaskSet:
        """Answer from `recorded`, if the prompts are a gallery's."""
        if levels != (Level.OBJECT,):
            return super().decode(encoded, points_norm_xy, first_point, filters, levels, labels, cancel)
        self.asked += len(points_norm_xy)
        if self.recorded is None:
            self.seen = super().decode(encoded, points_norm_xy, first_point, filters, levels, labels, cancel)
            return self.seen
        side = math.isqrt(self.fine_prompts)
        x, y = (np.floor(points_norm_xy * side).astype(np.int32)).T
        wanted = y * side + x
        found = self.recorded.select(np.isin(self.recorded.prompt_index, wanted))
        return replace(found, prompt_index=np.searchsorted(wanted, found.prompt_index).astype(np.int32))


def changed_share(a: NDArray[np.uint16], b: NDArray[np.uint16]) -> float:
    """Share of pixels whose labels in two maps [H, W] do not match; 0 is a label."""
    n, m = int(a.max()) + 1, int(b.max()) + 1
    both = np.bincount(a.ravel().astype(np.int64) * m + b.ravel(), minlength=n * m).reshape(n, m)
    union = both.sum(1, keepdims=True) + both.sum(0, keepdims=True) - both
    return 1 - float(both[both >= 0.5 * np.maximum(union, 1)].sum() / a.size)


def run(folder: Path, sam: Sam, base: Settings, votes: list[int], every: int) -> dict[str, dict[str, float]]:
    """The columns, by variant: `exact`, and each number of votes."""
    photos = find_photos([folder / "images"])[::every]
    truth = read_truth(folder / "entities.json") if (folder / "entities.json").is_file() else None
    true_photos = {photo.name: photo for photo in truth.photos} if truth else {}
    cache, pixels = CachingEngines(sam.engines), CachingSuperpixels()
    cached = RecordingSam(sam.model, cache.engines(), sam.checkpoint_sha256)
    cached.fine_prompts = base.prompts.fine_side**2

    def variant(changes: dict[str, object]) -> EntitySegmenter:
        return EntitySegmenter(cached, settings=base.with_overrides(changes), superpixels=pixels)

    variants = {"exact": variant({"emr.gallery": "exact"})} | {
        f"{n} votes": variant({"emr.gallery": "lazy", "emr.votes": n}) for n in votes
    }
    coarse = base.prompts.coarse_side**2
    columns: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in variants}
    matches: dict[str, list[PhotoMatches]] = {name: [] for name in variants}
    for photo in track(photos, console=Console(stderr=True), description="photos"):
        image = read_photo(photo.path, photo.name).image_hwc_rgb
        cache.clear()
        pixels.clear()
        reference: EntityMap | None = None
        for name, segment in variants.items():  # exact first
            cached.asked = 0
            cached.recorded = None if name == "exact" else cached.seen
            result = segment(image)
            reference = result if reference is None else reference
            row = columns[name]
            row["fine_prompts"].append(cached.asked)
            row["all_prompts"].append(cached.asked + coarse)
            row["identical_percent"].append(100.0 * np.array_equal(result.labels, reference.labels))
            row["changed_pixels_percent"].append(100 * changed_share(reference.labels, result.labels))
            if isinstance(truth, MaskTruth):
                matches[name].append(match_photo(truth.entities(true_photos[photo.name]), result.to_coco()))
    rows = {name: {key: round(float(np.mean(v)), 2) for key, v in row.items()} for name, row in columns.items()}
    for name, found in matches.items():
        if found:
            rows[name]["AP"] = round(average_precision(found)["AP"], 2)
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--votes", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    sam = load_sam(a.model)
    rows = run(a.photos, sam, Settings.preset(a.preset), a.votes, a.every)
    title = f"{a.model}, preset {a.preset}, {a.photos.parent.name}/{a.photos.name}, means a photo"
    table = Table("gallery", *COLUMNS, title=title)
    for name, row in rows.items():
        table.add_row(name, *(f"{row[c]:g}" if c in row else "" for c in COLUMNS))
    Console(width=140).print(table)
    record = {
        "esam_rt": __version__,
        "model": a.model,
        "preset": a.preset,
        "photos": f"{a.photos.parent.name}/{a.photos.name}",
        "every": a.every,
        "means": rows,
    }
    if a.out:
        a.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
