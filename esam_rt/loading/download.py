"""Downloads published checkpoints into the cache: resumed after a break, checked, and renamed only when complete."""

from __future__ import annotations

from pathlib import Path

import requests
from filelock import FileLock

from esam_rt.errors import ModelError, OutputError
from esam_rt.loading.events import Downloading, OnEvent, ignore
from esam_rt.sam.models import ModelSpec, Remote
from esam_rt.storage.atomic import output_error
from esam_rt.storage.hashing import remembered_sha256, sha256_of

TIMEOUT_S = 30.0  # to connect, and between two pieces
CHUNK = 1 << 20  # bytes


def fetch_checkpoint(row: ModelSpec, folder: Path, on_event: OnEvent = ignore) -> Path:
    """Download the published checkpoint of a model, unless it is there with the right hash.

    A download that broke off continues where it stopped. Two processes that need the same file fetch it once.

    Args:
        row: The model.
        folder: Folder for the file. It is made if it is missing.
        on_event: Gets ``Downloading`` events.

    Returns:
        Path of the complete file.

    Raises:
        ModelError: The model has no published checkpoint, or the download failed. The message names the address and
            the path where the file belongs.
        OutputError: ``folder`` cannot be written.
    """
    remote = row.remote
    if remote is None:
        raise ModelError(f"Model {row.name}: it has no published checkpoint. Give --checkpoint FILE.")
    path = folder / remote.file_name
    try:
        if _is_published(path, remote):
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{path.name}.lock"):
            if not _is_published(path, remote):
                path.unlink(missing_ok=True)  # its size or hash is wrong
                _fetch(row.name, remote, path, on_event)
    except OSError as e:
        raise e if isinstance(e, OutputError) else output_error(path, e) from e
    return path


def _is_published(path: Path, remote: Remote) -> bool:
    """Check size and hash. A file of another size is not hashed."""
    return path.is_file() and path.stat().st_size == remote.size_bytes and remembered_sha256(path) == remote.sha256


def _fetch(name: str, remote: Remote, path: Path, on_event: OnEvent) -> None:
    """Download to a temporary file, check its hash and rename it."""
    part = path.with_name(f"{path.name}.part")
    try:
        _download(remote, part, on_event)
        found = sha256_of(part)
        if found != remote.sha256:
            part.unlink()
            raise ValueError(f"found SHA-256 {found[:12]}…, expected {remote.sha256[:12]}…")
    except (requests.RequestException, ValueError) as e:
        raise ModelError(
            f"Model {name}: {remote.file_name} could not be downloaded ({_reason(e)}). Fetch {remote.url} "
            f"({remote.size_bytes:,} bytes) and put it at {path}, or name it with --checkpoint."
        ) from e
    part.replace(path)


def _download(remote: Remote, part: Path, on_event: OnEvent) -> None:
    """Fetch what is missing of ``part``. ``ValueError`` unless it then has the expected size."""
    there = part.stat().st_size if part.exists() else 0
    if there > remote.size_bytes:
        part.unlink()
        there = 0
    if there < remote.size_bytes:
        there = _append(remote, part, there, on_event)
    if there > remote.size_bytes or part.stat().st_size != remote.size_bytes:
        found = max(there, part.stat().st_size)
        if found > remote.size_bytes or _looks_like_a_page(part):
            part.unlink()  # the next try must not continue from this
        raise ValueError(f"found {found:,} bytes, expected {remote.size_bytes:,}")


def _append(remote: Remote, part: Path, there: int, on_event: OnEvent) -> int:
    """Fetch the bytes after the first ``there``. Returns the bytes received in all, more than written if too many."""
    headers = {"Range": f"bytes={there}-"} if there else {}
    with requests.get(remote.url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()  # it is no part of this file
        response.raise_for_status()
        is_rest = response.status_code == requests.codes.partial_content
        if is_rest and not response.headers.get("Content-Range", "").startswith(f"bytes {there}-"):
            raise ValueError(f"the server sent {response.headers.get('Content-Range')!r} instead of the missing bytes")
        if not is_rest:
            there = 0  # the server knows no ranges and sends everything
            length = response.headers.get("Content-Length", str(remote.size_bytes))
            if length != str(remote.size_bytes):  # a page in place of the file
                raise ValueError(f"found {length} bytes, expected {remote.size_bytes:,}")
        with part.open("ab" if is_rest else "wb") as f:
            for piece in response.iter_content(CHUNK):
                there += len(piece)
                if there > remote.size_bytes:
                    break
                f.write(piece)
                on_event(Downloading(there, remote.size_bytes))
    return there


def _looks_like_a_page(part: Path) -> bool:
    """Check if the server sent a web page instead of the file."""
    with part.open("rb") as f:
        return f.read(64).lstrip()[:1] == b"<"


def _reason(error: Exception) -> str:
    """Describe an error in one line for a user."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code}"
    for kind, words in (
        (requests.exceptions.SSLError, "the server's certificate is not trusted here"),
        (requests.exceptions.ProxyError, "the proxy refused"),
        (requests.ConnectionError, "no connection"),
        (requests.Timeout, "the server did not answer in time"),
    ):
        if isinstance(error, kind):
            return words
    return str(error).partition("\n")[0] or type(error).__name__
