"""The snippets of README.md and docs/: Python blocks run, shell lines name commands and options that exist."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import markdown
from tests.docs.command_lines import check_command_line
from tests.docs.conftest import ROOT
from tests.docs.markdown import PAGES, blocks
from tests.support.processes import GUARD_S

MARKS = {"needs the network", "needs a GPU"}
PROGRAM = re.compile(r"esam-rt(:\w+)?")  # the command, or an image with it
WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
SHELL_LINES = [
    pytest.param(line, id=f"{markdown.name(page)}: {line.split(' #')[0].strip()[:60]}")
    for page in PAGES
    for block in blocks(page, "")
    for line in block.text.replace("\\\n", " ").splitlines()
    if re.match(rf"(docker run .* )?{PROGRAM.pattern} ", line)
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
    program = next(i for i, word in enumerate(words) if PROGRAM.fullmatch(word))
    check_command_line(words[program + 1 :])


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
