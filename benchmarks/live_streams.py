"""How well do identities stay on a stream, what do they cost, and how old are results under load?

    python -m benchmarks.live_streams --frames FOLDER --json benchmarks/results/live_streams.json

FOLDER holds frames of one camera in order. Figures of CPU are ratios of CPU seconds, taken turn by turn in one process:
each frame is segmented with the small grid and identities, and some frames also with the small grid alone and with the
whole grid of the preset `fast`. The other parts need no network: a scene of moving shapes with known identities, a
camera that is faster than a stand-in segmenter, and 10,000 small frames.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.measure import in_fresh_process, status_mb
from benchmarks.lib.moving_shapes import idf1, moving_shapes, switches
from esam_rt import EntityMap, EntitySegmenter, Settings, __version__
from esam_rt.evaluation.paper_tables.table_rows import WHOLE_GRID
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.run import Stream
from esam_rt.sources import Frame, Paced, PhotoFolder
from esam_rt.storage.atomic import write_json
from esam_rt.tracking import EntityTracker

SMALL_GRID = {"prompts.coarse_side": 4, "prompts.fine_side": 8}
SEEDS = range(12)
SERVICE_S = 0.3
RATES_HZ = (2, 10, 20, 30)


def synthetic() -> dict[str, Any]:
    """Identities on the scene of moving shapes, over several seeds."""
    scores, clear, every = [], 0, 0
    for seed in SEEDS:
        scene = list(moving_shapes(120, seed))
        tracker = EntityTracker()
        found = [ids_of(tracker.update(frame.entities, frame.image_hwc_rgb)) for frame in scene]
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


def kept(before: NDArray[np.int64], after: NDArray[np.int64]) -> tuple[float, float]:
    """Return the share of pixels that keep their identity: of all pixels, and of those with an entity in both."""
    same, both = before == after, (before > 0) & (after > 0)
    return float(same.mean()), float((same & both).sum() / max(both.sum(), 1))


def covering(truth: EntityMap, found: EntityMap) -> float:
    """Return the mean of the best IoU of each true entity, weighted by area (BSDS500)."""
    n, m = len(truth) + 1, len(found) + 1
    pairs = np.bincount((truth.labels.astype(np.int64) * m + found.labels).ravel(), minlength=n * m).reshape(n, m)
    union = pairs.sum(1)[:, None] + pairs.sum(0) - pairs
    best = (pairs / np.maximum(union, 1))[1:, 1:].max(axis=1, initial=0)
    return float((best * truth.area).sum() / truth.area.sum())


def camera(folder: Path, every: int, limit: int | None) -> dict[str, Any]:
    """Identities, CPU time and agreement with `fast`, on real frames."""
    fast = Settings.preset("fast").with_overrides(WHOLE_GRID)
    execution = ExecutionConfig(threads=1)
    small = EntitySegmenter("tiny", settings=fast.with_overrides(SMALL_GRID), execution=execution)
    whole = EntitySegmenter(small.sam, settings=fast)
    plain_tracker, tracker = EntityTracker(), EntityTracker()
    cpu_s: dict[str, list[float]] = {"tracked": [], "small": [], "fast": []}
    shares, plain_shares, agreement, repeated = [], [], [], []
    new, seen, plain_seen = 0, 0, 0
    last = last_plain = last_whole = None
    frames = 0

    def timed(name: str, call: Any) -> Any:
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
        tracked = timed("tracked", lambda: tracker.update(small(image, features=True), image))  # noqa: B023
        plain = plain_tracker.update(replace(tracked, features=None, track_id=None))
        pixels = np.concatenate([[0], ids_of(tracked)])[tracked.labels]
        plain_pixels = np.concatenate([[0], ids_of(plain)])[plain.labels]
        if last is not None and last_plain is not None:
            shares.append(kept(last, pixels))
            plain_shares.append(kept(last_plain, plain_pixels))
        else:
            new, plain_new = -int(pixels.max()), -int(plain_pixels.max())
        last, last_plain = pixels, plain_pixels
        seen, plain_seen = max(seen, int(pixels.max())), max(plain_seen, int(plain_pixels.max()))
        if number % every in (0, 1) and number + 1 - number % every < (limit or 1 << 30):
            timed("small", lambda: small(image))  # noqa: B023
            result = timed("fast", lambda: whole(image))  # noqa: B023
            if number % every == 1 and last_whole is not None:
                agreement.append(covering(result, tracked))
                repeated.append(covering(result, last_whole))
            last_whole = result
        if number % 10 == 0:
            note(f"frame {number}")
    mean_s = {name: float(np.mean(times)) for name, times in cpu_s.items()}
    keep, plain_keep = np.mean(shares, axis=0), np.mean(plain_shares, axis=0)
    return {
        "frames": frames,
        "cpu_tracked_over_fast": round(mean_s["tracked"] / mean_s["fast"], 3),
        "cpu_tracked_over_small_grid": round(mean_s["tracked"] / mean_s["small"], 3),
        "pixels_that_keep_their_id": round(float(keep[1]), 4),
        "the_same_of_all_pixels": round(float(keep[0]), 4),
        "new_ids_a_frame": round((new + seen) / (frames - 1), 3),
        "without_features": {
            "pixels_that_keep_their_id": round(float(plain_keep[1]), 4),
            "the_same_of_all_pixels": round(float(plain_keep[0]), 4),
            "new_ids_a_frame": round((plain_new + plain_seen) / (frames - 1), 3),
        },
        "covering_of_fast": round(float(np.mean(agreement)), 3),
        "covering_of_fast_by_the_frame_before": round(float(np.mean(repeated)), 3),
    }


def stand_in(image: NDArray[np.uint8]) -> EntityMap:
    """Find two halves."""
    labels = np.ones(image.shape[:2], np.uint16)
    labels[:, image.shape[1] // 2 :] = 2
    return EntityMap.from_labels(labels, np.array([0.9, 0.8]), np.zeros(2, np.uint8), in_place=True)


def overload(seconds: float) -> list[dict[str, Any]]:
    """Age of results with the policy `latest`, by the wall clock."""

    def slow(image: NDArray[np.uint8]) -> EntityMap:
        time.sleep(SERVICE_S)
        return stand_in(image)

    rows = []
    image = np.zeros((120, 160, 3), np.uint8)
    for rate_hz in RATES_HZ:
        frames = (Frame(image, str(i)) for i in range(round(rate_hz * seconds)))
        with Stream(slow, Paced(frames, rate_hz), policy="latest") as stream:
            for _ in stream:
                pass
        figures = stream.statistics()["0"]
        rows.append(
            {
                "frames_a_second": rate_hz,
                "received": figures.received,
                "done": figures.done,
                "dropped": sum(figures.dropped.values()),
                "age_p50_s": round(figures.age_p50_s, 3),
                "age_p95_s": round(figures.age_p95_s, 3),
                "service_and_period_s": round(SERVICE_S + 1 / rate_hz, 3),
            }
        )
    return rows


def memory(frames: int) -> dict[str, float]:
    """Growth of the resident set over many small frames, with identities."""

    def images() -> Iterator[NDArray[np.uint8]]:
        rng = np.random.default_rng(0)
        for _ in range(frames):
            yield rng.integers(0, 256, (120, 160, 3), np.uint8)

    with Stream(stand_in, images(), track=True) as stream:
        for number, _ in enumerate(stream, 1):
            if number == 500:
                begin_mb = status_mb("VmRSS")
    return {"frames": frames, "growth_from_frame_500_mb": round(status_mb("VmRSS") - begin_mb, 1)}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--frames", type=Path, help="folder of frames of one camera, for the parts with a network")
    parser.add_argument("--limit", type=int, help="use only the first frames, this many")
    parser.add_argument("--every", type=int, default=10, help="two frames of so many are segmented with `fast` too")
    parser.add_argument("--seconds", type=float, default=20, help="duration of each rate of the camera")
    a = parser.parse_args()
    figures: dict[str, Any] = {"esam_rt": __version__, "platform": platform.platform()}
    parts: dict[str, Callable[[], Any]] = {
        "synthetic": synthetic,
        "overload": lambda: overload(a.seconds),
        "memory": lambda: in_fresh_process(memory, 10_000),
    }
    if a.frames:
        parts = {"camera": lambda: camera(a.frames, a.every, a.limit), **parts}
    for name, part in parts.items():
        figures[name] = part()
        print(name, figures[name], flush=True)
    if a.json:
        write_json(a.json, figures)


if __name__ == "__main__":
    main()
