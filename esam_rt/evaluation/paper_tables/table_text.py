"""A scored table as cells of text, as Markdown and as a plot."""

from __future__ import annotations

from esam_rt.evaluation.paper_tables.table_rows import PAPER_SECONDS, Row, base_row, paper_figures
from esam_rt.evaluation.paper_tables.table_scores import TableResult
from esam_rt.evaluation.reports.formatting import format_difference, format_interval, format_score
from esam_rt.evaluation.reports.interval_plot import interval_plot

GAIN_INTERVAL = "gain interval"


def table_cells(result: TableResult, model: str) -> list[dict[str, str]]:
    """Return the text of every row by column title, without columns that are empty in all rows.

    Args:
        result: The scored table.
        model: Name of the model, for the paper's figures.
    """
    lines = [_row_cells(result, row, model) for row in result.rows]
    return [{title: text for title, text in line.items() if any(other[title] for other in lines)} for line in lines]


def _row_cells(result: TableResult, row: Row, model: str) -> dict[str, str]:
    first, *others = result.columns
    metrics, gain = result.metrics[row.name], result.gain[row.name]
    is_base = row is base_row(row, result.rows)
    gain_title = f"vs {result.rows[0].name}" if len({r.group for r in result.rows}) == 1 else "gain"
    return {
        "row": row.name,
        first: format_score(first, metrics[first].value),
        "95 % interval": format_interval(first, metrics[first]),
        gain_title: "" if is_base else format_difference(first, gain),
        GAIN_INTERVAL: "" if is_base else format_interval(first, gain),
        **{name: format_score(name, metrics[name].value) for name in others},
        "entities": f"{result.entities[row.name]:.1f}",
        "paper": " / ".join(f"{value:g}" for value in paper_figures(row, model).values()),
    }


def timing_cells(result: TableResult, model: str) -> list[dict[str, str]]:
    """Return the paper's Table 5 as text: stage, measured seconds, the paper's seconds.

    Args:
        result: The scored table.
        model: Name of the model, for the paper's figures.
    """
    paper = PAPER_SECONDS.get(model, {})
    return [
        {"stage": stage, "seconds": f"{s:.3f}", "paper": f"{paper[stage]:.2f}" if stage in paper else ""}
        for stage, s in result.seconds.items()
    ]


def markdown(result: TableResult, model: str) -> str:
    """Return the table, and the seconds if it is timed, as Markdown.

    Args:
        result: The scored table.
        model: Name of the model, for the paper's figures.
    """
    lines = table_cells(result, model)
    rows = [list(lines[0]), ["---"] * len(lines[0]), *(list(line.values()) for line in lines)]
    if result.seconds:
        seconds = [[*line.values()] for line in timing_cells(result, model)]
        rows += [[], ["seconds (Table 5)", "", "paper"], ["---"] * 3, *seconds]
    return "".join(f"| {' | '.join(row)} |\n" if row else "\n" for row in rows)


def plot(result: TableResult, title: str) -> str:
    """Return an SVG of the first metric of every row with its interval.

    Args:
        result: The scored table.
        title: Heading of the plot.
    """
    metric = result.columns[0]
    rows = [(row.name, row.group, result.metrics[row.name][metric]) for row in result.rows]
    return interval_plot(title, metric, rows)
