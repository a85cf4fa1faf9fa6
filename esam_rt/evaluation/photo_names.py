"""Which photo a name means: data sets and folders spell the same photo with more or fewer folders before it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

from esam_rt.errors import InputError
from esam_rt.sources.photo_files import PHOTO_SUFFIXES


class Names:
    """Names of photos, looked up by others. `where` says in errors whose names these are."""

    def __init__(self, names: Iterable[str], where: str) -> None:
        self._where = where
        self._by_last: dict[str, list[str]] = defaultdict(list)
        for name in names:
            self._by_last[_parts(name)[-1]].append(name)

    def matches(self, names: Iterable[str]) -> dict[str, str]:
        """What `find` finds for each of `names` that has one. `InputError` where two of them mean the same photo."""
        found: dict[str, str] = {}
        whose: dict[str, str] = {}
        for name in names:
            match = self.find(name)
            if match is None:
                continue
            if match in whose:
                raise InputError(
                    f"{name}: {match} of {self._where} could be this photo or {whose[match]}; expected names that tell "
                    "them apart, with the folders that they lie in."
                )
            whose[match] = name
            found[name] = match
        return found

    def find(self, name: str) -> str | None:
        """The one of these names that means the same photo as `name`: the same but for its suffix (of a photo) and the
        folders at its beginning. None where there is none, `InputError` where several could be meant."""
        parts = _parts(name)
        same = [n for n in self._by_last.get(parts[-1], ()) if _one_ends_with_other(parts, _parts(n))]
        whole = [n for n in same if n == name] or [n for n in same if _parts(n) == parts] or same
        if len(whole) > 1:
            raise InputError(
                f"{name}: {self._where} has {', '.join(sorted(whole)[:3])}; expected one photo of that name."
            )
        return whole[0] if whole else None


def _parts(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    return (path.with_suffix("") if path.suffix.lower() in PHOTO_SUFFIXES else path).parts or (name,)


def _one_ends_with_other(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    shorter = min(len(a), len(b))
    return a[-shorter:] == b[-shorter:]
