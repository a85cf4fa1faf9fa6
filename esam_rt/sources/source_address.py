"""Opens a source by its address: photos, one video or stream, or one ROS bag."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from esam_rt.errors import SettingsError
from esam_rt.sources import bags, video
from esam_rt.sources.bags import Bag
from esam_rt.sources.photo_files import PhotoFolder
from esam_rt.sources.photo_limits import MAX_PIXELS
from esam_rt.sources.sample_range import SampleRange
from esam_rt.sources.source import Source
from esam_rt.sources.video import Video

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg", ".mjpeg")
STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "tcp", "udp", "rtp", "srt")


def source_kind(address: str | Path) -> Literal["photos", "video", "bag"]:
    """Tell what an address leads to. Files are told by their suffix, and the folder of a bag by its ``metadata.yaml``.

    Args:
        address: Path or URL.
    """
    text = str(address)
    if urlsplit(text).scheme.lower() in STREAM_SCHEMES or text.startswith(video.CAMERA):
        return "video"
    path = Path(text)
    if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir():
        return "video"
    if path.suffix.lower() in bags.SUFFIXES or (path / "metadata.yaml").is_file():
        return "bag"
    return "photos"


def open_source(
    *addresses: str | Path,
    topics: Sequence[str] = (),
    max_pixels: int = MAX_PIXELS,
    sample_range: SampleRange = "full",
    exclude: Sequence[Path] = (),
) -> Source:
    """Open photos and folders of photos, or one video, stream, camera or ROS bag.

    Args:
        *addresses: Paths, or one URL.
        topics: Image topics of a bag. Default: the only one.
        max_pixels: Photos with more pixels are refused.
        sample_range: Value of black and of white, for samples of more than 8 bits. A bag takes two numbers, or
            percentiles of its first image.
        exclude: Photos inside these folders are left out.

    Raises:
        InputError: A path is missing, or holds nothing that can be read.
        SettingsError: A video or a bag stands beside other sources, or topics are given without a bag.
        MissingDependencyError: The extra ``video`` or ``bags`` is needed.

    Example:
        >>> for frame in open_source("drive.mcap", topics=["/front/image_raw"]):  # doctest: +SKIP
        ...     entities = segmenter(frame.image_hwc_rgb)
    """
    kinds = {source_kind(address) for address in addresses}
    if topics and kinds != {"bag"}:
        raise SettingsError("--topic: the source is no ROS bag. Leave --topic out.")
    if kinds == {"photos"}:
        return PhotoFolder(list(addresses), max_pixels, exclude, sample_range=sample_range)
    if len(addresses) != 1:
        raise SettingsError(f"SOURCE: found {len(addresses)} sources, expected one video or bag alone. Run one by one.")
    if kinds == {"video"}:
        return Video(addresses[0])
    return Bag(addresses[0], topics, None if isinstance(sample_range, str) else sample_range)
