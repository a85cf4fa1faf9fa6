"""Opens a source by its address: photos, one bucket, one video or stream, one ROS bag, or one georeferenced raster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from esam_rt.errors import InputError, SettingsError
from esam_rt.settings import Tiles
from esam_rt.sources import bags, video
from esam_rt.sources.bags import Bag
from esam_rt.sources.photo_bucket import PhotoBucket
from esam_rt.sources.photo_files import PhotoFolder
from esam_rt.sources.photo_limits import MAX_PIXELS
from esam_rt.sources.photo_search import local_path
from esam_rt.sources.raster import SIDE_PX, Raster
from esam_rt.sources.raw_frames import STDIN, RawFormat, RawFrames
from esam_rt.sources.sample_range import SampleRange
from esam_rt.sources.source import Source
from esam_rt.sources.tiff_files import is_georeferenced
from esam_rt.sources.video import Video
from esam_rt.storage.buckets import is_bucket

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg", ".mjpeg")
RASTER_SUFFIXES = (".jp2", ".img", ".ntf", ".asc")
STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "tcp", "udp", "rtp", "srt")


def source_kind(address: str | Path) -> Literal["photos", "bucket", "video", "bag", "raster", "raw"]:
    """Tell what an address leads to.

    Files are told by their suffix, a GeoTIFF by its tags, and the folder of a bag by its ``metadata.yaml``.

    Args:
        address: Path or URL.
    """
    text = str(address)
    if text == STDIN:
        return "raw"
    if urlsplit(text).scheme.lower() in STREAM_SCHEMES or text.startswith(video.CAMERA):
        return "video"
    if is_bucket(text):
        return "bucket"
    path = Path(text)
    if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir():
        return "video"
    if path.suffix.lower() in bags.SUFFIXES or (path / "metadata.yaml").is_file():
        return "bag"
    if path.suffix.lower() in RASTER_SUFFIXES or is_georeferenced(path):
        return "raster"
    return "photos"


def given_source(address: str | Path) -> Path | str:
    """Read the address of a source that a user gave.

    Args:
        address: Path, ``file://`` and an absolute path, URL of a bucket or a stream, or ``-`` for standard input.

    Returns:
        The path, or the URL as it is.

    Raises:
        InputError: It is a URL of something else.
    """
    if isinstance(address, Path) or source_kind(address) in ("bucket", "video", "raw"):
        return address
    return local_path(address)


def open_source(
    *addresses: str | Path,
    topics: Sequence[str] = (),
    max_pixels: int = MAX_PIXELS,
    sample_range: SampleRange = "full",
    bands: Sequence[int] = (),
    tiles: Tiles | None = None,
    raw: RawFormat | None = None,
    exclude: Sequence[Path] = (),
) -> Source:
    """Open photos and folders of photos, or one bucket, video, stream, camera, ROS bag or raster.

    The address ``-`` is standard input, with raw frames.
    A GeoTIFF that stands alone is a raster, and so is any file with ``bands``. It is read in windows.

    Args:
        *addresses: Paths, or one URL.
        topics: Image topics of a bag. Default: the only one.
        max_pixels: Photos with more pixels are refused.
        sample_range: Value of black and of white, for samples of more than 8 bits. A bag takes two numbers, or
            percentiles of its first image.
        bands: Bands of a raster, see `Raster`.
        tiles: ``side_px`` (0: 1024) and ``overlap`` of the windows of a raster.
        raw: Format of the frames on standard input.
        exclude: Photos inside these folders are left out.

    Raises:
        InputError: A path is missing, or holds nothing that can be read.
        SettingsError: A bucket, a video or a bag stands beside other sources, or an option is given without its source.
        MissingDependencyError: The extra ``buckets``, ``video``, ``bags`` or ``raster`` is needed.

    Example:
        >>> for frame in open_source("drive.mcap", topics=["/front/image_raw"]):  # doctest: +SKIP
        ...     entities = segmenter(frame.image_hwc_rgb)
    """
    kinds = {source_kind(address) for address in addresses}
    if len(addresses) > 1:
        kinds = {"photos" if kind == "raster" else kind for kind in kinds}
    if topics and kinds != {"bag"}:
        raise SettingsError("--topic: the source is no ROS bag. Leave --topic out.")
    if (raw is not None) != ("raw" in kinds):
        raise SettingsError(
            "Raw frames: expected the source - with --raw and --size, such as --raw rgb24 --size 640x480."
        )
    if bands and (len(addresses) != 1 or not kinds <= {"photos", "raster"}):
        raise SettingsError("--bands: expected one raster, such as a GeoTIFF. Leave --bands out.")
    if bands or kinds == {"raster"}:
        tiles = tiles or Tiles()
        side_px = tiles.side_px or SIDE_PX
        return Raster(addresses[0], bands, side_px=side_px, overlap=tiles.overlap, sample_range=sample_range)
    if "bucket" in kinds and len(addresses) == 1:
        return _bucket(str(addresses[0]), max_pixels, sample_range)
    if kinds == {"photos"}:
        return PhotoFolder(list(addresses), max_pixels, exclude, sample_range=sample_range)
    if len(addresses) != 1:
        raise SettingsError(
            f"SOURCE: found {len(addresses)} sources, expected one bucket, video, bag or stream alone. Run one by one."
        )
    if kinds == {"video"}:
        return Video(addresses[0])
    numbers = None if isinstance(sample_range, str) else sample_range
    return RawFrames(raw, sample_range=numbers) if raw is not None else Bag(addresses[0], topics, numbers)


def _bucket(url: str, max_pixels: int, sample_range: SampleRange) -> PhotoBucket:
    suffix = PurePosixPath(url).suffix.lower()
    if suffix in (*VIDEO_SUFFIXES, *bags.SUFFIXES, *RASTER_SUFFIXES):
        raise InputError(f"{url}: only photos are read from buckets, found {suffix}. Download the file first.")
    return PhotoBucket(url, max_pixels, sample_range)
