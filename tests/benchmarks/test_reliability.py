"""The table of docs/reliability.md: it is made from the tests' own output, and each test exists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import reliability
from benchmarks.lib.reliability_rows import ROWS, Row, table_of

ROOT = Path(__file__).parents[2]
XML = """<testsuites><testsuite>
<testcase classname="tests.a.test_b" name="test_c[photos-10]"><properties><property name="trials" value="10000" />
<property name="growth_mb" value="2.5" /></properties></testcase>
<testcase classname="tests.a.test_b" name="test_c_too"><failure message="x">y</failure></testcase>
<testcase classname="tests.a.test_d" name="test_e"><skipped /></testcase>
<testcase classname="tests.a.test_d" name="test_f" />
</testsuite></testsuites>"""


def test_results_are_those_of_pytest() -> None:
    assert reliability.results_of(XML) == {
        "tests/a/test_b.py::test_c[photos-10]": ("passed", {"trials": 10000, "growth_mb": 2.5}),
        "tests/a/test_b.py::test_c_too": ("failed", {}),
        "tests/a/test_d.py::test_e": ("skipped", {}),
        "tests/a/test_d.py::test_f": ("passed", {}),
    }


@pytest.mark.parametrize(
    ("tests", "figures", "result"),
    [
        (("tests/a/test_b.py::test_c",), "{trials:,} trials, {growth_mb} MB", "10,000 trials, 2.5 MB"),
        (("tests/a/test_b.py",), "{trials:,} trials", "**broken**: 1 of 2 tests failed"),
        (("tests/a/test_d.py",), "", "1 test"),
        (("tests/a/test_none.py",), "", "**broken**: 0 of 0 tests failed"),
    ],
)
def test_a_row_is_made_of_its_tests(tests: tuple[str, ...], figures: str, result: str) -> None:
    row = reliability.row_of(Row("files", "It holds.", tests, figures), reliability.results_of(XML), 1)
    assert row["result"] == result


def test_the_table_of_a_page_is_replaced_and_nothing_else() -> None:
    rows = [{"area": "files", "promise": "It holds.", "result": "1 test", "tests": ["tests/a/test_b.py"]}]
    table = table_of([*rows, *rows])
    page = reliability.with_table(f"before\n\n{table_of([])}\n\nafter\n", table)
    assert page == f"before\n\n{table}\n\nafter\n"
    assert "| Files | It holds. | 1 test | `a/test_b.py` |\n|  | It holds." in page


@pytest.mark.parametrize("test", sorted({test for row in ROWS for test in row.tests}))
def test_the_tests_of_the_rows_exist(test: str) -> None:
    path, _, name = test.partition("::")
    source = (ROOT / path).read_text()
    assert not name or f"def {name.partition('[')[0]}(" in source


def test_the_page_has_the_figures_of_the_last_run() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "reliability.json").read_text())["rows"]
    tests = {row.promise: list(row.tests) for row in ROWS}
    assert [row["promise"] for row in rows] == [promise for promise in tests if promise in {r["promise"] for r in rows}]
    assert [row["tests"] for row in rows] == [tests[row["promise"]] for row in rows]
    assert not [row["promise"] for row in rows if row["failed"] or (row["date"] and not row["passed"])]
    assert table_of(rows) in (ROOT / "docs" / "reliability.md").read_text()
