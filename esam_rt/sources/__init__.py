"""Sources: where frames come from. Each public name is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esam_rt._lazy import lazy_names

if TYPE_CHECKING:
    from esam_rt.sources.arrays import ArraySource
    from esam_rt.sources.decode import read_photo
    from esam_rt.sources.frame import Frame
    from esam_rt.sources.photo_files import PhotoFolder, find_photos
    from esam_rt.sources.source import FrameItem, ListedSource, Source, SourceItem
    from esam_rt.sources.video import Video

__all__ = [
    "ArraySource",
    "Frame",
    "FrameItem",
    "ListedSource",
    "PhotoFolder",
    "Source",
    "SourceItem",
    "Video",
    "find_photos",
    "read_photo",
]

_HOMES = {
    "ArraySource": ".arrays",
    "Frame": ".frame",
    "FrameItem": ".source",
    "ListedSource": ".source",
    "PhotoFolder": ".photo_files",
    "Source": ".source",
    "SourceItem": ".source",
    "Video": ".video",
    "find_photos": ".photo_files",
    "read_photo": ".decode",
}
__getattr__ = lazy_names(__name__, _HOMES)
