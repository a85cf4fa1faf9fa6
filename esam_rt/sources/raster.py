"""Raster: windows of a GeoTIFF or another large raster, by rasterio. Memory holds one window."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esam_rt.errors import InputError, MissingDependencyError, SettingsError
from esam_rt.method.windows import Window, windows_of
from esam_rt.settings import Panorama, Tiles
from esam_rt.sources.frame import Frame
from esam_rt.sources.sample_range import SampleRange, check_range, percentiles, to_8_bits, warn_if_dark
from esam_rt.sources.source import ItemSource

SIDE_PX = 1024
# Drivers of GDAL by suffix; all others are GTiff. They read local files only. A VRT may name files in the network.
DRIVERS = {
    ".jp2": "JP2OpenJPEG",
    ".img": "HFA",
    ".ntf": "NITF",
    ".asc": "AAIGrid",
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
}
_LOOK_PX = 1024  # longest side of the reduced raster that decides about black and white


@dataclass(frozen=True)
class RasterWindow:
    """Place of a frame in its raster.

    Attributes:
        offset_xy: Column and row of the frame's first pixel.
        core_xyxy: Pixels of the raster that are nearer to the middle of this window than of others, half-open. The
            cores of all windows cover the raster once.
        transform: Coefficients a, b, c, d, e, f of the window: x = a column + b row + c, y = d column + e row + f.
        crs: The coordinate reference system as WKT. Empty if it is unknown.
    """

    offset_xy: tuple[int, int]
    core_xyxy: tuple[int, int, int, int]
    transform: tuple[float, float, float, float, float, float]
    crs: str


@dataclass(frozen=True)
class RasterItem:
    """`SourceItem` of a window.

    Attributes:
        raster: The raster.
        window: Rows and columns.
        core_xyxy: See `RasterWindow`.
        name: Name of the frame.
    """

    raster: Raster
    window: Window
    core_xyxy: tuple[int, int, int, int]
    name: str

    @property
    def path(self) -> str:
        """Path of the raster without links."""
        return os.path.realpath(self.raster.path)

    def pixel_count(self) -> int:
        """Return the number of pixels."""
        return self.window.height * self.window.width

    def read(self) -> Frame:
        """Read the window.

        Raises:
            InputError: If the file is damaged there.
        """
        return self.raster.read(self)


class Raster(ItemSource[RasterItem]):
    """The windows of a raster, row by row, with overlap. It needs the extra ``rasterio``.

    Pixels without data get no label, and windows without data are left out. Georeferenced sinks join the entities of
    all windows: `GeoTiff`, `GeoPackage`.

    Args:
        path: A GeoTIFF, or another local raster: JPEG 2000, Erdas Imagine, NITF, ASCII grid, PNG, JPEG.
        bands: Numbers of the bands for red, green and blue, counted from 1, or of one band. Default: the bands that the
            file calls so, else the first three, else the first.
        side_px: Side of a window.
        overlap: Share of its side that a window has in common with its neighbor at least, 0 to 0.5.
        sample_range: Value of black and of white, for samples of more than 8 bits. ``auto`` takes percentiles of the
            whole raster.

    Attributes:
        bands: Bands that are read.
        header of a frame: A `RasterWindow`.

    Raises:
        InputError: The file cannot be read, or has no data.
        SettingsError: An option is wrong.
        MissingDependencyError: rasterio is not installed.

    Example:
        >>> for frame in Raster("scene.tif", bands=[4, 3, 2], sample_range="auto"):  # doctest: +SKIP
        ...     print(frame.header.offset_xy, frame.header.crs)
    """

    def __init__(
        self,
        path: Path | str,
        bands: Sequence[int] = (),
        *,
        side_px: int = SIDE_PX,
        overlap: float = 0.25,
        sample_range: SampleRange = "full",
    ) -> None:
        self.path, self.sample_range = Path(path), check_range(sample_range)
        if side_px < 16 or not 0 <= overlap <= 0.5:
            raise SettingsError(
                f"Raster: found windows of {side_px} pixels and overlap {overlap}, expected 16 or more, 0 to 0.5."
            )
        with opened_raster(self.path) as data:
            self.bands = tuple(bands) or _default_bands(data)
            if len(self.bands) not in (1, 3) or not all(1 <= band <= data.count for band in self.bands):
                raise SettingsError(
                    f"--bands {','.join(map(str, self.bands))}: expected one or three numbers from 1 to {data.count} "
                    f"for {self.path}."
                )
            self._dtype = np.dtype(data.dtypes[self.bands[0] - 1])
            if self._dtype.kind not in "uif":
                raise InputError(f"{self.path}: found samples of {self._dtype}, expected numbers. Choose --bands.")
            used = data.tags(self.bands[0], ns="IMAGE_STRUCTURE").get("NBITS", 8 * self._dtype.itemsize)
            self._bits = int(used)
            self._palette = _palette(data, self.bands)
            self._crs = data.crs.to_wkt() if data.crs else ""
            self._transform = data.transform
            self._masked = any(
                "all_valid" not in {flag.name for flag in data.mask_flag_enums[band - 1]} for band in self.bands
            )
            self._range = self._black_and_white(data)
            super().__init__(list(self._found(data, side_px, overlap)))
        if not self.length:
            raise InputError(f"{self.path}: found no pixel with data. Check its nodata value.")

    def read(self, item: RasterItem) -> Frame:
        """Read a window.

        Args:
            item: One of `items`.

        Raises:
            InputError: If the file is damaged there.
        """
        x0, y0 = item.window.x0, item.window.y0
        place = ((y0, y0 + item.window.height), (x0, x0 + item.window.width))
        with opened_raster(self.path) as data:
            samples = np.moveaxis(data.read(self.bands, window=place), 0, -1)
            valid = data.dataset_mask(window=place) > 0 if self._masked else np.ones(samples.shape[:2], bool)
        if self._dtype.kind == "f":
            valid &= np.isfinite(samples).all(axis=2)
        if not valid.all():
            samples = np.where(valid[..., None], samples, 0)
        image = samples if self._dtype == np.uint8 else to_8_bits(samples, self._bits, self._range, self.path)
        image = image[..., 0] if self._palette is None and len(self.bands) == 1 else image
        if self._palette is not None:
            image = self._palette[image[..., 0]]
        elif image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        image = np.ascontiguousarray(image, np.uint8)
        image[~valid] = 0
        a, b, c, d, e, f = self._transform[:6]
        transform = (a, b, a * x0 + b * y0 + c, d, e, d * x0 + e * y0 + f)
        header = RasterWindow((x0, y0), item.core_xyxy, transform, self._crs)
        shown = None if valid.all() else valid
        return Frame(image, item.name, header=header, path=self.path, disposable=True, valid=shown)

    def _found(self, data: Any, side_px: int, overlap: float) -> Iterator[RasterItem]:
        """Yield the windows that have data."""
        windows = windows_of((data.height, data.width), Tiles(side_px=side_px, overlap=overlap), Panorama())
        windows = windows[1:] or windows  # without the view of the whole raster
        rows = _cores([window.y0 for window in windows], windows[0].height, data.height)
        columns = _cores([window.x0 for window in windows], windows[0].width, data.width)
        for window in windows:
            (y0, y1), (x0, x1) = rows[window.y0], columns[window.x0]
            if not self._masked or data.dataset_mask(window=((y0, y1), (x0, x1))).any():
                name = f"{self.path.stem or 'raster'}/y{window.y0:06}_x{window.x0:06}"
                yield RasterItem(self, window, (x0, y0, x1, y1), name)

    def _black_and_white(self, data: Any) -> SampleRange:
        """Return one range for all windows, from a reduced raster."""
        if self._dtype == np.uint8 or isinstance(self.sample_range, tuple):
            return self.sample_range
        scale = min(1.0, _LOOK_PX / max(data.height, data.width))
        shape = max(1, round(data.height * scale)), max(1, round(data.width * scale))
        samples = np.moveaxis(data.read(self.bands, out_shape=(len(self.bands), *shape)), 0, -1)
        samples = (
            samples[data.dataset_mask(out_shape=shape) > 0] if self._masked else samples.reshape(-1, samples.shape[2])
        )
        if self.sample_range == "auto":
            return percentiles(samples)
        if self._dtype.kind == "u" and self._bits <= 16 and samples.size:
            warn_if_dark(int(samples.max()), self._bits, self.path)
            return 0.0, float((1 << self._bits) - 1)
        to_8_bits(samples, self._bits, "full", self.path)  # raises if the range is unknown
        return "full"


@contextmanager
def opened_raster(path: Path | str) -> Iterator[Any]:
    """Open a raster with rasterio.

    Args:
        path: A local file.

    Yields:
        The dataset of rasterio.

    Raises:
        InputError: If it is missing, damaged or of another kind.
        MissingDependencyError: If rasterio is not installed.
    """
    rasterio = import_rasterio()
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such file. Check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            data = rasterio.open(path, driver=DRIVERS.get(Path(path).suffix.lower(), "GTiff"))
        with data:
            yield data
    except rasterio.errors.RasterioError as e:
        raise InputError(f"{path}: cannot be read ({e}). Check that it is a whole raster, such as a GeoTIFF.") from e


def import_rasterio() -> Any:
    """Import rasterio.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        import rasterio
        import rasterio.errors
        import rasterio.features
        import rasterio.shutil
    except ImportError as e:
        raise MissingDependencyError("A raster needs rasterio: pip install 'esam-rt[raster]'") from e
    return rasterio


def _default_bands(data: Any) -> tuple[int, ...]:
    names = [color.name for color in data.colorinterp]
    if {"red", "green", "blue"} <= set(names):
        return tuple(names.index(color) + 1 for color in ("red", "green", "blue"))
    return (1, 2, 3) if data.count >= 3 else (1,)


def _palette(data: Any, bands: Sequence[int]) -> NDArray[np.uint8] | None:
    """Return the colors [256, 3] of a band of uint8 with a palette, or None."""
    if len(bands) != 1 or data.colorinterp[bands[0] - 1].name != "palette" or data.dtypes[bands[0] - 1] != "uint8":
        return None
    colors = np.zeros((256, 3), np.uint8)
    for index, color in data.colormap(bands[0]).items():
        colors[index] = color[:3]
    return colors


def _cores(starts: Sequence[int], side: int, length: int) -> dict[int, tuple[int, int]]:
    """Cut at the middle of what neighbors have in common."""
    ordered = sorted(set(starts))
    cuts = [0, *((after + before + side) // 2 for before, after in pairwise(ordered)), length]
    return dict(zip(ordered, pairwise(cuts), strict=True))
