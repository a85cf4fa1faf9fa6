"""RerunFile: images, entities and boxes for the viewer of Rerun, in a file or live."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import MOST_LABELS, EntityMap
from esam_rt.errors import MissingDependencyError, OutputError
from esam_rt.lifting import Camera
from esam_rt.sinks.camera_places import CameraPlaces
from esam_rt.sinks.drawing import jpeg
from esam_rt.sinks.file_sink import FileSink
from esam_rt.sinks.palette import entity_colors
from esam_rt.sinks.piped_file import PipedFile
from esam_rt.sources.frame import Frame
from esam_rt.storage.atomic import make_folder, output_error

VIEWER_SCHEMES = ("rerun://", "rerun+http://", "rerun+https://")
_SINCE_EPOCH_NS = 10**17  # smaller times are counted from the beginning of a video
_OPACITY = 0.5
_QUALITY = 85


class RerunFile(FileSink):
    """Write ``entities.rrd``, or send the same to a viewer. It needs the extra ``rerun``.

    Each frame gives ``camera/image`` (JPEG), ``camera/entities`` (a segmentation image) and ``camera/boxes`` with
    ``score`` and, with identities, ``track_id``. The class of an entity is ``track_id % 65535 + 1``, and its color
    stays over frames. Without identities it is the label, i + 1 for entity i. Images of a bag stand at their camera:
    ``/front/image_raw`` leads to ``front/image``. The timelines are ``frame`` and ``time``.

    The file grows frame by frame. A killed run and a full disk leave whole frames.

    Args:
        folder: Folder for the file. Default: the folder of the run.
        viewer: Address of a viewer, such as ``rerun+http://127.0.0.1:9876/proxy``. No file is then written.
        camera: Camera of all frames. It is logged as a pinhole, without distortion.

    Raises:
        MissingDependencyError: rerun-sdk is not installed.

    Example:
        >>> with RerunFile("out") as sink:  # doctest: +SKIP
        ...     for frame in Video("drive.mp4"):
        ...         sink.write(frame, segmenter(frame.image_hwc_rgb))
    """

    needs_every_frame = True
    file_name = "entities.rrd"
    outputs: tuple[str, ...] = (file_name,)

    def __init__(
        self, folder: Path | str | None = None, *, viewer: str | None = None, camera: Camera | None = None
    ) -> None:
        super().__init__(folder if viewer is None else Path())
        _rerun()
        self._viewer, self._camera = viewer, camera
        if viewer is not None:
            self.outputs = ()
        self._recording: Any = None
        self._piped: PipedFile | None = None
        self._number = 0
        self._is_clock = False
        self._places = CameraPlaces("/camera")
        self._named: dict[str, set[int]] = {}  # classes that the viewer knows, by place

    def write(self, frame: Frame, entities: EntityMap) -> None:
        """Log a frame.

        Args:
            frame: The frame.
            entities: Its entities.

        Raises:
            OutputError: If the file cannot be made, or the viewer does not answer.
        """
        try:
            recording = self._recording or self._begin(frame)
            self._log(recording, frame, entities)
            recording.flush()  # a killed run must not lose whole frames
            if self._piped is not None:
                self._piped.sync()
        except OSError as e:
            raise output_error(self.file, e) from e
        except RuntimeError as e:
            remedy = "Start a viewer with the command rerun." if self._viewer else "Write to another folder."
            raise OutputError(f"{self._viewer or self.file}: does not take frames ({e}). {remedy}") from e
        self._number += 1

    def close(self, summary: Mapping[str, Any]) -> None:
        """End the recording.

        Args:
            summary: Not used.

        Raises:
            OutputError: If the end of the file cannot be written. Its frames stay.
        """
        if self._recording is None:
            return
        self._recording.disconnect()
        piped, self._recording, self._piped = self._piped, None, None
        if piped is not None:
            try:
                piped.close()
            except OSError as e:
                raise output_error(self.file, e) from e

    def _log(self, recording: Any, frame: Frame, entities: EntityMap) -> None:
        rr = _rerun()
        space = self._places.of(frame).strip("/")
        recording.set_time("frame", sequence=self._number)
        if frame.stamp_ns is not None:
            stamp = np.datetime64(frame.stamp_ns, "ns") if self._is_clock else np.timedelta64(frame.stamp_ns, "ns")
            recording.set_time("time", **{"timestamp" if self._is_clock else "duration": stamp})
        classes = entity_classes(entities)
        if space not in self._named and self._camera is not None:
            recording.log(space, _pinhole(self._camera), static=True)
        if not self._named.get(space, set()).issuperset(classes[1:].tolist()) or entities.track_id is None:
            recording.log(space, _names(classes, entities))
            self._named[space] = set(classes[1:].tolist())
        image = rr.EncodedImage(contents=jpeg(frame.image_hwc_rgb, _QUALITY), media_type="image/jpeg")
        recording.log(f"{space}/image", image)
        recording.log(f"{space}/entities", rr.SegmentationImage(classes[entities.labels], opacity=_OPACITY))
        values: dict[str, Any] = {"score": entities.score}
        if entities.track_id is not None:
            values["track_id"] = entities.track_id
        names = [f"{number} {score:.2f}" for number, score in zip(_numbers(entities), entities.score, strict=True)]
        boxes = rr.Boxes2D(
            array=entities.box_xyxy, array_format=rr.Box2DFormat.XYXY, class_ids=classes[1:], labels=names
        )
        recording.log(f"{space}/boxes", boxes, rr.AnyValues(**values))

    def _begin(self, frame: Frame) -> Any:
        rr = _rerun()
        recording = rr.RecordingStream("esam-rt")
        if self._viewer is None:
            make_folder(self.folder)
            self._save(recording)
        else:
            try:
                recording.connect_grpc(self._viewer)
            except (OSError, RuntimeError, ValueError) as e:
                raise OutputError(
                    f"{self._viewer}: is no address of a viewer ({e}). Start one with the command rerun."
                ) from e
        self._is_clock = frame.stamp_ns is not None and frame.stamp_ns >= _SINCE_EPOCH_NS
        self._recording = recording
        return recording

    def _save(self, recording: Any) -> None:
        """Let Rerun write to the file. On a full disk, its own writer only logs, or waits for ever (0.30, 0.41)."""
        if not Path("/dev/fd").exists():  # Windows
            recording.save(self.file)
            return
        try:
            self._piped = PipedFile(self.file)
        except OSError as e:
            raise output_error(self.file, e) from e
        try:
            recording.save(self._piped.address)
        except BaseException:
            piped, self._piped = self._piped, None
            piped.is_opened()
            piped.close()
            self.file.unlink()
            raise
        self._piped.is_opened()


def entity_classes(entities: EntityMap) -> NDArray[np.uint16]:
    """Return the class of each label, uint16 [N + 1]: 0 for no entity, then the identity or the label.

    Args:
        entities: Entities of one frame.
    """
    ids = np.arange(len(entities)) if entities.track_id is None else entities.track_id
    return np.concatenate([[0], ids % MOST_LABELS + 1]).astype(np.uint16)


def _numbers(entities: EntityMap) -> list[int]:
    numbers = np.arange(1, len(entities) + 1) if entities.track_id is None else entities.track_id
    return [int(number) for number in numbers]


def _names(classes: NDArray[np.uint16], entities: EntityMap) -> Any:
    """Return names and colors of the classes. Pixels without an entity are transparent."""
    rr = _rerun()
    names = ["none", *map(str, _numbers(entities))]
    colors = np.insert(entity_colors(entities), 3, 255, axis=1)
    colors[0] = 0
    known = zip(classes.tolist(), names, colors.tolist(), strict=True)
    return rr.AnnotationContext([rr.AnnotationInfo(one, name, color) for one, name, color in known])


def _pinhole(camera: Camera) -> Any:
    matrix = [[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]]
    return _rerun().Pinhole(image_from_camera=matrix, resolution=[camera.width, camera.height])


def _rerun() -> Any:
    try:
        import rerun
    except ImportError as e:
        raise MissingDependencyError("RerunFile needs rerun-sdk: pip install 'esam-rt[rerun]'") from e
    return rerun
