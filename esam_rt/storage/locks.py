"""Locks between processes of one user."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from esam_rt.errors import SettingsError
from esam_rt.storage.cache_dir import cache_folder


@contextmanager
def kept_from_others(out: Path) -> Iterator[None]:
    """No other run of this user may write into `out` meanwhile: SettingsError where one does already.

    The lock lies in the cache: results stay clean, and network folders, which may know no locks, are locked too, from
    one machine. Without a cache that can be written nothing is locked.
    """
    lock = cache_folder() / "locks" / f"{hashlib.sha256(os.fsencode(os.path.realpath(out))).hexdigest()[:16]}.lock"
    with ExitStack() as stack:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(lock, timeout=0))
            # Before it is let go. Who had opened it by then finds it gone, since filelock 3.21, and does not hold it.
            stack.callback(_unlink, lock)
        except Timeout as e:
            raise SettingsError(
                f"--out {out}: another run is writing there; wait for its end, or choose another folder."
            ) from e
        except (OSError, NotImplementedError):
            pass
        yield


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
