"""A run: photos in, files out, one journal line a finished photo; what is interrupted can be resumed."""

from __future__ import annotations

import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from esam_rt._version import __version__
from esam_rt.entity_map import EntityMap
from esam_rt.errors import INTERRUPTED, DeviceError, EsamError, InputError, OutputError, SettingsError, did_you_mean
from esam_rt.run.output_folder import (
    ERRORS,
    FOLDERS,
    PHOTOS,
    PROFILE,
    RUN,
    earlier_run,
    make_folder,
    remove,
    remove_halves,
    remove_run,
)
from esam_rt.run.overlap import overlapped
from esam_rt.run.resume import Place, check_photos, check_same
from esam_rt.run.run_options import Listener, RunOptions, RunSummary, Segmenter, open_segmenter
from esam_rt.run.trace_writer import Profile
from esam_rt.sinks.coco_json import write_coco
from esam_rt.sinks.html_report import write_report, write_report_photo
from esam_rt.sinks.label_maps import write_labels
from esam_rt.sinks.output_names import output_stems
from esam_rt.sinks.overlays import write_overlay
from esam_rt.sinks.photo_record import PhotoRecord
from esam_rt.sinks.sink_table import WRITERS
from esam_rt.sources.decode import pixel_count, read_photo
from esam_rt.sources.frame import Frame
from esam_rt.sources.photo_files import PhotoFile, find_photos
from esam_rt.storage.atomic import write_json
from esam_rt.storage.jsonl import append_line, drop_torn_line, read_lines
from esam_rt.storage.locks import kept_from_others
from esam_rt.tracing import Trace

# Up to this size one photo is read and another written while a third is segmented; larger ones go alone, which
# bounds what is held (benchmarks/run_memory.py).
OVERLAPPED_PIXELS = 12_000_000
PACKAGES = (
    *("numpy", "numba", "scikit-image", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu"),
    *("tensorrt", "tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "cuda-python", "cuda-bindings"),
)


def run_photos(
    options: RunOptions, listener: Listener, make_segmenter: Callable[[RunOptions], Segmenter] = open_segmenter
) -> RunSummary:
    """Segment the photos of `options.sources` and write what `options.write` names into `options.out`.

    A photo that cannot be used is listed in errors.jsonl and the others go on. Whatever stops the run early (a full
    disk, a device out of memory, Ctrl-C) leaves whole files only, and a summary with its exit code.
    Errors: SettingsError, InputError, OutputError, ModelError … for all that keeps a run from beginning.
    """
    _check_options(options)
    photos = _find_photos(options)
    with kept_from_others(options.out):
        earlier = earlier_run(options.out)
        if earlier is not None and not options.resume and not options.overwrite:
            raise SettingsError(
                f"--out {options.out}: holds an earlier run; give --resume to go on with it, --overwrite to remove it, "
                "or another folder."
            )
        make_folder(options.out)
        with make_segmenter(options) as segmenter:
            return _Run(options, photos, listener, segmenter, earlier).go()


class _Run:
    """One run, after everything that could keep it from beginning was checked."""

    def __init__(
        self,
        options: RunOptions,
        photos: Sequence[PhotoFile],
        listener: Listener,
        segmenter: Segmenter,
        earlier: Mapping[str, Any] | None,
    ) -> None:
        self.options, self.out, self.listener, self.segmenter = options, options.out, listener, segmenter
        self.stems = output_stems([photo.name for photo in photos])
        self.photos = photos[: options.limit]
        self.paths = {photo.name: os.path.realpath(photo.path) for photo in photos}
        self.finished: dict[str, Place] = {}  # by name, of the run that is resumed
        self.failed = 0
        self._profile: Profile | None = None
        model = segmenter.model_info()
        backend, device = model.pop("backend"), model.pop("device")
        self.header: dict[str, Any] = {
            "program": "esam-rt",
            "model": model,
            "backend": backend,
            "device": device,
            "method": options.segmenter.method,
            "settings": options.segmenter.settings.to_dict(),
            "write": list(options.write),
            "sources": [str(source.resolve()) for source in options.sources],
            "versions": _versions(),
            "platform": platform.platform(),
            "started": _now(),
            "ended": None,
        }
        if earlier is not None and options.resume:
            check_same(self.out / RUN, earlier, self.header)
            self.finished = {record.name: Place(record.stem, record.path) for record in self._records()}
            check_photos(self.out / PHOTOS, self.finished, {n: Place(self.stems[n], p) for n, p in self.paths.items()})
            self.header["started"] = earlier["started"]
            drop_torn_line(self.out / PHOTOS)
            remove(self.out / ERRORS)  # photos that failed are tried again
            remove_halves(self.out)
        elif earlier is not None:
            remove_run(self.out)
        write_json(self.out / RUN, self.header)

    def go(self) -> RunSummary:
        """Photo after photo, then what spans all of them."""
        todo = [photo for photo in self.photos if photo.name not in self.finished]
        done_before = len(self.photos) - len(todo)
        self.listener.begun(len(self.photos), done_before)
        stop: BaseException | None = None
        try:
            with Profile(self.out / PROFILE) if self.options.profile else nullcontext() as self._profile:
                try:
                    overlapped(todo, self._read, self._segment, self._write, _is_large, self._begin, self._fail)
                except (EsamError, KeyboardInterrupt) as e:
                    stop = e
        except OutputError as e:  # of the profile
            stop = stop or e
        # Counted in the journal: Ctrl-C may come between a photo's line and any counter.
        finished = {record.name for record in self._records()}
        done = sum(photo.name in finished for photo in todo)
        return self._finish(done, done_before, len(todo) - done - self.failed, stop)

    def _begin(self, photo: PhotoFile) -> None:
        self.listener.photo_begun(photo.name)

    def _fail(self, photo: PhotoFile, error: InputError) -> None:
        """A line on why a photo cannot be used."""
        self.failed += 1
        failure = {"name": photo.name, "error": type(error).__name__, "message": str(error)}
        append_line(self.out / ERRORS, json.dumps(failure))
        self.listener.photo_failed(str(error))

    def _read(self, photo: PhotoFile) -> tuple[Frame, Trace]:
        trace = Trace()
        with _enough_memory(photo), trace.span("reading"):
            return read_photo(photo.path, photo.name, self.options.max_pixels), trace

    def _segment(self, photo: PhotoFile, read: tuple[Frame, Trace]) -> tuple[Frame, Trace, EntityMap]:
        frame, trace = read
        start = time.perf_counter()
        with _enough_memory(photo):
            result = self.segmenter(frame.image_hwc_rgb)
        return frame, trace, replace(result, times_s={**result.times_s, "total": time.perf_counter() - start})

    def _write(self, photo: PhotoFile, made: tuple[Frame, Trace, EntityMap]) -> None:
        """Its files, then its line of the journal."""
        frame, trace, result = made
        stem, write = self.stems[photo.name], self.options.write
        with _enough_memory(photo), trace.span("writing"):
            if "labels" in write:
                write_labels(self.out, stem, result)
            if "report" in write:
                write_report_photo(self.out, frame, result, stem)
            if "overlay" in write:  # last: it is drawn over the photo
                write_overlay(self.out, frame, result, stem, in_place=True)
            append_line(self.out / PHOTOS, PhotoRecord.of(photo.name, stem, result, self.paths[photo.name]).to_json())
        if self._profile is not None:
            self._profile.add([*trace.spans, *result.spans], photo.name)
        self.listener.photo_done()

    def _records(self) -> Iterator[PhotoRecord]:
        """The first of each photo: two runs that could not know of each other may both have done it."""
        seen: set[str] = set()
        for record in map(PhotoRecord.from_json, read_lines(self.out / PHOTOS)):
            if record.name not in seen:
                seen.add(record.name)
                yield record

    def _finish(self, done: int, done_before: int, left: int, stop: BaseException | None) -> RunSummary:
        """Compose what spans all photos from the journal."""
        means, entities = _totals(self._records())
        record = {**self.header, "ended": _now()}
        summary = RunSummary(
            out=self.out,
            look_at=self.out / "report" / "index.html" if "report" in self.options.write else self.out,
            done=done,
            done_before=done_before,
            failed=self.failed,
            left=left,
            entities=entities,
            mean_times_s=means,
            exit_code=_exit_code(stop, self.failed),
            error="interrupted" if isinstance(stop, KeyboardInterrupt) else str(stop or ""),
        )
        try:
            if "coco" in self.options.write:
                write_coco(self.out, self._records())
            if "report" in self.options.write:
                write_report(self.out, self._records(), record)
            write_json(self.out / RUN, {**record, "summary": summary.to_json()})
        except OutputError as e:
            if stop is None:  # else the first cause is the one to tell
                return replace(summary, exit_code=e.exit_code, error=str(e))
        return summary


def _is_large(photo: PhotoFile) -> bool:
    return pixel_count(photo.path) > OVERLAPPED_PIXELS


@contextmanager
def _enough_memory(photo: PhotoFile) -> Iterator[None]:
    """DeviceError where memory ends."""
    try:
        yield
    except MemoryError as e:
        raise DeviceError(f"{photo.path}: out of memory; use --max-megapixels to leave out photos so large.") from e


def _exit_code(stop: BaseException | None, failed: int) -> int:
    if isinstance(stop, EsamError):
        return stop.exit_code
    return INTERRUPTED if stop else int(failed > 0)


def _totals(records: Iterator[PhotoRecord]) -> tuple[dict[str, float], int]:
    """Mean seconds of each stage over the photos that went through it, and the number of entities."""
    times_s: dict[str, list[float]] = defaultdict(list)
    entities = 0
    for record in records:
        entities += len(record.entities)
        for stage, seconds in record.times_s.items():
            times_s[stage].append(seconds)
    return {stage: float(np.mean(values)) for stage, values in times_s.items()}, entities


def _check_options(options: RunOptions) -> None:
    for name in options.write:
        if name not in WRITERS:
            raise SettingsError(f"Unknown output {name!r} in --write.{did_you_mean(name, WRITERS)}")
    if not options.write:
        raise SettingsError(f"--write names nothing; expected some of {', '.join(WRITERS)}.")
    if options.resume and options.overwrite:
        raise SettingsError("--resume goes on with an earlier run and --overwrite removes it; give one of them.")


def _find_photos(options: RunOptions) -> list[PhotoFile]:
    """The photos, without results of earlier runs where --out lies in a source. SettingsError for a source in --out."""
    out = options.out.resolve()
    results = [out / folder for folder in FOLDERS]
    for source in options.sources:
        place = source.resolve()
        if place == out or any(place.is_relative_to(folder) for folder in results):
            raise SettingsError(f"--out {options.out}: the photos of {source} are there; choose another folder.")
    photos = find_photos(options.sources) if options.photos is None else options.photos
    # os.path's, which a link to itself does not stop: reading it says what is wrong.
    photos = [p for p in photos if not any(Path(os.path.realpath(p.path)).is_relative_to(f) for f in results)]
    if not photos:
        raise InputError(f"No photos but the results of an earlier run in {', '.join(map(str, options.sources))}.")
    return photos


def _versions() -> dict[str, str]:
    """Of Python, esam-rt and the packages that its numbers depend on, where they are installed."""
    versions = {"python": platform.python_version(), "esam-rt": __version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
