"""How much memory does `esam-rt run` take with all its outputs, for one large photo and for a folder of many?

    python -m benchmarks.run_memory --megapixels 12 50 --json run_memory.json

Photos are scikit-image's, enlarged. Each row is its own process. It first segments a small photo, so that the engines
are loaded and warm. Figures are the growth of the resident set from there, with preset `paper`, by kind of file. The
folder's row has photos of 0.3 to 12 megapixels and preset `fast`, and samples the resident set after each photo.
`--set tiles.side_px=2048` measures with tiles.
"""

from __future__ import annotations

import platform
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage import data

from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.measure import in_fresh_process, status_mb
from esam_rt import Settings, __version__
from esam_rt.run.folder_run import run_photos
from esam_rt.run.run_options import RunOptions, Segmenter, open_segmenter
from esam_rt.segmenter import SegmenterConfig
from esam_rt.storage.atomic import write_json

KINDS = {"JPEG": (".jpg", 1), "JPEG, turned by EXIF": (".jpg", 6), "PNG": (".png", 1)}
SIDES = ((480, 640), (1080, 1920), (2000, 3000), (3000, 4000))  # height and width of the folder's photos


class Sampler:
    """A `Listener` that records the resident set after each photo."""

    def __init__(self) -> None:
        self.resident_mb: list[float] = []

    def begun(self, total: int, done: int) -> None:
        """Do nothing."""

    def photo_begun(self, name: str) -> None:
        """Do nothing."""

    def photo_done(self) -> None:
        """Take a sample."""
        self.resident_mb.append(status_mb("VmRSS"))

    def photo_failed(self, message: str) -> None:
        """Stop: no photo may fail."""
        raise AssertionError(message)


def enlarged(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a photo of that size."""
    return np.asarray(cv2.resize(data.astronaut(), (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def save(path: Path, height: int, width: int, orientation: int = 1) -> None:
    """Write a photo of that size."""
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, Any] = {"quality": 92} if path.suffix == ".jpg" else {"compress_level": 1}
    Image.fromarray(enlarged(height, width)).save(path, exif=exif, **options)


def rise(folder: Path, preset: str, changes: dict[str, str]) -> dict[str, float]:
    """Segment a folder and return its peak and resident set, in MB beyond those after a first small photo."""
    with TemporaryDirectory() as temporary:
        (Path(temporary) / "first").mkdir()
        save(Path(temporary) / "first/a.jpg", 400, 600)
        config = SegmenterConfig(settings=Settings.preset(preset).with_overrides(changes))
        options = RunOptions([Path(temporary) / "first"], Path(temporary) / "out", config)
        with open_segmenter(options) as segmenter:

            class Shared:
                """The open segmenter. It is not closed between runs."""

                def __enter__(self) -> Segmenter:
                    return segmenter

                def __exit__(self, *error: object) -> None:
                    return None

            run_photos(options, Sampler(), lambda options: Shared())  # type: ignore[arg-type, return-value]
            Path("/proc/self/clear_refs").write_text("5")  # reset the peak
            before_mb = status_mb("VmRSS")
            sampler = Sampler()
            many = RunOptions([folder], Path(temporary) / "results", options.segmenter)
            summary = run_photos(many, sampler, lambda options: Shared())  # type: ignore[arg-type, return-value]
            assert not summary.error, summary.error
        samples = sampler.resident_mb
        quarter = max(1, len(samples) // 4)
        return {
            "photos": len(samples),
            "engines_mb": round(before_mb),
            "peak_mb": round(status_mb("VmHWM") - before_mb),
            "resident_second_quarter_mb": round(statistics.mean(samples[quarter : 2 * quarter] or samples) - before_mb),
            "resident_last_quarter_mb": round(statistics.mean(samples[-quarter:]) - before_mb),
        }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[12, 50], help="sizes of single photos")
    parser.add_argument("--folder", type=int, default=200, help="number of photos in the folder; 0 leaves it out")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="kinds of files")
    parser.add_argument("--preset", default="paper", choices=Settings.presets, help="preset of single photos")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting")
    a = parser.parse_args()
    changes = dict(item.split("=", 1) for item in a.set)
    rows: dict[str, dict[str, float]] = {}

    def measure(name: str, photos: Path, preset: str) -> None:
        note(f"measuring {name}")
        rows[name] = in_fresh_process(rise, photos, preset, changes)
        note(f"{name}: {rows[name]}")

    for megapixels in a.megapixels:
        height = round((megapixels * 1e6 / 1.5) ** 0.5)
        for kind in a.kinds:
            suffix, orientation = KINDS[kind]
            with TemporaryDirectory() as folder:
                save(Path(folder) / f"a{suffix}", height, round(height * 1.5), orientation)
                measure(f"{megapixels:g} megapixels, {kind}", Path(folder), a.preset)
    if a.folder:
        with TemporaryDirectory() as folder:
            for i in range(a.folder):
                save(Path(folder) / f"{i:04}.jpg", *SIDES[i % len(SIDES)])
            measure(f"a folder of {a.folder}", Path(folder), "fast")
    columns = list(next(iter(rows.values())))
    table = Table("", *columns, title="esam-rt run, tiny: MB beyond the loaded engines")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[c]:g}" for c in columns))
    Console(width=140).print(table)
    if a.json:
        write_json(a.json, {"esam_rt": __version__, "platform": platform.platform(), "set": a.set, "rows": rows})


if __name__ == "__main__":
    main()
