"""Buckets: folders in a cloud, read and written with fsspec. No credential is ever part of a message."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esam_rt.errors import EsamError, InputError, MissingDependencyError, OutputError

# Packages of fsspec by the beginning of a URL. fsspec itself has memory, which programs use for trials.
PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
    "memory": "fsspec",
}
_BUCKET = re.compile(rf"(?:{'|'.join(PACKAGES)})://", re.IGNORECASE)


def is_bucket(address: str | Path) -> bool:
    """Tell if an address is the URL of a bucket.

    Args:
        address: Path or URL.
    """
    return isinstance(address, str) and _BUCKET.match(address) is not None


def open_bucket(url: str) -> tuple[Any, str]:
    """Open the file system of a bucket. Credentials are those of the environment, as s3fs, gcsfs and adlfs find them.

    Args:
        url: A bucket, or a folder or an object in it.

    Returns:
        A file system of fsspec, and the path in it.

    Raises:
        InputError: If the URL names no bucket, or holds a query or a password.
        MissingDependencyError: If fsspec, or its package for this bucket, is not installed.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if "?" in rest or "::" in rest or ":" in rest.partition("/")[0]:
        raise InputError(
            f"{scheme}:// with a query, a port, a password or :: is not read. Leave it out of the URL, and put "
            "credentials into the environment or into fsspec's configuration."
        )
    if not rest.strip("/"):
        raise InputError(f"{url} names no bucket. Give {scheme}://BUCKET or {scheme}://BUCKET/FOLDER.")
    try:
        from fsspec.core import url_to_fs
    except ImportError as e:
        raise MissingDependencyError(f"{url} needs fsspec: pip install 'esam-rt[buckets]'.") from e
    with access_to(url):
        try:
            system, path = url_to_fs(f"{scheme}://{rest}", use_listings_cache=False)  # a listing can have millions
        except ImportError as e:
            raise MissingDependencyError(f"{url} needs {PACKAGES[scheme]}: pip install {PACKAGES[scheme]}.") from e
    return system, str(path).rstrip("/")


@contextmanager
def access_to(url: str, error: type[InputError | OutputError] = InputError) -> Iterator[None]:
    """Turn the errors of a bucket into one of ours. Their texts are left out: some hold tokens.

    Args:
        url: What is read or written, for messages.
        error: Class of the error. OutputError if it is written.

    Raises:
        InputError: If it is missing, refused, or not reached. OutputError if ``error`` says so.
    """
    used, again = ("read or written", " Then run again with --resume.") if error is OutputError else ("read", "")
    try:
        yield
    except (EsamError, MemoryError):
        raise
    except FileNotFoundError as e:
        raise error(f"{url} does not exist. Check the names of the bucket and of what is in it.") from e
    except PermissionError as e:
        raise error(f"{url} may not be {used}. Check your credentials, and what they allow.{again}") from e
    except Exception as e:  # each cloud has errors of its own, without a common base
        raise error(
            f"{url} cannot be {used} ({type(e).__name__}). Check the connection and your credentials.{again}"
        ) from e
