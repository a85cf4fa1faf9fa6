"""A run of photos on many processes or machines, with Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from esam_rt.errors import InputError, SettingsError
from esam_rt.run.bucket_run_folder import run_folder
from esam_rt.run.folder_run import Run
from esam_rt.run.photo_worker import Job, PhotoWorker
from esam_rt.run.ray_cluster import RayOptions, Slot, connected, worker_count
from esam_rt.run.ray_pool import RayPool
from esam_rt.run.run_options import Listener, NoListener, RunOptions, RunSummary, Segmenter, open_segmenter
from esam_rt.run.run_plan import Plan
from esam_rt.run.run_source import record_of, sinks_of, source_of
from esam_rt.sinks.sink import Sink
from esam_rt.sinks.sink_table import SINKS
from esam_rt.sources.photo_bucket import PhotoBucket
from esam_rt.sources.photo_files import PhotoFolder
from esam_rt.sources.source import SourceItem
from esam_rt.storage.buckets import is_bucket


def segment_with_ray(
    options: RunOptions,
    ray_options: RayOptions | None = None,
    listener: Listener | None = None,
    make_segmenter: Callable[[RunOptions], Segmenter] = open_segmenter,
) -> RunSummary:
    """Segment the photos of ``options.sources`` with workers of Ray. The results are those of `run_photos`.

    Each worker holds a segmenter, takes one photo after the other, and writes its files. This process writes the
    journal and the files that span all photos. A worker that dies is replaced. A photo whose worker dies three times is
    listed in ``errors.jsonl``. All machines must see the photos and the output folder under the same paths, or have
    access to their buckets. They must have the same versions of esam-rt and its packages.

    Args:
        options: Options of the run. ``execution.threads`` is the number of CPUs of a worker. Default: 1.
        ray_options: Address and size of the cluster. Default: Ray is started on this machine.
        listener: Follows the progress. Default: nobody does.
        make_segmenter: Opens the segmenter, in each worker. It must be found by its name there.

    Returns:
        The summary.

    Raises:
        SettingsError: If an option is wrong, or the output folder holds other files.
        InputError: If there are no photos.
        OutputError: If the output folder cannot be made.
        MissingDependencyError: If Ray is not installed.
        DeviceError: If Ray cannot be reached, or has no room for a worker.
        EsamError: If the first worker cannot open the segmenter.

    Example:
        >>> options = RunOptions([Path("photos")], Path("out"), write=["labels", "coco"])  # doctest: +SKIP
        >>> summary = segment_with_ray(options, RayOptions("auto"))  # doctest: +SKIP
    """
    ray_options = ray_options or RayOptions()
    sinks = sinks_of(options)
    _check(options, sinks)
    folder = run_folder(options.out)
    source = source_of(options, folder.owned)
    if not isinstance(source, PhotoFolder | PhotoBucket):
        raise SettingsError("--ray: found a video, a stream or a bag, expected photos. Run it without --ray.")
    plan = Plan(
        source, sinks, folder, listener or NoListener(), record_of(options), options.limit, options.resume, False
    )
    slot = _slot(options, ray_options)
    with folder.locked():
        earlier = folder.choose(options.resume, options.overwrite)
        folder.make()
        with connected(ray_options, slot) as ray:
            count = worker_count(ray, ray_options, slot)
            job = ray.put(Job(_for_workers(options, slot), make_segmenter))
            actor = ray.remote(num_cpus=slot.cpus, num_gpus=slot.gpus, max_restarts=0)(PhotoWorker)
            pool = RayPool(ray, partial(actor.remote, job))
            try:
                return _RayRun(plan, pool, count, pool.open_first().model, earlier).go()
            finally:
                pool.close()


class _RayRun(Run):
    """A run whose photos are segmented by a pool."""

    def __init__(
        self, plan: Plan, pool: RayPool, count: int, model: Mapping[str, Any], earlier: Mapping[str, Any] | None
    ) -> None:
        super().__init__(plan, model, earlier)
        self._pool, self._count = pool, count

    def process(self) -> None:
        """Hand out the photos, and note how each of them ends."""
        try:
            for item, answer in self._pool.results(self.todo, self._count, self._begin):
                if isinstance(answer, InputError):
                    self.fail(item, answer)
                else:
                    self.note(answer)
        finally:
            self._pool.close()
            self.record_more["workers"] = self._pool.hosts()
            self.folder.sort_errors()
            if self._pool.has_lost_photos:
                self.folder.remove_temporary()

    def _begin(self, actor: Any, item: SourceItem) -> Any:
        self.plan.listener.photo_begun(item.name)
        return actor.segment.remote(item, self.stem(item.name), self.header["started"])


def _check(options: RunOptions, sinks: Sequence[Sink]) -> None:
    """SettingsError for options that need all photos in one process."""
    for sink in sinks:
        if getattr(sink, "needs_every_frame", False):
            name = next((name for name, made in SINKS.items() if isinstance(sink, made)), type(sink).__name__)
            raise SettingsError(f"--write {name}: it needs all photos in one process. Leave it out, or --ray.")
    if options.profile:
        raise SettingsError("--profile: it has the timeline of one process. Leave it out, or --ray.")
    if options.segmenter.execution.gpu:
        raise SettingsError("--gpu: Ray gives each worker its GPU. Leave it out, or --ray.")


def _slot(options: RunOptions, ray_options: RayOptions) -> Slot:
    execution = options.segmenter.execution
    gpus = ray_options.gpus if ray_options.gpus is not None else float(execution.device != "cpu")
    return Slot(execution.threads or 1, gpus)


def _for_workers(options: RunOptions, slot: Slot) -> RunOptions:
    """Return options for a process with another working folder: absolute paths, and as many threads as the slot has."""
    segmenter, execution = options.segmenter, options.segmenter.execution
    execution = replace(
        execution,
        threads=slot.cpus if execution.backend == "onnxruntime" else None,
        engines=execution.engines and execution.engines.absolute(),
    )
    checkpoint = segmenter.checkpoint and segmenter.checkpoint.absolute()
    return replace(
        options,
        sources=[source if is_bucket(source) else Path(source).absolute() for source in options.sources],
        out=options.out if isinstance(options.out, str) else options.out.absolute(),
        segmenter=replace(segmenter, checkpoint=checkpoint, execution=execution),
        photos=None,
    )
