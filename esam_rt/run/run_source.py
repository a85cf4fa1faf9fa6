"""The source, the sinks and the entries of run.json that the options of a run name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from esam_rt.errors import SettingsError
from esam_rt.run.run_options import RunOptions
from esam_rt.sinks.mcap_file import McapFile
from esam_rt.sinks.sink import Sink
from esam_rt.sinks.sink_table import make_sinks
from esam_rt.sources.photo_files import PhotoFolder
from esam_rt.sources.source import Source
from esam_rt.sources.source_address import open_source, source_kind
from esam_rt.storage.buckets import PACKAGES, is_bucket


def source_of(options: RunOptions, owned: Sequence[str]) -> Source:
    """Open the source, without results of earlier runs if ``--out`` lies in a folder of photos.

    Args:
        options: The run.
        owned: Files and folders that runs make.

    Raises:
        SettingsError: If the output folder is a source, or a bucket, video or bag stands beside other sources.
        InputError: If there are no photos, or the bucket, video or bag cannot be opened.
        MissingDependencyError: If the extra ``buckets``, ``video`` or ``bags`` is needed.
    """
    results = _results(options, owned)
    if options.photos is not None:
        paths = [Path(source) for source in options.sources]
        return PhotoFolder(paths, options.max_pixels, results, options.photos, options.sample_range)
    return open_source(
        *options.sources,
        topics=options.topics,
        max_pixels=options.max_pixels,
        sample_range=options.sample_range,
        bands=options.bands,
        raw=options.raw,
        tiles=options.segmenter.settings.tiles,
        exclude=results,
    )


def _results(options: RunOptions, owned: Sequence[str]) -> list[Path]:
    """Return the paths of the results. SettingsError if photos are there, or would be found there later."""
    if isinstance(options.out, str):
        out = _in_cloud(options.out)
        for source in filter(is_bucket, options.sources):
            place = _in_cloud(str(source))
            if out.is_relative_to(place) or any(place.is_relative_to(out / name) for name in owned):
                raise SettingsError(
                    f"--out {options.out}: the photos of {source} are there. Choose a folder beside them."
                )
        return []
    out_path = options.out.resolve()
    results = [out_path / name for name in owned]
    for source in options.sources:
        if is_bucket(source):
            continue
        path = Path(source).resolve()
        if path == out_path or any(path.is_relative_to(result) for result in results):
            raise SettingsError(f"--out {options.out}: the photos of {source} are there. Choose another folder.")
    return results


def _in_cloud(url: str) -> PurePosixPath:
    """Return the place of a bucket's folder, the same for all schemes of a cloud."""
    scheme, _, path = url.partition("://")
    return PurePosixPath(PACKAGES[scheme.lower()], path)


def addresses_of(options: RunOptions) -> list[str]:
    """Return the sources as run.json has them: URLs as given, paths without links.

    Args:
        options: The run.
    """
    return [
        source
        if isinstance(source, str) and source_kind(source) in ("bucket", "video", "raw")
        else str(Path(source).resolve())
        for source in options.sources
    ]


def record_of(options: RunOptions) -> dict[str, Any]:
    """Return the options that run.json holds, by their names there.

    Args:
        options: The run.
    """
    return {
        "method": options.segmenter.method,
        "settings": options.segmenter.settings.to_dict(),
        "write": list(options.write),
        "deadline_s": options.deadline_s,
        "sources": addresses_of(options),
    }


def sinks_of(options: RunOptions) -> list[Sink]:
    """Make the sinks that ``options.write`` names.

    Args:
        options: The run.

    Raises:
        SettingsError: If a name is unknown, or topics cannot be copied.
        MissingDependencyError: If a package of a sink is not installed.
    """
    sinks: list[Sink] = [*make_sinks(options.write)]
    if options.copy_topics:
        recordings = [sink for sink in sinks if isinstance(sink, McapFile)]
        if not recordings:
            raise SettingsError("--copy-topics: topics are copied into an MCAP. Add mcap to --write.")
        if any(source_kind(s) != "bag" or Path(s).suffix == ".bag" for s in options.sources):
            raise SettingsError("--copy-topics: the source is no bag of ROS 2. Leave --copy-topics out.")
        for recording in recordings:
            recording.copy_topics = tuple(options.copy_topics)
    return sinks
