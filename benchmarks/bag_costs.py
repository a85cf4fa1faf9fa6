"""What do reading a ROS bag and writing the results cost beside segmentation?

    python -m benchmarks.bag_costs --json benchmarks/results/bag_costs.json

It makes bags of 640 x 480 pixels, raw (bgr8) and as JPEG, from the photos of a folder or from one that scikit-image
ships. Entities are superpixels with identities, made beforehand. Figures are CPU milliseconds of a frame, the median of
several rounds, taken turn by turn in one process. Opening a bag counts, so that short bags cost more a frame.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray
from skimage.segmentation import slic

from benchmarks.lib.command_line import note, parser_of
from esam_rt import EntityMap, __version__
from esam_rt.sinks import McapFile, ros_messages
from esam_rt.sinks.file_sink import FileSink
from esam_rt.sinks.overlay_video import OverlayVideo
from esam_rt.sources import Bag, Frame, PhotoFolder
from esam_rt.storage.atomic import write_json

H, W = 480, 640
GOAL_MS = 8.0


def pictures(folder: Path | None, count: int) -> list[NDArray[np.uint8]]:
    """Return RGB pictures of one size."""
    if folder is None:
        photo = np.ascontiguousarray(cv2.resize(skimage.data.astronaut(), (W, H)))
        return [np.roll(photo, 4 * number, axis=1) for number in range(count)]
    frames = [frame.image_hwc_rgb for frame, _ in zip(PhotoFolder(folder), range(count), strict=False)]
    return [np.ascontiguousarray(cv2.resize(image, (W, H))) for image in frames]


def entities_of(image: NDArray[np.uint8], count: int) -> EntityMap:
    """Return superpixels with identities."""
    labels = slic(image, count, compactness=20, start_label=1)
    found = EntityMap.from_labels(labels, np.linspace(0.9, 0.5, labels.max()), np.zeros(labels.max(), int))
    return replace(found, track_id=np.arange(1, len(found) + 1))


def write_bag(path: Path, images: Sequence[NDArray[np.uint8]], as_jpeg: bool) -> Path:
    """Write a bag with the topics ``/front/image`` and ``/imu``."""
    import rosbags.rosbag2

    types = ros_messages.types()
    kind = ros_messages.COMPRESSED if as_jpeg else ros_messages.IMAGE
    with rosbags.rosbag2.Writer(path, version=9, storage_plugin=rosbags.rosbag2.StoragePlugin.MCAP) as bag:
        camera = bag.add_connection("/front/image", kind, typestore=types)
        other = bag.add_connection("/imu", "std_msgs/msg/Header", typestore=types)
        for number, image in enumerate(images):
            header = ros_messages.header(10**18 + number * 10**8, "camera")
            bgr = np.ascontiguousarray(image[..., ::-1])
            if as_jpeg:
                message = ros_messages.compressed_image(header, cv2.imencode(".jpg", bgr)[1].tobytes(), "jpeg")
            else:
                message = types.types[kind](header, H, W, "bgr8", 0, 3 * W, bgr.ravel())
            bag.write(camera, 10**18 + number * 10**8, ros_messages.serialized(message))
            for part in range(10):
                bag.write(other, 10**18 + number * 10**8 + part, ros_messages.serialized(header))
    (single,) = path.glob("*.mcap")
    return single


def main() -> None:
    """Measure, print and write the figures."""
    parser = parser_of(__doc__)
    parser.add_argument("--photos", type=Path, help="folder of photos; default: one of scikit-image")
    parser.add_argument("--frames", type=int, default=100, help="frames of a bag (default: 100)")
    parser.add_argument("--entities", type=int, default=40, help="entities of a frame (default: 40)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    options = parser.parse_args()
    images = pictures(options.photos, options.frames)
    few = [entities_of(image, options.entities) for image in images[:10]]
    maps = [few[number % len(few)] for number in range(len(images))]
    with tempfile.TemporaryDirectory() as name:
        figures = measured(Path(name), images, maps, options.rounds)
    raw, jpeg = figures["read raw"], figures["read JPEG"]
    mcap = figures["write ids, detections and overlay"]
    report = {
        "frames": len(images),
        "entities_mean": round(statistics.mean(map(len, maps)), 1),
        "cpu_ms_a_frame": figures,
        "raw_in_mcap_out_ms": round(raw + mcap, 2),
        "jpeg_in_mcap_out_ms": round(jpeg + mcap, 2),
        "goal_ms": GOAL_MS,
        "version": __version__,
        "platform": platform.platform(),
    }
    for part, value in figures.items():
        print(f"{part:40} {value:6.2f} ms")
    print(f"raw in, MCAP out: {raw + mcap:.2f} ms, JPEG in: {jpeg + mcap:.2f} ms, goal {GOAL_MS} ms")
    if options.json:
        write_json(options.json, report)


def measured(
    folder: Path, images: Sequence[NDArray[np.uint8]], maps: Sequence[EntityMap], rounds: int
) -> dict[str, float]:
    """Return CPU milliseconds of a frame, by part."""
    raw, jpeg = (write_bag(folder / kind, images, kind == "jpeg") for kind in ("raw", "jpeg"))
    frames = [Frame(f.image_hwc_rgb, f.name, f.stamp_ns, f.frame_id, f.header, f.path) for f in Bag(raw)]

    def read(bag: Path) -> Callable[[], Any]:
        return lambda: [frame.name for frame in Bag(bag)]

    def write(make: Callable[[], FileSink]) -> Callable[[], None]:
        def run() -> None:
            with make() as sink:
                for frame, entities in zip(frames, maps, strict=True):
                    sink.write(frame, entities)

        return run

    parts: dict[str, Callable[[], Any]] = {
        "read raw": read(raw),
        "read JPEG": read(jpeg),
        "write ids and detections": write(lambda: McapFile(folder, overlay=False)),
        "write ids as PNG and detections": write(lambda: McapFile(folder, overlay=False, png=True)),
        "write ids, detections and overlay": write(lambda: McapFile(folder)),
        "the same, and copy topics": write(lambda: McapFile(folder, copy_topics=["all"])),
        "write an overlay video": write(lambda: OverlayVideo(folder)),
    }
    spent: dict[str, list[float]] = {part: [] for part in parts}
    for number in range(rounds + 1):
        note(f"round {number} of {rounds}")
        for part, call in parts.items():
            begin = time.process_time()
            call()
            if number:  # the first one imports and warms up
                spent[part].append((time.process_time() - begin) / len(images) * 1000)
    return {part: round(statistics.median(values), 2) for part, values in spent.items()}


if __name__ == "__main__":
    main()
