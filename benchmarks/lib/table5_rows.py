"""Rows and columns of benchmarks/table5.py: what can be measured, and the table of results."""

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
BASELINES = (  # rows whose sum is compared, and the column to compare with
    (NETWORKS, "pytorch cuda float32 eager"),
    (NETWORKS, "pytorch cuda float16 sdpa"),
    (NETWORKS, "pytorch cuda float16 compiled"),
    (WHOLE, "pytorch cuda float16 pipeline"),
)


@dataclass(frozen=True)
class Row:
    """One measurement in its own process.

    Attributes:
        kind: The function that measures.
        side: Arguments of the function: backend, device, precision, variant.
    """

    kind: str
    side: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name in output, files and `--only`."""
        return " ".join((self.kind, *self.side))


def rows_of(backends: Sequence[str], has_gpu: bool, has_provider: bool = False) -> Iterator[Row]:
    """List the rows that can be measured here. The rows that Table 5 needs come first, because the time may run out.

    Args:
        backends: Backends that load.
        has_gpu: True if there is a GPU.
        has_provider: True if ONNX Runtime's TensorRT provider loads.

    Yields:
        The rows.
    """
    yield Row("modules")
    if has_gpu:
        yield from _rows_of_gpu(backends, has_provider)
    if "onnxruntime" in backends:
        yield Row("ours", ("onnxruntime", "cpu", "fp32"))
    if not has_gpu:
        yield Row("pytorch", ("cpu", "float32", "sdpa"))


def _rows_of_gpu(backends: Sequence[str], has_provider: bool) -> Iterator[Row]:
    """List the default precision of every backend with PyTorch, then variants.

    ONNX Runtime is not measured in bf16, because some of its operators have no such kernels.
    """
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
    """List parity and times of a backend, and times of its variants."""
    yield Row("parity", side)
    yield Row("ours", side)
    yield from (Row("ours", (*side, variant)) for variant in variants)


def columns_of(rows: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the figures of each column. Our columns also have those of the modules and the parity."""
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
    """Write the table, with its model and machine and the rows that could not be measured."""
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
    """Merge results of one model on one machine. Figures replace errors, and later results replace earlier ones.

    Raises:
        SystemExit: The results are of different models or machines.
    """
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
    """Split the GPUs that `doctor.gpu_finding` lists from their driver, because machines of one pool differ in it."""
    cards = [card.rsplit(", ", 3) for card in listed.split("; ")]
    return "; ".join(f"{name}, {memory}, {capability}" for name, memory, _, capability in cards), cards[0][2]


def outdated(made_with: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """List the versions that differ since a row was measured. The driver and packages of only one side do not count."""
    both = (made_with.keys() & now.keys()) - {"driver"}
    return [f"{key} {made_with[key]}, now {now[key]}" for key in sorted(both) if made_with[key] != now[key]]


def selected(rows: Iterable[Row], patterns: Sequence[str]) -> list[Row]:
    """Select the rows that match a pattern, or all without patterns. SystemExit for a pattern without a match."""
    rows = list(rows)
    for pattern in patterns:
        if not any(fnmatch(row.name, pattern) for row in rows):
            raise SystemExit(f"--only {pattern!r}: matches none of {', '.join(row.name for row in rows)}.")
    return [row for row in rows if not patterns or any(fnmatch(row.name, pattern) for pattern in patterns)]
