"""The command line: what it prints, where, and its exit codes."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner, Result

from esam_rt import __version__
from esam_rt.cli import app, execution_options, option_types, output
from esam_rt.entity_map import EntityMap
from esam_rt.errors import DeviceError, EngineError, EsamError, ModelError, SettingsError
from esam_rt.loading.execution import ExecutionConfig
from tests.support.fake_segmenter import FakeSegmenter
from tests.support.processes import GUARD_S, wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture
def segmenters(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """`EntitySegmenter` is a fake; what each was made with."""
    made: list[dict[str, Any]] = []

    def make(model: str, **options: Any) -> FakeSegmenter:
        made.append({"model": model, **options})
        return FakeSegmenter()

    monkeypatch.setattr("esam_rt.segmenter.EntitySegmenter", make)
    return made


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException, at: int = 0) -> None:
    def before(number: int) -> None:
        if number == at:
            raise error

    monkeypatch.setattr("esam_rt.segmenter.EntitySegmenter", lambda model, **options: FakeSegmenter(before))


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app.app, [str(a) for a in arguments])


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=GUARD_S, check=False
    )


def assert_one_error_line(result: Result, *words: str) -> None:
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    for word in words:
        assert word in result.stderr


def test_run_prints_the_times_of_table_5_and_where_to_look(
    photos: Path, tmp_path: Path, segmenters: list[dict[str, Any]]
) -> None:
    result = call("run", photos, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert result.stderr == ""
    rows = [line.split()[0] for line in result.stdout.splitlines()[1:9]]
    assert rows == ["encoder", "decoder", "MMG", "EMR", "USR", "superpixels", "upsampling", "total"]
    assert "3 photos segmented, 6 entities" in result.stdout
    assert str(tmp_path / "out" / "report" / "index.html") in result.stdout


def test_results_in_a_bucket_are_shown_by_their_urls(photos: Path, segmenters: list[dict[str, Any]]) -> None:
    (photos / "2.png").write_bytes(b"")
    url = "memory://esam-rt-cli/out"
    result = call("run", photos, "--out", url)
    assert result.exit_code == 1
    assert f"1 failed, see {url}/errors.jsonl. Look at {url}/report/index.html" in result.stdout
    assert MemoryFileSystem().cat_file("/esam-rt-cli/out/run.json")
    assert_one_error_line(call("run", photos, "--out", url), f"--out {url}: holds an earlier run")
    MemoryFileSystem().rm("/esam-rt-cli", recursive=True)


def test_run_passes_its_options_on(photos: Path, tmp_path: Path, segmenters: list[dict[str, Any]]) -> None:
    config = tmp_path / "my.toml"
    config.write_text("[emr]\ndelta = 0.2\ntau = 0.3\n")
    result = call(
        *("run", photos, "--out", tmp_path / "out", "--model", "small", "--method", "amg", "--device", "cuda"),
        *("--preset", "fast", "--config", config, "--set", "emr.tau=0.4", "--set", "usr.enabled=false"),
        *("--threads", "3", "--memory", "700"),
        *("--checkpoint", tmp_path / "w", "--write", "labels, coco", "--limit", "2"),
    )
    assert result.exit_code == 0, result.stderr
    (made,) = segmenters
    settings = made.pop("settings")
    del made["on_event"]
    assert (settings.prompts.fine_side, settings.emr.delta, settings.emr.tau) == (32, 0.2, 0.4)
    assert settings.usr.enabled is False
    assert made == {
        "model": "small",
        "method": "amg",
        "execution": ExecutionConfig(device="cuda", threads=3, memory_mb=700),
        "checkpoint": tmp_path / "w",
    }
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"labels", "entities.json", "photos.jsonl", "run.json"}
    assert len(list((tmp_path / "out" / "labels").iterdir())) == 2


def test_json_is_alone_on_stdout(photos: Path, tmp_path: Path, segmenters: list[dict[str, Any]]) -> None:
    (photos / "2.png").write_bytes(b"")
    result = call("run", photos, "--out", tmp_path / "out", "--json")
    summary = json.loads(result.stdout)
    assert result.exit_code == summary["exit_code"] == 1
    assert (summary["done"], summary["failed"], summary["entities"]) == (2, 1, 4)
    assert summary["out"] == str(tmp_path / "out")
    assert_one_error_line(result, "2.png", "empty")


def test_quiet_prints_errors_only(photos: Path, tmp_path: Path, segmenters: list[dict[str, Any]]) -> None:
    (photos / "2.png").write_bytes(b"")
    result = call("run", photos, "--out", tmp_path / "out", "--quiet")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert_one_error_line(result, "2.png")


def test_summary_says_what_failed_and_what_is_left(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "1.png").write_bytes(b"")
    fail_with(monkeypatch, KeyboardInterrupt(), at=1)
    result = call("run", photos, "--out", tmp_path / "out")
    assert result.exit_code == 130
    assert "1 failed" in result.stdout
    assert "errors.jsonl" in result.stdout
    assert "1 left: run again with --resume" in result.stdout
    assert result.stderr.splitlines()[-1] == "error: interrupted"


def test_summary_of_a_stream_does_not_advise_to_resume(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, KeyboardInterrupt(), at=1)
    result = call("run", photos, "--out", tmp_path / "out", "--track")
    assert result.exit_code == 130
    assert "2 left. Look at" in result.stdout.replace("\n", " ")


@pytest.mark.parametrize(("option", "shown"), [((), True), (("--quiet",), False), (("--json",), False)])
def test_progress_on_a_terminal(
    photos: Path,
    tmp_path: Path,
    segmenters: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    option: tuple[str, ...],
    shown: bool,
) -> None:
    monkeypatch.setattr(output, "stderr", Console(stderr=True, force_terminal=True, width=120))
    result = call("run", photos, "--out", tmp_path / "out", *option)
    assert ("3/3" in result.stderr) == shown
    assert ("photos/min" in result.stderr) == shown


@pytest.mark.parametrize("error", [ModelError("no such\nfile"), EngineError("e"), DeviceError("e"), EsamError("e")])
def test_errors_before_the_run_are_one_line_and_an_exit_code(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: EsamError
) -> None:
    def refuse(model: str, **options: Any) -> FakeSegmenter:
        raise error

    monkeypatch.setattr("esam_rt.segmenter.EntitySegmenter", refuse)
    result = call("run", photos, "--out", tmp_path / "out", "--json")
    assert result.exit_code == error.exit_code
    assert result.stdout == ""
    assert_one_error_line(result, " ".join(str(error).split()))


def test_ctrl_c_while_a_model_loads(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(model: str, **options: Any) -> FakeSegmenter:
        raise KeyboardInterrupt

    monkeypatch.setattr("esam_rt.segmenter.EntitySegmenter", interrupt)
    result = call("run", photos, "--out", tmp_path / "out")
    assert result.exit_code == 130
    assert_one_error_line(result, "interrupted")


def test_device_out_of_memory_is_4(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, DeviceError("GPU is out of memory"), at=1)
    result = call("run", photos, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)["error"] == "GPU is out of memory"
    assert_one_error_line(result, "GPU is out of memory")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--write", "labels,overlays"), "Did you mean overlay"),
        (("--method", "esam"), "Did you mean e-sam"),
        (("--preset", "papr"), "Did you mean paper"),
        (("--backend", "onxruntime"), "Did you mean onnxruntime"),
        (("--device", "cud"), "Did you mean cuda"),
        (("--model", "tinny"), "Did you mean tiny"),
        (("--set", "emr.delt=0.1"), "Did you mean emr.delta"),
        (("--set", "emr.delta"), "expected NAME=VALUE"),
        (("--set", "emr.delta=2"), "from 0 to 1"),
        (("--set", "emr.delta=much"), "expected a number"),
        (("--config", "missing.toml"), "missing.toml"),
        (("--resume", "--overwrite"), "give one of them"),
    ],
)
def test_bad_settings_are_2_and_say_what_is_meant(
    photos: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    result = call("run", photos, "--out", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert_one_error_line(result, words)


def test_more_threads_than_a_machine_can_use_are_refused(
    photos: Path, tmp_path: Path, segmenters: list[dict[str, Any]]
) -> None:
    most = execution_options.MAX_THREADS
    assert most >= 64
    refused = call("run", photos, "--out", tmp_path / "out", "--threads", str(most + 1))
    assert refused.exit_code == 2
    assert "--threads" in refused.stderr and str(most) in refused.stderr
    assert not segmenters
    assert call("run", photos, "--out", tmp_path / "out", "--threads", str(most)).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "{photos}", "--out", ""), "--out is empty"),
        (("run", "", "--out", "{out}"), "SOURCE is empty"),
        (("run", "{photos}", "", "--out", "{out}"), "SOURCE is empty"),
        (("eval", "--gt", "truth.json", "--images", "{photos}", "--out", ""), "--out is empty"),
        (("eval", "--gt", "", "--images", "{photos}", "--out", "{out}"), "--gt is empty"),
        (("eval", "--gt", "truth.json", "--images", "", "--out", "{out}"), "--images is empty"),
        (("export", "tiny", "--out", ""), "--out is empty"),
    ],
)
def test_nothing_is_not_the_current_folder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(photos)
    result = call(*(a.format(photos=photos, out=tmp_path / "out") for a in arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    assert_one_error_line(result, words, "variable")
    assert len(list(photos.iterdir())) == 3 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("run",),
        ("rum",),
        ("run", "x", "--limit", "0"),
        ("run", "x", "--limit", "many"),
        ("run", "x", "--tread", "1"),
    ],
)
def test_usage_errors_are_2(arguments: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_missing_source_and_out_in_place_of_a_file(
    photos: Path, tmp_path: Path, segmenters: list[dict[str, Any]]
) -> None:
    result = call("run", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert_one_error_line(result, "nowhere")
    result = call("run", photos, "--out", photos / "1.png")
    assert result.exit_code == 1
    assert_one_error_line(result, "1.png")
    assert segmenters == []  # found out before a model was loaded


def test_earlier_run_names_both_ways_out(photos: Path, tmp_path: Path, segmenters: list[dict[str, Any]]) -> None:
    def again(*options: str) -> Result:
        return call("run", photos, "--out", tmp_path / "out", *options)

    assert again().exit_code == 0
    result = again()
    assert result.exit_code == 2
    assert_one_error_line(result, "--resume", "--overwrite")
    assert "0 photos segmented, 6 entities, 3 done before" in again("--resume").stdout.replace("\n", " ")
    assert "3 photos segmented" in again("--overwrite").stdout


def test_no_cap_and_no_number_of_megapixels(photos: Path, tmp_path: Path, segmenters: list[dict[str, Any]]) -> None:
    assert call("run", photos, "--out", tmp_path / "out", "--max-megapixels", "inf", "--quiet").exit_code == 0
    result = call("run", photos, "--out", tmp_path / "other", "--max-megapixels", "nan")
    assert result.exit_code == 2
    assert "--max-megapixels" in result.stderr


def test_max_megapixels(photos: Path, tmp_path: Path, segmenters: list[dict[str, Any]]) -> None:
    Image.new("RGB", (2000, 1000)).save(photos / "2.png")
    result = call("run", photos, "--out", tmp_path / "out", "--max-megapixels", "1.9", "--quiet")
    assert result.exit_code == 1
    assert_one_error_line(result, "2.png", "--max-megapixels")


def test_models_lists_them() -> None:
    assert "tiny" in call("models").stdout
    rows = json.loads(call("models", "--json").stdout)
    assert rows[0]["name"] == "tiny"
    assert {"license", "description", "input_px"} <= rows[0].keys()


def test_range(photos: Path, tmp_path: Path, segmenters: list[dict[str, Any]]) -> None:
    assert_one_error_line(call("run", photos, "--range", "9,1"), "--range 9,1", "auto, full, or two numbers that rise")
    Image.fromarray(np.full((4, 4), 900, np.uint16)).save(photos / "4.png")
    result = call("run", photos, "--out", tmp_path / "a", "--json")
    assert result.exit_code == 0
    assert "no sample is above 900 of 65535, so it is nearly black; try --range auto" in result.stderr
    result = call("run", photos, "--out", tmp_path / "b", "--quiet", "--range", "0,1000")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads((tmp_path / "b" / "run.json").read_text())["range"] == [0, 1000]


def test_files_left_out_are_told_on_stderr(photos: Path, tmp_path: Path, segmenters: list[dict[str, Any]]) -> None:
    (photos / "a.gif").touch()
    result = call("run", photos, "--out", tmp_path / "out", "--json")
    assert result.stderr.splitlines() == ["warning: left out 1 file that is no photo by its name: 1 .gif."]
    assert json.loads(result.stdout)["left_out"] == {".gif": 1}


def test_a_url(tmp_path: Path, segmenters: list[dict[str, Any]]) -> None:
    result = call("run", "https://example.com/a.jpg", "--out", tmp_path / "out")
    assert_one_error_line(result, "https://example.com/a.jpg is a URL. Download it first")
    assert not (tmp_path / "out").exists()


def test_module_and_version() -> None:
    result = python("-m", "esam_rt", "--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"esam-rt {__version__}\n", "")


@pytest.mark.parametrize(("arguments", "word"), [("'--help'", "build-engine"), ("'run', '--help'", "--max-megapixels")])
def test_help_imports_nothing_heavy(arguments: str, word: str) -> None:
    script = f"""
import sys
from esam_rt.cli import app
try:
    app.app([{arguments}])
except SystemExit as e:
    heavy = {{"numpy", "numba", "onnxruntime", "rich.progress", "skimage", "cv2", "torch", "onnx_ir", "PIL"}}
    if "run" not in [{arguments}]:
        heavy.add("pydantic")  # by which typer reads options
    sys.exit(e.code or ", ".join(sorted(heavy & sys.modules.keys())) or 0)
"""
    result = python("-c", script)
    assert result.returncode == 0, result.stderr
    assert word in result.stdout


FAKE_RUN = """
import sys, time
import esam_rt.segmenter
from esam_rt.__main__ import main
from tests.support.fake_segmenter import FakeSegmenter
seconds = float(sys.argv.pop(1))
think = lambda number: time.sleep(seconds if number else 0)
make = lambda model, **options: FakeSegmenter(think)
esam_rt.segmenter.EntitySegmenter = make
sys.argv[0] = "esam-rt"
main()
"""


def start(
    script: str, *arguments: str | Path, stdout: Any = subprocess.PIPE, **environment: str
) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *(str(a) for a in arguments)]
    return subprocess.Popen(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **environment}
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("sent", "head"),
    [
        (signal.SIGINT, ""),
        (signal.SIGTERM, ""),
        (signal.SIGTERM, "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"),
    ],
)
def test_ctrl_c_and_sigterm_keep_what_is_done(photos: Path, tmp_path: Path, sent: int, head: str) -> None:
    out = tmp_path / "out"
    process = start(head + FAKE_RUN, "3600", "run", photos, "--out", out)
    journal = out / "photos.jsonl"
    wait_for(lambda: journal.exists() and journal.read_bytes().endswith(b"\n"), process)
    process.send_signal(sent)
    stdout, stderr = process.communicate(timeout=GUARD_S)
    assert process.returncode == 130, stderr
    assert stderr == "error: interrupted\n"
    assert "1 photo segmented" in stdout
    assert len(json.loads((out / "entities.json").read_text())["images"]) == 1
    assert not list(out.rglob(".*"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("killed", [False, True])
def test_ctrl_c_again_changes_nothing_and_sigterm_ends_what_waits(tmp_path: Path, killed: bool) -> None:
    script = """
import pathlib, sys, threading, time, types
from esam_rt.__main__ import main
def last():
    while not pathlib.Path(sys.argv[1]).exists():
        time.sleep(0.01)
threading.Thread(target=last).start()
def app():
    raise KeyboardInterrupt
sys.modules["esam_rt.cli.app"] = types.SimpleNamespace(app=app)
main()
"""
    process = start(script, tmp_path / "end")
    assert process.stderr is not None and process.stderr.readline() == "error: interrupted\n"
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)  # signals that come at once are one
    if killed:
        process.terminate()
        assert process.wait(GUARD_S) == -signal.SIGTERM
    (tmp_path / "end").touch()
    assert process.communicate(timeout=GUARD_S) == ("", "")
    assert process.returncode == (-signal.SIGTERM if killed else 130)


def test_ctrl_c_while_modules_are_imported() -> None:
    script = """
import sys
from esam_rt.__main__ import main
assert not {"numpy", "typer"} & sys.modules.keys()
class Interrupted:
    def find_spec(self, name, *_):
        if name == "esam_rt.cli.app":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
main()
"""
    process = start(script)
    assert process.communicate(timeout=GUARD_S) == ("", "error: interrupted\n")
    assert process.returncode == 130


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize("option", ["--json", "--write=labels,coco"])
def test_a_full_stdout_is_said_in_one_line_and_costs_no_results(photos: Path, tmp_path: Path, option: str) -> None:
    with Path("/dev/full").open("w") as full:
        process = start(FAKE_RUN, "0", "run", photos, "--out", tmp_path / "out", option, stdout=full)
        _, stderr = process.communicate(timeout=GUARD_S)
    assert process.returncode == 1
    assert stderr.startswith("error: stdout cannot be written (No space left on device)") and stderr.count("\n") == 1
    assert len(json.loads((tmp_path / "out" / "entities.json").read_text())["images"]) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_names_that_stdout_cannot_show_are_escaped(photos: Path, tmp_path: Path, encoding: str) -> None:
    out = tmp_path / "not utf-8 \udcff"
    process = start(FAKE_RUN, "0", "run", photos, "--out", out, PYTHONIOENCODING=encoding)
    stdout, stderr = process.communicate(timeout=GUARD_S)
    assert (process.returncode, stderr) == (0, "")
    assert r"not utf-8 \udcff/report/index.html" in stdout
    assert len(json.loads((out / "entities.json").read_text())["images"]) == 3


def test_warnings_are_lines_on_stderr(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn(number: int) -> None:
        if number == 1:
            logging.getLogger("esam_rt").warning("GPU 0: out of memory.\nGoing on [slower].")

    monkeypatch.setattr("esam_rt.segmenter.EntitySegmenter", lambda model, **options: FakeSegmenter(warn))
    result = call("run", photos, "--out", tmp_path / "out")
    assert (result.exit_code, result.stderr) == (0, "warning: GPU 0: out of memory. Going on [slower].\n")


@pytest.mark.parametrize(
    ("text", "expected"), [("100ms", 0.1), ("2s", 2), ("1.5 s", 1.5), (" .5s", 0.5), ("250. ms ", 0.25)]
)
def test_a_time_has_a_unit(text: str, expected: float) -> None:
    assert option_types.seconds("--deadline", text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["100", "0ms", "0.0s", "-1s", "1m", "s", "", "1e3ms", "nan s", "9" * 400 + "s"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="expected a time above 0 with its unit, such as 100ms or 2s"):
        option_types.seconds("--deadline", text)


def test_a_deadline_of_the_command_line(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    class Hurried(FakeSegmenter):
        def __call__(self, image_hwc_rgb: Any, *, deadline_s: float | None = None) -> EntityMap:
            seen.append(deadline_s)
            return replace(super().__call__(image_hwc_rgb), complete=False)

        def warm_up(self) -> None:
            seen.append("warm")

    monkeypatch.setattr("esam_rt.segmenter.EntitySegmenter", lambda model, **options: Hurried())
    done = call("run", photos, "--out", tmp_path / "out", "--deadline", "250ms")
    assert done.exit_code == 0, done.stderr
    assert seen == ["warm", 0.25, 0.25, 0.25]
    assert "6 entities, 3 incomplete at the deadline" in " ".join(done.stdout.split())
    wrong = call("run", photos, "--out", tmp_path / "other", "--deadline", "250")
    assert wrong.exit_code == 2
    assert_one_error_line(wrong, "--deadline 250: expected a time above 0")
