"""AP^e of E-SAM beside the baselines, with one model on one set of photos.

    python -m benchmarks.quality DATA/coco/panoptic_dev --preset fast --out quality.json

DATA/… holds images/ and entities.json (COCO form, one category). AP is COCO mask AP, class-agnostic, at most 100
detections an image, on the non-overlapping masks of the entity maps. `--variants` compares settings: each is
a name and what it changes, `--variants "tau0:emr.tau=0" "amg.7:method=amg,amg.nms=0.7"`. What the networks answer is
kept between methods and variants, so each prompt of a photo is decoded once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console
from rich.progress import track
from rich.table import Table

from esam_rt import EntityMap, EntitySegmenter, Settings, __version__, segmenter
from esam_rt.engines import Tensor
from esam_rt.load import load_sam
from esam_rt.sam import PROMPT_SIDE, Engines, Geometry, Sam
from esam_rt.segmenter import METHODS
from esam_rt.settings import Superpixels as SuperpixelSettings
from esam_rt.sources import read_photo
from esam_rt.superpixels import SuperpixelMap, superpixels

METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


@dataclass(eq=False)
class _Batch:
    """A batch of prompts that was decoded: what the decoder was fed, its scores, and all masks by stability offset."""

    feed: Mapping[str, Any]
    score: NDArray[np.float32]
    masks: dict[float, dict[str, NDArray[Any]]] = field(default_factory=dict)


class CachingEngines:
    """Engines that answer a batch of prompts they have seen from memory, with any score filter; `clear` between photos.

    In place of the decoder's tokens and images, which are large, the batch is handed on; they are kept of the last one
    only, and computed again where they are needed.
    """

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._seen: dict[bytes, _Batch] = {}
        self._last: tuple[_Batch, dict[str, Any]] | None = None

    def engines(self) -> Engines:
        """To be used in place of the given ones."""
        decoder, masks, logits = (EngineOf(answer) for answer in (self._decode, self._upscale, self._logits))
        return replace(self._engines, decoder=decoder, masks=masks, logits=logits)

    def _decode(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        key = feed["points_xy_px"].tobytes()
        if key not in self._seen:
            out = self._engines.decoder.infer(feed, keep=PROMPT_SIDE)
            self._seen[key] = _Batch(feed, out.pop("score"))
            self._last = self._seen[key], out
        return {"score": self._seen[key].score} | dict.fromkeys(PROMPT_SIDE, self._seen[key])

    def _upscale(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        offset, batch = float(feed["stability_offset"]), feed["tokens"]
        if offset not in batch.masks:
            everything = {"index": np.arange(len(batch.score))}
            batch.masks[offset] = self._engines.masks.infer({**feed, **self._made_of(batch), **everything})
        return {name: array[feed["index"]] for name, array in batch.masks[offset].items()}

    def _logits(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        return self._engines.logits.infer({**feed, **self._made_of(feed["tokens"])})

    def _made_of(self, batch: _Batch) -> dict[str, Any]:
        """The decoder's tokens and images."""
        if self._last is None or self._last[0] is not batch:
            out = self._engines.decoder.infer(batch.feed, keep=PROMPT_SIDE)
            del out["score"]
            self._last = batch, out
        return self._last[1]

    def clear(self) -> None:
        """Forget the photo."""
        self._seen.clear()
        self._last = None


class EngineOf:
    """`Engine` around a function."""

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()

    def __init__(self, answer: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        self._answer = answer

    def infer(self, feed: Mapping[str, Any], keep: Collection[str] = ()) -> dict[str, Any]:
        """The function's answer."""
        return self._answer(feed)

    def close(self) -> None:
        """Nothing is open here."""


class CachingSuperpixels:
    """`superpixels` that remembers a photo's map for each group of settings; `clear` between photos."""

    def __init__(self) -> None:
        self._seen: dict[SuperpixelSettings, SuperpixelMap] = {}

    def __call__(
        self, image_hwc_rgb: NDArray[np.uint8], geometry: Geometry, settings: SuperpixelSettings
    ) -> SuperpixelMap:
        """As `superpixels`."""
        if settings not in self._seen:
            self._seen[settings] = superpixels(image_hwc_rgb, geometry, settings)
        return self._seen[settings]

    def clear(self) -> None:
        """Forget the photo."""
        self._seen.clear()


def average_precision(truth: COCO, detections: list[dict[str, Any]], image_ids: list[int]) -> dict[str, float]:
    """Class-agnostic COCO mask AP, at most 100 detections an image: METRICS in percent."""
    if not detections:
        return dict.fromkeys(METRICS, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(detections), "segm")
        evaluation.params.useCats = 0
        evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: round(100 * float(value), 2) for name, value in zip(METRICS, evaluation.stats[:6], strict=True)}


def run(
    photos: Path, sam: Sam, variants: dict[str, tuple[str, Settings]], limit: int | None, every: int
) -> dict[str, dict[str, float]]:
    """Metrics of every variant (a method and settings) over the photos; also entities a photo and coverage."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(photos / "entities.json"))
    images = sorted(truth.loadImgs(truth.getImgIds()), key=lambda entry: entry["id"])[:limit:every]
    cache = CachingEngines(sam.engines)
    cached = Sam(sam.row, cache.engines(), sam.checkpoint_sha256)
    pixels = segmenter.superpixels = CachingSuperpixels()  # type: ignore[assignment]
    segmenters = {name: EntitySegmenter(cached, settings=s, method=m) for name, (m, s) in variants.items()}
    detections: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    coverage: dict[str, list[float]] = {name: [] for name in variants}
    for entry in track(images, console=Console(stderr=True), description="photos"):
        frame = read_photo(photos / "images" / entry["file_name"], entry["file_name"])
        cache.clear()
        pixels.clear()
        for name, segment in segmenters.items():
            result: EntityMap = segment(frame.image_hwc_rgb)
            detections[name] += result.to_coco(image_id=entry["id"])
            coverage[name].append(float(np.mean(result.labels > 0)))
    ids = [entry["id"] for entry in images]
    return {
        name: {
            **average_precision(truth, found, ids),
            "entities": round(len(found) / len(ids), 1),
            "covered_percent": round(100 * float(np.mean(coverage[name])), 1),
        }
        for name, found in detections.items()
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder with images/ and entities.json")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="for every variant")
    parser.add_argument(
        "--variants",
        nargs="*",
        default=[],
        metavar="NAME:SETTING=VALUE[,…]",
        help="of E-SAM; or method=…",
    )
    parser.add_argument("--limit", type=int)
    parser.add_argument("--every", type=int, default=1, help="only every so many photos, for quick looks")
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    if not (a.photos / "entities.json").is_file():
        sys.exit(f"{a.photos}: skipped, holds no entities.json; expected a folder with images/ and entities.json.")
    base = Settings.preset(a.preset).with_overrides(dict(item.split("=", 1) for item in a.set))
    variants = {method: (method, base) for method in METHODS}
    for text in a.variants:
        name, _, changes = text.partition(":")
        overrides = dict(item.split("=", 1) for item in changes.split(",") if item)
        method = overrides.pop("method", "e-sam")
        variants[name] = method, base.with_overrides(overrides)
    sam = load_sam(a.model, checkpoint=a.checkpoint)
    rows = run(a.photos, sam, variants, a.limit, a.every)
    columns = [*METRICS, "entities", "covered_percent"]
    table = Table("variant", *columns, title=f"{a.model}, preset {a.preset}, {a.photos.name}")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[c]:g}" for c in columns))
    Console(width=140).print(table)
    record = {
        "esam_rt": __version__,
        "model": a.model,
        "checkpoint_sha256": sam.checkpoint_sha256,
        "photos": a.photos.name,
        "limit": a.limit,
        "every": a.every,
        "settings": base.to_dict(),
        "variants": a.variants,
        "results": rows,
    }
    if a.out:
        a.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
