"""GeoPackage: the joined entities of a raster as polygons with attributes."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from esam_rt.errors import MissingDependencyError
from esam_rt.sinks.geotiff import GeoTiff
from esam_rt.sinks.seams import IdTable
from esam_rt.sources.raster import import_rasterio

LAYER = "entities"
_WKB_POLYGON, _WKB_MULTI_POLYGON = 3, 6
Rings = Sequence[Sequence[tuple[float, float]]]


class GeoPackage(GeoTiff):
    """Write ``entities.gpkg`` when the run ends: the entities of `GeoTiff` as polygons. It needs the extra ``raster``.

    The layer ``entities`` has a MultiPolygon for each entity, along pixel edges, with ``id``, ``score``, ``area_px``
    and ``area_m2``. The last is empty if the coordinates are no lengths. Memory holds the outlines.

    Args:
        folder: Folder for the file. Default: the folder of the run.

    Raises:
        MissingDependencyError: rasterio or pyogrio is not installed.

    Example:
        >>> with GeoPackage("out") as sink:  # doctest: +SKIP
        ...     for frame in Raster("scene.tif"):
        ...         sink.write(frame, segmenter(frame.image_hwc_rgb).within(frame.valid))
    """

    file_name = "entities.gpkg"
    outputs = (file_name,)

    def __init__(self, folder: Path | str | None = None) -> None:
        super().__init__(folder)
        _pyogrio()

    def finished(self, ids: Path, table: IdTable) -> Path:
        """Trace the polygons.

        Args:
            ids: GeoTIFF of ids.
            table: The entities.

        Returns:
            The finished file, beside ``ids``.
        """
        file = ids.with_name("polygons.gpkg")
        _write_polygons(ids, table, file)
        return file


def _write_polygons(ids: Path, table: IdTable, file: Path) -> None:
    rasterio, pyogrio = import_rasterio(), _pyogrio()
    pieces: dict[int, list[bytes]] = {}
    with rasterio.open(ids) as data:
        for shape, number in rasterio.features.shapes(rasterio.band(data, 1), transform=data.transform):
            if number:
                pieces.setdefault(int(number), []).append(polygon_wkb(shape["coordinates"]))
        crs, a, b, d, e = data.crs, data.transform.a, data.transform.b, data.transform.d, data.transform.e
    metres = crs.linear_units_factor[1] if crs and crs.is_projected else np.nan
    order = np.array(sorted(pieces), np.int64)
    geometry = np.empty(len(order), object)
    geometry[:] = [multi_polygon_wkb(pieces[number]) for number in order.tolist()]
    area_px = table.area_px[order - 1]
    columns = {
        "id": order,
        "score": table.score[order - 1],
        "area_px": area_px,
        "area_m2": area_px * abs(a * e - b * d) * metres**2,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided")  # the raster has none
        try:
            pyogrio.raw.write(
                file,
                geometry,
                list(columns.values()),
                list(columns),
                layer=LAYER,
                driver="GPKG",
                geometry_type="MultiPolygon",
                crs=crs.to_wkt() if crs else None,
            )
        except pyogrio.errors.DataSourceError as error:
            raise OSError(str(error)) from error


def polygon_wkb(rings: Rings) -> bytes:
    """Encode a polygon as well-known binary.

    Args:
        rings: The outer ring, then the holes, each closed.
    """
    parts = [struct.pack("<BII", 1, _WKB_POLYGON, len(rings))]
    for ring in rings:
        parts += [struct.pack("<I", len(ring)), np.asarray(ring, "<f8").tobytes()]
    return b"".join(parts)


def multi_polygon_wkb(polygons: Sequence[bytes]) -> bytes:
    """Encode several polygons as one geometry.

    Args:
        polygons: From `polygon_wkb`.
    """
    return struct.pack("<BII", 1, _WKB_MULTI_POLYGON, len(polygons)) + b"".join(polygons)


def _pyogrio() -> Any:
    try:
        import pyogrio
        import pyogrio.errors
    except ImportError as e:
        raise MissingDependencyError("GeoPackage needs pyogrio: pip install 'esam-rt[raster]'") from e
    return pyogrio
