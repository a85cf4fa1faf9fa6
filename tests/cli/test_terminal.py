"""Progress on a real terminal: the codes for the cursor are obeyed, and the line fits into the window."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pty", reason="Windows has no pseudo-terminals")
import fcntl
import pty
import struct
import termios

COLUMNS = 60
CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
RUN = """
import sys
from esam_rt.__main__ import main
from esam_rt.run import run_options
from tests.support.fake_segmenter import FakeSegmenter

run_options.open_segmenter = lambda options, on_event: FakeSegmenter()
main()
"""


def on_terminal(*arguments: str) -> list[str]:
    """Run the command line with a stand-in segmenter, and return what the terminal got, line by line."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "CI")}
    child = subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "xterm-256color"},
        cwd=Path(__file__).parents[2],
    )
    os.close(theirs)
    received = bytearray()
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux tells the end so
            break
        if not part:
            break
        received += part
    os.close(ours)
    assert child.wait() == 0, received.decode()
    return [CODE.sub("", line) for line in re.split(r"[\r\n]+", received.decode())]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        name = f"{number}_\x1b[31mred_{'long' * 20}.png"
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / name)
    return folder


def test_the_line_of_a_stream(photos: Path, tmp_path: Path) -> None:
    lines = on_terminal("run", str(photos), "--track", "--fps", "20", "--write", "labels", "--out", str(tmp_path / "o"))
    shown = [line for line in lines if "entities" in line and " age " in line]
    assert max(map(len, shown)) <= COLUMNS
    pattern = r"(\d+\.\d frames/s, )?age \d+\.\d\d s, 0 dropped, 2 entities, 2 ids s.*…"
    assert all(re.fullmatch(pattern, line.rstrip()) for line in shown), shown
    assert not any("x1b[2K" in line or "x1b[?" in line for line in lines)
    assert any("3 photos segmented, 6 entities" in line for line in lines)


def test_the_bar_of_a_folder(photos: Path, tmp_path: Path) -> None:
    lines = on_terminal("run", str(photos), "--write", "labels", "--out", str(tmp_path / "o"))
    assert any(line.startswith("photos ") for line in lines)
    assert not any("x1b[2K" in line or "x1b[?" in line for line in lines)
