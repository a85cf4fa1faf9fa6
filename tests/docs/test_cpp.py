"""examples/cpp/: the program compiles, and its mask is that of Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import skimage.data

from esam_rt import load_sam
from esam_rt.cli.app import app
from tests.docs.conftest import ROOT

SOURCE = ROOT / "examples" / "cpp" / "one_point.cpp"
HEADER = "onnxruntime_cxx_api.h"
PLACES = ("/usr/include", "/usr/include/onnxruntime", "/usr/local/include", "/usr/local/include/onnxruntime")


def include_folder() -> Path | None:
    """Folder of ONNX Runtime's headers. The Python package has the library without them."""
    for place in (os.environ.get("ONNXRUNTIME_INCLUDE", ""), ROOT / ".venv" / "onnxruntime-headers", *PLACES):
        if place and (Path(place) / HEADER).is_file():
            return Path(place)
    return None


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler, include = shutil.which("c++"), include_folder()
    libraries = list((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    if include is None:
        pytest.skip(f"{HEADER} is missing: set ONNXRUNTIME_INCLUDE, or run make headers")
    if not libraries:
        pytest.skip("the package onnxruntime has no libonnxruntime.so")
    folder = tmp_path_factory.mktemp("cpp")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(libraries[0])
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", str(SOURCE), "-isystem", str(include),
               f"-L{folder}", f"-Wl,-rpath,{folder}", "-lonnxruntime", "-o", str(folder / "one_point")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "one_point"


@pytest.fixture(scope="module")
def graphs(user_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "graphs"
    app(["export", "tiny", "--out", str(folder), "--quiet"], standalone_mode=False)
    return folder


def write_ppm(path: Path, image: np.ndarray) -> None:
    path.write_bytes(f"P6\n{image.shape[1]} {image.shape[0]}\n255\n".encode() + image.tobytes())


@pytest.mark.parametrize(("height", "width"), [(512, 341), (299, 512), (512, 512)])
def test_its_mask_is_that_of_python(program: Path, graphs: Path, tmp_path: Path, height: int, width: int) -> None:
    image = np.ascontiguousarray(cv2.resize(skimage.data.astronaut(), (width, height)))
    write_ppm(tmp_path / "photo.ppm", image)
    sam = load_sam("tiny")
    encoded = sam.encode(image)
    for x, y in ((width // 2, height // 3), (5, height - 7), (width - 1, 0)):
        command = [program, graphs, tmp_path / "photo.ppm", str(x), str(y), tmp_path / "mask.pbm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        kind, size, *rows = (tmp_path / "mask.pbm").read_text().split("\n", 2)
        found = np.array([[cell == "1" for cell in row] for row in rows[0].split()])
        (expected,) = sam.predict(encoded, points=[[x, y]]).best_level().to_bool()
        assert kind == "P1" and size == f"{expected.shape[1]} {expected.shape[0]}"
        assert np.array_equal(found, expected)
        assert done.stdout.endswith(f"{found.sum()} cells\n")
    sam.close()


def test_it_refuses_a_photo_of_another_size(program: Path, graphs: Path, tmp_path: Path) -> None:
    write_ppm(tmp_path / "photo.ppm", np.zeros((100, 200, 3), np.uint8))
    command = [program, graphs, tmp_path / "photo.ppm", "1", "1", tmp_path / "mask.pbm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "must have 512 pixels" in done.stderr


def test_it_is_short() -> None:
    assert len(SOURCE.read_text().splitlines()) <= 110
