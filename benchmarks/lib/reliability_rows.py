"""The rows of docs/reliability.md: what is promised, the tests behind it, and how their figures read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BEGIN, END = "<!-- begin of the table of benchmarks/reliability.py -->", "<!-- end of the table -->"


@dataclass(frozen=True)
class Row:
    """One promise.

    Attributes:
        area: Files, photos, models, faults, load, same answer, or who may do what.
        promise: One sentence.
        tests: Files of tests, or single tests, as pytest names them.
        figures: Format of the figures that the tests record. Empty: the number of tests.
    """

    area: str
    promise: str
    tests: tuple[str, ...]
    figures: str = ""


FAULTS = "tests/reliability/test_faults.py::test_a_run_that_failed_is_finished_by_resume"
MUTATIONS = "tests/reliability/test_mutations.py::test_a_changed_file_is_read_or_refused"
LOAD = "tests/reliability/test_load.py"
RAY, RAY_DRIVER = "tests/run/test_ray_run.py", "test_a_driver_that_is_killed_or_interrupted_is_resumed_elsewhere"
RESUMED = "{failed_runs} failed runs in {folders} folders, all bytes equal"

ROWS = (
    Row("files", "A file appears whole or not at all.", ("tests/storage/test_atomic.py",)),
    Row("files", "A run with `--resume` stops if photos or settings changed.", ("tests/run/test_output_folder.py",)),
    Row(
        "photos",
        "A damaged or hostile photo is read, or refused with one line. The run goes on.",
        (f"{MUTATIONS}[photos-10000]",),
        "{trials:,} changed photos: {read:,} read, {refused:,} refused; at most {slowest_cpu_ms} ms and {growth_mb} MB",
    ),
    Row("photos", "All kinds of photos that are read have the right pixels.", ("tests/sources/test_photo_files.py",)),
    Row(
        "models",
        "A damaged or hostile checkpoint is read, or refused with one line. Nothing in it runs.",
        (f"{MUTATIONS}[checkpoints-2000]",),
        "{trials:,} changed checkpoints: {read:,} read, {refused:,} refused; no program, socket or other file opened",
    ),
    Row(
        "models",
        "A checkpoint holds tensors and nothing else.",
        ("tests/export/test_state_pickle.py", "tests/export/test_torch_file.py"),
    ),
    Row(
        "models",
        "A damaged or hostile graph is loaded, or refused with one line.",
        (f"{MUTATIONS}[graphs-1000]",),
        "{trials:,} changed graphs: {ran:,} ran, {loaded:,} loaded, {refused:,} refused; no process ended",
    ),
    Row("models", "A graph reads no file outside of its folder.", ("tests/storage/test_onnx_files.py",)),
    Row(
        "faults",
        "After a SIGKILL at any change of a file, no file is half, and `--resume` finishes the run.",
        (f"{FAULTS}[kill-20]",),
        RESUMED,
    ),
    Row("faults", "The same holds for a disk that is full.", (f"{FAULTS}[full-10]",), RESUMED),
    Row("faults", "The same holds for a limit on the size of files.", (f"{FAULTS}[size-10]",), RESUMED),
    Row(
        "faults",
        "The same holds for a bucket that fails at any write.",
        ("tests/run/test_bucket_out.py::test_a_bucket_that_fails_at_any_write_leaves_a_run_that_can_be_resumed",),
        "{failed_runs} failed runs, one a write, all bytes equal",
    ),
    Row(
        "faults",
        "Ray: a killed worker is replaced. After a killed driver, `--resume` finishes the run, also in a bucket.",
        (f"{RAY}::test_a_worker_that_is_killed_is_replaced_and_its_photo_is_done_by_another", f"{RAY}::{RAY_DRIVER}"),
    ),
    Row(
        "faults",
        "Ctrl-C and SIGTERM keep finished photos and the summary.",
        ("tests/cli/test_app.py::test_ctrl_c_and_sigterm_keep_what_is_done",),
    ),
    Row(
        "load",
        "Threads share a segmenter.",
        (f"{LOAD}::test_threads_that_share_a_segmenter_get_the_same_answers",),
        "{equal} of {calls} calls equal, {threads} threads",
    ),
    Row(
        "load",
        "A closed segmenter leaves no file, thread or memory behind.",
        (f"{LOAD}::test_segmenters_that_are_opened_and_closed_leave_nothing",),
        "{cycles} cycles, {growth_mb} MB",
    ),
    Row(
        "load",
        "Memory, files and threads stay flat over a folder.",
        (f"{LOAD}::test_thousands_of_small_photos",),
        "{photos:,} photos, {growth_mb} MB after the first quarter",
    ),
    Row("same answer", "Kernels give the same bits with any number of threads.", ("tests/kernels/test_threads.py",)),
    Row("same answer", "A kernel from the cache is the one that was compiled.", ("tests/kernels/test_code_cache.py",)),
    Row("who may do what", "ONNX Runtime reports nothing.", ("tests/engines/test_telemetry.py",)),
    Row(
        "who may do what",
        "An engine that somebody else made or can write is not loaded.",
        ("tests/loading/test_engine_cache.py",),
    ),
)


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the rows of the JSON as a table in Markdown, between its marks."""
    lines = [BEGIN, "", "| | Promise | Last run | Tests |", "|---|---|---|---|"]
    area = ""
    for row in rows:
        first = "" if row["area"] == area else row["area"].capitalize()
        area = row["area"]
        files = dict.fromkeys(test.removeprefix("tests/").partition("::")[0] for test in row["tests"])
        tests = ", ".join(f"`{file}`" for file in files)
        lines.append(f"| {first} | {row['promise']} | {row['result']} | {tests} |")
    return "\n".join([*lines, "", END])
