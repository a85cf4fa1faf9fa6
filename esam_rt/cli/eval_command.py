"""The command `eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from esam_rt.cli import execution_options, option_types, output
from esam_rt.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esam_rt.evaluation.paper_tables.table_rows import Row
    from esam_rt.evaluation.plan import Plan, Result
    from esam_rt.segmenter import SegmenterConfig

BSDS = "bsds:"  # optional prefix of a folder of BSDS500's ground truth

GroundTruth = Annotated[
    str,
    typer.Option(
        "--gt",
        metavar="FILE|DIR",
        help="Ground truth: a COCO JSON file (instances, panoptic or EntitySeg), or BSDS500 (DIR or bsds:DIR).",
    ),
]


@output.exit_codes()
@execution_options.takes_segmenter
def evaluate(
    gt: GroundTruth,
    segmenter: SegmenterConfig,
    images: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of the photos. Default with BSDS500: DIR/images.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Score these results, do not segment: COCO results, entities.json or the folder of a run."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Other results for the same photos. The difference is measured.")
    ] = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for scores.json and report.html.")] = "esam-rt-eval",
    pngs: Annotated[
        Path | None,
        typer.Option(help="Folder of PNGs of panoptic ground truth. Default: beside the JSON, with its name."),
    ] = None,
    limit: option_types.Limit = None,
    max_megapixels: option_types.MaxMegapixels = 200.0,
    sample_range: option_types.SampleRange = "full",
    partial: Annotated[
        bool, typer.Option("--partial", help="Score available photos even if some are missing.")
    ] = False,
    table: Annotated[
        str | None,
        typer.Option(help="Measure a table of the paper: 1, 2, 3, 4, 5, all, or superpixels."),
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option("--row", metavar="NAME:SETTING=VALUE[,…]", help="Measure a row of your own. May be repeated."),
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples for the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    worst: Annotated[int, typer.Option(min=0, help="Number of worst photos in the report.")] = 12,
    resume: option_types.Resume = False,
    overwrite: option_types.Overwrite = False,
    quiet: option_types.Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Measure quality against ground truth. Segment photos, or read finished results, and score them."""
    from esam_rt.evaluation import run_evaluation as evaluation
    from esam_rt.evaluation.paper_tables.table_rows import TIMED, build_rows
    from esam_rt.evaluation.plan import EvalOptions
    from esam_rt.run.run_options import RunOptions
    from esam_rt.sources.sample_range import read_range
    from esam_rt.storage.locks import kept_from_others

    folder = option_types.path("--out", out)
    options = EvalOptions(
        truth=option_types.path("--gt", gt.removeprefix(BSDS)),
        out=folder,
        images=None if images is None else option_types.path("--images", images),
        pngs=pngs,
        predictions=predictions,
        against=against,
        run=RunOptions(
            sources=(),
            out=folder,
            segmenter=segmenter,
            max_pixels=option_types.pixels(max_megapixels),
            sample_range=read_range(sample_range),
        ),
        limit=limit,
        partial=partial,
        resamples=resamples,
        seed=seed,
        worst=worst,
        resume=resume,
        overwrite=overwrite,
    )
    wanted = build_rows(table, rows or [])
    if wanted and (predictions is not None or against is not None):
        raise SettingsError("--table and --row segment by themselves; leave out --predictions and --against.")
    if wanted and segmenter.method != "e-sam":
        method = segmenter.method
        raise SettingsError(f"--method {method}: each row of a table has its own; write --row NAME:method={method}.")
    if gt.startswith(BSDS) and not options.truth.is_dir():
        raise SettingsError(f"--gt {gt}: {options.truth} is no folder; expected one of annotators' label maps.")
    shown = output.shows_progress(quiet, as_json)
    with kept_from_others(folder):
        plan = evaluation.prepare(options)
        if wanted:
            title = "Rows" if table is None else "Tables 1 to 5" if table == "all" else f"Table {table}"
            _table(plan, wanted, title, table in TIMED, shown, quiet, as_json)
        else:
            raise typer.Exit(_method(plan, shown, quiet, as_json))


def _method(plan: Plan, shown: bool, quiet: bool, as_json: bool) -> int:
    """Segment if there are no finished results, then score, write and print; returns the exit code."""
    from esam_rt.cli import progress
    from esam_rt.evaluation import run_evaluation as evaluation
    from esam_rt.evaluation.plan import REPORT
    from esam_rt.run.run_options import RunOptions, Segmenter, open_segmenter

    def open_and_show(options: RunOptions) -> Segmenter:
        with progress.Steps(shown) as steps:
            return open_segmenter(options, steps.on_event)

    out = plan.options.out
    exit_code = 0
    if plan.options.predictions is None:
        with progress.PhotoBar(shown) as bar:
            summary = evaluation.segment(plan, bar, open_and_show)
        if summary.error:
            output.print_error(f"{summary.error}; {summary.left} photos left: run again with --resume")
            return summary.exit_code
        exit_code = summary.exit_code
    result = _score(plan, shown)
    record = evaluation.write(result)
    if as_json:
        del record["photos"]  # scores.json has them
        typer.echo(json.dumps(record | {"out": str(out), "exit_code": exit_code}))
    elif not quiet:
        _print(result)
        line = f"{len(result.scored.photos)} photos scored. Look at {(out / REPORT).resolve()}"
        output.print_line(line)
    return exit_code


def _table(plan: Plan, rows: Sequence[Row], title: str, timed: bool, shown: bool, quiet: bool, as_json: bool) -> None:
    """Run the rows and print them."""
    from esam_rt.cli import progress
    from esam_rt.evaluation.paper_tables import table_text, tables
    from esam_rt.loading.loader import load_sam

    run, out, truth = plan.options.run.segmenter, plan.options.out, plan.options.truth.resolve()
    with progress.Steps(shown) as steps:
        sam = load_sam(run.model, run.execution, run.checkpoint, steps.on_event)
    with progress.PhotoBar(shown) as bar:
        bar.begun(len(plan.photos), 0)
        title = f"{title}: {run.model}, {truth.parent.name}/{truth.name}, {len(plan.photos)} photos"
        result = tables.run_table(plan, rows, sam, title, lambda photo: bar.photo_done(), timed=timed)
    sam.close()
    if as_json:
        typer.echo((out / tables.TABLE).read_text("utf-8").rstrip("\n"))
    elif not quiet:
        lines = table_text.table_cells(result, run.model)
        titles = [name for name in lines[0] if name != table_text.GAIN_INTERVAL]  # the others fit in 80 columns
        table = Table(*map(escape, titles), box=None, title=escape(title))
        for column in table.columns:
            column.no_wrap = True
        for line in lines:
            table.add_row(*(escape(line[name]) for name in titles))
        output.stdout.print(table)
        if result.seconds:
            table = Table("stage", "s, median", "paper", box=None, title="Seconds of a photo (Table 5)")
            for line in table_text.timing_cells(result, run.model):
                table.add_row(*line.values())
            output.stdout.print(table)
        where = f"{len(plan.photos)} photos. Look at {(out / tables.PLOT).resolve()}"
        output.print_line(where)


def _score(plan: Plan, shown: bool) -> Result:
    from esam_rt.cli import progress
    from esam_rt.evaluation import run_evaluation as evaluation

    with progress.PhotoBar(shown) as bar:
        bar.begun(len(plan.photos), 0)
        return evaluation.evaluate(plan, lambda photo: bar.photo_done())


def _print(result: Result) -> None:
    """Print one row for each metric."""
    from esam_rt.evaluation.reports.formatting import format_difference, format_interval, format_score

    head = ["", "score", "95 % interval"]
    table = Table(*head, *(["against", "difference", "95 % interval"] if result.baseline else []), box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, e in result.metrics.items():
        cells = [name, format_score(name, e.value), format_interval(name, e)]
        if result.baseline:
            d = result.difference[name]
            cells += [
                format_score(name, result.baseline[name].value),
                format_difference(name, d),
                format_interval(name, d),
            ]
        table.add_row(*cells)
    output.stdout.print(table)
    if result.empty():
        line = f"In {result.empty()} of {len(result.scored.photos)} photos nothing was found."
        output.print_line(line)
    if result.scored.overlapping:
        line = f"In {result.scored.overlapping} photos masks overlap. AP^e of E-SAM assumes that they do not."
        output.print_line(line)
