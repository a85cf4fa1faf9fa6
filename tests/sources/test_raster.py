"""Raster: windows of files that rasterio wrote, against its own reading of the whole file."""

from __future__ import annotations

import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning

from esam_rt.errors import InputError, MissingDependencyError, SettingsError
from esam_rt.settings import Tiles
from esam_rt.sources import PhotoFolder, Raster, open_source
from esam_rt.sources.source_address import source_kind
from tests.support.rasters import NORTH_UP, colored, regions, write_raster

H, W = 300, 420


def pixels(height: int = H, width: int = W, bands: int = 3, dtype: type = np.uint8) -> NDArray[np.generic]:
    rng = np.random.default_rng(1)
    return rng.integers(0, 200 if dtype == np.uint8 else 3000, (bands, height, width)).astype(dtype)


def put_together(source: Raster, height: int = H, width: int = W) -> NDArray[np.int64]:
    """The raster from the cores of its windows. Each pixel comes once."""
    whole = np.full((height, width, 3), -1)
    for frame in source:
        (x, y), (x0, y0, x1, y1) = frame.header.offset_xy, frame.header.core_xyxy
        assert (whole[y0:y1, x0:x1] == -1).all()
        whole[y0:y1, x0:x1] = frame.image_hwc_rgb[y0 - y : y1 - y, x0 - x : x1 - x]
    return whole


@pytest.mark.parametrize(("side", "overlap"), [(128, 0.25), (100, 0.0), (256, 0.5), (290, 0.1), (1024, 0.25)])
def test_windows_cover_the_raster_once(tmp_path: Path, side: int, overlap: float) -> None:
    path = write_raster(tmp_path / "scene.tif", pixels())
    source = Raster(path, side_px=side, overlap=overlap)
    assert np.array_equal(put_together(source), np.moveaxis(pixels(), 0, -1))
    assert source.length == len(list(source)) and max(item.pixel_count() for item in source.items()) <= side * side
    assert len({frame.name for frame in source}) == source.length


def test_frames_know_their_place_on_the_earth(tmp_path: Path) -> None:
    turned = rasterio.Affine.translation(3000, 9000) @ rasterio.Affine.rotation(30) @ rasterio.Affine.scale(2, 3)
    for transform in (NORTH_UP, turned, rasterio.Affine(1, 0, 5, 0, 1, 7)):
        path = write_raster(tmp_path / "scene.tif", pixels(), transform=transform)
        for frame in Raster(path, side_px=128):
            own = rasterio.Affine(*frame.header.transform)
            x, y = frame.header.offset_xy
            assert np.allclose(own @ (3, 5), transform @ (x + 3, y + 5))
            assert rasterio.CRS.from_wkt(frame.header.crs).to_epsg() == 32633


def test_bands_by_color_by_number_and_gray(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "five.tif", pixels(bands=5))
    assert np.array_equal(put_together(Raster(path)), np.moveaxis(pixels(bands=5)[:3], 0, -1))
    assert np.array_equal(put_together(Raster(path, [4, 3, 2])), np.moveaxis(pixels(bands=5)[[3, 2, 1]], 0, -1))
    gray = put_together(Raster(path, [5]))
    assert all(np.array_equal(gray[..., i], pixels(bands=5)[4]) for i in range(3))
    with rasterio.open(path, "r+") as data:
        data.colorinterp = [ColorInterp[name] for name in ("undefined", "blue", "green", "red", "undefined")]
    assert Raster(path).bands == (4, 3, 2)
    for bands in ((1, 2), (0,), (6,), (1, 2, 9)):
        with pytest.raises(SettingsError, match="expected one or three numbers from 1 to 5"):
            Raster(path, bands)


def test_palettes_become_colors(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "cover.tif", pixels(bands=1), photometric="palette")
    colors = {i: (i, 255 - i, i // 2, 255) for i in range(256)}
    with rasterio.open(path, "r+") as data:
        data.write_colormap(1, colors)
    expected = np.array([colors[i][:3] for i in range(256)])[pixels(bands=1)[0]]
    assert np.array_equal(put_together(Raster(path)), expected)


def test_one_range_holds_for_all_windows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = pixels(dtype=np.uint16)
    samples[:, :, 200:] //= 8  # windows of their own range would be brighter
    path = write_raster(tmp_path / "u16.tif", samples)
    low, high = np.percentile(samples, (0.5, 99.5))
    expected = np.clip((np.moveaxis(samples, 0, -1) - low) * (255 / (high - low)), 0, 255)
    found = put_together(Raster(path, side_px=128, sample_range="auto"))
    assert np.abs(found - expected).max() <= 0.51
    manual = put_together(Raster(path, side_px=128, sample_range=(0, 3000)))
    assert np.abs(manual - np.moveaxis(samples, 0, -1) * (255 / 3000)).max() <= 0.51
    full = put_together(Raster(path, side_px=128))
    assert np.abs(full - np.moveaxis(samples, 0, -1) / 257).max() <= 0.51
    assert caplog.text.count("try --range auto") == 1
    signed = write_raster(tmp_path / "i16.tif", pixels(dtype=np.int16))
    with pytest.raises(InputError, match="Give --range auto"):
        Raster(signed)


def test_pixels_without_data_are_told(tmp_path: Path) -> None:
    samples = pixels(dtype=np.float32) / 3000
    samples[:, :60, :] = -9999
    samples[1, 200, 100] = np.nan
    path = write_raster(tmp_path / "float.tif", samples, nodata=-9999)
    valid = np.zeros((H, W), bool)
    for frame in Raster(path, side_px=128, overlap=0):
        x, y = frame.header.offset_xy
        h, w = frame.image_hwc_rgb.shape[:2]
        valid[y : y + h, x : x + w] = True if frame.valid is None else frame.valid
        assert frame.valid is None or (frame.image_hwc_rgb[~frame.valid] == 0).all()
    expected = np.ones((H, W), bool)
    expected[:60], expected[200, 100] = False, False
    assert np.array_equal(valid, expected)


def test_windows_without_data_are_left_out(tmp_path: Path) -> None:
    samples = pixels() + 1
    samples[:, :, 130:] = 0
    whole, part = (Raster(write_raster(tmp_path / f"{n}.tif", samples, nodata=n), side_px=64) for n in (255, 0))
    assert 0 < part.length < whole.length / 2
    with pytest.raises(InputError, match="found no pixel with data"):
        Raster(write_raster(tmp_path / "empty.tif", np.zeros_like(samples), nodata=0))
    rgba = np.concatenate([samples, np.where(np.arange(W) < 130, 255, 0)[None, None].repeat(H, 1).astype(np.uint8)])
    path = write_raster(tmp_path / "rgba.tif", rgba, photometric="rgb", alpha="yes")
    assert Raster(path, side_px=64).length == part.length


def test_overviews_and_a_missing_crs(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "plain.tif", pixels(), crs=None, transform=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "r+") as data:
            data.build_overviews([2, 4], Resampling.average)
    source = Raster(path, side_px=128)
    assert np.array_equal(put_together(source), np.moveaxis(pixels(), 0, -1))
    assert next(iter(source)).header.crs == ""


FORMATS = {
    "jp2": ("JP2OpenJPEG", {"QUALITY": "100", "REVERSIBLE": "YES"}, 3, np.uint8),
    "jp2 of 12 bits": ("JP2OpenJPEG", {"QUALITY": "100", "REVERSIBLE": "YES", "NBITS": "12"}, 3, np.uint16),
    "img": ("HFA", {}, 3, np.uint8),
    "img of floats": ("HFA", {}, 5, np.float32),
    "ntf": ("NITF", {}, 3, np.uint8),
    "asc": ("AAIGrid", {}, 1, np.int32),
    "asc of floats": ("AAIGrid", {}, 1, np.float32),
}


@pytest.mark.parametrize("case", FORMATS)
def test_other_formats_are_read_as_rasterio_reads_them(tmp_path: Path, case: str) -> None:
    """Samples, place, and pixels without data, of a file that lies at a place on the earth."""
    driver, options, bands, dtype = FORMATS[case]
    samples, nodata = pixels(bands=bands, dtype=dtype), 7
    samples[:, 40:90, 150:210] = nodata
    place = NORTH_UP if driver != "NITF" else rasterio.Affine(1e-3, 0, 12, 0, -1e-3, 50)  # its degrees
    crs = "EPSG:4326" if driver == "NITF" else "EPSG:32633"
    geotiff = write_raster(tmp_path / "scene.tif", samples, transform=place, crs=crs, nodata=nodata)
    path = tmp_path / f"scene.{case.split()[0]}"
    rasterio.shutil.copy(geotiff, path, driver=driver, **options)
    with rasterio.open(path) as data:  # the driver is chosen by GDAL
        assert data.driver == driver
        own, valid = data.read(data.indexes[:3]), data.dataset_mask() > 0
        transform, wkt = data.transform, data.crs.to_wkt()
    assert np.array_equal(own, samples[:3])
    assert (~valid).any()

    low, high = (0, 255) if dtype == np.uint8 else (0, 3000)
    source = Raster(path, side_px=128, sample_range=(low, high))
    expected = np.where(valid, own * (255 / (high - low)), 0)
    assert np.abs(put_together(source) - np.moveaxis(expected, 0, -1)).max() <= 0.51
    for frame in source:
        x, y = frame.header.offset_xy
        h, w = frame.image_hwc_rgb.shape[:2]
        part = valid[y : y + h, x : x + w]
        assert np.array_equal(part, np.ones((h, w), bool) if frame.valid is None else frame.valid)
        assert np.allclose(rasterio.Affine(*frame.header.transform) @ (0, 0), transform @ (x, y))
        assert frame.header.crs == wkt
    assert source_kind(path) == "raster"


def test_memory_holds_windows_and_not_the_raster(tmp_path: Path) -> None:
    side = 3000
    path = tmp_path / "large.tif"
    with rasterio.open(path, "w", "GTiff", side, side, 3, "EPSG:32633", NORTH_UP, "uint8", sparse_ok=True, tiled=True):
        pass
    tracemalloc.start()
    assert sum(frame.image_hwc_rgb.shape[0] > 0 for frame in Raster(path, side_px=256)) > 200
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < side * side  # a third of the raster


def test_addresses_of_rasters(tmp_path: Path) -> None:
    geo = write_raster(tmp_path / "geo.tif", pixels())
    plain = write_raster(tmp_path / "plain.tif", pixels(), crs=None, transform=None)
    assert (source_kind(geo), source_kind(plain), source_kind("a.jp2")) == ("raster", "photos", "raster")
    source = open_source(geo, bands=[3, 2, 1], tiles=Tiles(side_px=128))
    assert isinstance(source, Raster) and source.bands == (3, 2, 1) and source.length > 6
    assert isinstance(open_source(plain, bands=[1]), Raster)
    assert isinstance(open_source(plain), PhotoFolder)
    assert isinstance(open_source(geo, plain), PhotoFolder) and isinstance(open_source(tmp_path), PhotoFolder)
    with pytest.raises(SettingsError, match="--bands: expected one raster"):
        open_source(geo, plain, bands=[1])


def test_what_is_no_raster_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_raster(tmp_path / "cut.tif", colored_bands())
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(InputError, match=r"cut\.tif: cannot be read"):
        list(Raster(path))
    (tmp_path / "no.tif").write_bytes(b"hello")
    (tmp_path / "far.vrt").write_text("<VRTDataset rasterXSize='1' rasterYSize='1'></VRTDataset>")
    for name in ("no.tif", "far.vrt"):
        with pytest.raises(InputError, match=r"cannot be read .* Check that it is a whole raster"):
            Raster(tmp_path / name)
    with pytest.raises(InputError, match="there is no such file"):
        Raster(tmp_path / "missing.tif")
    with pytest.raises(SettingsError, match="expected 16 or more"):
        Raster(path, side_px=4)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'esam-rt\[raster\]'"):
        Raster(path)


def colored_bands() -> NDArray[np.uint8]:
    return np.moveaxis(colored(regions(H, W)), -1, 0)
