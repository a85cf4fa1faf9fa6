"""GeoTiff: the ids of all windows of a raster, joined, in one georeferenced file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from esam_rt.entity_map import EntityMap
from esam_rt.errors import InputError, OutputError, SettingsError
from esam_rt.settings import Tiles
from esam_rt.sinks.file_sink import FileSink
from esam_rt.sinks.photo_record import place_of
from esam_rt.sinks.seams import IdTable, write_ids
from esam_rt.sources.frame import Frame
from esam_rt.sources.raster import import_rasterio
from esam_rt.storage.atomic import TEMPORARY, output_error


class GeoTiff(FileSink):
    """Write ``entities.tif`` when the run ends: a Cloud Optimized GeoTIFF of int32 ids. It needs the extra ``raster``.

    0 means no entity, and it is the nodata value. Reference system and transform are those of the raster. Entities that
    look the same where windows overlap have one id, from ``tiles.join_iou`` on. An interrupted run writes the windows
    that are done.

    Args:
        folder: Folder for the file. Default: the folder of the run.

    Raises:
        MissingDependencyError: rasterio is not installed.

    Example:
        >>> with GeoTiff("out") as sink:  # doctest: +SKIP
        ...     for frame in Raster("scene.tif"):
        ...         sink.write(frame, segmenter(frame.image_hwc_rgb).within(frame.valid))
    """

    file_name = "entities.tif"
    outputs = (file_name,)

    def __init__(self, folder: Path | str | None = None) -> None:
        super().__init__(folder)
        import_rasterio()

    def write(self, frame: Frame, entities: EntityMap) -> None:
        """Keep the entities of a window, if no run keeps them.

        Args:
            frame: A frame of `Raster`.
            entities: Its entities.

        Raises:
            SettingsError: The frame is no window of a raster.
        """
        if place_of(frame) is None:
            raise SettingsError(
                f"{self.file.name}: {frame.name} is in no raster. Give a GeoTIFF, or write another file."
            )
        self.remember(frame, entities)

    def close(self, summary: Mapping[str, Any]) -> None:
        """Join the windows and write the file.

        Args:
            summary: The run. ``settings.tiles.join_iou`` counts.

        Raises:
            OutputError: If the file cannot be written, or the raster is gone.
        """
        tiles = summary.get("settings", {}).get("tiles", {})
        join_iou = float(tiles.get("join_iou", Tiles().join_iou))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=TEMPORARY, dir=self.folder) as work:
                ids = Path(work) / "ids.tif"
                table = write_ids(self.run.records, join_iou, ids)
                if table is not None:
                    self.finished(ids, table).replace(self.file)
        except InputError as e:
            raise OutputError(f"{self.file.name}: cannot be written. {e}") from e
        except OSError as e:
            raise output_error(self.file, e) from e

    def finished(self, ids: Path, table: IdTable) -> Path:
        """Make the file of the sink from the joined ids.

        Args:
            ids: GeoTIFF of ids, in a folder for temporary files.
            table: The entities.

        Returns:
            The finished file, in the same folder.
        """
        return ids
