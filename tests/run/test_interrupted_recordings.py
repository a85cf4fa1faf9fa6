"""Ctrl-C and SIGKILL in the middle of a run: the recording and the video are read by their own tools."""

from __future__ import annotations

import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import rerun
import rosbags.rosbag2
from mcap.exceptions import McapError
from mcap.reader import NonSeekingReader, make_reader
from rerun.chunk import RrdReader
from rosbags.highlevel import AnyReader

from esam_rt.sources.bags import Bag
from tests.sources.test_bags import FRONT, ROS2, SMALL
from tests.support.processes import GUARD_S

FRAMES, LAST = 100, 60
H, W = 120, 160  # the ids of 27 frames fill a chunk
IDS, OVERLAY = "/front/esam/entities", "/front/esam/overlay/compressed"
CODE = """
import os, signal, sys
from pathlib import Path
from esam_rt.run.run_options import RunOptions
from esam_rt.run.stream_run import StreamOptions, run_stream
from tests.support.fake_segmenter import FakeSegmenter

def interrupt(number):
    if number == {last}:
        os.kill(os.getpid(), signal.{signal})

options = RunOptions([Path(sys.argv[1])], Path(sys.argv[2]), write=("mcap", "video", "rerun"), topics=({topic!r},),
                     copy_topics=("all",))
summary = run_stream(options, StreamOptions(track=True), make_segmenter=FakeSegmenter(interrupt).open)
sys.exit(summary.exit_code)
"""


def write_bag(path: Path) -> Path:
    t = ROS2.types
    with rosbags.rosbag2.Writer(path, version=9, storage_plugin=rosbags.rosbag2.StoragePlugin.MCAP) as bag:
        camera = bag.add_connection(FRONT, "sensor_msgs/msg/Image", typestore=ROS2)
        other = bag.add_connection(SMALL, "std_msgs/msg/String", typestore=ROS2)
        for number in range(FRAMES):
            time_ns = 1_700_000_000_000_000_000 + number * 50_000_000
            header = t["std_msgs/msg/Header"](t["builtin_interfaces/msg/Time"](*divmod(time_ns, 10**9)), "camera")
            pixels = np.full(H * W * 3, number, np.uint8)
            image = t["sensor_msgs/msg/Image"](header, H, W, "bgr8", 0, 3 * W, pixels)
            bag.write(camera, time_ns, ROS2.serialize_cdr(image, "sensor_msgs/msg/Image"))
            text = t["std_msgs/msg/String"](str(number))
            bag.write(other, time_ns + 1, ROS2.serialize_cdr(text, "std_msgs/msg/String"))
    return path


def interrupted(tmp_path: Path, signal: str) -> tuple[int, Path]:
    bag = write_bag(tmp_path / "drive")
    code = CODE.format(last=LAST, signal=signal, topic=FRONT)
    command = [sys.executable, "-c", code, str(bag), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD_S, check=False)
    return done.returncode, tmp_path / "out"


def pictures(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def recorded(path: Path) -> int:
    """Frames of a recording. A warning, which is an error here, says that its end is missing."""
    chunks = RrdReader(path).stream()
    return sum(chunk.to_record_batch().num_rows for chunk in chunks if chunk.entity_path.endswith("/boxes"))


def test_ctrl_c_leaves_whole_files(tmp_path: Path) -> None:
    code, out = interrupted(tmp_path, "SIGINT")
    assert code == 130
    with (out / "entities.mcap").open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None and summary.statistics is not None  # the index is there
    counts = {summary.channels[n].topic: count for n, count in summary.statistics.channel_message_counts.items()}
    assert LAST - 1 <= counts[IDS] <= LAST + 1
    assert counts[IDS] == counts[OVERLAY] == pictures(out / "overlay.mp4") == recorded(out / "entities.rrd")
    assert counts[IDS] - 1 <= counts[SMALL] <= counts[IDS]
    with AnyReader([out / "entities.mcap"], default_typestore=ROS2) as reader:
        assert sum(1 for c, _, _ in reader.messages() if c.topic == IDS) == counts[IDS]


def test_sigkill_leaves_all_but_the_last_chunk(tmp_path: Path) -> None:
    code, out = interrupted(tmp_path, "SIGKILL")
    assert code == -9
    found = 0
    with (out / "entities.mcap").open("rb") as file, suppress(McapError):  # at the end that is missing
        for _, channel, _ in NonSeekingReader(file).iter_messages(log_time_order=False):
            found += channel.topic == IDS
    assert found == len(list(Bag(out / "entities.mcap", [IDS], (0, 1)))) > LAST / 2
    assert LAST / 2 < pictures(out / "overlay.mp4") <= LAST
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "RRD file has no footer", rerun.error_utils.RerunWarning)
        assert LAST - 3 <= recorded(out / "entities.rrd") <= LAST
