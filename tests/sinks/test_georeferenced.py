"""GeoTiff and GeoPackage: entities over seams against the labels of the whole raster, read by rasterio and pyogrio."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.features import rasterize

from esam_rt.entity_map import EntityMap
from esam_rt.errors import MissingDependencyError, OutputError, SettingsError
from esam_rt.method.windows import Rectangle
from esam_rt.run import run_photos, segment_source
from esam_rt.run.run_options import RunOptions
from esam_rt.sinks import GeoPackage, GeoTiff, open_sink
from esam_rt.sinks.seams import SeamJoiner
from esam_rt.sources import Frame, Raster
from tests.support.rasters import NORTH_UP, ColorSegmenter, colored, regions, write_raster

H, W = 260, 370
TURNED = rasterio.Affine.translation(3000, 9000) @ rasterio.Affine.rotation(30) @ rasterio.Affine.scale(2, 2)
SOUTH_UP = rasterio.Affine(2.0, 0.0, 500_000.0, 0.0, 2.0, 5_000_000.0)


def scene(path: Path, seed: int = 0, **profile: Any) -> NDArray[np.int64]:
    labels = regions(H, W, seed)
    write_raster(path, np.moveaxis(colored(labels), -1, 0), **profile)
    return labels


def same_partition(one: NDArray[np.integer], other: NDArray[np.integer]) -> bool:
    """True if two maps have the same regions, with any numbers."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == pairs.shape[1] == len(np.unique(pairs[1]))


def ids_of(path: Path) -> tuple[NDArray[np.int32], Any]:
    with rasterio.open(path) as data:
        return data.read(1), (data.profile, data.overviews(1), data.tags(ns="IMAGE_STRUCTURE"))


def polygons_of(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """Metadata, GeoJSON geometries, and columns."""
    meta, _, geometry, columns = pyogrio.raw.read(path, layer="entities")
    return meta, [geojson(wkb) for wkb in geometry], dict(zip(meta["fields"], columns, strict=True))


def geojson(wkb: bytes) -> dict[str, Any]:
    """Read a MultiPolygon of well-known binary, as its standard has it."""
    assert struct.unpack_from("<BI", wkb) == (1, 6)
    (count,), at = struct.unpack_from("<I", wkb, 5), 9
    polygons = []
    for _ in range(count):
        assert struct.unpack_from("<BI", wkb, at) == (1, 3)
        (rings,), at = struct.unpack_from("<I", wkb, at + 5), at + 9
        polygons.append([])
        for _ in range(rings):
            (points,), at = struct.unpack_from("<I", wkb, at), at + 4
            polygons[-1].append(np.frombuffer(wkb, "<f8", 2 * points, at).reshape(-1, 2).tolist())
            at += 16 * points
    return {"type": "MultiPolygon", "coordinates": polygons}


@pytest.mark.parametrize("transform", [NORTH_UP, TURNED, SOUTH_UP])
@pytest.mark.parametrize("seed", [0, 1])
def test_ids_join_over_seams_and_lie_where_the_raster_lies(
    tmp_path: Path, seed: int, transform: rasterio.Affine
) -> None:
    labels = scene(tmp_path / "scene.tif", seed, transform=transform)
    source = Raster(tmp_path / "scene.tif", side_px=96)
    segment_source(source, ColorSegmenter(), [GeoTiff(), GeoPackage()], tmp_path / "out")
    ids, (profile, overviews, structure) = ids_of(tmp_path / "out" / "entities.tif")
    assert same_partition(ids, labels) and np.array_equal(ids > 0, labels > 0)
    assert set(np.unique(ids)) == set(range(ids.max() + 1))
    assert (profile["dtype"], profile["nodata"], profile["crs"].to_epsg()) == ("int32", 0, 32633)
    assert profile["transform"].almost_equals(transform) and structure["LAYOUT"] == "COG"
    assert overviews == [] and sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "entities.gpkg", "entities.tif", "photos.jsonl", "run.json"
    ]  # fmt: skip
    meta, shapes, columns = polygons_of(tmp_path / "out" / "entities.gpkg")
    assert meta["geometry_type"] == "MultiPolygon" and rasterio.CRS.from_user_input(meta["crs"]).to_epsg() == 32633
    drawn = rasterize(zip(shapes, columns["id"].tolist(), strict=True), (H, W), transform=transform, dtype="int32")
    assert np.array_equal(drawn, ids)
    assert np.array_equal(columns["area_px"], np.bincount(ids.ravel())[1:])
    assert np.allclose(columns["area_m2"], columns["area_px"] * 4) and np.allclose(columns["score"], 0.5)


def test_large_results_have_overviews(tmp_path: Path) -> None:
    labels = np.kron(regions(40, 60), np.ones((20, 20), int))
    write_raster(tmp_path / "scene.tif", np.moveaxis(colored(labels), -1, 0))
    with open_sink(tmp_path / "my ids.tif") as sink:
        for frame in Raster(tmp_path / "scene.tif", side_px=512):
            sink.write(frame, ColorSegmenter()(frame.image_hwc_rgb))
    ids, (_, overviews, _) = ids_of(tmp_path / "my ids.tif")
    assert same_partition(ids, labels) and overviews[0] == 2


def test_pixels_without_data_get_no_id(tmp_path: Path) -> None:
    labels = regions(H, W)
    bands = np.moveaxis(colored(labels + 1), -1, 0)
    bands[:, :, :80] = 255
    write_raster(tmp_path / "scene.tif", bands, nodata=255, crs=None)
    summary = segment_source(
        Raster(tmp_path / "scene.tif", side_px=96), ColorSegmenter(), [GeoPackage()], tmp_path / "out"
    )
    assert summary.exit_code == 0
    _, shapes, columns = polygons_of(tmp_path / "out" / "entities.gpkg")
    drawn = rasterize(zip(shapes, columns["id"].tolist(), strict=True), (H, W), transform=NORTH_UP)
    assert np.array_equal(drawn > 0, np.arange(W)[None].repeat(H, 0) >= 80)
    assert np.isnan(columns["area_m2"]).all()  # lengths without a reference system mean nothing


def test_an_interrupted_run_is_resumed(tmp_path: Path) -> None:
    labels = scene(tmp_path / "scene.tif")

    def stop(number: int) -> None:
        if number == 5:
            raise KeyboardInterrupt

    def options(**more: Any) -> RunOptions:
        given = RunOptions([tmp_path / "scene.tif"], tmp_path / "out", write=("geotiff",), bands=(1, 2, 3), **more)
        settings = given.segmenter.settings.with_overrides({"tiles.side_px": 96})
        return RunOptions(**{**vars(given), "segmenter": type(given.segmenter)(settings=settings)})

    summary = run_photos(options(), None, ColorSegmenter(stop).open)
    assert summary.error == "interrupted" and summary.done == 5
    ids, _ = ids_of(tmp_path / "out" / "entities.tif")
    assert 0 < (ids > 0).sum() < (labels > 0).sum()
    assert run_photos(options(resume=True), None, ColorSegmenter().open).exit_code == 0
    ids, _ = ids_of(tmp_path / "out" / "entities.tif")
    assert same_partition(ids, labels)


def test_a_window_that_was_read_late_joins_too(tmp_path: Path) -> None:
    labels = scene(tmp_path / "scene.tif")
    frames = list(Raster(tmp_path / "scene.tif", side_px=96))
    with GeoTiff(tmp_path) as sink:
        for frame in [*frames[:2], *frames[3:], frames[2]]:
            sink.write(frame, ColorSegmenter()(frame.image_hwc_rgb))
    assert same_partition(ids_of(tmp_path / "entities.tif")[0], labels)


def test_entities_of_one_window_never_become_one() -> None:
    """The second window sees one region where the first one tells two apart. Each pixel keeps a number of its own."""
    joiner = SeamJoiner(0.5)
    left, right = np.zeros((20, 20), np.uint16), np.zeros((20, 20), np.uint16)
    left[:10, 5:], left[10:, 5:] = 1, 2
    right[:11, :], right[11:, :] = 1, 1
    joiner.add(Rectangle(0, 0, 20, 20), left, np.array([0.9, 0.8]), Rectangle(0, 0, 20, 15))
    joiner.add(Rectangle(0, 10, 20, 30), right, np.array([0.7]), Rectangle(0, 15, 20, 30))
    ids, table = joiner.result()
    assert ids[1] != ids[2] and len(table.score) == 2
    joined = int(np.flatnonzero(table.area_px > 100)[0])
    parts = np.array([100, 300])
    assert table.score[joined] == pytest.approx((parts * [(0.9, 0.8)[joined], 0.7]).sum() / parts.sum())


def test_photos_and_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = EntityMap.from_labels(np.zeros((4, 4), int), np.zeros(0), np.zeros(0, int))
    with pytest.raises(SettingsError, match=r"a\.jpg is in no raster. Give a GeoTIFF"), GeoTiff(tmp_path) as sink:
        sink.write(Frame(np.zeros((4, 4, 3), np.uint8), "a.jpg"), nothing)
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "scene.tif"
    scene(path)
    with pytest.raises(OutputError, match=r"scene\.tif: there is no such file"), GeoTiff(tmp_path / "out") as sink:
        frame = next(iter(Raster(path)))
        sink.write(frame, ColorSegmenter()(frame.image_hwc_rgb))
        path.unlink()
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.setitem(sys.modules, "pyogrio", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'esam-rt\[raster\]'"):
        GeoPackage(tmp_path)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'esam-rt\[raster\]'"):
        GeoTiff(tmp_path)
