"""Standard error: control characters are escaped, libraries can be silenced, and a closed terminal costs nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esam_rt.cli.streams import visible
from tests.cli.test_app import FAKE_RUN, ROOT, start, wait_for
from tests.support.processes import GUARD_S

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems refuse such names, and lack such signals"
)
EVIL = "a\x1b[31mred\x1b]0;title\x07\x9b2J\r\n\u202egnp.exe\u2028\udcff[bold]"
SHOWN = r"a\x1b[31mred\x1b]0;title\x07\x9b2J\r\n\u202egnp.exe\u2028\udcff[bold]"


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=())))
def test_visible_text_has_nothing_that_a_terminal_obeys(text: str) -> None:
    shown = visible(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or 0x202A <= ord(c) <= 0x202E for c in shown)
    if text.isprintable():
        assert shown == text
    shown.encode("utf-8")


def test_what_people_name_their_photos_stays() -> None:
    for name in ("写真.jpg", "café\u0301.png", "👨‍👩‍👧.jpg", "می\u200cخواهم.jpg", "a\u3000b\u00a0c.jpg"):
        assert visible(name) == name
    assert visible(EVIL) == SHOWN
    assert visible("a\n\tb\x07", kept="\n\t") == "a\n\tb\\x07"


FORKS = FAKE_RUN.replace(
    "main()\n",
    """
import json, os
for arguments in json.loads(sys.argv.pop(1)):
    if (child := os.fork()) == 0:
        sys.argv[1:] = arguments
        main()
    os.waitpid(child, 0)
""",
)


def test_no_name_reaches_the_terminal_raw(photos: Path, tmp_path: Path) -> None:
    """Names of a damaged photo, of the output folder, of a missing file, and an option that a file name imitates."""
    (photos / f"{EVIL}.png").write_text("no photo")
    out = tmp_path / f"out{EVIL}"
    calls = (
        ("run", photos, "--out", out),
        ("run", photos / f"missing{EVIL}", "--out", out),
        ("run", photos, f"--{EVIL}"),
        ("run", photos, "--set", EVIL),
        ("eval", "--gt", EVIL, "--images", photos),
        ("export", EVIL),
    )
    as_json = json.dumps([[str(argument) for argument in arguments] for arguments in calls])
    process = start(FORKS, "0", as_json, PYTHONIOENCODING="utf-8:surrogateescape")
    said = process.communicate(timeout=GUARD_S)
    assert said[1].lower().count("error: ") == len(calls)
    for text in said:
        assert visible(text, kept="\n") == text
        assert "Traceback" not in text
    process = start(FAKE_RUN, "0", *calls[0], "--overwrite")
    stdout, stderr = process.communicate(timeout=GUARD_S)
    shown = SHOWN.replace(r"\r\n", " ").replace(r"\u2028", " ")  # an error is one line
    assert stderr.startswith(f"error: {photos}/{shown}") and stderr.count("\n") == 1
    assert SHOWN in stdout


def test_progress_escapes_names(photos: Path, tmp_path: Path) -> None:
    for photo in photos.iterdir():
        photo.rename(photos / f"{EVIL}{photo.name}")
    terminal = Terminal("0", "run", photos, "--out", tmp_path / "out")
    shown = terminal.read_all()
    assert terminal.process.wait(GUARD_S) == 0
    assert "3/3" in shown or "photos segmented" in shown
    assert "\x1b]0;title" not in shown and "\x9b" not in shown and "\u202e" not in shown


LIBRARIES = """
import logging, os, sys, warnings
def think(number):
    if number == 1:
        os.write(2, b"[W:onnxruntime:Default] from C\\n")
        logging.getLogger("other").warning("from a log")
        logging.getLogger("esam_rt").warning("from esam-rt")
        warnings.warn("from Python")
        print("from sys.stderr", file=sys.__stderr__, flush=True)
"""


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_lines_of_libraries(photos: Path, tmp_path: Path, option: str) -> None:
    (photos / "3.png").write_text("no photo")
    head, tail = FAKE_RUN.split("think = ")
    script = head + LIBRARIES + tail.partition("\n")[2]
    process = start(script, "0", "run", photos, "--out", tmp_path / "out", option)
    stdout, stderr = process.communicate(timeout=GUARD_S)
    assert process.returncode == 1
    lines = stderr.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == [line for line in lines if "3.png" in line]
    if option == "--quiet":
        assert (len(lines), stdout) == (1, "")
    else:
        for words in ("from C", "from a log", "warning: from esam-rt", "from Python", "from sys.stderr"):
            assert words in stderr
        assert json.loads(stdout)["failed"] == 1


class Terminal:
    """A command on a terminal of its own, as its session's leader, so that it gets SIGHUP when the terminal closes."""

    def __init__(self, *arguments: str | Path) -> None:
        self.master, slave = os.openpty()
        command = [sys.executable, "-c", FAKE_RUN, *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, preexec_fn=self._own_session
        )
        os.close(slave)

    def _own_session(self) -> None:
        os.setsid()
        os.close(os.open(os.ttyname(0), os.O_RDWR))  # it becomes the controlling terminal

    def read_all(self) -> str:
        parts = []
        try:
            while part := os.read(self.master, 1 << 16):
                parts.append(part)
        except OSError:  # the command has ended
            pass
        return b"".join(parts).decode("utf-8", "surrogateescape")

    def close(self) -> None:
        os.close(self.master)


@pytest.mark.parametrize("closes", [True, False])
def test_a_terminal_that_closes_keeps_the_summary(photos: Path, tmp_path: Path, closes: bool) -> None:
    out = tmp_path / "out"
    terminal = Terminal("600", "run", photos, "--out", out)
    journal = out / "photos.jsonl"
    try:
        wait_for(lambda: (journal.exists() and journal.read_bytes() != b"") or terminal.process.poll() is not None)
        if closes:
            terminal.close()
        else:
            for _ in range(2):  # the shell and the system may both send it
                terminal.process.send_signal(signal.SIGHUP)
            terminal.read_all()
        assert terminal.process.wait(GUARD_S) in (130, 1)
    finally:
        terminal.process.kill()
    run = json.loads((out / "run.json").read_text())
    assert (run["summary"]["done"], run["summary"]["exit_code"], run["summary"]["error"]) == (1, 130, "interrupted")
    assert len(json.loads((out / "entities.json").read_text())["images"]) == 1
    assert not list(out.rglob(".*"))


def test_nohup_holds(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    head = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = start(head + FAKE_RUN, "0.2", "run", photos, "--out", out)
    wait_for(lambda: (out / "run.json").exists() or process.poll() is not None)
    process.send_signal(signal.SIGHUP)
    stdout, stderr = process.communicate(timeout=GUARD_S)
    assert (process.returncode, stderr) == (0, "")
    assert "3 photos segmented" in stdout


def test_a_closed_stderr_costs_nothing(photos: Path, tmp_path: Path) -> None:
    (photos / "2.png").write_text("no photo")
    script = "import os; os.close(2)\n" + FAKE_RUN
    process = start(script, "0", "run", photos, "--out", tmp_path / "out", "--quiet")
    process.communicate(timeout=GUARD_S)
    assert process.returncode == 1
    assert len(json.loads((tmp_path / "out" / "entities.json").read_text())["images"]) == 2
