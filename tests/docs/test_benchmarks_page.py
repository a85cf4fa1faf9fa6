"""The summary of docs/benchmarks.md: each figure stands in the section that its row names."""

from __future__ import annotations

import re

import pytest

from tests.docs.markdown import ROOT

PAGE = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
SUMMARY, *SECTIONS = re.split(r"(?m)^##+ (?!Summary$)", PAGE)
ROWS = re.findall(r"(?m)^\| (.*\]\(#.*) \|$", SUMMARY)
NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?")


def anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


def test_the_summary_comes_first() -> None:
    assert len(ROWS) > 10
    assert PAGE.index("## Summary") < min(PAGE.index(f"# {section}") for section in SECTIONS)


@pytest.mark.parametrize("row", ROWS)
def test_each_figure_stands_in_its_section(row: str) -> None:
    what, figure, goal, command, date = (cell.strip() for cell in row.split("|"))
    (target,) = re.findall(r"\]\(#([^)]*)\)", what)
    (section,) = (text for text in SECTIONS if anchor(text.partition("\n")[0]) == target)
    numbers = set(NUMBER.findall(section))
    assert set(NUMBER.findall(figure)) <= numbers
    assert set(NUMBER.findall(goal)) <= set(NUMBER.findall(PAGE.partition("## Speed")[2]))
    assert command.strip("`") in section and date in section
