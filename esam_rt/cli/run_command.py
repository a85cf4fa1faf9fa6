"""The command `run`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from esam_rt.cli import execution_options, option_types, output
from esam_rt.errors import SettingsError

if TYPE_CHECKING:
    from esam_rt.run.run_options import RunSummary
    from esam_rt.segmenter import SegmenterConfig

TABLE_5 = {  # the rows of E-SAM's Table 5, and stages that it does not have
    "encoder": "encoder",
    "decoder": "decoder",
    "mmg": "MMG",
    "emr": "EMR",
    "usr": "USR",
    "superpixels": "superpixels",
    "upsampling": "upsampling",
    "joining": "joining of tiles",
    "total": "total",  # less than the sum: superpixels run beside the decoder
}


@output.exit_codes()
@execution_options.takes_segmenter
def run(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Photos and folders, or one bucket (s3://, gs://, az://), video, stream, ROS bag or raster, or - for "
            "raw frames.",
        ),
    ],
    segmenter: SegmenterConfig,
    out: Annotated[
        str, typer.Option(metavar="DIR", help="Folder for the results, also in a bucket (s3://, gs://, az://).")
    ] = "esam-rt-out",
    write: Annotated[str, typer.Option(help="Results to write, separated by commas.")] = "labels,coco,overlay,report",
    limit: option_types.Limit = None,
    max_megapixels: option_types.MaxMegapixels = 200.0,
    sample_range: option_types.SampleRange = "full",
    resume: option_types.Resume = False,
    overwrite: option_types.Overwrite = False,
    deadline: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Time for a photo, such as 100ms or 2s. The map is the best by then."),
    ] = None,
    policy: Annotated[
        str, typer.Option(help="every segments each frame. latest segments the newest one and drops the others.")
    ] = "every",
    track: Annotated[
        bool, typer.Option("--track", help="Treat the photos as frames of one camera: entities keep their identities.")
    ] = False,
    coherent: Annotated[
        bool, typer.Option("--coherent", help="As --track, and each frame chooses the prompts of the next one.")
    ] = False,
    topic: Annotated[
        list[str] | None, typer.Option(metavar="TOPIC", help="Image topic of a ROS bag. Give it again for more topics.")
    ] = None,
    copy_topics: Annotated[
        str | None,
        typer.Option(metavar="TOPICS", help="Other topics to copy into the MCAP, separated by commas, or all."),
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option(metavar="R,G,B", help="Bands of a raster, counted from 1. Default: those that the file calls so."),
    ] = None,
    raw: Annotated[
        str | None,
        typer.Option(metavar="PIX_FMT", help="Format of raw frames on stdin, as ffmpeg's -pix_fmt. The source is -."),
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Size of raw frames.")] = None,
    fps: Annotated[
        float | None,
        typer.Option(metavar="HZ", help="Play the photos at this rate, or the rate of raw frames. Default: no rate."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Use workers of Ray: local, auto (this machine's cluster) or HOST:PORT."),
    ] = None,
    ray_workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Most workers. Default: as many as there is room for.")
    ] = None,
    ray_gpus: Annotated[
        float | None, typer.Option(min=0, metavar="X", help="GPUs of a worker, also a fraction. Default: 1 or 0.")
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Write profile.json, a timeline of the run for ui.perfetto.dev.")
    ] = False,
    quiet: option_types.Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Segment photos, a video, a ROS bag or a raster. Write label maps, COCO annotations, overlays and a report."""
    from esam_rt.cli import progress
    from esam_rt.kernels import warmup
    from esam_rt.run.drop_policy import POLICIES
    from esam_rt.run.folder_run import run_photos
    from esam_rt.run.ray_cluster import RayOptions
    from esam_rt.run.ray_run import segment_with_ray
    from esam_rt.run.run_options import RunOptions, Segmenter, open_segmenter
    from esam_rt.run.stream import Tracking
    from esam_rt.run.stream_run import StreamOptions, run_stream
    from esam_rt.sources.sample_range import read_range

    option_types.check_choice("--policy", policy, POLICIES)
    raw_format = option_types.raw_format(raw, size, fps)
    rate_hz = None if raw_format is not None else fps
    is_stream = policy == "latest" or track or coherent or rate_hz is not None
    ray_options = None if ray is None else RayOptions(ray, ray_workers, ray_gpus)
    if is_stream and ray_options is not None:
        raise SettingsError(
            "--ray: a stream is segmented in one process. Leave out --policy, --track, --coherent and --fps."
        )
    if ray_options is None and (ray_workers is not None or ray_gpus is not None):
        raise SettingsError("--ray-workers and --ray-gpus need --ray, such as --ray local.")

    options = RunOptions(
        sources=tuple(option_types.source(source) for source in sources),
        out=out,
        segmenter=segmenter,
        write=option_types.names(write),
        limit=limit,
        max_pixels=option_types.pixels(max_megapixels),
        sample_range=read_range(sample_range),
        resume=resume,
        overwrite=overwrite,
        profile=profile,
        topics=tuple(topic or ()),
        copy_topics=option_types.names(copy_topics or ""),
        raw=raw_format,
        bands=option_types.band_numbers(bands or ""),
        deadline_s=None if deadline is None else option_types.seconds("--deadline", deadline),
    )
    shown = output.shows_progress(quiet, as_json)

    def open_and_show(options: RunOptions) -> Segmenter:
        kernels = warmup.METHOD_MODULES.get(segmenter.method, ())  # an unknown method fails later, with its message
        warmup.start_warmup(kernels, with_process=True)
        with progress.Steps(shown) as steps:
            return open_segmenter(options, steps.on_event)

    if is_stream:
        tracking: Tracking = "prompts" if coherent else track
        stream = StreamOptions("latest" if policy == "latest" else "every", tracking, rate_hz)
        with progress.StreamLine(shown) as line:
            summary = run_stream(options, stream, line, open_and_show, line.follow)
    elif ray_options is not None:
        with progress.PhotoBar(shown) as bar:
            summary = segment_with_ray(options, ray_options, bar)
    else:
        with progress.PhotoBar(shown) as bar:
            summary = run_photos(options, bar, open_and_show)
    if summary.error:
        output.print_error(summary.error)
    if as_json:
        typer.echo(json.dumps(summary.to_json()))
    elif not quiet:
        _print_summary(summary)
    raise typer.Exit(summary.exit_code)


def _print_summary(summary: RunSummary) -> None:
    """Print mean times in the rows of Table 5, the counts and the file to look at."""
    times = summary.mean_times_s
    if times:
        table = Table("stage", "mean s a photo", box=None)
        table.columns[1].justify = "right"
        for key, title in TABLE_5.items():
            if key in times:
                table.add_row(title, f"{times[key]:.3f}")
        output.stdout.print(table)
    output.print_line(_sentence(summary))


def _sentence(summary: RunSummary) -> str:
    photos = "photo" if summary.done == 1 else "photos"
    parts = [f"{summary.done} {photos} segmented, {summary.entities} entities"]
    if summary.done_before:
        parts.append(f"{summary.done_before} done before")
    if summary.failed:
        parts.append(f"{summary.failed} failed, see {summary.out}/errors.jsonl")
    if summary.incomplete:
        parts.append(f"{summary.incomplete} incomplete at the deadline")
    if summary.left:
        parts.append(f"{summary.left} left{': run again with --resume' if summary.can_resume else ''}")
    look_at = summary.look_at
    return f"{', '.join(parts)}. Look at {look_at if isinstance(look_at, str) else look_at.resolve()}"
