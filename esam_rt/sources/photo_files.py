"""Photo files as a source: read one by one, in order."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from esam_rt.errors import InputError
from esam_rt.sources.decode import pixel_count, read_photo
from esam_rt.sources.frame import Frame
from esam_rt.sources.photo_limits import MAX_PIXELS
from esam_rt.sources.photo_search import PhotoFile, describe_left_out, is_inside, local_path, search_photos
from esam_rt.sources.sample_range import SampleRange, check_range
from esam_rt.sources.source import ItemSource

_log = logging.getLogger("esam_rt")


@dataclass(frozen=True)
class PhotoItem:
    """`SourceItem` of a photo file.

    Attributes:
        file: The photo.
        max_pixels: A photo with more pixels is refused.
        sample_range: Value of black and of white, see `read_photo`.
    """

    file: PhotoFile
    max_pixels: int = MAX_PIXELS
    sample_range: SampleRange = "full"

    @property
    def name(self) -> str:
        """Name of the photo."""
        return self.file.name

    @property
    def path(self) -> str:
        """Path of the file without links."""
        return os.path.realpath(self.file.path)  # a link to itself does not raise here; reading it explains the fault

    def pixel_count(self) -> int:
        """Return the number of pixels from the file's header, or 0 if the header cannot be read."""
        return pixel_count(self.file.path)

    def read(self) -> Frame:
        """Decode the photo.

        Raises:
            InputError: If the file is missing, damaged, no photo, or too large.
        """
        frame = read_photo(self.file.path, self.file.name, self.max_pixels, self.sample_range)
        return replace(frame, path=self.file.path)


class PhotoFolder(ItemSource[PhotoItem]):
    """The photos of files and folders, in natural order (2 before 10).

    Files with other suffixes are left out. Their number is logged.

    Args:
        sources: Photos and folders of photos. Folders are searched with their sub-folders, see `find_photos`.
        max_pixels: Photos with more pixels are refused.
        exclude: Files and folders that are left out, for example results of an earlier run.
        photos: Photos that were found before. ``sources`` is then not searched.
        sample_range: Value of black and of white, for samples of more than 8 bits: ``full``, ``auto`` or
            ``(low, high)``. See `read_photo`.

    Attributes:
        left_out: Number of files that were left out, by suffix in lower case.
        sample_range: Value of black and of white.

    Raises:
        InputError: If a path is missing or a URL, or if no photo is left.
        SettingsError: If ``sample_range`` is unknown.

    Example:
        >>> for frame in PhotoFolder("holiday", sample_range="auto"):  # doctest: +SKIP
        ...     print(frame.name, frame.image_hwc_rgb.shape)
    """

    def __init__(
        self,
        sources: Path | str | Sequence[Path | str],
        max_pixels: int = MAX_PIXELS,
        exclude: Sequence[Path] = (),
        photos: Sequence[PhotoFile] | None = None,
        sample_range: SampleRange = "full",
    ) -> None:
        self.sample_range = check_range(sample_range)
        given = [sources] if isinstance(sources, Path | str) else sources
        paths = [local_path(path) if isinstance(path, str) else path for path in given]
        self.left_out: Mapping[str, int] = {}
        if photos is None:
            found = search_photos(paths, exclude)
            photos, self.left_out = found.photos, found.left_out
        items = [PhotoItem(photo, max_pixels, sample_range) for photo in photos]
        super().__init__([item for item in items if not is_inside(Path(item.path), exclude)])
        if not self.length:
            where = ", ".join(map(str, paths))
            raise InputError(f"No photos but the results of an earlier run in {where}. Give a folder with photos.")
        if self.left_out:
            _log.warning("%s.", describe_left_out(self.left_out))
