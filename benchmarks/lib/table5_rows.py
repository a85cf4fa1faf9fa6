"""Rows and columns of benchmarks/table5.py: what there is to measure, and the table of what was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

PAPER_PROMPTS = 32 * 32 + 64 * 64
TIMES = ("encoder", "decoder", "mmg", "emr", "usr")
TITLES = {
    **dict(zip(TIMES, ("encoder", "decoder", "MMG", "EMR", "USR"), strict=True)),
    "total": "total",
    "amg": "masks of 1,024",
    "photo": "12 MP photo, on the host",
    "gpu_photo": "12 MP photo, on the GPU",
    "memory_mb": "memory, MB",
    "gpu_memory_mb": "GPU memory, MB",
    "parity": "parity",
}
NETWORKS, WHOLE = ("encoder", "decoder"), ("amg",)
BASELINES = (  # rows whose sum is compared, and with which column
    (NETWORKS, "pytorch cuda float32 eager"),
    (NETWORKS, "pytorch cuda float16 sdpa"),
    (NETWORKS, "pytorch cuda float16 compiled"),
    (WHOLE, "pytorch cuda float16 pipeline"),
)


@dataclass(frozen=True)
class Row:
    """One measurement, in a process of its own: `kind` says by which function, `side` of what."""

    kind: str
    side: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For people, files and `--only`."""
        return " ".join((self.kind, *self.side))


def rows_of(backends: Sequence[str], has_gpu: bool, has_provider: bool = False) -> Iterator[Row]:
    """What can be measured here, what Table 5 is for first: a call may end before the rest. has_provider: whether ONNX
    Runtime's TensorRT provider loads."""
    yield Row("modules")
    if has_gpu:
        yield from _rows_of_gpu(backends, has_provider)
    if "onnxruntime" in backends:
        yield Row("ours", ("onnxruntime", "cpu", "fp32"))
    if not has_gpu:
        yield Row("pytorch", ("cpu", "float32", "sdpa"))


def _rows_of_gpu(backends: Sequence[str], has_provider: bool) -> Iterator[Row]:
    """The default precision of every backend, PyTorch beside it, then variants. ONNX Runtime has no bf16: some
    operators have no such kernels."""
    has_runtime, others = "onnxruntime" in backends, [b for b in backends if b != "onnxruntime"]
    if has_runtime:
        yield from _rows_of_side(("onnxruntime", "cuda", "fp16"), ("graphs",))
    for mode in (("float32", "eager"), ("float16", "sdpa"), ("float16", "pipeline"), ("float16", "compiled")):
        yield Row("pytorch", ("cuda", *mode))
    for backend in others:
        yield from _rows_of_side((backend, "cuda", "fp16"), ("graphs",))
    if has_runtime:
        yield from _rows_of_side(("onnxruntime", "cuda", "fp32"))
        yield Row("ours", ("onnxruntime", "cuda", "fp16", "fused"))
    if has_provider:
        yield from _rows_of_side(("onnxruntime", "tensorrt", "fp16"))
    for backend in others:
        for precision in ("fp32", "bf16"):
            yield from _rows_of_side((backend, "cuda", precision), ("graphs",))
    yield from (Row("photo", (backend, "cuda", "fp16")) for backend in backends)


def _rows_of_side(side: tuple[str, ...], variants: Sequence[str] = ()) -> Iterator[Row]:
    """Parity and times of a backend, and times of its variants."""
    yield Row("parity", side)
    yield Row("ours", side)
    yield from (Row("ours", (*side, variant)) for variant in variants)


def columns_of(rows: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Columns of the table by title, with all that was measured of each: of ours also the modules and the parity."""
    figures = {name: entry["figures"] for name, entry in rows.items() if "figures" in entry}
    columns: dict[str, dict[str, float]] = {}
    for name, own in figures.items():
        kind, *side = name.split()
        if kind not in ("ours", "pytorch"):
            continue
        column = dict(own)
        if kind == "ours":
            column |= figures.get("modules", {})
            if of_side := figures.get(" ".join(("parity", *side[:3]))):
                column["parity"] = of_side["iou"]
            column |= figures.get(" ".join(("photo", *side)), {})
        if all(row in column for row in TIMES):  # a partial sum would look like a fast side
            column["total"] = sum(column[row] for row in TIMES)
        columns[name] = column
    return columns


def markdown(result: Mapping[str, Any]) -> str:
    """The table, what it is of, and what could not be measured."""
    columns = columns_of(result["rows"])
    lines = [
        f"{result['model']}, {result['weights']}, {PAPER_PROMPTS:,} prompts. {result['gpu']}; {result['cpu']}.",
        "",
    ]
    lines += [f"| seconds | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for row, title in TITLES.items():
        digits = 0 if row.endswith("_mb") else 4
        cells = ("-" if (c := column.get(row)) is None else f"{c:,.{digits}f}" for column in columns.values())
        lines.append(f"| {title} | {' | '.join(cells)} |")
    for rows, baseline in BASELINES:
        times = {name: sum(c[row] for row in rows) for name, c in columns.items() if all(row in c for row in rows)}
        if baseline in times:
            ratios = (f"{times[baseline] / times[name]:.1f}" if name in times else "-" for name in columns)
            titles = " + ".join(TITLES[row] for row in rows)
            lines.append(f"| {titles}, times as fast as {baseline} | {' | '.join(ratios)} |")
    scaled = [f"{name} from {c['prompts']:,.0f}" for name, c in columns.items() if c.get("prompts", 5120) != 5120]
    lines += ["", f"Decoder scaled: {', '.join(scaled) or 'none'}."]
    for key, meaning in (("ended", "Measured, but then"), ("error", "Not measured")):
        lines += [f"{meaning}: {name}: {entry[key]}." for name, entry in result["rows"].items() if key in entry]
    return "\n".join(lines) + "\n"


def merged(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Results of one model on one machine, put together; of rows that several have, figures count more than errors, and
    later ones more than earlier ones. SystemExit where they are of different things."""
    whole: dict[str, Any] = {**results[0], "rows": {}}
    for result in results:
        for key in ("model", "weights", "gpu", "cpu"):
            if result[key] != whole[key]:
                raise SystemExit(
                    f"{key}: found {result[key]!r} and {whole[key]!r}; merge files of one machine and model."
                )
        for name, entry in result["rows"].items():
            if "figures" in entry or "figures" not in whole["rows"].get(name, {}):
                whole["rows"][name] = entry
    return whole


def cards_and_driver(listed: str) -> tuple[str, str]:
    """GPUs as `doctor.gpu_finding` lists them, without their driver, in which machines of one pool differ; and it."""
    cards = [card.rsplit(", ", 3) for card in listed.split("; ")]
    return "; ".join(f"{name}, {memory}, {capability}" for name, memory, _, capability in cards), cards[0][2]


def outdated(made_with: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs between that with which a row was measured and what is there now; the driver, and a package that
    one side lacks, count for nothing."""
    both = (made_with.keys() & now.keys()) - {"driver"}
    return [f"{key} {made_with[key]}, now {now[key]}" for key in sorted(both) if made_with[key] != now[key]]


def selected(rows: Iterable[Row], patterns: Sequence[str]) -> list[Row]:
    """Rows that some pattern fits; all without patterns. SystemExit for a pattern that fits none."""
    rows = list(rows)
    for pattern in patterns:
        if not any(fnmatch(row.name, pattern) for row in rows):
            raise SystemExit(f"--only {pattern!r}: fits none of {', '.join(row.name for row in rows)}.")
    return [row for row in rows if not patterns or any(fnmatch(row.name, pattern) for pattern in patterns)]
