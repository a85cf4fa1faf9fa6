"""Downloads against a server of our own: whole, broken off, wrong, and by two processes at once."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from esam_rt.errors import ModelError, OutputError
from esam_rt.loading import download
from esam_rt.loading.download import fetch_checkpoint
from esam_rt.sam.models import MODELS, ModelSpec, Remote
from tests.support.events import Events
from tests.support.processes import GUARD_S

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the next answers are, and which were asked for."""

    url: str = ""
    content: bytes = CONTENT
    knows_ranges: bool = True
    cut_at: int | None = None
    status: int = 200
    refuses_ranges: bool = False
    asked: list[str | None] = field(default_factory=list)

    def row(self, size_bytes: int = len(CONTENT), sha256: str = SHA256) -> ModelSpec:
        return replace(MODELS["vit_b"], remote=Remote(f"{self.url}/weights.pth", size_bytes, sha256))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.asked.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.knows_ranges else 0
            body = state.content[start:]
            if asked and state.refuses_ranges:
                self.send_error(416)
                return
            self.send_response(206 if start else state.status)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if state.cut_at is None else body[: max(0, state.cut_at - start)])

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}"
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if p.suffix != ".lock"}


def test_whole(server: Server, tmp_path: Path) -> None:
    told = Events()
    path = fetch_checkpoint(server.row(), tmp_path / "new", told)
    assert path == tmp_path / "new" / "weights.pth"
    assert path.read_bytes() == CONTENT
    assert told.downloaded[-1] == (len(CONTENT), len(CONTENT))
    assert fetch_checkpoint(server.row(), tmp_path / "new") == path
    assert server.asked == [None]
    assert names(tmp_path / "new") == {"weights.pth"}


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_goes_on_where_it_broke_off(server: Server, tmp_path: Path, knows_ranges: bool) -> None:
    server.cut_at, server.knows_ranges = 300_000, knows_ranges
    with pytest.raises(ModelError, match=r"weights\.pth could not be downloaded"):
        fetch_checkpoint(server.row(), tmp_path)
    assert names(tmp_path) == {"weights.pth.part"}
    there = (tmp_path / "weights.pth.part").stat().st_size
    assert there <= 300_000
    server.cut_at = None
    assert fetch_checkpoint(server.row(), tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={there}-"] if there else [None, None]
    assert names(tmp_path) == {"weights.pth"}


def test_goes_on_with_a_part_that_is_there(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(CONTENT[:400_000])
    assert fetch_checkpoint(server.row(), tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=400000-"]


@pytest.mark.parametrize("part", [b"x" * 400_000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 9)])
def test_a_part_of_something_else_is_dropped(server: Server, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "weights.pth.part").write_bytes(part)
    if len(part) <= len(CONTENT):  # only the hash tells
        with pytest.raises(ModelError, match="could not be downloaded"):
            fetch_checkpoint(server.row(), tmp_path)
        assert names(tmp_path) == set()
    assert fetch_checkpoint(server.row(), tmp_path).read_bytes() == CONTENT


def test_a_server_that_refuses_what_is_left(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(CONTENT[:1000])
    server.refuses_ranges = True
    with pytest.raises(ModelError, match="the server answered 416"):
        fetch_checkpoint(server.row(), tmp_path)
    assert fetch_checkpoint(server.row(), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (requests.exceptions.SSLError("long"), "certificate is not trusted"),
        (requests.exceptions.ProxyError("long"), "the proxy refused"),
        (requests.ConnectionError("long"), "no connection"),
        (requests.Timeout("long"), "did not answer in time"),
        (requests.RequestException(), r"\(RequestException\)"),
    ],
)
def test_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(requests, "get", fail)
    with pytest.raises(ModelError, match=reason):
        fetch_checkpoint(MODELS["vit_b"], tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"content": CONTENT[:-1] + b"?"}, r"found SHA-256 \w+…, expected \w+…"),
        ({"content": CONTENT + b"more"}, r"found [\d,]+ bytes, expected 1,024,000"),
        ({"content": b"<html>sign in</html>"}, "found 20 bytes, expected 1,024,000"),
        ({"content": b'{"error": "sign in"}'}, "found 20 bytes, expected 1,024,000"),
        ({"status": 404}, "the server answered 404"),
        ({"status": 503}, "the server answered 503"),
    ],
)
def test_wrong_answers(server: Server, tmp_path: Path, change: dict[str, object], reason: str) -> None:
    for name, value in change.items():
        setattr(server, name, value)
    with pytest.raises(ModelError, match=reason) as e:
        fetch_checkpoint(server.row(), tmp_path)
    for part in (server.url, "1,024,000 bytes", str(tmp_path / "weights.pth"), "--checkpoint"):
        assert part in str(e.value)
    assert "\n" not in str(e.value)
    assert names(tmp_path) == set()


def test_offline(server: Server, tmp_path: Path) -> None:
    row = server.row()
    row = replace(row, remote=replace(row.remote, url="http://127.0.0.1:9/weights.pth"))
    with pytest.raises(ModelError, match=r"\(no connection\)\. Fetch http://127\.0\.0\.1:9/weights\.pth"):
        fetch_checkpoint(row, tmp_path)


def test_a_damaged_file_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    for damaged in (b"x" * len(CONTENT), b"short"):
        (tmp_path / "weights.pth").write_bytes(damaged)
        assert fetch_checkpoint(server.row(), tmp_path).read_bytes() == CONTENT


def test_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        fetch_checkpoint(server.row(), tmp_path / "file")


def test_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_download", full)
    with pytest.raises(OutputError, match="disk or quota is full"):
        fetch_checkpoint(server.row(), tmp_path)


def test_two_processes_fetch_once(server: Server, tmp_path: Path) -> None:
    code = (
        "import sys; from dataclasses import replace; from pathlib import Path\n"
        "from esam_rt.loading.download import fetch_checkpoint; from esam_rt.sam.models import MODELS, Remote\n"
        "row = replace(MODELS['vit_b'], remote=Remote(sys.argv[1], int(sys.argv[2]), sys.argv[3]))\n"
        "print(fetch_checkpoint(row, Path(sys.argv[4])))\n"
    )
    command = [sys.executable, "-c", code, f"{server.url}/weights.pth", str(len(CONTENT)), SHA256, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=GUARD_S)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers == [str(tmp_path / "weights.pth")] * 2
    assert server.asked == [None]
