"""Sources: where frames come from. Each public name is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esam_rt._lazy import lazy_names

if TYPE_CHECKING:
    from esam_rt.sources.arrays import ArraySource
    from esam_rt.sources.bags import Bag
    from esam_rt.sources.decode import read_photo
    from esam_rt.sources.frame import Frame
    from esam_rt.sources.paced import Paced
    from esam_rt.sources.photo_bucket import PhotoBucket
    from esam_rt.sources.photo_files import PhotoFolder
    from esam_rt.sources.photo_search import find_photos
    from esam_rt.sources.raster import Raster, RasterWindow
    from esam_rt.sources.raw_frames import RawFormat, RawFrames
    from esam_rt.sources.ros_images import RosHeader, RosImages
    from esam_rt.sources.sample_range import SampleRange
    from esam_rt.sources.source import FrameItem, ListedSource, Source, SourceItem
    from esam_rt.sources.source_address import open_source
    from esam_rt.sources.video import Video

__all__ = [
    "ArraySource",
    "Bag",
    "Frame",
    "FrameItem",
    "ListedSource",
    "Paced",
    "PhotoBucket",
    "PhotoFolder",
    "Raster",
    "RasterWindow",
    "RawFormat",
    "RawFrames",
    "RosHeader",
    "RosImages",
    "SampleRange",
    "Source",
    "SourceItem",
    "Video",
    "find_photos",
    "open_source",
    "read_photo",
]

_HOMES = {
    "ArraySource": ".arrays",
    "Bag": ".bags",
    "Frame": ".frame",
    "FrameItem": ".source",
    "ListedSource": ".source",
    "Paced": ".paced",
    "PhotoBucket": ".photo_bucket",
    "PhotoFolder": ".photo_files",
    "Raster": ".raster",
    "RasterWindow": ".raster",
    "RawFormat": ".raw_frames",
    "RawFrames": ".raw_frames",
    "RosHeader": ".ros_images",
    "RosImages": ".ros_images",
    "SampleRange": ".sample_range",
    "Source": ".source",
    "SourceItem": ".source",
    "Video": ".video",
    "find_photos": ".photo_search",
    "open_source": ".source_address",
    "read_photo": ".decode",
}
__getattr__ = lazy_names(__name__, _HOMES)
