"""Figures of live streams with the model `tiny`: frames a second, deadlines, memory of a source, and quality."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.lib.measure import status_mb
from benchmarks.lib.moving_shapes import moving_shapes
from esam_rt import EntitySegmenter, ExecutionConfig, Settings
from esam_rt.evaluation import match_photo
from esam_rt.evaluation.metrics.average_precision import AveragePrecision
from esam_rt.evaluation.paper_tables.table_rows import WHOLE_GRID
from esam_rt.method.coherent_prompts import CoherentPrompts
from esam_rt.sources import PhotoFolder
from esam_rt.tracking import EntityTracker

FAST = Settings.preset("fast").with_overrides(WHOLE_GRID)
SMALL_GRID = FAST.with_overrides({"prompts.coarse_side": 4, "prompts.fine_side": 8})
DEADLINE_S, LATEST_S = 0.1, 0.11


def images_of(folder: Path, count: int) -> list[NDArray[np.uint8]]:
    """The first frames of a folder, at 640×480 pixels."""
    frames = itertools.islice(PhotoFolder(folder), count)
    return [np.asarray(cv2.resize(frame.image_hwc_rgb, (640, 480)), np.uint8) for frame in frames]


def frame_rate(folder: Path) -> dict[str, float]:
    """Frames a second of 640×480 pixels with coherent prompts, by the wall clock, on a quiet machine."""
    images = images_of(folder, 65)
    options: dict[str, Any] = {"track": "prompts"}
    alone = options | {"max_in_flight": 1}
    with EntitySegmenter("tiny", settings=FAST, execution=ExecutionConfig(threads=1)) as one_thread:
        one_thread(images[0], features=True)
        rates = {
            "one_stream": _rate(one_thread, images, 1, options),
            "one_stream_that_does_not_look_ahead": _rate(one_thread, images, 1, alone),
            "two_streams": _rate(one_thread, images, 2, options),
            "two_streams_that_do_not_look_ahead": _rate(one_thread, images, 2, alone),
        }
    with EntitySegmenter("tiny", settings=FAST, execution=ExecutionConfig(threads=2)) as two_threads:
        two_threads(images[0], features=True)
        rates["one_stream_with_two_threads_an_engine"] = _rate(two_threads, images, 1, options)
        rates["the_same_that_does_not_look_ahead"] = _rate(two_threads, images, 1, alone)
    return rates


def _rate(segmenter: EntitySegmenter, images: list[NDArray[np.uint8]], streams: int, options: dict[str, Any]) -> float:
    """Frames a second of some streams at once, each in a thread, from the sixth frame on."""

    def go(_: int) -> tuple[float, float, int]:
        with segmenter.stream(images, **options) as stream:
            for _ in range(5):  # the first frame decodes the whole grid
                next(stream)
            begin_s = time.monotonic()
            count = sum(1 for _ in stream)
            return begin_s, time.monotonic(), count

    with ThreadPoolExecutor(streams) as pool:
        begin_s, end_s, count = zip(*pool.map(go, range(streams)), strict=True)
    return round(sum(count) / (max(end_s) - min(begin_s)), 2)


def deadline(folder: Path) -> dict[str, Any]:
    """Share of the frames that are done 10 ms after a deadline of 100 ms, with identities, by two clocks.

    The CPU time of the calling thread stands for the wall clock of a quiet machine: superpixels run in another thread.
    """
    images = images_of(folder, 101)
    clocks: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu_of_the_thread": time.thread_time}
    return {name: _deadline(images, clock) for name, clock in clocks.items()}


def _deadline(images: list[NDArray[np.uint8]], clock: Callable[[], float]) -> dict[str, Any]:
    seconds, results = [], []
    tracker, coherent = EntityTracker(), CoherentPrompts()
    with EntitySegmenter("tiny", settings=FAST, execution=ExecutionConfig(threads=1), clock=clock) as segmenter:
        segmenter.warm_up([(480, 640)])
        for image in images * 2:
            begin_s = clock()
            result = segmenter(image, deadline_s=DEADLINE_S, features=True, coherent=coherent)
            results.append(tracker.update(result, image))
            seconds.append(clock() - begin_s)
    return {
        "frames": len(seconds),
        "share_within_110_ms": round(float(np.mean(np.array(seconds) <= LATEST_S)), 4),
        "ms_p50": round(1000 * float(np.median(seconds)), 1),
        "ms_p99": round(1000 * float(np.percentile(seconds, 99)), 1),
        "ms_most": round(1000 * max(seconds), 1),
        "prompts_mean": round(float(np.mean([result.prompts_decoded for result in results])), 1),
        "share_without_a_prompt": round(float(np.mean([result.prompts_decoded == 0 for result in results])), 4),
    }


def further_source(folder: Path, sources: int = 4, frames: int = 15) -> dict[str, float]:
    """Memory of a further source of a stream with coherent prompts, after some frames of each."""
    images = images_of(folder, 20)
    execution = ExecutionConfig(threads=1)
    with (
        EntitySegmenter("tiny", settings=FAST, execution=execution) as segmenter,
        segmenter.stream(itertools.cycle(images), track="prompts") as stream,
    ):
        for _ in range(3 * frames):
            next(stream)
        begin_mb = status_mb("VmRSS")
        for _ in range(sources):
            stream.add(itertools.cycle(images))
        for _ in range((sources + 1) * frames):
            next(stream)
        return {"sources": sources, "mb_each": round((status_mb("VmRSS") - begin_mb) / sources, 1)}


def quality(scenes: int = 3, frames: int = 30) -> dict[str, Any]:
    """AP of the entities of scenes of moving shapes, frame by frame, with coherent prompts and with the small grid."""
    with EntitySegmenter("tiny", settings=FAST, execution=ExecutionConfig(threads=1)) as whole:
        small = EntitySegmenter(whole.sam, settings=SMALL_GRID)
        found: dict[str, list[Any]] = {"coherent": [], "small_grid": []}
        for seed in range(scenes):
            coherent = CoherentPrompts()
            for frame in moving_shapes(frames, seed):
                truth, image = frame.entities.to_coco(), frame.image_hwc_rgb
                found["coherent"].append(match_photo(truth, whole(image, coherent=coherent).to_coco()))
                found["small_grid"].append(match_photo(truth, small(image).to_coco()))
    count = scenes * frames
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), 1000)
    weights = np.concatenate([np.ones((1, count), np.int64), weights])
    ap = {name: AveragePrecision(matches).metrics(weights)["AP"] for name, matches in found.items()}
    difference = ap["coherent"] - ap["small_grid"]
    return {
        "frames": count,
        "ap": {name: round(float(values[0]), 2) for name, values in ap.items()},
        "difference": round(float(difference[0]), 2),
        "interval_95": [round(float(v), 2) for v in np.percentile(difference[1:], [2.5, 97.5])],
    }
