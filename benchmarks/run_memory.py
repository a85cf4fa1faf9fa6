"""Memory of `esam-rt run` with everything that it writes: of one large photo, and over a folder of many.

    python -m benchmarks.run_memory --out run_memory.json

Photos are scikit-image's, enlarged. Each row is a process of its own, which first segments a small photo, so that the
engines are loaded and warm; printed is how far the peak of the resident set then rises, by kind of file, with preset
`paper`. The folder's row runs over photos of 0.3 to 12 megapixels and samples the resident set after each of them.
"""

from __future__ import annotations

import argparse
import json
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

from benchmarks.lib.measure import in_fresh_process, status_mb
from esam_rt import Settings, __version__
from esam_rt.run.folder_run import run_photos
from esam_rt.run.run_options import RunOptions, Segmenter, open_segmenter
from esam_rt.segmenter import SegmenterConfig

KINDS = {"JPEG": (".jpg", 1), "JPEG, turned by EXIF": (".jpg", 6), "PNG": (".png", 1)}
SIDES = ((480, 640), (1080, 1920), (2000, 3000), (3000, 4000))  # of the folder's photos, pixels


class Sampler:
    """`Listener` that notes the resident set after each photo."""

    def __init__(self) -> None:
        self.resident_mb: list[float] = []

    def begun(self, total: int, done: int) -> None:
        """Nothing."""

    def photo_begun(self, name: str) -> None:
        """Nothing."""

    def photo_done(self) -> None:
        """A sample."""
        self.resident_mb.append(status_mb("VmRSS"))

    def photo_failed(self, message: str) -> None:
        """Not here."""
        raise AssertionError(message)


def enlarged(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A photo of that size."""
    return np.asarray(cv2.resize(data.astronaut(), (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def save(path: Path, height: int, width: int, orientation: int = 1) -> None:
    """A photo file of that size."""
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, Any] = {"quality": 92} if path.suffix == ".jpg" else {"compress_level": 1}
    Image.fromarray(enlarged(height, width)).save(path, exif=exif, **options)


def rise(folder: Path, preset: str) -> dict[str, float]:
    """Peak and resident set in MB beyond those after a first small photo, over the photos of a folder in order."""
    with TemporaryDirectory() as temporary:
        (Path(temporary) / "first").mkdir()
        save(Path(temporary) / "first/a.jpg", 400, 600)
        config = SegmenterConfig(settings=Settings.preset(preset))
        options = RunOptions([Path(temporary) / "first"], Path(temporary) / "out", config)
        with open_segmenter(options) as segmenter:

            class Shared:
                """The segmenter, not closed between runs."""

                def __enter__(self) -> Segmenter:
                    return segmenter

                def __exit__(self, *error: object) -> None:
                    return None

            run_photos(options, Sampler(), lambda options: Shared())  # type: ignore[arg-type, return-value]
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
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
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[12, 50])
    parser.add_argument("--folder", type=int, default=200, help="photos of the folder; 0 = leave it out")
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    for megapixels in a.megapixels:
        height = round((megapixels * 1e6 / 1.5) ** 0.5)
        for kind, (suffix, orientation) in KINDS.items():
            with TemporaryDirectory() as folder:
                save(Path(folder) / f"a{suffix}", height, round(height * 1.5), orientation)
                rows[f"{megapixels:g} megapixels, {kind}"] = in_fresh_process(rise, Path(folder), "paper")
    if a.folder:
        with TemporaryDirectory() as folder:
            for i in range(a.folder):
                save(Path(folder) / f"{i:04}.jpg", *SIDES[i % len(SIDES)])
            rows[f"a folder of {a.folder}"] = in_fresh_process(rise, Path(folder), "fast")
    columns = list(next(iter(rows.values())))
    table = Table("", *columns, title="esam-rt run, tiny: MB beyond the loaded engines")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[c]:g}" for c in columns))
    Console(width=140).print(table)
    record = {"esam_rt": __version__, "platform": platform.platform(), "rows": rows}
    if a.out:
        a.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
