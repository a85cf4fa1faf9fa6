"""Draw the picture of the README, four photos of scikit-image with their entities: python docs/figures/draw_demo.py"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

from esam_rt import EntitySegmenter, Settings
from esam_rt.sinks.drawing import jpeg
from esam_rt.sinks.overlays import draw_overlay
from esam_rt.sources.decode import read_photo

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
HEIGHT_PX = 300
DEMO = Path(__file__).parents[1] / "demo.jpg"


def draw(photos: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the photos side by side, with their entities, uint8 RGB [HEIGHT_PX, W, 3]."""
    row = []
    with EntitySegmenter("tiny", settings=Settings.preset("fast")) as segment:
        for image in photos:
            overlay = draw_overlay(image, segment(image))
            width = round(overlay.shape[1] * HEIGHT_PX / overlay.shape[0])
            row.append(cv2.resize(overlay, (width, HEIGHT_PX), interpolation=cv2.INTER_AREA))
    return np.hstack(row)


if __name__ == "__main__":
    folder = Path(skimage.data.__path__[0])
    DEMO.write_bytes(jpeg(draw([read_photo(folder / name, name).image_hwc_rgb for name in PHOTOS]), quality=90))
