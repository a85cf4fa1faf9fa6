"""Engines built ahead of time by the real TensorRT-RTX, which needs no GPU for that; and what is wrong with engines."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from esam_rt.engines.tensorrt.builder import BuildOptions, BuiltEngine, build_engine, known_targets, load_library
from esam_rt.engines.tensorrt.logger import keeping_logger
from esam_rt.errors import DeviceError, EngineError, MissingDependencyError, ModelError, OutputError, SettingsError
from esam_rt.export.configs import VIT_B
from esam_rt.export.graphs.graph import Graph, Precision
from esam_rt.export.graphs.vit import AttentionForm, build_vit_encoder
from esam_rt.loading import engine_cache
from esam_rt.loading.engine_cache import engine_set, given_engines, outdated, remove, verify
from esam_rt.loading.engine_record import RECORD, EngineSet, checked
from esam_rt.loading.engine_spec import EngineSpec, Gpu
from esam_rt.loading.events import Building, Event
from esam_rt.loading.onnx_cache import onnx_model
from esam_rt.networks import ENGINE_FILES
from esam_rt.sam.models import MODELS, WEIGHTS
from esam_rt.storage.hashing import sha256_of
from esam_rt.storage.provenance import package_versions
from tests.cli.test_app import assert_one_error_line, call
from tests.export.test_vit import encoder, weights_of
from tests.support.events import Events
from tests.support.processes import GUARD_S

rtx = pytest.importorskip("tensorrt_rtx")

ROOT = Path(__file__).parents[2]
TINY = MODELS["tiny"]
SPEC = EngineSpec("tensorrt-rtx", options=BuildOptions(targets=("sm_86", "sm_89", "sm_120")))
BUILT: dict[tuple[str, BuildOptions], BuiltEngine] = {}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with engines of `tiny`."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESAM_RT_CACHE", str(cache))
        engine_set(TINY, SPEC)
    return cache


@pytest.fixture
def cache(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(original, tmp_path / "cache")
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def engines(cache: Path) -> EngineSet:
    return engine_set(TINY, SPEC, build=False)


@pytest.fixture
def builds_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library builds a graph with the same options once, in seconds. The cache gets the same engine each time."""

    def build(path: Path, library: ModuleType, options: BuildOptions, *rest: Any) -> BuiltEngine:
        key = sha256_of(path), options
        if key not in BUILT:
            BUILT[key] = build_engine(path, library, options, *rest)
        return BUILT[key]

    monkeypatch.setattr(engine_cache, "build_engine", build)


def change(folder: Path, **fields: Any) -> None:
    sidecar = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(sidecar | fields))


def test_they_say_what_they_are(engines: EngineSet) -> None:
    sidecar = json.loads((engines.folder / RECORD).read_text())
    assert [sidecar[name] for name in ("model", "backend", "precision", "gpu")] == [
        *("tiny", "tensorrt-rtx", "fp16", None)
    ]
    assert sidecar["backend_version"] == rtx.__version__
    assert sidecar["targets"] == ["sm_86", "sm_89", "sm_120"]
    assert set(sidecar["onnx_sha256"]) == {"encoder.onnx", "decoder.onnx", "mask_head.onnx", "logits.onnx"}
    assert tuple(sidecar["engines"]) == ENGINE_FILES
    points = sidecar["engines"]["decoder.engine"]["profile"]["points_xy_px"]
    assert points == [[1, 1, 2], [64, 1, 2], [64, 1, 2]]
    assert sidecar["engines"]["mask_head.engine"]["profile"]["cells"] == [[1, 2], [24, 32], [32, 32]]
    for name in ENGINE_FILES:
        assert len(engines.plan(name)) == sidecar["engines"][name]["size_bytes"] > 100_000


def test_they_are_built_once(cache: Path, engines: EngineSet) -> None:
    told = Events()
    again = engine_set(TINY, SPEC, on_event=told)
    assert (again, told) == (engines, [])
    small = EngineSpec("tensorrt-rtx", options=BuildOptions(("sm_86",), max_batch=8))
    other = engine_set(TINY, small, on_event=told)
    assert other.folder != engines.folder
    assert told.built == list(ENGINE_FILES)
    engine_set(TINY, SPEC, force=True, on_event=told)
    assert told.built == list(ENGINE_FILES) * 2


def remove_one(folder: Path) -> None:
    (folder / "mask_head.engine").unlink()


def cut(folder: Path) -> None:
    file = folder / "encoder.engine"
    file.write_bytes(file.read_bytes()[:-1])


def flip(folder: Path) -> None:
    file = folder / "decoder.engine"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def swap(folder: Path) -> None:
    file = folder / "decoder.engine"
    content = file.read_bytes()
    file.write_bytes((folder / "encoder.engine").read_bytes())
    (folder / "encoder.engine").write_bytes(content)


def link(folder: Path) -> None:
    (folder / "logits.engine").rename(folder / "elsewhere")
    (folder / "logits.engine").symlink_to("elsewhere")


DAMAGE: dict[Callable[[Path], None], str] = {
    remove_one: "mask_head.engine: found no such file",
    cut: r"encoder.engine: found \d+ bytes, expected \d+",
    flip: "decoder.engine: found SHA-256",
    swap: "bytes, expected",
    link: "logits.engine: found no such file",
}


@pytest.mark.usefixtures("builds_each_once")
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_mended(engines: EngineSet, damage: Callable[[Path], None]) -> None:
    damage(engines.folder)
    with pytest.raises(ModelError, match=DAMAGE[damage]):
        for name in ENGINE_FILES:
            engine_set(TINY, SPEC, build=False).plan(name)
    assert verify(engines.folder) is not None
    told = Events()
    mended = engine_set(TINY, SPEC, on_event=told)
    assert told.built == list(ENGINE_FILES)
    assert verify(mended.folder) is None


@pytest.mark.usefixtures("builds_each_once")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backend_version", "1.0.0"),
        ("backend", "tensorrt"),
        ("precision", "fp32"),
        ("targets", ["sm_75"]),
        ("model", "vit_h"),
        ("checkpoint_sha256", "0" * 64),
        ("onnx_sha256", {}),
        ("exporter_version", "0"),
        ("options", {"max_batch": 3}),
        ("format", 99),
    ],
)
def test_foreign_engines_name_the_field(engines: EngineSet, field: str, value: object) -> None:
    change(engines.folder, **{field: value})
    with pytest.raises(ModelError, match=rf"engine\.json: {field}: found .*, expected .*Build the engines again"):
        engine_set(TINY, SPEC, build=False)
    told = Events()
    engine_set(TINY, SPEC, on_event=told)
    assert told.built == list(ENGINE_FILES)


def test_engines_built_ahead_of_time_are_found_on_their_gpu(cache: Path, engines: EngineSet) -> None:
    here = EngineSpec("tensorrt-rtx", gpu=Gpu("sm_86", "NVIDIA GeForce RTX 3090"))
    assert engine_set(TINY, here, build=False) == engines
    for other in (replace(here, gpu=Gpu("sm_75", "Tesla T4")), replace(here, precision="bf16")):
        with pytest.raises(ModelError, match=r"engine\.json: found no such file"):
            engine_set(TINY, other, build=False)
    flip(engines.folder)
    with pytest.raises(ModelError, match=r"engine\.json: found no such file"):
        engine_set(TINY, here, build=False)


def test_engines_in_a_folder_that_is_named(engines: EngineSet) -> None:
    spec = EngineSpec("tensorrt-rtx", gpu=Gpu("sm_89", "NVIDIA L40S"))
    assert given_engines(engines.folder, TINY, spec, rtx) == engines
    assert given_engines(engines.folder, TINY, spec, rtx, WEIGHTS / "tiny.safetensors") == engines
    with pytest.raises(ModelError, match=r"precision: found \"fp16\", expected \"fp32\""):
        given_engines(engines.folder, TINY, replace(spec, precision="fp32"), rtx)
    with pytest.raises(ModelError, match="checkpoint_sha256: found"):
        given_engines(engines.folder, TINY, spec, rtx, WEIGHTS / "MODEL_CARD.md")
    with pytest.raises(ModelError, match='model: found "tiny", expected "vit_b"'):
        given_engines(engines.folder, MODELS["vit_b"], spec, rtx)
    with pytest.raises(
        ModelError, match=r"targets: found .*sm_86.*, expected .*sm_121.*Build the engines for this GPU"
    ):
        given_engines(engines.folder, TINY, replace(spec, gpu=Gpu("sm_121", "NVIDIA GB10")), rtx)
    change(engines.folder, targets=[], gpu={"capability": "sm_80", "name": "NVIDIA A30"})
    given_engines(engines.folder, TINY, replace(spec, gpu=Gpu("sm_80", "NVIDIA A30")), rtx)
    with pytest.raises(ModelError, match=r"targets: found .*A30"):
        given_engines(engines.folder, TINY, replace(spec, gpu=Gpu("sm_80", "NVIDIA A100")), rtx)
    change(engines.folder, backend_version="1.0")
    with pytest.raises(ModelError, match=r'backend_version: found "1\.0"'):
        given_engines(engines.folder, TINY, spec, rtx)


BROKEN = ("", "[]", "{", "null", "{}", "[" * 100_000)


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_broken_sidecars(engines: EngineSet, content: str) -> None:
    (engines.folder / RECORD).write_text(content)
    with pytest.raises(ModelError, match=r"engine\.json"):
        checked(engines.folder)
    assert outdated(engines.folder) is not None


HOSTILE: list[dict[str, Any]] = [{"options": {"max_batch": value}} for value in (0, -1, "a", None, True, 2.0)]
HOSTILE += [{"options": value} for value in ([], None, 3)]
HOSTILE += [{"targets": value} for value in (5, None, "xxsm_86", [1], {})]
HOSTILE += [{"gpu": value} for value in ("x", [], {"name": 3})]
HOSTILE += [{name: value} for name in ("model", "backend", "built", "checkpoint_sha256") for value in (5, None, [], {})]
HOSTILE += [{"engines": []}, {"engines": {"encoder.engine": 1}}, {"self_test": 1}]


@pytest.mark.parametrize("fields", HOSTILE, ids=str)
def test_hostile_sidecars(engines: EngineSet, fields: dict[str, Any]) -> None:
    change(engines.folder, **fields)
    with pytest.raises(ModelError, match=r"engine\.json: |engine\.json: found no entry"):
        checked(engines.folder)
    for command in ("list", "verify", "prune"):
        result = call("engines", command)
        assert result.exit_code in (0, 3), result.exception
    assert not engines.folder.exists()


@pytest.mark.usefixtures("builds_each_once")
def test_engines_that_failed_their_self_test_are_neither_used_nor_built_again(engines: EngineSet) -> None:
    change(engines.folder, self_test={"failed": "Self-test: mean IoU 0.5."})
    built = (engines.folder / RECORD).stat().st_mtime_ns
    for use in (lambda: checked(engines.folder), lambda: engine_set(TINY, SPEC)):
        with pytest.raises(EngineError, match=r"Self-test: mean IoU 0\.5\. To build these again: .* --force"):
            use()
    assert (engines.folder / RECORD).stat().st_mtime_ns == built
    assert "failed" in (outdated(engines.folder) or "") or "Self-test" in (outdated(engines.folder) or "")
    assert call("engines", "verify").exit_code == 3
    assert not engine_set(TINY, SPEC, force=True).record.self_test


def test_names_that_look_like_markup(engines: EngineSet) -> None:
    change(engines.folder, model="[/x]", targets=["[red]"])
    result = call("engines", "list")
    assert result.exit_code == 0
    assert "[/x]" in result.stdout


def test_a_sidecar_names_no_library_to_import(engines: EngineSet) -> None:
    change(engines.folder, backend="antigravity")
    assert 'backend: found "antigravity", expected one of tensorrt' in str(outdated(engines.folder))


def test_a_library_of_another_environment_is_no_reason_to_prune(
    engines: EngineSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert outdated(engines.folder) is None
    assert call("engines", "prune").stdout == "0 MB freed.\n"


def test_what_is_being_built_is_not_pruned(engines: EngineSet) -> None:
    (engines.folder / RECORD).unlink()
    with engine_cache._locked(engines.folder):
        result = call("engines", "prune")
    assert "being built" in result.stdout.replace("\n", " ")
    assert engines.folder.exists()


def test_of_other_versions(engines: EngineSet, monkeypatch: pytest.MonkeyPatch) -> None:
    assert outdated(engines.folder) is None
    monkeypatch.setattr(engine_cache, "EXPORTER_VERSION", "next")
    assert outdated(engines.folder) == f"built from graphs of version {engines.record.exporter_version}, this is next"
    change(engines.folder, backend_version="1.0.0")
    assert f"built with tensorrt-rtx 1.0.0, installed is {rtx.__version__}" == outdated(engines.folder)


def test_options_that_are_asked_for_are_had(cache: Path, engines: EngineSet) -> None:
    here = EngineSpec("tensorrt-rtx", gpu=Gpu("sm_86", "NVIDIA GeForce RTX 3090"), options=BuildOptions(max_batch=128))
    with pytest.raises(ModelError, match="found no such file"):
        engine_set(TINY, here, build=False)


def test_an_empty_folder_of_the_user_stays(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(SettingsError):
        engine_set(TINY, EngineSpec("tensorrt-rtx", options=BuildOptions(("sm_99",))), out=tmp_path / "mine")
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["mine"]


@pytest.mark.usefixtures("builds_each_once")
def test_out_folder(cache: Path, tmp_path: Path) -> None:
    made = engine_set(TINY, SPEC, out=tmp_path / "new" / "engines")
    assert made.folder == tmp_path / "new" / "engines"
    assert engine_set(TINY, SPEC, out=made.folder, build=False) == made
    other = EngineSpec("tensorrt-rtx", "fp32", options=SPEC.options)
    with pytest.raises(ModelError, match=r"engine\.json: precision: found \"fp16\", expected \"fp32\""):
        engine_set(TINY, other, out=made.folder, build=False)


def test_unwritable_and_full(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        engine_set(TINY, SPEC, out=tmp_path / "file" / "engines")

    def full(self: Path, data: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="the disk or quota is full"):
        engine_set(TINY, SPEC, out=tmp_path / "engines")
    assert not (tmp_path / "engines").exists()


def test_an_interrupt_leaves_nothing(cache: Path, tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Building) and event.phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine_set(TINY, SPEC, out=tmp_path / "engines", on_event=interrupt)
    assert not (tmp_path / "engines").exists()


def test_ctrl_c_ends_a_build(cache: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, threading\n"
        "from esam_rt.cli.app import app\n"
        "from esam_rt.engines.tensorrt import builder\n"
        "build = builder._interrupting\n"
        "def soon(monitor):\n"
        "    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    return build(monitor)\n"
        "builder._interrupting = soon\n"
        "app()\n"
    )
    arguments = ["build-engine", "tiny", "--target", "sm_80", "--out", str(tmp_path / "engines")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=GUARD_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")
    assert not (tmp_path / "engines").exists()


def test_two_processes_build_once(cache: Path) -> None:
    code = (
        "from esam_rt.loading.engine_spec import EngineSpec; from esam_rt.loading.engine_cache import engine_set\n"
        "from esam_rt.engines.tensorrt.builder import BuildOptions\n"
        "from esam_rt.sam.models import MODELS\n"
        "spec = EngineSpec('tensorrt-rtx', options=BuildOptions(('sm_75',)))\n"
        "def tell(event):\n"
        "    if getattr(event, 'phase', '') == '':\n"
        "        print(getattr(event, 'engine', ''))\n"
        "print(len(engine_set(MODELS['tiny'], spec, on_event=tell).plan('encoder.engine')))\n"
    )
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    printed = sorted((process.communicate(timeout=GUARD_S)[0].split() for process in processes), key=len)
    assert [process.returncode for process in processes] == [0, 0]
    assert [len(words) for words in printed] == [1, 1 + len(ENGINE_FILES)]
    assert printed[0][-1] == printed[1][-1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (EngineSpec("tensorrt-rtx"), "cuda-python finds no GPU 0 here. Name the GPUs .* --target sm_86"),
        (EngineSpec("tensorrt-rtx", gpu_index=3), "cuda-python finds no GPU 3 here"),
        (EngineSpec("tensorrt-rtx", options=BuildOptions(("sm_99",))), "--target sm_99: .* knows sm_75, sm_80"),
        (EngineSpec("tensorrt-rtx", options=BuildOptions(("86",))), "--target 86: .* knows sm_75"),
    ],
)
def test_targets_that_are_not_to_be_had(cache: Path, spec: EngineSpec, message: str) -> None:
    before = sorted((cache / "engines").iterdir())
    with pytest.raises(SettingsError, match=message):
        engine_set(TINY, spec)
    assert [p for p in sorted((cache / "engines").iterdir()) if p.is_dir()] == [p for p in before if p.is_dir()]


def test_options_out_of_range() -> None:
    for options in ({"max_batch": 0}, {"workspace_mb": 0}):
        with pytest.raises(SettingsError, match="expected at least 1"):
            BuildOptions(**options)


def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'esam-rt\[tensorrt\]'"):
        load_library("tensorrt")


# Graphs.


def write(graph: Graph, path: Path) -> Path:
    path.write_bytes(ir.to_proto(graph.model({}, "0")).SerializeToString())
    return path


@pytest.mark.parametrize("precision", Precision)
def test_every_graph_of_tiny_parses_and_builds(cache: Path, precision: Precision) -> None:
    files = onnx_model(TINY, precision=precision)
    for path in (files.encoder, files.decoder, files.mask_head, files.logits):
        assert build_engine(path, rtx, SPEC.options).layers > 50


@pytest.mark.parametrize(
    ("form", "precision", "attention"),
    [
        (AttentionForm.FUSED, Precision.FP16, 2),
        (AttentionForm.FUSED, Precision.BF16, 2),
        (AttentionForm.CONCAT, Precision.FP16, 0),
        (AttentionForm.CONCAT, Precision.FP32, 0),
    ],
)
def test_every_form_of_attention(tmp_path: Path, form: AttentionForm, precision: Precision, attention: int) -> None:
    """A window block and a global one, at the width of ViT-B."""
    dims = replace(VIT_B, depth=2, global_blocks=(1,), input_px=512)
    graph = build_vit_encoder(dims, weights_of(encoder(dims)), precision, form)
    built = build_engine(write(graph, tmp_path / "encoder.onnx"), rtx, BuildOptions(("sm_86",)))
    assert built.attention == attention


def test_fused_attention_of_fp32_is_not_to_be_had() -> None:
    specs = [EngineSpec("tensorrt-rtx", p) for p in Precision]
    assert [spec.attention(MODELS["vit_b"], rtx) for spec in specs] == ["concat", "fused", "fused"]
    assert EngineSpec("tensorrt-rtx", fusion=False).attention(MODELS["vit_b"], rtx) == "concat"
    assert EngineSpec("tensorrt-rtx").attention(TINY, rtx) is None


def test_a_library_without_attention() -> None:
    """As TensorRT before 10.14, that of JetPack 6 too."""
    before = ModuleType("tensorrt")
    assert [EngineSpec("tensorrt", p).attention(MODELS["vit_b"], before) for p in Precision] == ["concat"] * 3


def test_graphs_that_the_library_does_not_take(tmp_path: Path) -> None:
    g = Graph("strange")
    x = g.input("x", np.float32, ["B", 3])
    g.output(g.op("NonZero", x), "y", np.int64, [2, "n"])
    with pytest.raises(ModelError, match=r"strange\.onnx: tensorrt_rtx .* does not take this graph: .*NonZero"):
        build_engine(write(g, tmp_path / "strange.onnx"), rtx, SPEC.options)
    free = Graph("free")
    free.output(free.op("Neg", free.input("x", np.float32, ["batch", 3])), "y", np.float32, ["batch", 3])
    with pytest.raises(ModelError, match="input x: found dynamic dimension 'batch', expected one of B, M"):
        build_engine(write(free, tmp_path / "free.onnx"), rtx, SPEC.options)
    with pytest.raises(ModelError, match="found no such file"):
        build_engine(tmp_path / "gone.onnx", rtx, SPEC.options)


def test_a_build_that_fails(tmp_path: Path) -> None:
    """Fused attention of float32 parses, but there is no kernel."""
    g = Graph("attention", opset=23)
    q = g.input("q", np.float32, [1, 2, 64, 32])
    g.output(g.op("Attention", q, q, q, scale=1.0), "y", np.float32, [1, 2, 64, 32])
    with pytest.raises(EngineError, match=r"attention\.onnx: tensorrt_rtx .* could not build an engine: .*kernel"):
        build_engine(write(g, tmp_path / "attention.onnx"), rtx, SPEC.options)


def test_engines_of_another_format_are_outdated(engines: EngineSet) -> None:
    assert outdated(engines.folder) is None
    change(engines.folder, format=1)
    assert outdated(engines.folder) == "record has format 1, this version needs 2"


def test_a_store_that_cannot_be_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "file").touch()
    monkeypatch.setenv("ESAM_RT_CACHE", str(cache / "file"))
    result = call("engines", "list")
    assert result.exit_code == 1
    assert_one_error_line(result, str(cache / "file" / "engines"), "cannot be read (Not a directory)", "ESAM_RT_CACHE")


def test_an_empty_folder_name(cache: Path) -> None:
    result = call("build-engine", "tiny", "--target", "sm_86", "--out", "")
    assert result.exit_code == 2
    assert_one_error_line(result, "--out is empty")


def test_a_builder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """As of TensorRT without a GPU."""

    def fail(logger: Any) -> None:
        logger.log(rtx.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(rtx, "Builder", fail)
    with pytest.raises(DeviceError, match=r"cannot build here: CUDA initialization failure .*Expected an NVIDIA GPU"):
        build_engine(onnx_model(TINY, precision="fp16").decoder, rtx, SPEC.options)


def test_the_library_keeps_one_logger_for_ever() -> None:
    """It calls the first one that it got, even after all of its objects are gone."""
    logger = keeping_logger(rtx)
    assert keeping_logger(rtx) is logger

    class Slow:
        """A library of which two threads ask for the logger at once."""

        @property
        def ILogger(self) -> Any:  # noqa: N802
            time.sleep(0.01)
            return rtx.ILogger

    slow = Slow()
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: keeping_logger(slow), range(4)))) == 1  # type: ignore[arg-type]
    severity = rtx.ILogger.Severity

    def complain() -> str:
        logger.log(severity.ERROR, "of another thread")
        return str(logger.words())

    logger.forget()
    logger.log(severity.WARNING, "of no matter")
    assert logger.words() == "it does not say why."
    logger.log(severity.INTERNAL_ERROR, "Out of memory ")
    with ThreadPoolExecutor(1) as other:
        assert other.submit(complain).result() == "of another thread"
    assert logger.words() == "Out of memory"
    assert logger.tells_out_of_memory()
    logger.forget()
    assert not logger.tells_out_of_memory()


def test_engines_without_weights_take_a_gpu(cache: Path, tmp_path: Path) -> None:
    """Of TensorRT-RTX, to build; with weights it needs none."""
    result = call("build-engine", "tiny", "--target", "sm_86", "--strip-weights", "--out", tmp_path / "mine")
    if result.exit_code == 0:
        pytest.skip("has a GPU, or a library that builds them without")
    assert result.exit_code == 3
    assert_one_error_line(result, "could not build an engine", "Building without weights needs a GPU.")
    assert not (tmp_path / "mine").exists()


def test_turing_has_half_precision_only(cache: Path) -> None:
    """As `check_rtx` says before anything is built."""
    turing = BuildOptions(("sm_75",))
    assert build_engine(onnx_model(TINY, precision="fp16").decoder, rtx, turing).layers > 50
    for precision in ("fp32", "bf16"):
        with pytest.raises(EngineError, match="could not build an engine"):
            build_engine(onnx_model(TINY, precision=precision).decoder, rtx, turing)


def test_gpus_that_tensorrt_rtx_does_not_run_on() -> None:
    for targets, gpu in ((("sm_86", "sm_90"), None), ((), Gpu("sm_90", "NVIDIA H100")), (("sm_100",), None)):
        with pytest.raises(
            SettingsError, match=r"tensorrt-rtx does not run on sm_\d+; use --backend tensorrt, or --ba"
        ):
            EngineSpec("tensorrt-rtx", options=BuildOptions(targets), gpu=gpu)
    for targets, gpu in ((("sm_75", "sm_86"), None), ((), Gpu("sm_75", "Tesla T4"))):
        with pytest.raises(SettingsError, match=r"sm_75 \(Turing\): found precision bf16, expected fp16"):
            EngineSpec("tensorrt-rtx", "bf16", options=BuildOptions(targets), gpu=gpu)
        assert EngineSpec("tensorrt-rtx", "fp16", options=BuildOptions(targets), gpu=gpu)
        assert EngineSpec("tensorrt", "bf16", gpu=Gpu("sm_90", "NVIDIA H100"))
    assert EngineSpec("tensorrt-rtx", options=BuildOptions(("sm_86",)), gpu=Gpu("sm_90", "NVIDIA H100"))
    assert not {"sm_90", "sm_100", "sm_103"} & set(known_targets(rtx))


def test_a_run_records_the_library() -> None:
    versions = package_versions()
    assert rtx.__version__ in (versions.get("tensorrt-rtx"), versions.get("tensorrt-rtx-cu13"))


def test_known_targets() -> None:
    assert {"sm_75", "sm_86", "sm_89", "sm_120"} <= set(known_targets(rtx))
    assert known_targets(json) == ()


# The command line.


def test_build_engine_prints_what_it_built(cache: Path) -> None:
    result = call("build-engine", "tiny", "--target", "sm_86, sm_89,sm_120")
    assert (result.exit_code, result.stderr) == (0, "")
    (folder,) = cache.glob("engines/tiny-tensorrt-rtx-fp16-*")
    for word in (
        *ENGINE_FILES,
        *(f"{(folder / name).stat().st_size / 1e6:.1f} MB" for name in ENGINE_FILES),
        f"tensorrt-rtx {rtx.__version__} for sm_86, sm_89, sm_120",
        "Self-test skipped: no matching GPU.",
    ):
        assert word in result.stdout
    built = json.loads(call("build-engine", "tiny", "--target", "sm_86,sm_89,sm_120", "--json").stdout)
    assert built["targets"] == ["sm_86", "sm_89", "sm_120"]
    assert Path(built["folder"]).is_dir()


def test_onnx_runtime_needs_no_engine(cache: Path) -> None:
    result = call("build-engine", "tiny", "--backend", "onnxruntime")
    assert result.exit_code == 0
    assert "-fp32-" in result.stdout
    assert "No engine is needed." in result.stdout
    for options in (("--no-fusion",), ("--max-batch", 8), ("--force",), ("--target", "sm_86")):
        refused = call("build-engine", "tiny", "--backend", "onnxruntime", *options)
        assert refused.exit_code == 2
        assert_one_error_line(refused, "ONNX Runtime runs graphs", options[0])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("tiny",), 2, ("no GPU", "--target")),
        (("tiny", "--target", "sm_99"), 2, ("sm_99", "knows sm_75")),
        (("tiny", "--target", "sm_90"), 2, ("does not run on sm_90; use --backend tensorrt, or --backend onnx",)),
        (("tiny", "--target", "sm_75", "--precision", "fp32"), 2, ("Turing", "expected fp16")),
        (("tiny", "--backend", "openvino"), 2, ("--backend openvino: unknown", "tensorrt-rtx")),
        (("tiny", "--backend", "onnxruntime", "--target", "sm_86"), 2, ("--target", "for TensorRT")),
        (("tiny", "--precision", "int8", "--target", "sm_86"), 2, ("--precision int8",)),
        (("tinny", "--target", "sm_86"), 2, ("'tinny'", "Did you mean tiny")),
        (("vit_b", "--target", "sm_86", "--checkpoint", "gone.pth"), 3, ("gone.pth", "no such file")),
    ],
)
def test_mistakes(cache: Path, arguments: tuple[str, ...], code: int, words: tuple[str, ...]) -> None:
    result = call("build-engine", *arguments)
    assert result.exit_code == code
    assert_one_error_line(result, *words)


def freed_by_removing(folder: Path) -> str:
    freed = sum(path.stat().st_size for path in folder.iterdir())
    assert freed > 10e6
    return f"\n{freed / 1e6:.0f} MB freed.\n"


def test_list_verify_and_prune(cache: Path, engines: EngineSet) -> None:
    (row,) = json.loads(call("engines", "list", "--json").stdout)
    assert (row["model"], row["why_not"], row["runs_on"]) == ("tiny", None, ["sm_86", "sm_89", "sm_120"])
    assert "tensorrt-rtx" in call("engines", "list").stdout
    assert call("engines", "verify").stdout == f"ok  {engines.folder}\n"
    assert call("engines", "prune").stdout == "0 MB freed.\n"
    cut(engines.folder)
    result = call("engines", "verify")
    assert result.exit_code == 3
    assert_one_error_line(result, "encoder.engine", "cut off")
    assert "cut off" in call("engines", "prune", "--dry-run").stdout
    assert engines.folder.is_dir()
    freed = freed_by_removing(engines.folder)
    assert freed in call("engines", "prune").stdout
    assert not engines.folder.exists()
    assert "No engines yet" in call("engines", "list").stdout


def test_prune_all(cache: Path, engines: EngineSet) -> None:
    freed = freed_by_removing(engines.folder)
    assert freed in call("engines", "prune", "--all").stdout
    assert not engines.folder.exists()


def test_a_folder_that_cannot_be_removed(engines: EngineSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(OutputError, match="cannot be removed"):
        remove(engines.folder)


def test_what_a_killed_build_left_beside_whole_engines_is_removed(engines: EngineSet) -> None:
    left = engines.folder / ".esam-rt-killed"
    left.mkdir()
    (left / "encoder.engine").write_bytes(b"half")
    assert engine_set(TINY, SPEC) == engines
    assert not left.exists()
