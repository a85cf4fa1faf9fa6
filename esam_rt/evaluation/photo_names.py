"""Matches names of photos: data sets and folders spell the same photo with more or fewer folders before its name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

from esam_rt.errors import InputError
from esam_rt.sources.photo_search import PHOTO_SUFFIXES


class Names:
    """Names of photos that other names are matched with.

    Two names mean the same photo if they are equal, apart from a photo's suffix and from folders at the beginning.

    Args:
        names: The names.
        where: Where the names come from, for error messages.
    """

    def __init__(self, names: Iterable[str], where: str) -> None:
        self._where = where
        self._by_last: dict[str, list[str]] = defaultdict(list)
        for name in names:
            self._by_last[_parts(name)[-1]].append(name)

    def matches(self, names: Iterable[str]) -> dict[str, str]:
        """Find the match of each name that has one.

        Args:
            names: Names to look up.

        Returns:
            Match by name; names without a match are left out.

        Raises:
            InputError: Two of ``names`` mean the same photo, or one of them could mean several.
        """
        found: dict[str, str] = {}
        name_of_match: dict[str, str] = {}
        for name in names:
            match = self.find(name)
            if match is None:
                continue
            if match in name_of_match:
                raise InputError(
                    f"{name}: {match} of {self._where} could be this photo or {name_of_match[match]}; expected unique "
                    "names. Keep the folders of the data set."
                )
            name_of_match[match] = name
            found[name] = match
        return found

    def find(self, name: str) -> str | None:
        """Find the name that means the same photo.

        Args:
            name: Name to look up.

        Returns:
            The match; None if there is none.

        Raises:
            InputError: Several names match equally well.
        """
        parts = _parts(name)
        same = [n for n in self._by_last.get(parts[-1], ()) if _one_ends_with_other(parts, _parts(n))]
        whole = [n for n in same if n == name] or [n for n in same if _parts(n) == parts] or same
        if len(whole) > 1:
            raise InputError(
                f"{name}: {self._where} has {', '.join(sorted(whole)[:3])}; expected one photo of that name. Rename or "
                "remove the others."
            )
        return whole[0] if whole else None


def _parts(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    return (path.with_suffix("") if path.suffix.lower() in PHOTO_SUFFIXES else path).parts or (name,)


def _one_ends_with_other(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    shorter = min(len(a), len(b))
    return a[-shorter:] == b[-shorter:]
