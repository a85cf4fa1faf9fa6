"""Draw the figures of docs/method.md: what each stage of the method does to one photo.

    python docs/figures/draw_method.py

The photos come with scikit-image and the model is ``tiny``, so nothing is downloaded. The script writes the JPEG files
beside itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

from esam_rt import EntitySegmenter, Settings
from esam_rt.loading.loader import load_sam
from esam_rt.masks import Level, MaskSet
from esam_rt.method.emr import refine_entities
from esam_rt.method.mmg import multi_level_masks
from esam_rt.method.prompt_set import PromptSet
from esam_rt.method.superpixels import superpixels
from esam_rt.method.usr import fill_gaps, new_prompts
from esam_rt.sam.models import get_model
from esam_rt.sam.point_grids import point_grid
from esam_rt.sinks.drawing import tint
from esam_rt.sinks.palette import HUES

Image = NDArray[np.uint8]
WIDTH_PX = 400  # width of one panel
CAPTION_PX = 26
GAP_PX = 8


class Canvas:
    """One photo at the width of a panel, and ways to draw on copies of it."""

    def __init__(self, photo: Image) -> None:
        height = round(photo.shape[0] * WIDTH_PX / photo.shape[1])
        self.photo = np.asarray(cv2.resize(photo, (WIDTH_PX, height), interpolation=cv2.INTER_AREA), np.uint8)
        gray = cv2.cvtColor(self.photo, cv2.COLOR_RGB2GRAY)
        self.pale = np.asarray(np.repeat(gray[..., None] // 2 + 110, 3, axis=2), np.uint8)

    def masks(self, masks_nhw: NDArray[np.bool_], colors: Image | None = None) -> Image:
        """Masks bool [N, h, w] over a pale photo, each in a color."""
        out = self.pale.copy()
        height, width = out.shape[:2]
        colors = HUES if colors is None else colors
        for i in np.argsort(-masks_nhw.sum(axis=(1, 2)), kind="stable"):  # small masks on top of large ones
            soft = cv2.resize(masks_nhw[i].astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
            tint(out, (soft > 0.5).astype(np.uint16), np.stack([colors[0], colors[i % len(colors)]]), out)
        return out

    def points(self, base: Image, points_norm_xy: NDArray[np.float32], radius: float = 2.0) -> Image:
        """Dots with a dark rim at points float32 [N, 2] of [0, 1]², x before y."""
        out = base.copy()
        size = np.array([out.shape[1], out.shape[0]])
        for x, y in points_norm_xy * size * 8:
            for r, color in ((radius + 1, (20, 20, 20)), (radius, (255, 235, 60))):
                cv2.circle(out, (round(x), round(y)), round(r * 8), color, -1, cv2.LINE_AA, 3)
        return out

    def heat(self, values_hw: NDArray[np.float32], top: float) -> Image:
        """A map of numbers from 0 to `top` in colors from dark to bright."""
        scaled = np.asarray(np.clip(values_hw / top * 255, 0, 255), np.uint8)
        colored = cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
        size = (self.photo.shape[1], self.photo.shape[0])
        return np.asarray(cv2.resize(colored, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def figure(panels: dict[str, Image]) -> Image:
    """Panels in two columns, each above its caption."""
    height = next(iter(panels.values())).shape[0]
    rows = (len(panels) + 1) // 2
    out = np.full((rows * (height + CAPTION_PX), 2 * WIDTH_PX + GAP_PX, 3), 255, np.uint8)
    for i, (caption, panel) in enumerate(panels.items()):
        top, left = i // 2 * (height + CAPTION_PX), i % 2 * (WIDTH_PX + GAP_PX)
        out[top : top + height, left : left + WIDTH_PX] = panel
        at = left + 2, top + height + 17
        cv2.putText(out, caption, at, cv2.FONT_HERSHEY_SIMPLEX, 0.46, (40, 40, 40), 1, cv2.LINE_AA)
    return out


def draw(
    photo: Image, point_norm_xy: tuple[float, float] = (0.5, 0.5), settings: Settings | None = None
) -> dict[str, Image]:
    """Draw all stages for one photo.

    Args:
        photo: uint8 [H, W, 3], RGB.
        point_norm_xy: The prompt of the first figure, in [0, 1] of the photo.
        settings: Settings of the method. None: the defaults.

    Returns:
        The figures ``levels``, ``mmg``, ``emr`` and ``usr``.
    """
    sam = load_sam("tiny")
    settings = (settings or Settings()).with_model_defaults(get_model("tiny").default_thresholds())
    filters, min_area = settings.filters, settings.filters.min_area
    canvas = Canvas(photo)
    encoded = sam.encode(photo)
    grid = point_grid(settings.prompts.coarse_side)

    # 1: three masks of one prompt, largest first, without filters.
    everything = settings.with_overrides({"filters.score_min": 0.0, "filters.stability_min": 0.0}).filters
    one = sam.decode(encoded, np.array([point_norm_xy], np.float32), 0, everything)
    point = np.array([point_norm_xy], np.float32)
    levels = {"photo and grid of prompts": canvas.points(canvas.photo, grid, 0.8)}
    for level, name in ((Level.OBJECT, "object"), (Level.PART, "part"), (Level.SUBPART, "sub-part")):
        mask = one.at_level(level)
        color = np.array([[235, 90, 60]], np.uint8)
        levels[f"{name}: predicted IoU {float(mask.predicted_iou[0]):.2f}"] = canvas.points(
            canvas.masks(mask.to_bool(), color), point, 4.5
        )

    # 2: MMG.
    coarse = sam.decode(encoded, grid, 0, filters)
    pixels = superpixels(photo, encoded.geometry, settings.superpixels)
    kept = multi_level_masks(coarse, pixels, settings.mmg)
    density = pixels.density_map(settings.mmg.w_max)
    count = coarse.to_bool().sum(axis=0).astype(np.float32)
    parts = MaskSet.concatenate([kept.part, kept.subpart])
    mmg = {
        f"{len(coarse)} confident masks: 0 to {count.max():.0f} on a pixel": canvas.heat(count, float(count.max())),
        "density map M_D (eq. 3)": canvas.heat(density, settings.mmg.w_max),
        f"{len(kept.object)} object masks (eq. 2)": canvas.masks(kept.object.to_bool()),
        f"{len(parts)} part masks (eq. 4)": canvas.masks(parts.to_bool()),
    }

    # 3: EMR. Without candidates for a merge it is the split alone.
    gallery = PromptSet.grid(
        settings.prompts.fine_side,
        encoded.geometry,
        lambda points: sam.decode(encoded, points, 0, filters, (Level.OBJECT,)),
    )
    no_merge = settings.with_overrides({"emr.similarity_min": 100.0}).emr
    split = refine_entities(kept.object, gallery, encoded, pixels, no_merge, min_area)
    merged = refine_entities(kept.object, gallery, encoded, pixels, settings.emr, min_area)
    overlap = kept.object.to_bool().sum(axis=0) > 1
    red = np.array([[225, 40, 40]], np.uint8)
    emr = {
        f"{len(kept.object)} object masks": canvas.masks(kept.object.to_bool()),
        f"where they overlap: {overlap.mean():.0%} of the photo": canvas.masks(overlap[None], red),
        f"split (eq. 5, 6): {len(split)} entities": canvas.masks(as_bool(split.labels(), len(split))),
        f"merged (eq. 7, 8): {len(merged)} entities": canvas.masks(as_bool(merged.labels(), len(merged))),
    }

    # 4: USR.
    new_points = new_prompts(merged, pixels, parts, encoded.geometry, settings.usr, min_area)
    additional = sam.decode(encoded, new_points, len(grid), filters, ()).best_level()
    filled = fill_gaps(merged, additional, settings.usr, min_area)
    gaps = merged.labels() == 0
    with EntitySegmenter(sam, settings=settings) as segment:
        result = segment(photo)
    scale = max(1, round(photo.shape[1] / WIDTH_PX / 2))
    usr = {
        f"gaps: {gaps.mean():.0%} of the photo": canvas.masks(gaps[None], red),
        f"{len(new_points)} new prompts (eq. 9)": canvas.points(canvas.masks(gaps[None], red), new_points, 2.5),
        f"filled (eq. 10): gaps {(filled.labels() == 0).mean():.0%}": canvas.masks(
            as_bool(filled.labels(), len(filled))
        ),
        f"label map: {len(result)} entities": canvas.masks(as_bool(result.labels[::scale, ::scale], len(result))),
    }
    return {"levels": figure(levels), "mmg": figure(mmg), "emr": figure(emr), "usr": figure(usr)}


def as_bool(labels: NDArray[np.integer], count: int) -> NDArray[np.bool_]:
    """The masks bool [count, h, w] of a label map."""
    return np.asarray(labels[None] == np.arange(1, count + 1)[:, None, None])


def main() -> None:
    """Draw the figures of the documentation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for the figures")
    out: Path = parser.parse_args().out
    # The prompt lies on the flag: its masks are flag and wall, the flag, and half of the flag.
    figures = draw(skimage.data.astronaut(), (0.094, 0.469))
    figures["emr"] = draw(skimage.data.rocket())["emr"]  # here entities are merged
    for name, image in figures.items():
        cv2.imwrite(str(out / f"method_{name}.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])


if __name__ == "__main__":
    main()
