"""One folder of photos, and one cache with compiled kernels, for all examples and snippets."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="package")
def user_folder(tmp_path_factory: pytest.TempPathFactory, copy_kernels: Callable[[Path], list[Path]]) -> Iterator[Path]:
    """A folder as a reader of the documentation has it: photo.jpg, photos/ and video.avi."""
    folder = tmp_path_factory.mktemp("user")
    photo = np.ascontiguousarray(cv2.resize(skimage.data.astronaut(), (192, 160))[..., ::-1])
    cv2.imwrite(str(folder / "photo.jpg"), photo)
    (folder / "photos").mkdir()
    shutil.copy(folder / "photo.jpg", folder / "photos")
    video = cv2.VideoWriter(str(folder / "video.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (192, 160))
    for _ in range(2):
        video.write(photo)
    video.release()
    cache = tmp_path_factory.getbasetemp() / "cache of tests.docs"
    if not cache.exists():  # a worker may come back to this folder
        copy_kernels(cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESAM_RT_CACHE", str(cache))
        yield folder
