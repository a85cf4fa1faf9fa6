"""How much closer to the truth are boundaries that follow the photo, and how many pieces has an entity?

    python -m benchmarks.boundary_refinement --bsds bsds500/val --coco coco/panoptic_dev --cityscapes cityscapes \\
        --most 20 --json boundary_refinement.json

Each photo is decoded once and drawn in three ways: from the logits alone, with boundaries that follow the photo
(render.refine), and with specks removed as well (cleanup, the default). Boundary precision is the share of found
boundary pixels within 1, 2 or 4 pixels of any annotator's boundary. Recall is the share of annotators' boundary pixels
near a found one. F is their harmonic mean over all photos. Synthetic scenes have lines of 1 to 3 pixels. CPU time is
that of one thread, without the networks.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.lib.command_line import parser_of
from benchmarks.lib.thin_scenes import ThinScene, enlarged, thin_scene
from esam_rt import EntityMap, EntitySegmenter, Settings, __version__
from esam_rt.evaluation import average_precision, read_truth
from esam_rt.evaluation.metrics.boundaries import boundary
from esam_rt.evaluation.metrics.matching import PhotoMatches, match_photo
from esam_rt.evaluation.paper_tables.decode_cache import CachingSam, CachingSuperpixels
from esam_rt.evaluation.truth.coco_truth import MaskTruth
from esam_rt.loading.loader import load_sam
from esam_rt.method.cleanup import clean_up
from esam_rt.method.render import render_labels
from esam_rt.sam.predictor import Sam
from esam_rt.sources.decode import read_photo
from esam_rt.sources.photo_search import find_photos
from esam_rt.storage.atomic import write_json

OFF = {"render.refine": False, "cleanup.min_piece": 0, "cleanup.fill_holes": 0}
VARIANTS: dict[str, dict[str, object]] = {
    "logits": OFF,
    "refined": OFF | {"render.refine": True},
    "refined and cleaned": {},
}
TOLERANCES_PX = (1, 2, 4)
METHODS = ("e-sam", "amg")
REPEATS = 5


class Scores:
    """Sums over the photos of one set, drawn in one way."""

    def __init__(self) -> None:
        self.boundary = np.zeros((len(TOLERANCES_PX), 4))
        self.matches: list[PhotoMatches] = []
        self.lines: dict[int, list[float]] = defaultdict(list)
        self.pieces: list[int] = []

    def add(self, result: EntityMap, truths: Sequence[NDArray[np.integer]]) -> None:
        """Add a photo with its annotators' maps."""
        self.pieces += result.pieces.tolist()
        if not truths:
            return
        found = boundary(result.labels)
        from_found = _distance(found)
        lines = [boundary(labels) for labels in truths]
        from_true = np.min([_distance(line) for line in lines], axis=0)
        for row, reach in zip(self.boundary, TOLERANCES_PX, strict=True):
            row += (
                np.count_nonzero(from_true[found] <= reach),
                np.count_nonzero(found),
                sum(np.count_nonzero(from_found[line] <= reach) for line in lines),
                sum(np.count_nonzero(line) for line in lines),
            )

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        out: dict[str, Any] = {"pieces_an_entity": round(float(np.mean(self.pieces)), 2)}
        if self.boundary.any():
            precision, recall = self.boundary[:, 0] / self.boundary[:, 1], self.boundary[:, 2] / self.boundary[:, 3]
            for reach, f in zip(TOLERANCES_PX, 2 * precision * recall / (precision + recall), strict=True):
                out[f"boundary_F_{reach}px"] = round(float(f), 3)
        if self.matches:
            out |= {name: round(average_precision(self.matches)[name], 2) for name in ("AP", "AP50", "AR100")}
        for width, recalls in sorted(self.lines.items()):
            out[f"line_recall_{width}px"] = round(float(np.mean(recalls)), 3)
        return out


def _distance(line: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance of each pixel to a boundary; far beyond any tolerance without one."""
    if not line.any():
        return np.full(line.shape, np.inf, np.float32)
    return np.asarray(cv2.distanceTransform((~line).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


class Photos:
    """Segments photos in all ways. Each photo is decoded once."""

    def __init__(self, sam: Sam, base: Settings) -> None:
        self.sam, self.pixels = CachingSam(sam), CachingSuperpixels()
        self.segmenters = {
            (method, name): EntitySegmenter(
                self.sam, settings=base.with_overrides(changes), method=method, superpixels=self.pixels
            )
            for method in METHODS
            for name, changes in VARIANTS.items()
        }
        self.scores = {key: Scores() for key in self.segmenters}

    def results(self, image: NDArray[np.uint8]) -> Iterable[tuple[Scores, EntityMap]]:
        """Yield the results of a photo in all ways."""
        self.sam.clear()
        self.pixels.clear()
        for key, segment in self.segmenters.items():
            yield self.scores[key], segment(image)

    def table(self) -> dict[str, dict[str, Any]]:
        """Return the figures of each row, and begin anew."""
        rows = {f"{method}, {name}": scores.to_json() for (method, name), scores in self.scores.items()}
        self.scores = {key: Scores() for key in self.segmenters}
        return rows


def with_boundaries(photos: Photos, folder: Path, truths: str, most: int) -> dict[str, dict[str, Any]]:
    """Score a folder with images/ and label maps of the annotators in a folder beside it."""
    for photo in track(find_photos([folder / "images"])[:most], folder.name, console=Console(stderr=True)):
        paths = sorted((folder / truths).glob(f"{photo.path.stem}*.png"))
        maps = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.int32) for path in paths]
        for scores, result in photos.results(read_photo(photo.path, photo.name).image_hwc_rgb):
            scores.add(result, maps)
    return photos.table()


def with_masks(photos: Photos, folder: Path, most: int) -> dict[str, dict[str, Any]]:
    """Score a folder with images/ and entities.json."""
    truth = read_truth(folder / "entities.json")
    assert isinstance(truth, MaskTruth)
    true_photos = {photo.name: photo for photo in truth.photos}
    for photo in track(find_photos([folder / "images"])[:most], folder.name, console=Console(stderr=True)):
        entities = truth.entities(true_photos[photo.name])
        for scores, result in photos.results(read_photo(photo.path, photo.name).image_hwc_rgb):
            scores.add(result, ())
            scores.matches.append(match_photo(entities, result.to_coco()))
    return photos.table()


def drawn(scene: ThinScene, settings: Settings) -> NDArray[np.uint16]:
    """Draw the entities of a scene."""
    points = np.tile(np.arange(len(scene.entities), dtype=np.float32)[:, None], 2)
    guide = scene.image if settings.render.refine else None
    labels = render_labels(scene.entities, scene.logits, scene.geometry, points, guide, settings.render)
    clean_up(labels, settings.cleanup)
    return labels


def synthetic(base: Settings, count: int) -> dict[str, dict[str, Any]]:
    """Score scenes with known truth, and measure the CPU time of drawing them at three sizes."""
    rows = {name: Scores() for name in VARIANTS}
    scenes = [thin_scene(seed) for seed in range(count)]
    for scene in scenes:
        for name, changes in VARIANTS.items():
            labels = drawn(scene, base.with_overrides(changes))
            for label, width in scene.widths.items():
                rows[name].lines[width].append(float((labels[scene.truth == label] == label).mean()))
            rows[name].add(EntityMap.from_labels(labels, scene.entities.score, scene.entities.stage), [scene.truth])
    out = {name: scores.to_json() for name, scores in rows.items()}
    for times in (1, 2, 4):
        large = enlarged(scenes[0], times)
        for name, changes in VARIANTS.items():
            seconds = []
            for _ in range(REPEATS):
                start = time.thread_time()
                drawn(large, base.with_overrides(changes))
                seconds.append(time.thread_time() - start)
            megapixels = large.image[..., 0].size / 1e6
            out[name][f"cpu_ms_a_megapixel_at_{megapixels:.1f}"] = round(1e3 * min(seconds) / megapixels, 1)
    return out


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--bsds", type=Path, help="folder of BSDS500 with images/ and segmentations/")
    parser.add_argument("--coco", type=Path, help="folder with images/ and entities.json")
    parser.add_argument("--cityscapes", type=Path, help="folder with images/ and instances/")
    parser.add_argument("--scenes", type=int, default=20, help="number of synthetic scenes")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--most", type=int, default=50, metavar="N", help="photos of a set, twice as many of COCO")
    a = parser.parse_args()
    cv2.setNumThreads(1)  # CPU time of a thread would leave out that of others
    base = Settings.preset(a.preset)
    sets = {"synthetic": synthetic(base, a.scenes)}
    if a.bsds or a.coco or a.cityscapes:
        photos = Photos(load_sam(a.model), base)
        if a.coco:
            sets["coco"] = with_masks(photos, a.coco, 2 * a.most)
        if a.bsds:
            sets["bsds"] = with_boundaries(photos, a.bsds, "segmentations", a.most)
        if a.cityscapes:
            sets["cityscapes"] = with_boundaries(photos, a.cityscapes, "instances", a.most)
    for name, rows in sets.items():
        columns = list(next(iter(reversed(rows.values()))))
        table = Table(name, *columns)
        for row, figures in rows.items():
            table.add_row(row, *(f"{figures.get(column, '')}" for column in columns))
        Console(width=160).print(table)
    if a.json:
        record = {"esam_rt": __version__, "model": a.model, "preset": a.preset, "most": a.most}
        write_json(a.json, record | {"sets": sets})


if __name__ == "__main__":
    main()
