"""Draw one sheet of photos of many domains: the photo, SAM's mask generation, and E-SAM (E-SAM Figures 7 and 8).

    python -m benchmarks.gallery_of_domains domains/ --out domains.png

Each folder inside the given one is a domain. The first photos of each are segmented by both methods with one model.
Under each picture stands the number of entities and the share of the photo that they cover. The folders named by
``--panoramas`` hold panoramas, and their left and right edge are one.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.photos import SUFFIXES
from esam_rt import EntitySegmenter, Settings
from esam_rt.loading import load_sam
from esam_rt.sinks.overlays import draw_overlay
from esam_rt.sources.decode import read_photo
from esam_rt.storage.atomic import write_bytes, write_json

METHODS = {"amg": "AMG", "e-sam": "E-SAM"}
GAP, TEXT = 8, 22  # pixels between pictures, and of a line of text
Picture = NDArray[np.uint8]


def titled(picture: Picture, text: str, side: int) -> Picture:
    """Return the picture in a white cell, at most `side` wide and three quarters as high, with a line of text below."""
    scale = min(side / picture.shape[1], 0.75 * side / picture.shape[0])
    width, height = (max(1, round(pixels * scale)) for pixels in picture.shape[1::-1])
    cell = np.full((height + TEXT + GAP, side + GAP, 3), 255, np.uint8)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    cell[:height, :width] = cv2.resize(picture, (width, height), interpolation=how)
    cv2.putText(cell, text, (0, height + TEXT - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return cell


def in_rows(cells: list[Picture], columns: int) -> Picture:
    """Return one picture of all cells, row by row. A row is as high as its highest cell."""
    rows = []
    for i in range(0, len(cells), columns):
        row = cells[i : i + columns]
        row += [np.full_like(row[0], 255)] * (columns - len(row))
        height = max(len(cell) for cell in row)
        pads = [((0, height - len(cell)), (0, 0), (0, 0)) for cell in row]
        rows.append(np.hstack([np.pad(cell, pad, constant_values=255) for cell, pad in zip(row, pads, strict=True)]))
    return np.vstack(rows)


def chosen(folder: Path, per_domain: int) -> list[Path]:
    """Return the first photos of each domain."""
    photos = [
        sorted(path for path in domain.iterdir() if path.suffix.lower() in SUFFIXES)[:per_domain]
        for domain in sorted(folder.iterdir())
        if domain.is_dir()
    ]
    found = [path for domain in photos for path in domain]
    if not found:
        raise SystemExit(f"{folder}: no photo found. Give a folder with one folder of photos for each domain.")
    return found


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path, help="folder with one folder of photos for each domain")
    parser.add_argument("--out", type=Path, default=Path("domains.png"), help="the sheet")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--checkpoint", type=Path, help="weights in place of the model's own")
    parser.add_argument("--preset", default="fast", choices=Settings.presets)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of both methods")
    parser.add_argument("--per-domain", type=int, default=2, metavar="N", help="photos of each domain")
    parser.add_argument("--blocks", type=int, default=2, metavar="N", help="photos side by side")
    parser.add_argument("--side", type=int, default=320, metavar="PX", help="width of a picture in the sheet")
    parser.add_argument("--panoramas", nargs="*", default=["panoramas_360"], metavar="FOLDER")
    a = parser.parse_args()
    base = Settings.preset(a.preset).with_overrides(dict(item.split("=", 1) for item in a.set))
    around = base.with_overrides({"panorama.enabled": True})
    cells: list[Picture] = []
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with closing(load_sam(a.model, checkpoint=a.checkpoint)) as sam:
        for path in chosen(a.folder, a.per_domain):
            name = f"{path.parent.name}/{path.name}"
            photo = read_photo(path, name).image_hwc_rgb
            cells.append(titled(photo, name, a.side))
            figures[name] = {}
            for method, title in METHODS.items():
                settings = around if path.parent.name in a.panoramas else base
                with EntitySegmenter(sam, settings=settings, method=method) as segment:
                    found = segment(photo)
                covered = float((found.labels > 0).mean())
                text = f"{title}: {len(found)} entities, {covered:.0%} covered"
                cells.append(titled(draw_overlay(photo, found), text, a.side))
                figures[name][method] = {"entities": len(found), "covered": round(covered, 3)}
            note(f"{name}: {figures[name]}")
    sheet = in_rows(cells, a.blocks * (1 + len(METHODS)))
    write_bytes(a.out, cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes())
    note(f"look at {a.out}")
    if a.json:
        write_json(a.json, {"model": a.model, "preset": a.preset, "set": a.set, "photos": figures})


if __name__ == "__main__":
    main()
