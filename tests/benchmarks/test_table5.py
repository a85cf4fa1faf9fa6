"""benchmarks/table5.py around its measurements: rows, failures, time, files, the table."""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from benchmarks import table5
from benchmarks.lib import isolated, table5_measure
from benchmarks.lib.isolated import measure_all, measured
from benchmarks.lib.measure import status_mb
from benchmarks.lib.table5_measure import Job
from benchmarks.lib.table5_rows import Row, columns_of, markdown, merged, outdated, rows_of, selected
from benchmarks.lib.torch_sam import pytorch_model, random_sam
from esam_rt.engines.cuda import device
from esam_rt.export.configs import VitDims
from esam_rt.export.model import VITS
from esam_rt.loading import onnxruntime_loader
from esam_rt.loading.doctor import Diagnosis, Finding, State
from esam_rt.sam.point_grids import point_grid
from tests.support.cuda_on_cpu import place_photo
from tests.support.fake_onnxruntime import FakeGpu
from tests.support.processes import GUARD_S, wait_for

ROOT = Path(__file__).parents[2]
BACKENDS = ("onnxruntime", "tensorrt")


def python(code: str) -> list[str]:
    return [sys.executable, "-c", f"import json, sys, time\n{code}"]


WRITE = "with open(sys.argv[1], 'w') as f: json.dump({'encoder': 1.5}, f)"
GOOD = python(WRITE)
CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"


# Rows.


def test_rows_of_a_gpu() -> None:
    """Rows that the comparison needs come first. ONNX Runtime has no kernels in bf16."""
    assert [row.name for row in rows_of(BACKENDS, has_gpu=True, has_provider=True)] == [
        "modules",
        "parity onnxruntime cuda fp16",
        "ours onnxruntime cuda fp16",
        "ours onnxruntime cuda fp16 graphs",
        "pytorch cuda float32 eager",
        "pytorch cuda float16 sdpa",
        "pytorch cuda float16 pipeline",
        "pytorch cuda float16 compiled",
        "parity tensorrt cuda fp16",
        "ours tensorrt cuda fp16",
        "ours tensorrt cuda fp16 graphs",
        "parity onnxruntime cuda fp32",
        "ours onnxruntime cuda fp32",
        "ours onnxruntime cuda fp16 fused",
        "parity onnxruntime tensorrt fp16",
        "ours onnxruntime tensorrt fp16",
        "parity tensorrt cuda fp32",
        "ours tensorrt cuda fp32",
        "ours tensorrt cuda fp32 graphs",
        "parity tensorrt cuda bf16",
        "ours tensorrt cuda bf16",
        "ours tensorrt cuda bf16 graphs",
        "photo onnxruntime cuda fp16",
        "photo tensorrt cuda fp16",
        "ours onnxruntime cpu fp32",
    ]
    assert not any("onnxruntime" in row.name for row in rows_of(("tensorrt",), has_gpu=True))


def test_the_tensorrt_provider_is_measured_where_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    def names(providers: list[str], missing: tuple[str, str] | None) -> set[str]:
        monkeypatch.setattr(table5, "diagnose", lambda: Diagnosis((), BACKENDS))
        monkeypatch.setattr(table5, "gpu_finding", lambda: Finding("gpu", State.OK, ""))
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
        monkeypatch.setattr(table5, "missing_tensorrt", lambda library: missing)
        return {row.name for row in table5.rows_here([])}

    tensorrt, device = "TensorrtExecutionProvider", "CUDAExecutionProvider"
    rows = {"parity onnxruntime tensorrt fp16", "ours onnxruntime tensorrt fp16"}
    assert rows <= names([tensorrt, device], None)
    assert not rows & names([tensorrt, device], ("needs TensorRT 10", "pip install 'tensorrt-cu12>=10,<11'"))
    assert not rows & names([device], None)


def test_rows_of_a_cpu() -> None:
    names = [row.name for row in rows_of(("onnxruntime",), has_gpu=False)]
    assert names == ["modules", "ours onnxruntime cpu fp32", "pytorch cpu float32 sdpa"]


def test_a_part_of_the_rows() -> None:
    rows = list(rows_of(BACKENDS, has_gpu=True))
    assert selected(rows, []) == rows
    assert [row.name for row in selected(rows, ["pytorch*eager", "modules"])] == [
        "modules",
        "pytorch cuda float32 eager",
    ]
    with pytest.raises(SystemExit, match=r"--only 'their\*': matches none of modules, parity onnxruntime"):
        selected(rows, ["their*"])


# Processes.

SLEEPS = "open(sys.argv[1] + '.sleeps', 'w'); time.sleep(600)"


class Clock:
    """Time that passes only while a process is waited for: 1 s for one that ends, all of the limit for one that sleeps.

    Real seconds say nothing on a machine that is busy.
    """

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def wait(self, process: subprocess.Popen[bytes], timeout: float) -> int:
        wait_for(lambda: process.poll() is not None or Path(process.args[-1] + ".sleeps").exists())
        code = process.poll()
        self.now_s += 1 if code is not None else timeout
        if code is None:
            raise subprocess.TimeoutExpired(process.args, timeout)
        return code


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    class Popen(subprocess.Popen[bytes]):
        def wait(self, timeout: float | None = None) -> int:
            return super().wait() if timeout is None else clock.wait(self, timeout)

    stand_in = SimpleNamespace(Popen=Popen, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(isolated, "subprocess", stand_in)
    monkeypatch.setattr(isolated, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("command", "entry"),
    [
        (GOOD, {"figures": {"encoder": 1.5}}),
        (python("raise ValueError('no such kernel')"), {"error": "exit code 1: ValueError: no such kernel"}),
        (python("sys.exit(3)"), {"error": "exit code 3: no message"}),
        (python(CRASH), {"error": "exit code -11: no message"}),
        (python(SLEEPS), {"error": "took longer than 1 s"}),
        (python("sys.stderr.buffer.write(bytes([255])); sys.exit(1)"), {"error": "exit code 1: \ufffd"}),
        (python("print('nothing is written')"), {"error": "exit code 0: no figures written"}),
        (python(f"{WRITE}\n{CRASH}"), {"figures": {"encoder": 1.5}, "ended": "exit code -11: no message"}),
        (python(f"{WRITE}\n{SLEEPS}"), {"figures": {"encoder": 1.5}, "ended": "took longer than 5 s"}),
        (
            python(f"open(sys.argv[1], 'w').write('{{\"encoder\": 1')\n{CRASH}"),
            {"error": "exit code -11: no message"},
        ),
        (python("print('x' * 999, file=sys.stderr); sys.exit(1)"), {"error": ("exit code 1: " + "x" * 999)[:400]}),
    ],
)
def test_a_process_of_its_own(clock: Clock, command: list[str], entry: dict[str, Any]) -> None:
    words = entry.get("ended") or entry.get("error", "")
    found = measured(command, int(words.split()[3]) if words.startswith("took") else 30)
    assert found.pop("took_s") == clock.now_s
    assert found == entry


def runs(pid: int) -> bool:
    """Return True while the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_takes_too_long_ends_with_all_that_it_began(clock: Clock, tmp_path: Path) -> None:
    begin = "import subprocess; p = subprocess.Popen(['sleep', '600'])"
    note = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid))"
    assert "error" in measured(python(f"{begin}; {note}; {SLEEPS}"), 3)
    wait_for(lambda: not runs(int((tmp_path / "pid").read_text())))


def test_who_is_left_over_is_neither_waited_for_nor_left(clock: Clock, tmp_path: Path) -> None:
    """It has the stderr of a process that ended well."""
    begin = "import subprocess; p = subprocess.Popen(['sleep', '600'])"
    note = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid))"
    found = measured(python(f"{begin}; {note}\n{WRITE}"), 120)
    assert found.pop("took_s") == 1
    assert found == {"figures": {"encoder": 1.5}}
    wait_for(lambda: not runs(int((tmp_path / "pid").read_text())))


def test_what_fails_does_not_stop_the_others() -> None:
    told: list[str] = []
    results: dict[str, Any] = {"there": {"figures": {"encoder": 9}}, "again": {"error": "as it was"}}

    def tell(name: str, entry: Mapping[str, Any]) -> None:
        assert results[name] == entry, "what is told is in the results"
        told.append(name)

    commands = {"again": GOOD, "bad": python("raise ValueError"), "there": python("raise ValueError"), "new": GOOD}
    assert measure_all(commands, results, time.monotonic() + GUARD_S, GUARD_S, tell) == []
    assert told == ["bad", "new", "again"], "what is there is not measured again, but for failures, which come last"
    assert results["bad"]["error"] == "exit code 1: ValueError"
    assert results["there"]["figures"] == {"encoder": 9}
    assert results["again"]["figures"] == {"encoder": 1.5}


def test_the_end_of_the_time(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is cut off because the call ends has not failed."""
    monkeypatch.setattr(isolated, "LEAST_S", 0.5)
    results: dict[str, Any] = {}
    commands = {"first": GOOD, "long": python(SLEEPS), "late": GOOD}
    left = measure_all(commands, results, clock.now_s + 4, 30, lambda name, entry: None)
    assert left == ["long", "late"]
    assert list(results) == ["first"]
    slow = measure_all({"long": commands["long"]}, results, clock.now_s + 60, 1, lambda name, entry: None)
    assert slow == []
    assert results["long"]["error"] == "took longer than 1 s"


# Measurements, of a SAM with one narrow block: the decoder has its real size.

SMALL = VitDims(width=32, depth=1, heads=2, global_blocks=())


def test_random_weights_give_smooth_masks_and_are_not_zero_in_fp16() -> None:
    model = random_sam(SMALL)
    for name, p in model.named_parameters():
        assert p.ndim == 1 or (p.half() != 0).float().mean() > 0.99, name
    points = torch.from_numpy(point_grid(3) * np.float32(1024))[None, :, None]
    pixels = torch.from_numpy(table5_measure.normalised(table5_measure.photo()))
    with torch.inference_mode():
        out = model(pixels, input_points=points, input_labels=torch.ones(points.shape[:3], dtype=torch.int))
    masks = out.pred_masks[0].flatten(0, 1) > 0
    share = masks.float().mean((1, 2))
    assert 0.1 < share.median() < 0.9
    runs = (masks[:, 1:] != masks[:, :-1]).sum((1, 2))
    assert share.unique().numel() > 0.9 * len(share), "masks differ"
    assert runs.max() < 2_500, "noise has 32,000"
    best = out.iou_scores.amax(-1)
    assert 0 < best.median() < 1, "a threshold that both sides take"
    assert best.half().unique().numel() == best.numel(), "and that parts the prompts"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Job:
    """A job that measures a few prompts of that SAM, in this process."""
    monkeypatch.setitem(VITS, "vit_b", SMALL)
    monkeypatch.setattr(table5_measure, "in_fresh_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(table5_measure, "gpu_memory_mb", lambda: 50.0)
    for name, value in {"CPU_PROMPTS": 3, "SAM_BATCH": 2, "SAM_SIDE": 1}.items():
        monkeypatch.setattr(table5_measure, name, value)
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "cache"))
    return Job("vit_b", None, tmp_path, 1)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """ONNX Runtime's CUDA on the CPU, and fewer prompts than a GPU is given."""
    monkeypatch.setattr(table5_measure, "prompts", lambda device: point_grid(2))
    gpu = FakeGpu().install(monkeypatch)
    monkeypatch.setattr(device, "CudaDevice", functools.partial(device.CudaDevice, runtime=gpu.cuda))
    return gpu


def test_both_sides_have_the_same_weights_photo_and_prompts(small: Job) -> None:
    points = point_grid(2)
    network = pytorch_model("vit_b", table5_measure.checkpoint_of(small))
    with torch.inference_mode():
        out = network(
            torch.from_numpy(table5_measure.normalised(table5_measure.photo())),
            input_points=torch.from_numpy(points * np.float32(table5_measure.PHOTO_WH_PX))[None, :, None],
            input_labels=torch.ones(1, len(points), 1, dtype=torch.int),
        )
    sam = table5_measure.our_sam(("onnxruntime", "cpu", "fp32"), small)
    everything = None
    found = sam.decode(sam.encode(table5_measure.photo()), points, 0, everything)
    assert len(found.predicted_iou) == 3 * len(points)
    assert np.abs(found.predicted_iou - out.iou_scores[0].numpy()[found.prompt_index, found.mask_index]).max() < 1e-3
    area = (out.pred_masks[0, :, :, :192] > 0).sum((2, 3)).numpy()[found.prompt_index, found.mask_index]
    assert np.abs(found.area - area).max() < 100


@pytest.mark.parametrize("mode", ["eager", "sdpa"])
def test_pytorch(small: Job, mode: str) -> None:
    figures = table5_measure.pytorch(("cpu", "float32", mode), small)
    assert figures.keys() >= {"encoder", "decoder", "prompts", "gpu_memory_mb"}
    assert figures["encoder"] > 0 and figures["decoder"] > 0 and figures["prompts"] == 3


def test_ours_on_the_cpu(small: Job) -> None:
    figures = table5_measure.ours(("onnxruntime", "cpu", "fp32"), small)
    assert figures.keys() >= {"encoder", "decoder", "prompts", "batch", "gpu_memory_mb"}
    assert figures["encoder"] > 0 and figures["decoder"] > 0 and figures["prompts"] == 3


@pytest.mark.parametrize("variant", [(), ("graphs",), ("fused",)])
def test_ours_on_a_gpu(small: Job, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, variant: tuple[str, ...]) -> None:
    monkeypatch.setattr(onnxruntime_loader, "GPU_ATTENTION", "concat")  # which `fused` changes, in a process of its own
    figures = table5_measure.ours(("onnxruntime", "cuda", "fp32", *variant), small)
    assert figures["amg"] > 0 and figures["decoder"] > 0 and figures["prompts"] == 4
    assert gpu.violations == []
    assert any(session.is_graphed for session in gpu.sessions) == (variant == ("graphs",))
    assert (variant[0] if variant == ("fused",) else "concat") == onnxruntime_loader.GPU_ATTENTION


def test_photos_on_a_gpu(small: Job, gpu: FakeGpu) -> None:
    gpu.cuda.kernels["place_photo"] = place_photo()
    figures = table5_measure.photos(("onnxruntime", "cuda", "fp32"), small)
    assert figures["photo"] > 0 and figures["gpu_photo"] > 0
    assert 0 <= figures["mean_difference"] <= figures["greatest_difference"] <= 1


def test_scores_in_fp16_are_given_to_nms_in_float32() -> None:
    processor = SimpleNamespace(post_process_for_mask_generation=lambda *given: given)
    scores = torch.tensor([0.5, 0.25], dtype=torch.float16)
    masks, found, boxes, threshold = table5_measure.with_float32_scores(processor).post_process_for_mask_generation(
        ["mask"], scores, "boxes", 0.7
    )
    assert (masks, boxes, threshold) == (["mask"], "boxes", 0.7)
    assert found.dtype == torch.float32 and found.tolist() == [0.5, 0.25]


def test_the_pipeline_in_fp16(small: Job) -> None:
    pytest.importorskip("torchvision")
    assert table5_measure.pytorch(("cpu", "float16", "pipeline"), small)["amg"] > 0


def test_memory_is_that_of_running_a_model_not_of_loading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table5_measure, "gpu_memory_mb", lambda: 50.0)
    loading = np.ones(40_000_000)
    del loading
    peak_mb = status_mb("VmHWM")
    if not table5_measure.forgets_loading():
        pytest.skip("this system does not let a process forget its peak")
    found = table5_measure.memory_mb(20.0, knows_peak=True)
    assert found["memory_mb"] < peak_mb - 200
    assert found["gpu_memory_mb"] == 30

    def refuse() -> None:
        raise PermissionError

    monkeypatch.setattr(table5_measure, "forget_peak", refuse)
    assert table5_measure.forgets_loading() is False
    assert table5_measure.memory_mb(20.0, knows_peak=False) == {"gpu_memory_mb": 30}


def test_what_is_compiled_begins_anew_at_each_call(small: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or CUDA graphs would keep what nobody uses any more, and be slower for it."""
    done: list[str] = []

    def compile_(call: Any, mode: str) -> Any:
        assert mode == "reduce-overhead"

        def run(*arguments: Any, **options: Any) -> Any:
            done.append("run")
            return call(*arguments, **options)

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: done.append("begin"))
    figures = table5_measure.pytorch(("cpu", "float32", "compiled"), small)
    assert figures["encoder"] > 0 and figures["decoder"] > 0
    assert done == ["begin", "run"] * (3 + 2 * 2), "a photo thrice, and twice three prompts in two calls"


# Files and the table.


def result(**rows: Any) -> dict[str, Any]:
    named = {name.replace("_", " "): entry for name, entry in rows.items()}
    return {
        "model": "vit_h",
        "weights": "random weights",
        "gpu": "NVIDIA H100",
        "cpu": "x86_64, 16 cores",
        "rows": named,
    }


OURS = {"amg": 0.5, "encoder": 0.02, "decoder": 0.18, "prompts": 5120, "memory_mb": 2000, "gpu_memory_mb": 4000}
THEIRS = {"encoder": 0.1, "decoder": 1.9, "prompts": 5120}
WHOLE = result(
    modules={"figures": {"mmg": 0.01, "emr": 0.02, "usr": 0.03}},
    parity_onnxruntime_cuda_fp16={"figures": {"iou": 0.9987, "masks": 400}},
    ours_onnxruntime_cuda_fp16={"figures": OURS},
    ours_onnxruntime_cuda_fp16_fused={"figures": {**OURS, "prompts": 256}, "ended": "exit code -11: no message"},
    ours_onnxruntime_cuda_bf16={"error": "exit code 1: no kernel"},
    pytorch_cuda_float32_eager={"figures": THEIRS},
    pytorch_cuda_float16_pipeline={"figures": {"amg": 3.5}},
)


def test_columns() -> None:
    columns = columns_of(WHOLE["rows"])
    assert next(iter(columns)) == "ours onnxruntime cuda fp16"
    ours, fused, theirs, pipeline = columns.values()
    assert ours["total"] == pytest.approx(0.02 + 0.18 + 0.06)
    assert ours["parity"] == fused["parity"] == 0.9987
    assert "mmg" not in theirs and "total" not in theirs  # a part of the rows is no total
    assert pipeline == {"amg": 3.5}


def test_the_table() -> None:
    lines = markdown(WHOLE).splitlines()
    cells = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in lines if "|" in line}
    assert lines[0] == "vit_h, random weights, 5,120 prompts. NVIDIA H100; x86_64, 16 cores."
    assert cells["decoder"] == ["0.1800", "0.1800", "1.9000", "-"]
    assert cells["total"] == ["0.2600", "0.2600", "-", "-"]
    assert cells["GPU memory, MB"] == ["4,000", "4,000", "-", "-"]
    assert cells["masks of 1,024"] == ["0.5000", "0.5000", "-", "3.5000"]
    assert cells["encoder + decoder, times as fast as pytorch cuda float32 eager"] == ["10.0", "10.0", "1.0", "-"]
    assert cells["masks of 1,024, times as fast as pytorch cuda float16 pipeline"] == ["7.0", "7.0", "-", "1.0"]
    assert not any("float16 sdpa" in line for line in lines), "what was not measured is no baseline"
    assert "Decoder scaled: ours onnxruntime cuda fp16 fused from 256." in lines
    assert "Not measured: ours onnxruntime cuda bf16: exit code 1: no kernel." in lines
    assert "Measured, but then: ours onnxruntime cuda fp16 fused: exit code -11: no message." in lines


def test_a_table_of_nothing() -> None:
    assert "Decoder scaled: none." in markdown(result())
    only_failures = markdown(result(modules={"error": "took longer than 270 s"}))
    assert "Not measured: modules: took longer than 270 s." in only_failures


def test_files_put_together() -> None:
    good, bad, better = {"figures": {"a": 1}}, {"error": "x"}, {"figures": {"a": 2}}
    whole = merged([result(one=good, two=bad), result(one=bad, two=good, three=bad), result(one=better)])
    assert whole["rows"] == {"one": better, "two": good, "three": bad}
    with pytest.raises(SystemExit, match="gpu: found 'NVIDIA A40' and 'NVIDIA H100'"):
        merged([result(), {**result(), "gpu": "NVIDIA A40"}])


def test_rows_of_other_versions_are_told_from_those_of_fewer_packages() -> None:
    now = {"esam-rt": "0.2.0", "torch": "2.13.0", "tensorrt": "11.0"}
    assert outdated({}, now) == outdated({"esam-rt": "0.2.0"}, now) == outdated(now, {"esam-rt": "0.2.0"}) == []
    assert outdated({**now, "torch": "2.12.0", "tensorrt": "10.9"}, now) == [
        "tensorrt 10.9, now 11.0",
        "torch 2.12.0, now 2.13.0",
    ]


def test_another_driver_is_noted_and_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two machines of one pool differ in the driver's patch alone."""
    options = argparse.Namespace(model="vit_h", checkpoint=None, folder=tmp_path, rounds=9, only=[], json=None)
    job = Job("vit_h", None, tmp_path, 9)

    def go_on(earlier: dict[str, Any] | None, card: str, *rows: Row) -> dict[str, Any]:
        monkeypatch.setattr(table5, "gpu_finding", lambda: Finding("gpu", State.OK, f"{card}; {card}"))
        monkeypatch.setattr(table5, "rows_here", lambda only: list(rows))
        return table5.measured_here(options, job, earlier, deadline=0)

    def measure_all(commands: Any, results: dict[str, Any], deadline: float, limit_s: float, tell: Any) -> list[str]:
        for name in commands.keys() - results.keys():
            results[name] = {"figures": {}, "took_s": 0}
            tell(name, results[name])
        return []

    monkeypatch.setattr(table5, "measure_all", measure_all)
    first = go_on(None, "NVIDIA H200, 143771 MiB, 570.86.15, 9.0", Row("modules"))
    second = go_on(first, "NVIDIA H200, 143771 MiB, 570.133.20, 9.0", Row("modules"), Row("photo"))
    assert "measuring again" not in capsys.readouterr().out
    assert second["gpu"] == "NVIDIA H200, 143771 MiB, 9.0; NVIDIA H200, 143771 MiB, 9.0"
    drivers = {name: entry["made_with"]["driver"] for name, entry in second["rows"].items()}
    assert drivers == {"modules": "570.86.15", "photo": "570.133.20"}
    with pytest.raises(SystemExit, match="merge files of one machine"):
        go_on(first, "NVIDIA H200, 71885 MiB, 570.86.15, 9.0")


def test_without_a_gpu_the_reason_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table5, "gpu_finding", lambda: Finding("gpu", State.ABSENT, "nvidia-smi failed: ['a', 'b']"))
    assert table5.gpu_here() == ("nvidia-smi failed: ['a', 'b']", {})


def test_the_command_goes_on_with_a_file(tmp_path: Path) -> None:
    """From the files of two calls to the table, with nothing left to measure."""
    (tmp_path / "a.json").write_text(json.dumps(WHOLE))
    (tmp_path / "b.json").write_text(json.dumps(result(ours_onnxruntime_cuda_bf16={"figures": OURS})))
    arguments = ["--merge", "a.json", "b.json", "--json", "all.json", "--markdown", "table.md"]
    command = [sys.executable, "-m", "benchmarks.table5", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=GUARD_S, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "table.md").read_text() in done.stdout
    rows = json.loads((tmp_path / "all.json").read_text())["rows"]
    assert "figures" in rows["ours onnxruntime cuda bf16"]
