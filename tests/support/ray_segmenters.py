"""Stand-in segmenters for workers of Ray. Their orders lie in files, since they live in other processes.

python -m tests.support.ray_segmenters ORDERS run PHOTOS --ray local ...     the command line with such segmenters
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import esam_rt.run.run_options
from esam_rt.__main__ import main
from esam_rt.entity_map import EntityMap
from esam_rt.run.run_options import RunOptions
from tests.support import folder_bucket
from tests.support.fake_segmenter import FakeSegmenter
from tests.support.processes import wait_for

folder_bucket.register()  # workers import this module too


@dataclass(frozen=True)
class Orders:
    """Opens segmenters that follow files in a folder.

    - ``deadly``: number of the photo (its pixel 0, 0) that kills its process.
    - ``gate``: number of a photo. While the file exists, this photo and those after it write ``waits.<pid>`` and wait.
    - ``calls``: gets a line for each photo that begins: its number and the process.
    """

    folder: Path

    def __call__(self, options: RunOptions) -> FakeSegmenter:
        return _Obedient(self.folder)

    def calls(self) -> list[tuple[int, int]]:
        """Number and process of each photo that began."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [(int(number), int(process)) for number, process in map(str.split, lines)]

    def waiting(self) -> list[int]:
        """Processes that wait at the gate."""
        return [int(path.suffix[1:]) for path in self.folder.glob("waits.*")]


class _Obedient(FakeSegmenter):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __call__(self, image_hwc_rgb: NDArray[np.uint8]) -> EntityMap:
        number = int(image_hwc_rgb[0, 0, 0])
        with (self.folder / "calls").open("a") as f:
            f.write(f"{number} {os.getpid()}\n")
        deadly, gate = self.folder / "deadly", self.folder / "gate"
        if deadly.exists() and int(deadly.read_text()) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        if gate.exists() and number >= int(gate.read_text()):
            (self.folder / f"waits.{os.getpid()}").touch()
            wait_for(lambda: not gate.exists())
        return super().__call__(image_hwc_rgb)


if __name__ == "__main__":
    from tests.support import ray_segmenters  # workers find its classes under this name, not in __main__

    esam_rt.run.run_options.open_segmenter = ray_segmenters.Orders(Path(sys.argv.pop(1)))  # type: ignore[assignment]
    main()
