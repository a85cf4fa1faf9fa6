"""RerunFile: read back by Rerun's own reader, also when the writer was killed."""

from __future__ import annotations

import socket
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow
import pytest
import rerun
from rerun.chunk import RrdReader

from esam_rt.entity_map import EntityMap
from esam_rt.errors import MissingDependencyError, OutputError, SettingsError
from esam_rt.lifting import Camera
from esam_rt.sinks import open_sink
from esam_rt.sinks.palette import entity_colors
from esam_rt.sinks.rerun_file import RerunFile
from esam_rt.sinks.sink_table import make_sinks
from esam_rt.sources.frame import Frame
from esam_rt.sources.ros_images import RosHeader
from tests.support.processes import GUARD_S

H, W = 40, 60
BEGIN_NS = 1_700_000_000_000_000_000


def scene(number: int, tracks: list[int] | None = None) -> EntityMap:
    labels = np.zeros((H, W), int)
    labels[5:20, number : number + 20] = 1
    labels[25:, 30:] = 2
    entities = EntityMap.from_labels(labels, np.array([0.75, 0.5]), np.zeros(2, int))
    return entities if tracks is None else replace(entities, track_id=np.array(tracks))


def frame(number: int, begin_ns: int = BEGIN_NS, topic: str = "") -> Frame:
    stamp_ns = begin_ns + number * 100_000_000
    header = RosHeader(*divmod(stamp_ns, 10**9), "camera", topic, stamp_ns) if topic else None
    return Frame(np.full((H, W, 3), (40, 90 + number, 140), np.uint8), f"{number:06}", stamp_ns, header=header)


def read(path: Path) -> dict[tuple[str, str], list[tuple[dict[str, int], Any]]]:
    """All values by entity path and component: (times in frames or nanoseconds, value), in the order of the file."""
    found: dict[tuple[str, str], list[tuple[dict[str, int], Any]]] = {}
    for chunk in RrdReader(path).stream():
        batch = chunk.to_record_batch()
        values = {name: batch.column(name) for name in batch.schema.names if name != "rerun.controls.RowId"}
        times = {name: values.pop(name).cast(pyarrow.int64()).to_pylist() for name in chunk.timeline_names}
        for name, column in values.items():
            for row, value in enumerate(column.to_pylist()):
                if value is not None:
                    at = {time: rows[row] for time, rows in times.items()}
                    found.setdefault((chunk.entity_path, name), []).append((at, value))
    return found


def label_map(value: Any) -> np.ndarray:
    return np.frombuffer(bytes(value[0]), np.uint16).reshape(H, W)


def test_a_recording_has_images_entities_and_boxes_on_two_timelines(tmp_path: Path) -> None:
    with RerunFile(tmp_path) as sink:
        for number in range(4):
            sink.write(frame(number), scene(number))
    found = read(tmp_path / "entities.rrd")
    images = found["/camera/image", "EncodedImage:blob"]
    assert [times["frame"] for times, _ in images] == [0, 1, 2, 3]
    assert [times["time"] for times, _ in images] == [frame(number).stamp_ns for number in range(4)]
    for number, (_, value) in enumerate(images):
        picture = cv2.imdecode(np.frombuffer(bytes(value[0]), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.abs(picture.astype(int) - frame(number).image_hwc_rgb).max() <= 4
    for number, (_, value) in enumerate(found["/camera/entities", "SegmentationImage:buffer"]):
        assert np.array_equal(label_map(value), scene(number).labels)
    boxes = zip(
        found["/camera/boxes", "Boxes2D:centers"],
        found["/camera/boxes", "Boxes2D:half_sizes"],
        found["/camera/boxes", "Boxes2D:labels"],
        found["/camera/boxes", "score"],
        strict=True,
    )
    for number, ((_, center), (_, half), (_, labels), (_, score)) in enumerate(boxes):
        corners = np.concatenate([np.subtract(center, half), np.add(center, half)], axis=1)
        assert np.array_equal(corners, scene(number).box_xyxy)
        assert labels == ["1 0.75", "2 0.50"] and score == [0.75, 0.5]


def colors_of(context: Any) -> dict[int, tuple[str, int]]:
    return {one["class_id"]: (one["class_description"]["info"]["label"], one["class_description"]["info"]["color"])
            for one in context}  # fmt: skip


def test_an_identity_keeps_its_class_and_color(tmp_path: Path) -> None:
    """Names and colors are logged only in frames with new identities."""
    tracks = [[7, 65_536 + 3], [65_536 + 3, 7], [7], [7, 9]]
    with RerunFile(tmp_path) as sink:
        for number, ids in enumerate(tracks):
            entities = scene(number)
            if len(ids) == 1:
                entities = EntityMap.from_labels(np.where(entities.labels == 1, 1, 0), np.ones(1), np.zeros(1, int))
            sink.write(frame(number), replace(entities, track_id=np.array(ids)))
    found = read(tmp_path / "entities.rrd")
    maps = [label_map(value) for _, value in found["/camera/entities", "SegmentationImage:buffer"]]
    assert [set(np.unique(labels)) for labels in maps] == [{0, 8, 5}, {0, 8, 5}, {0, 8}, {0, 8, 10}]
    assert [value for _, value in found["/camera/boxes", "track_id"]] == tracks
    contexts = found["/camera", "AnnotationContext:context"]
    assert [times["frame"] for times, _ in contexts] == [0, 3]
    first, last = (colors_of(value[0] if isinstance(value[0], list) else value) for _, value in contexts)
    assert first[8] == last[8] and first[8][0] == "7" and first[5][0] == "65539"
    red, green, blue = entity_colors(scene(0, tracks[0]))[1].tolist()
    assert first[8][1] == red << 24 | green << 16 | blue << 8 | 255
    assert first[0][1] == 0  # transparent


def test_topics_videos_and_cameras(tmp_path: Path) -> None:
    camera = Camera(W, H, 50.0, 51.0, 30.0, 20.0)
    with RerunFile(tmp_path, camera=camera) as sink:
        sink.write(frame(0, 0, "/front/image_raw"), scene(0))
        sink.write(frame(1, 0, "/left/image_raw/compressed"), scene(0))
    found = read(tmp_path / "entities.rrd")
    assert {path for path, _ in found if path.endswith("image")} == {"/front/image", "/left/image"}
    ((times, _),) = found["/left/image", "EncodedImage:blob"]
    assert times["time"] == 100_000_000  # from the beginning of the video, not of the epoch
    ((_, matrix),) = found["/front", "Pinhole:image_from_camera"]
    assert np.array_equal(np.reshape(matrix, (3, 3)).T, [[50, 0, 30], [0, 51, 20], [0, 0, 1]])


def test_empty_maps_and_frames_without_times(tmp_path: Path) -> None:
    nothing = EntityMap.from_labels(np.zeros((H, W), int), np.zeros(0), np.zeros(0, int))
    with RerunFile(tmp_path) as sink:
        for _ in range(2):
            sink.write(Frame(np.zeros((H, W, 3), np.uint8), "x"), nothing)
    found = read(tmp_path / "entities.rrd")
    values = found["/camera/entities", "SegmentationImage:buffer"]
    assert [label_map(value).max() for _, value in values] == [0, 0]
    assert "time" not in values[0][0]


def test_a_killed_writer_leaves_its_frames(tmp_path: Path) -> None:
    code = f"""
import os, signal
from tests.sinks.test_rerun_file import RerunFile, frame, scene
sink = RerunFile({str(tmp_path)!r}).__enter__()
for number in range(9):
    sink.write(frame(number), scene(number))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "RRD file has no footer", rerun.error_utils.RerunWarning)
        found = read(tmp_path / "entities.rrd")
    assert len(found["/camera/boxes", "score"]) == 9


FULL = """
import resource, sys
from esam_rt.errors import OutputError
from tests.sinks.test_rerun_file import Path, RerunFile, frame, scene
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
def write(path, limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    sink, at = RerunFile(path).__enter__(), 0
    try:
        for at in range(3):
            sink.write(frame(at), scene(at))
        at = 3
        sink.close({})
        at = 4
    except OutputError as e:
        assert str(e).startswith(f"{path}/entities.rrd cannot be written: "), e
        if at < 3:
            try:
                sink.close({})
            except OutputError:
                pass
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    return at
out = Path(sys.argv[1])
assert write(out / "whole", hard) == 4
size = (out / "whole" / "entities.rrd").stat().st_size
print(*(write(out / str(i), limit) for i, limit in enumerate((0, 2000, size * 3 // 8, size - 4000, size + 4000))))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of the size of files")
def test_a_full_disk_is_an_error_and_leaves_whole_frames(tmp_path: Path) -> None:
    """Rerun's own writer logs it, or waits for ever. The disk is full at the first frame, a later one, and the end."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=GUARD_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["0", "0", "1", "3", "4"]
    assert not any((tmp_path / str(i) / "entities.rrd").exists() for i in (0, 1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "RRD file has no footer", rerun.error_utils.RerunWarning)
        frames = [len(read(tmp_path / str(i) / "entities.rrd")["/camera/boxes", "score"]) for i in (2, 3, 4)]
    assert frames == [1, 3, 3]


def test_a_viewer_gets_the_frames(tmp_path: Path) -> None:
    """A flush of Rerun returns when the server of a viewer has the frames, and fails without a server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    viewer = rerun.RecordingStream("viewer")
    address = viewer.serve_grpc(grpc_port=port)
    (sink,) = make_sinks([address])
    assert sink.outputs == ()
    with open_sink(address) as group:
        for number in range(3):
            group.write(frame(number), scene(number))
    viewer.disconnect()
    assert list(tmp_path.iterdir()) == []


def test_a_topic_without_a_namespace_does_not_share_that_of_another(tmp_path: Path) -> None:
    with RerunFile(tmp_path) as sink:
        for number, topic in enumerate(["/image_raw", "/camera/image_raw"]):
            sink.write(frame(number, 0, topic), scene(0))
    found = read(tmp_path / "entities.rrd")
    assert {path for path, kind in found if kind == "EncodedImage:blob"} == {"/camera/image", "/camera/image_raw/image"}


def test_errors_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "entities.rrd").mkdir()
    with (
        pytest.raises(OutputError, match=r"entities\.rrd cannot be written: a folder stands"),
        RerunFile(tmp_path) as s,
    ):
        s.write(frame(0), scene(0))
    with pytest.raises(OutputError, match=r"is no address of a viewer .* Start one with the command rerun"):
        RerunFile(viewer="rerun+http://nonsense").__enter__().write(frame(0), scene(0))
    with pytest.raises(SettingsError, match="Unknown output"):
        make_sinks(["http://127.0.0.1"])
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'esam-rt\[rerun\]'"):
        RerunFile(tmp_path)


def test_a_recording_that_cannot_begin_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: rerun.RecordingStream, path: str) -> None:
        raise RuntimeError("Failed to create file")

    monkeypatch.setattr(rerun.RecordingStream, "save", refuse)
    with (
        pytest.raises(OutputError, match=r"entities\.rrd: does not take frames \(Failed to create file\)\. Write"),
        RerunFile(tmp_path) as s,
    ):
        s.write(frame(0), scene(0))
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_frames_makes_no_file(tmp_path: Path) -> None:
    with RerunFile(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
