"""Published checkpoints, fetched once into the cache: resumed, checked, and under their name only when whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pooch
import requests
from filelock import FileLock

from esam_rt.errors import ModelError, OutputError
from esam_rt.sam.models import ModelSpec, Remote
from esam_rt.storage.atomic import output_error
from esam_rt.storage.hashing import remembered_sha256

TIMEOUT_S = 30.0  # to connect, and between two pieces
CHUNK = 1 << 20

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and those of the whole file."""


def fetch_checkpoint(row: ModelSpec, folder: Path, progress: Progress | None = None) -> Path:
    """The published checkpoint of a model in `folder`, downloaded unless it is there with the right hash.

    A download that broke off goes on where it stopped. Two processes that need the same file fetch it once. ModelError,
    which says what to fetch from where and where to put it, when it cannot be had; OutputError for a folder that cannot
    be written.
    """
    remote = row.remote
    if remote is None:
        raise ModelError(f"Model {row.name}: no checkpoint given; expected --checkpoint FILE.")
    path = folder / remote.file_name
    try:
        if _is_published(path, remote):
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{path.name}.lock"):
            if not _is_published(path, remote):
                _fetch(row.name, remote, path, progress)
    except OSError as e:
        raise e if isinstance(e, OutputError) else output_error(path, e) from e
    return path


def _is_published(path: Path, remote: Remote) -> bool:
    """Whether the published file is at `path`; a file of its size is hashed."""
    return path.is_file() and path.stat().st_size == remote.size_bytes and remembered_sha256(path) == remote.sha256


def _fetch(name: str, remote: Remote, path: Path, progress: Progress | None) -> None:
    """Download to a file of another name, which pooch checks and renames."""

    def resume(url: str, output_file: str, _pooch: object) -> None:
        part = path.with_name(f"{path.name}.part")
        _download(remote, url, part, progress)
        part.replace(output_file)

    # What is there under this name has the wrong size or hash; pooch would fetch anew as well, but say so by a warning.
    path.unlink(missing_ok=True)
    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(remote.url, f"sha256:{remote.sha256}", path.name, path.parent, downloader=resume)
    except (requests.RequestException, ValueError) as e:
        raise ModelError(
            f"Model {name}: {remote.file_name} could not be downloaded ({_reason(e)}). Fetch {remote.url} "
            f"({remote.size_bytes:,} bytes) and put it at {path}, or name it with --checkpoint."
        ) from e


def _download(remote: Remote, url: str, part: Path, progress: Progress | None) -> None:
    """Fetch `url` to `part`, going on behind what an earlier try left there; ValueError unless it has the size."""
    there = part.stat().st_size if part.exists() else 0
    if there > remote.size_bytes:
        part.unlink()
        there = 0
    if there < remote.size_bytes:
        headers = {"Range": f"bytes={there}-"} if there else {}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                part.unlink()  # what is there is none of it
            response.raise_for_status()
            goes_on = response.status_code == requests.codes.partial_content
            if goes_on and not response.headers.get("Content-Range", "").startswith(f"bytes {there}-"):
                raise ValueError(f"the server sent {response.headers.get('Content-Range')!r} instead of what was left")
            if not goes_on:
                there = 0  # a server that knows no ranges sends everything
                length = response.headers.get("Content-Length", str(remote.size_bytes))
                if length != str(remote.size_bytes):  # a page in place of the file: nothing to go on from
                    raise ValueError(f"found {length} bytes, expected {remote.size_bytes:,}")
            with part.open("ab" if goes_on else "wb") as f:
                for piece in response.iter_content(CHUNK):
                    there += len(piece)
                    if there > remote.size_bytes:
                        break
                    f.write(piece)
                    if progress is not None:
                        progress(there, remote.size_bytes)
    if there > remote.size_bytes or part.stat().st_size != remote.size_bytes:
        found = max(there, part.stat().st_size)
        if found > remote.size_bytes or _looks_like_a_page(part):
            part.unlink()  # nothing to go on from
        raise ValueError(f"found {found:,} bytes, expected {remote.size_bytes:,}")


def _looks_like_a_page(part: Path) -> bool:
    """Whether a server answered with a page instead of the file."""
    with part.open("rb") as f:
        return f.read(64).lstrip()[:1] == b"<"


def _reason(error: Exception) -> str:
    """One line for a user."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code}"
    if isinstance(error, requests.exceptions.SSLError):
        return "the server's certificate is not trusted here"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy refused"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, requests.Timeout):
        return "the server did not answer in time"
    return str(error).partition("\n")[0] or type(error).__name__
