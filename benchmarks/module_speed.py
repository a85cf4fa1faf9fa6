"""How many seconds and how much memory do MMG, EMR and USR take without decoding, and each of their kernels?

    python -m benchmarks.module_speed --photos photos/ --json modules.json --plot modules.png

The masks are those of `tiny` with grids of 32 and 64 (5,120 prompts), enlarged to the 256 cells of SAM's own models
(lib/recording.py). Recordings are kept, so the first run decodes for half a minute per photo. --square squeezes photos
to squares, whose masks fill 256 x 256 cells. --parts selects from:

modules  Every photo: with all prompts of the gallery decoded (exact), with a lazy gallery, and with 9 small copies of
         the photo under as many prompts (busy), which have several times as many entities.
growth   4 and 16 times the prompts: on the same photo (denser), and on as many small copies of it (busier). The
         exponent is the slope of log seconds over log prompts: 1 is linear.
kernels  Each kernel, its oracle in plain NumPy and the library that people would use, turn by turn in one process.
         Figures are quartiles of the ratio of each other side to ours.

Everything runs on one thread. Memory is the growth of the resident set to its peak during a call.
"""

from __future__ import annotations

import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import INSTALL
from benchmarks.lib.command_line import note, parser_of
from benchmarks.lib.growth import busier, denser
from benchmarks.lib.kernel_calls import rows
from benchmarks.lib.measure import peak_growth_mb, quartiles, seconds
from benchmarks.lib.photos import Image, at_size, photos
from benchmarks.lib.recording import Recording, recorded
from esam_rt import Settings, __version__
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.loader import load_sam
from esam_rt.masks import MaskSet
from esam_rt.method.emr import refine_entities
from esam_rt.method.mmg import multi_level_masks
from esam_rt.method.prompt_set import PromptSet
from esam_rt.method.usr import fill_gaps, new_prompts
from esam_rt.sam.predictor import Sam
from esam_rt.storage.atomic import write_json

PARTS = ("modules", "growth", "kernels")
MODULES = ("mmg", "emr", "usr")
TIMES = (1, 4, 16)
SQUARE_PX = 512
GOAL_S = 0.40


def full_gallery(recording: Recording) -> PromptSet:
    """Return a gallery with all prompts decoded. It does not change and can be used again."""
    gallery = recording.gallery()
    gallery.ask_all()
    return gallery


def run_modules(recording: Recording, full: PromptSet | None) -> tuple[dict[str, float], dict[str, int]]:
    """Run the modules and return their seconds and mask counts. Without a full gallery, a lazy one is used."""
    s, min_area = recording.settings, recording.settings.filters.min_area
    gallery = full or recording.gallery()
    emr = s.emr.with_changes(gallery="exact" if full else "lazy")
    asked_s = 0.0
    look_up = gallery.ask

    def ask(wanted: Any) -> None:  # in place of decoding
        nonlocal asked_s
        asked_s += seconds(lambda: look_up(wanted))

    if full is None:
        gallery.ask = ask  # type: ignore[method-assign]
    start = time.perf_counter()
    levels = multi_level_masks(recording.coarse, recording.pixels, s.mmg)
    mmg_end = time.perf_counter()
    entities = refine_entities(levels.object, gallery, recording.photo, recording.pixels, emr, min_area)
    emr_end = time.perf_counter()
    parts = MaskSet.concatenate([levels.part, levels.subpart])
    points = new_prompts(entities, recording.pixels, parts, recording.photo.geometry, s.usr, min_area)
    final = fill_gaps(entities, recording.additional, s.usr, min_area)
    usr_end = time.perf_counter()
    taken = {"mmg": mmg_end - start, "emr": emr_end - mmg_end - asked_s, "usr": usr_end - emr_end}
    counts = {
        "masks": len(recording.coarse) + len(gallery.masks) + len(recording.additional),
        "objects": len(levels.object),
        "parts": len(parts),
        "entities_of_emr": len(entities),
        "new_prompts": len(points),
        "entities": len(final),
    }
    return {**taken, "all": sum(taken.values())}, counts


def medians(recording: Recording, full: PromptSet | None, rounds: int) -> tuple[dict[str, float], dict[str, int]]:
    """Return the median seconds of each module over the rounds."""
    runs = [run_modules(recording, full) for _ in range(rounds)]
    return {key: float(np.median([taken[key] for taken, _ in runs])) for key in runs[0][0]}, runs[0][1]


def summary(results: list[tuple[dict[str, float], dict[str, int]]]) -> dict[str, Any]:
    """Summarize over photos."""
    return {
        "s": {key: quartiles([taken[key] for taken, _ in results]) for key in (*MODULES, "all")},
        "most_s": round(max(taken["all"] for taken, _ in results), 4),
        "median_counts": {key: round(float(np.median([c[key] for _, c in results]))) for key in results[0][1]},
    }


def time_modules(recordings: Iterator[Recording], rounds: int) -> dict[str, Any]:
    """Time every photo in three ways."""
    results = defaultdict(list)
    memory = defaultdict(list)
    for recording in recordings:
        ways = {"exact": recording, "lazy": recording, "busy": busier(recording, 3, 1)}
        for way, one in ways.items():
            full = None if way == "lazy" else full_gallery(one)
            results[way].append(medians(one, full, rounds))
            memory[way].append(peak_growth_mb(lambda one=one, full=full: run_modules(one, full)))  # type: ignore[misc]
    return {way: {**summary(found), "peak_mb": quartiles(memory[way], 1)} for way, found in results.items()}


def time_growth(recordings: list[Recording], rounds: int) -> dict[str, Any]:
    """Measure seconds and memory by the number of prompts, for both ways to grow, with exponents."""
    found: dict[str, Any] = {}
    ways: dict[str, Callable[[Recording, int], Recording]] = {
        "denser": denser,
        "busier": lambda recording, k: busier(recording, k, k),
    }
    for way, grown in ways.items():
        results: dict[int, list[Any]] = {times: [] for times in TIMES}
        memory: dict[int, list[float]] = {times: [] for times in TIMES}
        for number, recording in enumerate(recordings, 1):
            for times in TIMES:
                note(f"growth, {way}: photo {number} of {len(recordings)}, {times} x prompts")
                one = recording if times == 1 else grown(recording, round(times**0.5))
                full = full_gallery(one)
                results[times].append(medians(one, full, rounds))
                memory[times].append(peak_growth_mb(lambda one=one, full=full: run_modules(one, full)))  # type: ignore[misc]
        exponents = {
            key: [
                float(np.polyfit(np.log(TIMES), np.log([results[t][i][0][key] for t in TIMES]), 1)[0])
                for i in range(len(recordings))
            ]
            for key in (*MODULES, "all")
        }
        found[way] = {
            "times": {str(t): {**summary(r), "peak_mb": quartiles(memory[t], 1)} for t, r in results.items()},
            "exponent": {key: quartiles(values, 2) for key, values in exponents.items()},
        }
    return found


def time_kernels(recordings: list[Recording], most: int, rounds: int) -> list[dict[str, Any]]:
    """Measure the ratio of each other side to ours, over photos and rounds."""
    ours_s, ratios, agree = defaultdict(list), defaultdict(list), defaultdict(list)
    memory = defaultdict(list)
    for number, recording in enumerate(recordings, 1):
        for row in rows(recording, most):
            note(f"photo {number} of {len(recordings)}: {row.kernel}")
            answer = row.ours()
            for side, call in row.others.items():
                agree[row.kernel, side].append(bool(row.same(answer, call())))
            for side, call in {"ours": row.ours, **row.others}.items():
                memory[row.kernel, side].append(peak_growth_mb(call))
            for _ in range(rounds):
                own = seconds(row.ours)
                ours_s[row.kernel].append(own)
                for side, call in row.others.items():
                    ratios[row.kernel, side].append(seconds(call) / own)
    return [
        {
            "kernel": kernel,
            "side": side,
            "ours_ms": quartiles([1e3 * s for s in ours_s[kernel]], 3),
            "times_ours": quartiles(values, 1),
            "same_result": f"{sum(agree[kernel, side])} of {len(agree[kernel, side])}",
            "ours_peak_mb": round(float(np.median(memory[kernel, "ours"])), 1),
            "peak_mb": round(float(np.median(memory[kernel, side])), 1),
        }
        for (kernel, side), values in ratios.items()
    ]


def print_record(record: dict[str, Any], console: Console) -> None:
    """Print the tables of the parts that were measured."""
    if "modules" in record:
        table = Table("s a photo", *MODULES, "all", "quartiles", "most", "masks", "entities", "MB")
        for way, r in record["modules"].items():
            table.add_row(
                way,
                *(f"{r['s'][key]['median']:.4f}" for key in (*MODULES, "all")),
                f"{r['s']['all']['low']:.4f} to {r['s']['all']['high']:.4f}",
                f"{r['most_s']:.4f}",
                str(r["median_counts"]["masks"]),
                str(r["median_counts"]["entities"]),
                f"{r['peak_mb']['median']:.0f}",
            )
        console.print(table)
    for way, r in record.get("growth", {}).items():
        table = Table(way, *MODULES, "all", "masks", "entities", "MB")
        for times, t in r["times"].items():
            table.add_row(
                f"{times} x prompts, s",
                *(f"{t['s'][key]['median']:.4f}" for key in (*MODULES, "all")),
                *(str(t["median_counts"][key]) for key in ("masks", "entities")),
                f"{t['peak_mb']['median']:.0f}",
            )
        table.add_row("exponent", *(f"{r['exponent'][key]['median']:.2f}" for key in (*MODULES, "all")))
        console.print(table)
    if "kernels" in record:
        table = Table("kernel", "ours, ms", "against", "times ours", "quartiles", "same result", "MB", "ours, MB")
        for r in record["kernels"]:
            t = r["times_ours"]
            table.add_row(
                r["kernel"], f"{r['ours_ms']['median']:.2f}", r["side"], f"{t['median']:.1f}",
                f"{t['low']:.1f} to {t['high']:.1f}", r["same_result"], f"{r['peak_mb']:.0f}",
                f"{r['ours_peak_mb']:.0f}",
            )  # fmt: skip
        console.print(table)


def draw(record: dict[str, Any], path: Path) -> None:
    """Plot growth on the left and kernels on the right."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 6.5), layout="constrained")
    prompts = [5120 * t for t in TIMES]
    for (way, r), style in zip(record["growth"].items(), ("-o", "--s"), strict=True):
        for key, color in zip((*MODULES, "all"), ("tab:blue", "tab:orange", "tab:green", "black"), strict=True):
            by_size = [r["times"][str(t)]["s"][key]["median"] for t in TIMES]
            name = "all" if key == "all" else key.upper()
            label = f"{name}, {way} (exponent {r['exponent'][key]['median']:.2f})"
            left.loglog(prompts, by_size, style, color=color, label=label, markersize=5)
            if key == "all" and way == "busier":
                linear = [by_size[0] * t for t in TIMES]
                left.loglog(prompts, linear, ":", color="grey", label="linear")
    left.axhline(GOAL_S, color="tab:red", linewidth=1)
    label = f"goal for 5,120 prompts: {GOAL_S:.2f} s"
    left.text(prompts[-1], GOAL_S * 1.06, label, color="tab:red", ha="right")
    left.set_xticks(prompts, [f"{p:,}" for p in prompts])
    left.minorticks_off()
    left.set_xlabel("prompts")
    left.set_ylabel("seconds a photo, one thread")
    left.set_title("MMG, EMR and USR by number of prompts")
    left.set_ylim(top=8 * GOAL_S)
    left.legend(fontsize=8, ncols=2, loc="upper left")
    left.grid(alpha=0.3)
    found = record["kernels"][::-1]
    for y, r in enumerate(found):
        t = r["times_ours"]
        color = "tab:blue" if r["side"] == "NumPy" else "tab:orange"
        right.barh(y, t["median"], color=color, height=0.7)
        right.plot([t["low"], t["high"]], [y, y], color="black", linewidth=1.5)
        right.text(
            max(t["high"], t["median"]) * 1.15,
            y,
            f"{t['median']:,.{1 if t['median'] < 100 else 0}f}",
            va="center",
            fontsize=8,
        )
    right.set_xscale("log")
    right.set_xlim(left=0.1, right=max(r["times_ours"]["high"] for r in found) * 6)
    right.axvline(1, color="grey", linewidth=1)
    right.set_yticks(range(len(found)), [f"{r['kernel']}: {r['side']}" for r in found], fontsize=8)
    right.set_xlabel("times the seconds of ours (median and quartiles)")
    right.set_title("Kernels against plain NumPy (blue) and libraries (orange)")
    right.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--photos", type=Path, help="folder of photos; default: the photos of scikit-image")
    parser.add_argument("--square", action="store_true", help=f"squeeze photos to {SQUARE_PX} x {SQUARE_PX} pixels")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th photo")
    parser.add_argument("--some", type=int, default=5, help="number of photos for growth and kernels, spread over all")
    parser.add_argument(
        "--most",
        type=int,
        default=300,
        help="largest number of masks for the kernels",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--recordings", type=Path, help="folder of recordings; default: in the cache")
    parser.add_argument("--plot", type=Path, help="plot growth and kernels to this file")
    a = parser.parse_args()
    if a.plot and not {"growth", "kernels"} <= set(a.parts):
        parser.error("--plot needs the parts growth and kernels")
    if a.plot and find_spec("matplotlib") is None:
        parser.error(f"--plot needs matplotlib. Install it: {INSTALL}")
    if "kernels" in a.parts and find_spec("torchvision") is None:
        note(f"torchvision is not installed and is left out. To add it: {INSTALL}")
    cv2.setNumThreads(1)
    sam = load_sam("tiny", ExecutionConfig(threads=1))
    found = list(photos(a.photos).items())[:: a.every]
    some = found[:: max(1, len(found) // a.some)][: a.some]
    record = measure(sam, found, some, a)
    if a.plot:
        draw(record, a.plot)


def measure(
    sam: Sam, found: list[tuple[str, Callable[[], Image]]], some: list[tuple[str, Callable[[], Image]]], a: Any
) -> dict[str, Any]:
    """Measure the chosen parts. Each is printed and written when it is done."""

    def read(name: str, image: Callable[[], Image]) -> Recording:
        return recorded(sam, name, at_size(image(), SQUARE_PX if a.square else None), Settings(), a.recordings)

    progress = Console(stderr=True)
    record: dict[str, Any] = {
        "esam_rt": __version__,
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "model": "tiny, enlarged to 256 cells",
        "photos": "/".join(a.photos.resolve().parts[-3:]) if a.photos else "scikit-image",
        "square": a.square,
        "count": len(found),
        "rounds": a.rounds,
    }
    for name, image in track(some, "recordings", console=progress):
        run_modules(read(name, image), None)  # compiles
    measures: dict[str, Callable[[], Any]] = {
        "modules": lambda: time_modules((read(*one) for one in track(found, "modules", console=progress)), a.rounds),
        "growth": lambda: time_growth([read(*one) for one in some], a.rounds),
        "kernels": lambda: time_kernels([read(*one) for one in some], a.most, a.rounds),
    }
    for part in PARTS:
        if part in a.parts:
            record[part] = measures[part]()
            print_record({part: record[part]}, Console(width=140))
            if a.json:
                write_json(a.json, record)
    return record


if __name__ == "__main__":
    main()
