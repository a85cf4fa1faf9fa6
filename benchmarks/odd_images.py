"""Does one odd photo end a run, and is each photo that is read equal to a reference?

    python -m benchmarks.odd_images FOLDER --json odd_images.json

FOLDER holds files that break readers, in any depth: EXIF turns, 16 bits, CMYK, damaged files, decompression bombs.
Files that attack a reader are added: a row of 100,000,000 pixels, sparse files, a JPEG with zeros after it or with
thousands of scans. One run with method `superpixels` gets all of them. Goals: it ends with exit code 1, with one error
line for each failed file, within 1.5 GB and 3 minutes on two quiet cores. Each photo is then read again and compared
with Pillow, or with tifffile or OpenCV where Pillow keeps 8 of 16 bits.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms, ImageOps

from benchmarks.lib.command_line import parser_of
from esam_rt import __version__
from esam_rt.errors import InputError
from esam_rt.sources.decode import read_photo
from esam_rt.storage.atomic import write_json

Rgb = NDArray[np.uint8]
SPARSE_BYTES = 200 << 30


def png(width: int, height: int, bits: int) -> bytes:
    """A black PNG in grey."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width * bits + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg(side_px: int, **options: Any) -> bytes:
    """A JPEG of a gradient."""
    data = io.BytesIO()
    Image.linear_gradient("L").resize((side_px, side_px)).convert("RGB").save(data, "JPEG", **options)
    return data.getvalue()


def add_attacks(folder: Path) -> None:
    """Write files that announce much, or hold much."""
    progressive = jpeg(2000, progressive=True)
    last_scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    sparse: dict[str, tuple[bytes, int]] = {
        "endless_row.png": (png(100_000_000, 1, 8), 0),
        "few_bytes.png": (png(14_000, 14_000, 1), 0),
        "sparse.jpg": (b"", SPARSE_BYTES),
        "sparse.webp": (b"RIFF\xff\xff\xff\xffWEBPVP8 \xf0\xff\xff\xff", SPARSE_BYTES),
        "sparse.tif": (b"II*\0\x08\0\0\0", SPARSE_BYTES),
        "zeros_after.jpg": (jpeg(500), 4 << 30),
        "many_scans.jpg": (progressive[:-2] + last_scan * 2000 + b"\xff\xd9", 0),
    }
    for name, (data, size) in sparse.items():
        (folder / name).write_bytes(data)
        if size:
            os.truncate(folder / name, size)


def reference(path: Path) -> tuple[str, Rgb]:
    """Read a photo with another library, and return the library's name. It may fail in any way."""
    head = path.read_bytes()[:8] if path.stat().st_size < 1 << 30 else b""
    if head[:4] in (b"II*\0", b"MM\0*"):
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            if page.dtype == np.uint16 and page.photometric <= 2:
                return "tifffile", as_rgb(page.asarray() >> 8)
    if head == b"\x89PNG\r\n\x1a\n":
        samples = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if samples is not None and samples.dtype == np.uint16:
            order = [2, 1, 0, 3][: samples.shape[2]] if samples.ndim == 3 else slice(None)
            return "OpenCV", as_rgb((samples >> 8)[..., order])
    return "Pillow", by_pillow(path)


def as_rgb(samples: NDArray[Any]) -> Rgb:
    """Grey, color or color with alpha to RGB over white."""
    samples = samples if samples.ndim == 3 else np.repeat(samples[..., None], 3, axis=2)
    alpha = samples[..., 3:].astype(float) / 255 if samples.shape[2] == 4 else 1.0
    return np.rint(samples[..., :3] * alpha + 255 * (1 - np.asarray(alpha))).astype(np.uint8)


def by_pillow(path: Path) -> Rgb:
    """Upright RGB over white."""
    with Image.open(path) as opened:
        opened.load()
        image: Image.Image = ImageOps.exif_transpose(opened)
        if opened.mode == "CMYK" and opened.format == "JPEG" and "adobe" not in opened.info:
            image = ImageChops.invert(image)
        profile = opened.info.get("icc_profile", b"")
        if "XYB".encode("utf-16-be") in profile:
            image = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            )  # type: ignore[assignment]
        rgba = image.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))


def compare(path: Path) -> dict[str, Any]:
    """Read a photo and its reference. Return what was found, and the CPU seconds of reading."""
    start = time.process_time()
    try:
        found = read_photo(path, path.name).image_hwc_rgb
    except InputError as e:
        return {"result": "refused", "why": str(e).replace(str(path), ""), "seconds": time.process_time() - start}
    row = {"result": "read", "size": f"{found.shape[1]} x {found.shape[0]}", "seconds": time.process_time() - start}
    name, expected = reference(path)
    same = found.shape == expected.shape
    largest = int(np.abs(found.astype(int) - expected).max()) if same else 255
    return row | {"reference": name, "largest_difference": largest}


def run(files: list[Path], out: Path) -> dict[str, Any]:
    """Segment all files in one run. Return its exit code, its counts, seconds and the peak of its memory."""
    command = [sys.executable, "-m", "esam_rt", "run", *map(str, files), "--method", "superpixels", "--json"]
    start = time.perf_counter()
    ended = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    summary = json.loads(ended.stdout)
    lines = ended.stderr.splitlines()
    return {
        "exit_code": ended.returncode,
        "done": summary["done"],
        "failed": summary["failed"],
        "left": summary["left"],
        "error_lines": sum(line.startswith("error: ") for line in lines),
        "warning_lines": sum(line.startswith("warning: ") for line in lines),
        "other_lines": [line for line in lines if not line.startswith(("error: ", "warning: "))],
        "seconds": round(seconds, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
    }


def show(rows: dict[str, dict[str, Any]], tell: Callable[[str], None] = print) -> None:
    """Print a line for each file."""
    for name, row in rows.items():
        equal = (
            f"{row['size']}, {row['reference']}: {row['largest_difference']}" if row["result"] == "read" else row["why"]
        )
        tell(f"{row['result']:8}{row['seconds']:6.2f} s  {name:58} {equal}")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path, help="folder of odd images")
    a = parser.parse_args()
    if not a.folder.is_dir():
        raise SystemExit(f"{a.folder}: there is no such folder. Give a folder of odd images.")
    with TemporaryDirectory() as temporary:
        attacks = Path(temporary) / "attacks"
        attacks.mkdir()
        add_attacks(attacks)
        files = [path for folder in (a.folder, attacks) for path in sorted(folder.rglob("*")) if path.is_file()]
        whole = run(files, Path(temporary) / "out")
        rows = {f"{path.parent.name}/{path.name}": compare(path) for path in files}
    show(rows)
    unequal = [name for name, row in rows.items() if row.get("largest_difference", 0) > 1]
    print(f"{len(files)} files: {whole}")
    print(f"{sum(row['result'] == 'read' for row in rows.values())} read, unequal: {unequal or 'none'}")
    if a.json:
        write_json(a.json, {"version": __version__, "run": whole, "unequal": unequal, "files": rows})


if __name__ == "__main__":
    main()
