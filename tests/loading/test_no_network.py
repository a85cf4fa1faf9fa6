"""No command opens a socket, and none writes outside of --out and the cache.

Two hooks watch: one in Python, and a library in C that is loaded before all others, because ONNX Runtime's telemetry
runs in C++. The library refuses what it sees, so that no test reaches a network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from esam_rt.storage.cache_dir import cache_folder

ROOT = Path(__file__).parents[2]
HOOK = Path(__file__).parents[1] / "support" / "watched_calls.c"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the hook is for Linux")

AUDIT = """
import os, sys
def watch(event, arguments):
    if event.startswith("socket."):
        say("net", event, str(arguments))
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        if isinstance(arguments[0], str | bytes):
            say("write", event, os.path.abspath(os.fsdecode(arguments[0])))
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.symlink"):
        place = arguments[1] if event in ("os.rename", "os.symlink") else arguments[0]
        if arguments[-1] == -1:
            say("write", event, os.path.abspath(os.fsdecode(place)))
LOG = os.open(os.environ["WATCHED_CALLS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
def say(*words):
    os.write(LOG, f"{' '.join(words)}\\n".encode("utf-8", "replace"))
sys.addaudithook(watch)
"""

COMMANDS = """
import json
from esam_rt.__main__ import main
small = ["--set", "prompts.coarse_side=4", "--set", "prompts.fine_side=8"]
photos, truth, out = sys.argv[1:]
for arguments in (
    ["export", "tiny", "--out", f"{out}/export"],
    ["run", photos, "--out", f"{out}/run", *small],
    ["eval", "--gt", truth, "--images", photos, "--out", f"{out}/eval", "--resamples", "10", *small],
    ["doctor", "--json"],
):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as e:
        assert not e.code, (arguments, e.code)

import numpy as np
from esam_rt import EntitySegmenter, Settings
settings = Settings().with_overrides({"prompts.coarse_side": 4, "prompts.fine_side": 8})
with EntitySegmenter("tiny", settings=settings) as segment:
    segment(np.zeros((64, 64, 3), np.uint8))
"""

CONTROL = """
import ctypes, pathlib, socket
for call in (lambda: socket.getaddrinfo("localhost", 1), lambda: socket.socket()):
    try:
        call()
    except OSError:
        pass
libc = ctypes.CDLL(None)
libc.getaddrinfo(b"from-c.invalid", None, None, None)
libc.mkdir(sys.argv[1].encode() + b"/from-c", 0o700)
pathlib.Path(sys.argv[1], "from-python").write_text("x")
"""


@pytest.fixture(scope="module")
def hook(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The compiled library. Without a compiler the hook in Python watches alone, but not where tests must be whole."""
    if COMPILER is None:
        assert not os.environ.get("CI"), "found no C compiler, expected one where the tests run for a release"
        return None
    library = tmp_path_factory.mktemp("hook") / "watched_calls.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-w", "-o", library, HOOK, "-ldl"], check=True)
    return library


def calls(script: str, tmp_path: Path, hook: Path | None, *arguments: str | Path) -> set[tuple[str, str, str]]:
    """Kind, function and place of each call that a script makes, with a home and a temporary folder of its own."""
    environment = os.environ | {"WATCHED_CALLS": str(tmp_path / "calls"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"ESAM_RT_CACHE": str(cache_folder()), "PYTHONPATH": str(ROOT)}
    for name in ("HOME", "TMPDIR"):
        (tmp_path / name).mkdir()
        environment[name] = str(tmp_path / name)
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "ORT_DISABLE_TELEMETRY"):
        environment.pop(name, None)
    if hook is not None:
        environment["LD_PRELOAD"] = str(hook)
    command = [sys.executable, "-c", AUDIT + script, *map(str, arguments)]
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        command, env=environment, cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "calls").read_text("utf-8", "replace").splitlines()
    return {(kind, call, place) for kind, call, place in (line.split(" ", 2) for line in lines)}


def test_the_hooks_see_what_they_watch_for(tmp_path: Path, hook: Path | None) -> None:
    found = calls(CONTROL, tmp_path, hook, tmp_path / "HOME")
    seen = {(call, Path(place).name) for kind, call, place in found if kind == "write"}
    net = {call for kind, call, _ in found if kind == "net"}
    assert ("open", "from-python") in seen and {"socket.getaddrinfo", "socket.__new__"} <= net
    if hook is not None:
        assert {"getaddrinfo", "socket"} <= net
        assert ("net", "getaddrinfo", "from-c.invalid") in found
        assert ("mkdir", "from-c") in seen


def test_no_command_opens_a_socket_or_writes_elsewhere(tmp_path: Path, hook: Path | None) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    image = np.zeros((48, 64, 3), np.uint8)
    image[8:40, 8:30] = 220
    Image.fromarray(image).save(photos / "1.png")
    truth = tmp_path / "truth.json"
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 704, "bbox": [8, 8, 22, 32]}
    annotation["segmentation"] = [[8, 8, 30, 8, 30, 40, 8, 40]]
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 64, "height": 48}],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "thing"}],
    }
    truth.write_text(json.dumps(content))
    found = calls(COMMANDS, tmp_path, hook, photos, truth, out)
    assert [call for call in found if call[0] == "net"] == []
    allowed = (out, cache_folder(), tmp_path / "calls", Path("/dev/null"), Path("/dev/tty"))
    written = {Path(place) for kind, _, place in found if kind == "write"}
    assert any(path.is_relative_to(out) for path in written)
    assert [path for path in written if not any(path.is_relative_to(place) for place in allowed)] == []
    for name in ("HOME", "TMPDIR", "elsewhere"):
        assert list((tmp_path / name).iterdir()) == []
