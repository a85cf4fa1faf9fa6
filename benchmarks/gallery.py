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
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from esam_rt import EntityMap, EntitySegmenter, Settings, __version__
from esam_rt.evaluation import average_precision, read_truth
from esam_rt.evaluation.metrics.matching import PhotoMatches, match_photo
from esam_rt.evaluation.paper_tables.decode_cache import CachingSam, CachingSuperpixels
from esam_rt.evaluation.truth.coco_truth import MaskTruth
from esam_rt.loading.loader import load_sam
from esam_rt.masks import MaskSet
from esam_rt.method.gallery import Gallery
from esam_rt.sam.encoded_image import EncodedPhoto
from esam_rt.sam.predictor import Sam
from esam_rt.sources.decode import read_photo
from esam_rt.sources.photo_files import find_photos
from esam_rt.tracing import Trace

COLUMNS = ("fine_prompts", "all_prompts", "identical_percent", "changed_pixels_percent", "AP")


class RecordedGallery(EntitySegmenter):
    """Takes the fine grid's masks from `recorded`, once there is one; counts prompts that the gallery asked for."""

    recorded: MaskSet | None = None
    asked = 0

    def _gallery(self, photo: EncodedPhoto, trace: Trace) -> Gallery:
        gallery = super()._gallery(photo, trace)
        decode, points_norm_xy = gallery._decode, gallery._points_01
        index_of = {tuple(point): i for i, point in enumerate(points_norm_xy.tolist())}

        def answer(wanted_01: NDArray[np.float32]) -> MaskSet:
            self.asked += len(wanted_01)
            if self.recorded is None:
                return decode(wanted_01)
            wanted = np.array([index_of[tuple(point)] for point in wanted_01.tolist()])
            found = self.recorded.select(np.isin(self.recorded.prompt_index, wanted))
            return replace(found, prompt_index=np.searchsorted(wanted, found.prompt_index).astype(np.int32))

        gallery._decode = answer
        self.gallery = gallery
        return gallery


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
    cached, pixels = CachingSam(sam), CachingSuperpixels()
    exact = RecordedGallery(cached, settings=base.with_overrides({"emr.gallery": "exact"}), superpixels=pixels)
    variants = {"exact": exact} | {
        f"{n} votes": RecordedGallery(
            cached, settings=base.with_overrides({"emr.gallery": "lazy", "emr.votes": n}), superpixels=pixels
        )
        for n in votes
    }
    coarse = base.prompts.coarse_side**2
    columns: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in variants}
    matches: dict[str, list[PhotoMatches]] = {name: [] for name in variants}
    for photo in track(photos, console=Console(stderr=True), description="photos"):
        image = read_photo(photo.path, photo.name).image_hwc_rgb
        cached.clear()
        pixels.clear()
        reference: EntityMap | None = None
        for name, segment in variants.items():  # exact first
            segment.asked = 0
            segment.recorded = None if segment is exact else exact.gallery.masks
            result = segment(image)
            reference = result if reference is None else reference
            row = columns[name]
            row["fine_prompts"].append(segment.asked)
            row["all_prompts"].append(segment.asked + coarse)
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
