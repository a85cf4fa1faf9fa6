"""The snippets of README.md and docs/: Python blocks run, shell lines name commands and options that exist."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from esam_rt.cli.app import app
from tests.docs import markdown
from tests.docs.conftest import ROOT
from tests.docs.markdown import PAGES, blocks
from tests.support.processes import GUARD_S

MARKS = {"needs the network", "needs a GPU"}
WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
SHELL_LINES = [
    pytest.param(line, id=f"{markdown.name(page)}: {line.split(' #')[0].strip()[:60]}")
    for page in PAGES
    for block in (*blocks(page, ""), *blocks(page, "dockerfile"))
    for long_line in block.text.replace("\\\n", " ").splitlines()
    for line in re.sub("^RUN ", "", long_line).split(" && ")
    if re.match(r"(docker run .*)?esam-rt ", line)
]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=markdown.name)
def test_python_blocks_run(page: Path, user_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page are one program, in their order. Marked blocks are compiled, not run."""
    found = blocks(page, "python")
    assert {block.needs for block in found} - {""} <= MARKS
    program = ""
    for block in found:
        compile(block.text, f"{page}:{block.line}", "exec")
        if not block.needs:
            program += "\n" * (block.line - program.count("\n")) + block.text  # lines of errors are those of the page
    script = tmp_path / f"{page.stem}_snippets.py"
    script.write_text(program, encoding="utf-8")
    for path in user_folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    if "__main__" in program:  # its worker processes import the program
        subprocess.run([sys.executable, str(script)], check=True, timeout=GUARD_S)
    elif program:
        runpy.run_path(str(script), run_name="__main__")


def test_blocks_are_found() -> None:
    assert len(WITH_PYTHON) >= 6
    assert len(SHELL_LINES) >= 30


@pytest.mark.parametrize("line", SHELL_LINES)
def test_shell_line_names_commands_and_options_that_exist(line: str) -> None:
    words = shlex.split(line, comments=True)
    words = words[words.index("esam-rt") + 1 :]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):  # a group
        known = command.commands
        assert words[0] in known, f"esam-rt has no command {words[0]}"
        command = known[words.pop(0)]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert used <= options | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=markdown.name)
def test_scripts_targets_and_links_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for script in set(re.findall(r"python -m ((?:benchmarks|esam_rt)[\w.]*)", text)):
        assert (ROOT / (script.replace(".", "/") + ".py")).is_file(), f"{script} does not exist"
    assert set(re.findall(r"^make ([a-z]+)", text, re.MULTILINE)) <= targets
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", outside):
        if "://" not in link:
            assert (page.parent / link).exists(), f"link to {link}"
