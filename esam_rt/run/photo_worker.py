"""PhotoWorker: a segmenter in a process of a cluster. It is given one photo after the other."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esam_rt.errors import EsamError, InputError, SettingsError
from esam_rt.open_files import lack_of_open_files
from esam_rt.run.bucket_run_folder import run_folder
from esam_rt.run.frame_steps import read_frame, segment_frame, write_frame
from esam_rt.run.resume import RunFolder
from esam_rt.run.run_options import RunOptions, Segmenter
from esam_rt.sinks.sink import RunInfo, Sink, in_write_order
from esam_rt.sinks.sink_table import make_sinks
from esam_rt.sources.source import SourceItem
from esam_rt.storage.buckets import is_bucket, open_bucket
from esam_rt.storage.provenance import package_versions


@dataclass(frozen=True)
class WorkerFacts:
    """Facts of a worker whose segmenter is open.

    Attributes:
        host: Name of its machine.
        process_id: Number of its process.
        versions: Versions of the packages there.
        model: Facts of the model, see `Segmenter.model_info`.
    """

    host: str
    process_id: int
    versions: dict[str, str]
    model: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A run, as its workers need it.

    Attributes:
        options: Options of the run. All paths are absolute.
        make_segmenter: Opens the segmenter.
    """

    options: RunOptions
    make_segmenter: Callable[[RunOptions], Segmenter]


class PhotoWorker:
    """Segments photos and writes their files. It returns errors of the user: an exception ends the whole run.

    Args:
        job: The run.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._segmenter: Segmenter
        self._folder: RunFolder
        self._sinks: list[Sink] = []
        self._stem = ""  # of the photo that is written
        self._started = ""  # start of the run whose folder was found

    def open(self) -> WorkerFacts | EsamError:
        """Open the segmenter.

        Returns:
            The facts of the worker, or the reason why it cannot work.
        """
        options, host = self._job.options, socket.gethostname()
        try:
            for source in options.sources:
                if is_bucket(source):
                    open_bucket(str(source))  # its package may be missing here
                elif not Path(source).exists():
                    raise InputError(f"{source} is missing on {host}. Give a folder that all machines see.")
            self._folder = run_folder(options.out)
            self._segmenter = self._job.make_segmenter(options)
            self._sinks = in_write_order(make_sinks(options.write))
        except EsamError as e:
            return e
        info = RunInfo(self._folder.path, lambda name: self._stem, lambda: (), self._folder.is_staging)
        for sink in self._sinks:
            sink.open(info)
        return WorkerFacts(host, os.getpid(), package_versions(), self._segmenter.model_info())

    def segment(self, item: SourceItem, stem: str, started: str) -> str | EsamError:
        """Segment a photo and write its files.

        Args:
            item: The photo.
            stem: Path of its files, without suffix.
            started: Start of the run, as run.json has it.

        Returns:
            The photo's line of the journal, or the reason why there is none.
        """
        try:
            self._find_folder(started)
            self._folder.check_stem(stem)
            made = segment_frame(item, read_frame(item), self._segmenter, self._job.options.deadline_s)
            self._stem = stem
            with self._folder.staging():
                line = write_frame(item, made, self._sinks, stem)
                self._find_folder(started)  # another run may have taken it
                self._folder.publish()
            return line
        except EsamError as e:
            return lack_of_open_files(e) or e  # its cause does not travel

    def _find_folder(self, started: str) -> None:
        """SettingsError if the output folder of this machine is not the one of the run."""
        if started == self._started and not self._folder.is_staging:
            return
        record = self._folder.earlier() or {}
        if record.get("started") != started:
            raise SettingsError(
                f"--out {self._job.options.out}: {socket.gethostname()} does not see the folder of this run there. "
                "Give a folder that all machines see."
            )
        self._started = started
