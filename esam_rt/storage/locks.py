"""Locks between processes of one user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from esam_rt.errors import SettingsError
from esam_rt.storage.cache_dir import cache_folder
from esam_rt.storage.keys import path_key, text_key


@contextmanager
def kept_from_others(out: Path | str) -> Iterator[None]:
    """Keep other runs of this user out of an output folder.

    The lock lies in the cache, so the results stay clean. It works for network folders without locks too, between
    processes of one machine. If the cache cannot be written, nothing is locked.

    Args:
        out: The output folder, which may be missing, or the URL of one in a bucket.

    Raises:
        SettingsError: If another run writes there.
    """
    key = text_key(out) if isinstance(out, str) else path_key(out)
    lock = cache_folder() / "locks" / f"{key}.lock"
    with ExitStack() as stack:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(lock, timeout=0))
            # Removed before it is released. Since filelock 3.21, a process that opened it earlier notices and retries.
            stack.callback(_unlink, lock)
        except Timeout as e:
            raise SettingsError(
                f"--out {out}: another run is writing there. Wait for its end, or choose another folder."
            ) from e
        except (OSError, NotImplementedError):
            pass
        yield


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
