"""How well do identities stay on a stream, what do they cost, and how old are results under load?

    pip install --no-deps trackers
    python -m benchmarks.live_streams --frames FOLDER --held-out FOLDER --json benchmarks/results/live_streams.json

FOLDER holds frames of one camera in order. Figures of CPU are ratios of CPU seconds, taken turn by turn in one process:
each frame is segmented with the small grid and identities, with coherent prompts and identities, and some frames also
with the small grid alone and with the whole grid of the preset `fast`. The parts `speed`, `overload_with_model` and the
wall clock of `deadline` need a quiet machine. Other parts need no frames: moving shapes with known identities, a camera
that is faster than a stand-in segmenter, and 10,000 small frames.

`trackers` is for the comparison with SORT, ByteTrack and OC-SORT. Its OpenCV is not needed, and would replace the one
of esam-rt.
"""

from __future__ import annotations

import itertools
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.identities import BOX_TRACKERS, NO_IDENTITY, Identities, best_possible, box_tracker
from benchmarks.lib.live_goals import FAST, SMALL_GRID, deadline, frame_rate, further_source, quality
from benchmarks.lib.measure import in_fresh_process, peak_growth_mb, status_mb
from benchmarks.lib.moving_shapes import idf1, moving_shapes, switches
from esam_rt import EntityMap, EntitySegmenter, __version__
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.method.coherent_prompts import CoherentPrompts
from esam_rt.run import Stream
from esam_rt.sam.entity_features import entity_features
from esam_rt.sources import Frame, Paced, PhotoFolder
from esam_rt.storage.atomic import write_json
from esam_rt.tracking import EntityTracker

SEEDS = range(12)
SERVICE_S = 0.3
RATES_HZ = (2, 10, 20, 30)
HAS_TRACKERS = find_spec("trackers") is not None


def synthetic() -> dict[str, Any]:
    """Identities on the scene of moving shapes, over several seeds."""
    rows = {"esam-rt": _synthetic(lambda: _ours(EntityTracker()))}
    if HAS_TRACKERS:
        rows |= {name: _synthetic(lambda: _of_boxes(name)) for name in BOX_TRACKERS}  # noqa: B023
    return rows


Update = Callable[[EntityMap, NDArray[np.uint8]], NDArray[np.int64]]


def _ours(tracker: EntityTracker) -> Update:
    return lambda entities, image: ids_of(tracker.update(entities, image))


def _of_boxes(name: str) -> Update:
    """Return a tracker of boxes. An entity without an identity gets a number that is never used again."""
    update, lone = box_tracker(name), itertools.count(-1, -1)

    def with_lone(entities: EntityMap, image: NDArray[np.uint8]) -> NDArray[np.int64]:
        return np.array([next(lone) if i == NO_IDENTITY else i for i in update(entities)], np.int64)

    return with_lone


def _synthetic(make: Callable[[], Update]) -> dict[str, Any]:
    scores, clear, every = [], 0, 0
    for seed in SEEDS:
        scene, update = list(moving_shapes(120, seed)), make()
        found = [update(frame.entities, frame.image_hwc_rgb) for frame in scene]
        scores.append(idf1([frame.truth for frame in scene], found))
        changes = switches(scene, found)
        clear, every = clear + changes[0], every + changes[1]
    return {
        "scenes": len(scores),
        "idf1_mean": round(float(np.mean(scores)), 4),
        "idf1_lowest": round(min(scores), 4),
        "switches_without_occlusion": clear,
        "switches": every,
    }


def ids_of(entities: EntityMap) -> NDArray[np.int64]:
    """Return the identities of a map that has them."""
    assert entities.track_id is not None
    return entities.track_id


def covering(truth: EntityMap, found: EntityMap) -> float:
    """Return the mean of the best IoU of each true entity, weighted by area (BSDS500)."""
    n, m = len(truth) + 1, len(found) + 1
    pairs = np.bincount((truth.labels.astype(np.int64) * m + found.labels).ravel(), minlength=n * m).reshape(n, m)
    union = pairs.sum(1)[:, None] + pairs.sum(0) - pairs
    best = (pairs / np.maximum(union, 1))[1:, 1:].max(axis=1, initial=0)
    return float((best * truth.area).sum() / truth.area.sum())


class Rows:
    """Collects the identities of one way to segment, with each tracker."""

    def __init__(self) -> None:
        self._ways: dict[str, tuple[Any, Identities]] = {
            "esam-rt": (EntityTracker(), Identities()),
            "esam-rt without features": (EntityTracker(), Identities()),
        }
        if HAS_TRACKERS:
            self._ways |= {name: (box_tracker(name), Identities()) for name in BOX_TRACKERS}
        self.maps: list[EntityMap] = []

    def add(self, entities: EntityMap, image: NDArray[np.uint8]) -> float:
        """Add a frame.

        Returns:
            CPU seconds of ``EntityTracker``.
        """
        begin = time.process_time()
        ids = ids_of(self._ways["esam-rt"][0].update(entities, image))
        seconds = time.process_time() - begin
        self.maps.append(entities)
        for name, (tracker, identities) in self._ways.items():
            if name == "esam-rt without features":
                ids = ids_of(tracker.update(replace(entities, features=None), image))
            elif name != "esam-rt":
                ids = tracker(entities)
            identities.add(entities, ids)
        return seconds

    def figures(self) -> dict[str, Any]:
        """Return the figures of each tracker, and of the second half of the frames."""
        half = len(self.maps) // 2
        return {
            "trackers": {name: identities.figures() for name, (_, identities) in self._ways.items()},
            "second_half": self._ways["esam-rt"][1].figures(half),
            "best_that_the_maps_allow": best_possible(self.maps),
        }


def camera(folder: Path, every: int, limit: int | None) -> dict[str, Any]:
    """Identities, CPU time and agreement with `fast`, on real frames."""
    small = EntitySegmenter("tiny", settings=SMALL_GRID, execution=ExecutionConfig(threads=1))
    whole = EntitySegmenter(small.sam, settings=FAST)
    ways, coherent = {"small_grid": Rows(), "coherent": Rows()}, CoherentPrompts()
    cpu_s: dict[str, list[float]] = {name: [] for name in ("small_grid", "coherent", "small_grid_alone", "fast")}
    agreement: dict[str, list[float]] = {"small_grid": [], "coherent": [], "frame_before": []}
    prompts: list[int] = []
    frames, last_whole = 0, None

    def timed(name: str, call: Callable[[], EntityMap]) -> EntityMap:
        begin = time.process_time()
        result = call()
        cpu_s[name].append(time.process_time() - begin)
        return result

    for number, frame in enumerate(PhotoFolder(folder)):
        if number == limit:
            break
        image, frames = frame.image_hwc_rgb, frames + 1
        if number == 0:
            small(image, features=True)  # compile and warm up
            whole(image)
        maps = {
            "small_grid": timed("small_grid", lambda: small(image, features=True)),  # noqa: B023
            "coherent": timed("coherent", lambda: whole(image, features=True, coherent=coherent)),  # noqa: B023
        }
        for name, entities in maps.items():
            cpu_s[name][-1] += ways[name].add(entities, image)
        if number == 0:
            cpu_s["coherent"].clear()  # it decodes the whole grid
        else:
            prompts.append(maps["coherent"].prompts_decoded)
        if every and number % every in (0, 1) and number:
            timed("small_grid_alone", lambda: small(image))  # noqa: B023
            result = timed("fast", lambda: whole(image))  # noqa: B023
            for name, entities in maps.items():
                agreement[name].append(covering(result, entities))
            if number % every == 1 and last_whole is not None:
                agreement["frame_before"].append(covering(result, last_whole))
            last_whole = result
        if number % 10 == 0:
            note(f"frame {number}")
    figures: dict[str, Any] = {"frames": frames} | {name: rows.figures() for name, rows in ways.items()}
    figures["prompts_coherent"] = round(float(np.mean(prompts)), 1)
    figures["prompts_small_grid"] = round(float(np.mean([m.prompts_decoded for m in ways["small_grid"].maps])), 1)
    if every:
        mean_s = {name: float(np.mean(times)) for name, times in cpu_s.items()}
        figures["cpu_ms"] = {name: round(1000 * seconds) for name, seconds in mean_s.items()}
        for name in ways:
            figures[f"cpu_{name}_over_fast"] = round(mean_s[name] / mean_s["fast"], 3)
            figures[f"cpu_{name}_over_small_grid_alone"] = round(mean_s[name] / mean_s["small_grid_alone"], 3)
        figures["covering_of_fast"] = {name: round(float(np.mean(values)), 3) for name, values in agreement.items()}
        parts = np.array_split(agreement["coherent"], 3)
        figures["covering_coherent_by_third"] = [round(float(part.mean()), 3) for part in parts]
        differences = np.subtract(agreement["coherent"], agreement["small_grid"])
        figures["covering_coherent_minus_small_grid"] = round(float(differences.mean()), 3)
        figures["its_standard_error"] = round(float(differences.std(ddof=1) / len(differences) ** 0.5), 3)
    return figures


def speed(folder: Path) -> dict[str, Any]:
    """CPU time of a frame of 640×480 pixels with coherent prompts, and of its features, and how alike these stay."""
    segmenter = EntitySegmenter("tiny", settings=FAST, execution=ExecutionConfig(threads=1))
    tracker, coherent, seconds = EntityTracker(), CoherentPrompts(), []
    cosines: list[float] = []
    last: dict[int, NDArray[np.float32]] = {}
    for frame in itertools.islice(PhotoFolder(folder), 25):
        image = cv2.resize(frame.image_hwc_rgb, (640, 480))
        begin = time.process_time()
        entities = tracker.update(segmenter(image, features=True, coherent=coherent), image)
        seconds.append(time.process_time() - begin)
        assert entities.features is not None
        unit = entities.features / np.linalg.norm(entities.features, axis=1, keepdims=True)
        now = dict(zip(ids_of(entities).tolist(), unit, strict=True))
        cosines += [float(now[name] @ last[name]) for name in now.keys() & last.keys()]
        last = now
    encoded, begin = segmenter.encode(image), time.process_time()
    for _ in range(20):
        entity_features(entities, encoded)
    return {
        "frames": len(seconds) - 5,
        "cpu_s_median": round(float(np.median(seconds[5:])), 3),
        "cpu_s_lowest": round(min(seconds[5:]), 3),
        "features_cpu_ms": round((time.process_time() - begin) / 20 * 1000, 2),
        "cosine_in_the_next_frame_median": round(float(np.median(cosines)), 3),
        "cosine_in_the_next_frame_p05": round(float(np.percentile(cosines, 5)), 3),
    }


def conversion() -> dict[str, float]:
    """CPU time and memory of ``to_supervision`` for 200 entities in 1920×1080 pixels."""
    rows, columns = np.indices((1080, 1920))
    labels = (rows // 108 * 20 + columns // 96 + 1).astype(np.uint16)
    entities = EntityMap.from_labels(labels, np.linspace(0.9, 0.1, 200), np.zeros(200, np.uint8))
    entities.to_supervision()
    begin = time.process_time()
    for _ in range(10):
        entities.to_supervision()
    seconds = (time.process_time() - begin) / 10
    return {"cpu_ms": round(1000 * seconds, 1), "growth_mb": round(peak_growth_mb(entities.to_supervision), 1)}


def stand_in(image: NDArray[np.uint8]) -> EntityMap:
    """Find two halves."""
    labels = np.ones(image.shape[:2], np.uint16)
    labels[:, image.shape[1] // 2 :] = 2
    return EntityMap.from_labels(labels, np.array([0.9, 0.8]), np.zeros(2, np.uint8), in_place=True)


def overload(seconds: float) -> list[dict[str, Any]]:
    """Age of results with the policy `latest`, by the wall clock, with a stand-in segmenter."""

    def slow(image: NDArray[np.uint8]) -> EntityMap:
        time.sleep(SERVICE_S)
        return stand_in(image)

    images = [np.zeros((120, 160, 3), np.uint8)]
    return [_overload(slow, images, rate_hz, seconds) for rate_hz in RATES_HZ]


def real_overload(folder: Path, seconds: float) -> list[dict[str, Any]]:
    """The same with the model, coherent prompts and real frames."""
    images = [frame.image_hwc_rgb for frame in PhotoFolder(folder)]
    with EntitySegmenter("tiny", settings=FAST, execution=ExecutionConfig(threads=1)) as segmenter:
        segmenter(images[0], features=True)
        return [_overload(segmenter, images, rate_hz, seconds, track="prompts") for rate_hz in RATES_HZ[1:]]


def _overload(
    segmenter: Callable[..., EntityMap], images: list[NDArray[np.uint8]], rate_hz: float, seconds: float, **options: Any
) -> dict[str, Any]:
    count = round(rate_hz * seconds)
    frames = (Frame(image, str(i)) for i, image in enumerate(itertools.islice(itertools.cycle(images), count)))
    begin_s = time.monotonic()
    with Stream(segmenter, Paced(frames, rate_hz), policy="latest", **options) as stream:
        for _ in stream:
            pass
    end_s, figures = time.monotonic(), stream.statistics()["0"]
    return {
        "frames_a_second": rate_hz,
        "received": figures.received,
        "done": figures.done,
        "dropped": sum(figures.dropped.values()),
        "done_a_second": round(figures.done / (end_s - begin_s), 2),
        "service_p95_s": round(figures.latency_p95_s, 3),
        "age_p50_s": round(figures.age_p50_s, 3),
        "age_p95_s": round(figures.age_p95_s, 3),
        "service_p95_and_period_s": round(figures.latency_p95_s + 1 / rate_hz, 3),
    }


def memory(frames: int, since: int, has_model: bool) -> dict[str, float]:
    """Growth of the resident set over many small frames, with identities."""

    def images() -> Iterator[NDArray[np.uint8]]:
        rng = np.random.default_rng(0)
        for number in range(frames):
            if number % 100 == 0:  # a scene cut
                scene = rng.integers(0, 256, (6, 8, 3), np.uint8).repeat(20, 0).repeat(20, 1)
            yield np.roll(scene, number, axis=1)

    execution = ExecutionConfig(threads=1)
    segmenter = EntitySegmenter("tiny", settings=SMALL_GRID, execution=execution) if has_model else stand_in
    with Stream(segmenter, images(), track="prompts" if has_model else True) as stream:
        for number, _ in enumerate(stream, 1):
            if number == since:
                begin_mb = status_mb("VmRSS")
    return {"frames": frames, "since": since, "growth_mb": round(status_mb("VmRSS") - begin_mb, 1)}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--frames", type=Path, help="folder of frames of one camera, for the parts with a network")
    parser.add_argument("--held-out", type=Path, help="folder of frames of another camera, for identities alone")
    parser.add_argument("--limit", type=int, help="use only the first frames, this many")
    parser.add_argument("--every", type=int, default=10, help="two frames of so many are segmented with `fast` too")
    parser.add_argument("--seconds", type=float, default=20, help="duration of each rate of the camera")
    parser.add_argument(
        "--model-frames", type=int, default=300, help="frames of the measurement of memory with the model"
    )
    parser.add_argument("--only", nargs="+", help="measure only these parts")
    a = parser.parse_args()
    figures: dict[str, Any] = {"esam_rt": __version__, "platform": platform.platform()}
    parts: dict[str, Callable[[], Any]] = {
        "synthetic": synthetic,
        "overload": lambda: overload(a.seconds),
        "to_supervision": lambda: in_fresh_process(conversion),
        "memory": lambda: in_fresh_process(memory, 10_000, 500, False),
        "quality": quality,
        "memory_with_model": lambda: in_fresh_process(memory, a.model_frames, a.model_frames // 3, True),
    }
    if a.frames:
        parts |= {
            "camera": lambda: camera(a.frames, a.every, a.limit),
            "speed": lambda: speed(a.frames) | {"frames_a_second": frame_rate(a.frames)},
            "deadline": lambda: deadline(a.frames),
            "further_source": lambda: in_fresh_process(further_source, a.frames),
            "overload_with_model": lambda: real_overload(a.frames, a.seconds),
        }
    if a.held_out:
        parts["held_out"] = lambda: camera(a.held_out, 0, a.limit)
    for name, part in parts.items():
        if a.only and name not in a.only:
            continue
        figures[name] = part()
        print(name, figures[name], flush=True)
    if a.json:
        old = json.loads(a.json.read_text("utf-8")) if a.only and a.json.exists() else {}
        write_json(a.json, old | figures)


if __name__ == "__main__":
    main()
