"""Does esam-rt keep its promises? Runs the tests behind each row of docs/reliability.md, and writes the table.

    python -m benchmarks.reliability --json benchmarks/results/reliability.json --docs docs/reliability.md
    python -m benchmarks.reliability --trials 20 --only photos --json many.json      # 200,000 changed photos

The figures come from the tests' own output: pytest writes what they record into a file of JUnit's form. With `--only`,
rows of other areas keep the figures of the run before. A trial that breaks a promise names its seed and the command
that repeats it. Exit code 1: a promise was broken.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.reliability_rows import BEGIN, END, ROWS, Row, table_of
from esam_rt import __version__
from esam_rt.storage.atomic import write_json

ROOT = Path(__file__).parents[1]


def run_tests(tests: Sequence[str], trials: float) -> dict[str, tuple[str, dict[str, float]]]:
    """Run tests. Return state and figures of each by its name: ``passed``, ``failed`` or ``skipped``."""
    with TemporaryDirectory() as folder:
        output = Path(folder) / "tests.xml"
        options = ["-q", "-p", "no:cacheprovider", f"--junitxml={output}"]
        command = [sys.executable, "-m", "pytest", *options, *tests]
        environment = {**os.environ, "ESAM_RT_TRIALS": str(trials)}
        subprocess.run(command, cwd=ROOT, env=environment, check=False)
        if not output.exists():
            raise SystemExit("pytest wrote no results; its lines above say why.")
        return results_of(output.read_text())


def results_of(xml: str) -> dict[str, tuple[str, dict[str, float]]]:
    """Read the file that pytest wrote."""
    found = {}
    for case in ElementTree.fromstring(xml).iter("testcase"):
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        kinds = {child.tag for child in case}
        state = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        figures = {p.get("name", ""): float(p.get("value", "nan")) for p in case.iter("property")}
        found[name] = (state, {k: int(v) if v.is_integer() else v for k, v in figures.items()})
    return found


def row_of(row: Row, results: Mapping[str, tuple[str, dict[str, float]]], trials: float) -> dict[str, Any]:
    """Make the JSON of a row from the results of its tests."""
    own = {name: r for name, r in results.items() if any(is_of(name, test) for test in row.tests)}
    states = [state for state, _ in own.values()]
    counts = {state: states.count(state) for state in ("passed", "failed", "skipped")}
    figures = {name: value for _, some in own.values() for name, value in some.items()}
    if not trials:
        result = "not run yet"
    elif counts["failed"] or not counts["passed"]:
        result = f"**broken**: {counts['failed']} of {len(states)} tests failed"
    elif row.figures:
        result = row.figures.format(**figures)
    else:
        result = f"{counts['passed']} tests" if counts["passed"] > 1 else "1 test"
    return {
        "area": row.area,
        "promise": row.promise,
        "tests": list(row.tests),
        "result": result,
        **counts,
        "figures": figures,
        "trials": trials,
        "date": datetime.now(UTC).date().isoformat() if trials else "",
        "esam_rt": __version__,
        "platform": platform.platform(),
    }


def is_of(name: str, test: str) -> bool:
    """Tell if a result belongs to a file of tests, a test with all its cases, or one case."""
    return name == test or name.startswith((f"{test}::", f"{test}["))


def with_table(page: str, table: str) -> str:
    """Replace the table of a page."""
    before, _, rest = page.partition(BEGIN)
    return before + table + rest.partition(END)[2]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--trials", type=float, default=1, help="how many times the number of trials of the tests")
    parser.add_argument("--only", nargs="+", choices=sorted({row.area for row in ROWS}), help="areas to run")
    parser.add_argument("--docs", type=Path, help="page whose table is written")
    a = parser.parse_args()
    rows = [row for row in ROWS if a.only is None or row.area in a.only]
    results = run_tests(list(dict.fromkeys(test for row in rows for test in row.tests)), a.trials)
    earlier = json.loads(a.json.read_text())["rows"] if a.json and a.json.exists() else []
    known = {row["promise"]: row for row in earlier} | {row.promise: row_of(row, results, a.trials) for row in rows}
    table = [known.get(row.promise, row_of(row, {}, 0)) for row in ROWS]
    for row in table:
        note(f"{row['promise']} {row['result']}")
    if a.json:
        write_json(a.json, {"rows": table})
    if a.docs:
        a.docs.write_text(with_table(a.docs.read_text(), table_of(table)))
    raise SystemExit(any(row["failed"] or (row["date"] and not row["passed"]) for row in table))


if __name__ == "__main__":
    main()
