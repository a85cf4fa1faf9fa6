"""What libraries may use again: kept whole, shared between processes, and never in the way of a run."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from esam_rt.engines.cuda.device import CudaDevice
from esam_rt.engines.tensorrt.builder import BuildOptions, build_engine
from esam_rt.engines.tensorrt.trt_engine import TensorRTEngine
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.library_caches import prune, runtime_cache, timing_cache
from esam_rt.loading.loader import load_sam
from esam_rt.loading.onnx_cache import onnx_model
from esam_rt.sam.models import MODELS
from esam_rt.storage.checksummed_file import ChecksummedFile
from tests.cli.test_app import call
from tests.engines.test_tensorrt_engine import PROFILE, feed, scaling
from tests.loading.test_loader import use_library
from tests.support.fake_cuda import FakeCuda
from tests.support.fake_tensorrt import FakeTensorRT, FakeTensorRTRTX, make_plan
from tests.support.fake_tensorrt_builder import FakeTensorRTBuilder
from tests.support.processes import GUARD_S

ROOT = Path(__file__).parents[2]


class FakeRTXBuilder(FakeTensorRTBuilder, FakeTensorRTRTX):
    """Builds for the GPU at hand as well."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> ChecksummedFile:
    return ChecksummedFile(tmp_path / "new" / "folder" / "file.timing")


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


# Files.


def test_content_is_kept(file: ChecksummedFile, caplog: pytest.LogCaptureFixture) -> None:
    assert file.read() == b""
    file.update(lambda content: content + b"one ")
    file.update(lambda content: content + b"two")
    assert ChecksummedFile(file.path).read() == b"one two"
    assert not caplog.records


@pytest.mark.parametrize("damage", [flip, lambda data: data[:-1], lambda data: b"", lambda data: data[:20]])
def test_what_is_damaged_is_not_used(
    file: ChecksummedFile, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    file.update(lambda content: b"content")
    file.path.write_bytes(damage(file.path.read_bytes()))
    assert file.read() == b""
    (record,) = caplog.records
    assert "file.timing: differs from its hash; going on without it" in record.getMessage()
    file.update(lambda content: content + b"anew")
    assert file.read() == b"anew"


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in the way").touch()
    ChecksummedFile(tmp_path / "in the way" / "file").update(lambda content: b"content")
    assert "cannot be written" in caplog.text


def test_a_file_that_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert ChecksummedFile(tmp_path).read() == b""
    assert "cannot be read (Is a directory); going on without it" in caplog.text


def test_processes_do_not_lose_each_others_changes(file: ChecksummedFile) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from esam_rt.storage.checksummed_file import ChecksummedFile\n"
        "for _ in range(40):\n"
        "    ChecksummedFile(Path(sys.argv[1])).update(lambda content: content + b'x')\n"
    )
    others = [subprocess.Popen([sys.executable, "-c", code, str(file.path)], cwd=ROOT) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: file.update(lambda content: content + b"x"), range(40)))
    assert [process.wait(GUARD_S) for process in others] == [0, 0]
    assert file.read() == b"x" * 120


# Timings of kernels.


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESAM_RT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return onnx_model(MODELS["tiny"])


@pytest.fixture
def library() -> Any:
    return FakeTensorRTBuilder(FakeCuda())


def build(graph: Path, library: ModuleType, file: ChecksummedFile) -> None:
    build_engine(graph, library, BuildOptions(max_batch=2), timings=file)


def test_nodes_are_timed_once(
    graphs: Any, library: Any, file: ChecksummedFile, caplog: pytest.LogCaptureFixture
) -> None:
    build(graphs.mask_head, library, file)
    assert len(library.timed) > 50
    library.timed.clear()
    build(graphs.mask_head, library, file)
    assert library.timed == []
    assert not caplog.records


def test_without_a_cache_they_are_timed_each_time(graphs: Any, library: Any) -> None:
    for _ in range(2):
        build_engine(graphs.mask_head, library, BuildOptions(max_batch=2))
    assert len(library.timed) == 2 * len(set(library.timed))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda file, library: file.path.write_bytes(flip(file.path.read_bytes())), "differs from its hash"),
        (lambda file, library: file.update(lambda content: b"of no use to the library"), ""),
        (lambda file, library: setattr(library, "driver", "999"), "made with another GPU or driver. Measuring again"),
    ],
)
def test_what_is_of_no_use_is_made_anew(
    graphs: Any, library: Any, file: ChecksummedFile, caplog: pytest.LogCaptureFixture, spoil: Any, words: str
) -> None:
    build(graphs.mask_head, library, file)
    first, library.timed = library.timed, []
    spoil(file, library)
    build(graphs.mask_head, library, file)
    assert library.timed == first
    assert words in caplog.text
    library.timed.clear()
    build(graphs.mask_head, library, file)
    assert library.timed == []


def test_builds_at_the_same_time_add_to_each_other(graphs: Any, library: Any, file: ChecksummedFile) -> None:
    """The second has read the file before the first has written it."""

    class ReadEarly(ChecksummedFile):
        reads = 0

        def read(self) -> bytes:
            self.reads += 1
            return super().read() if self.reads > 1 else b""

    build(graphs.mask_head, library, file)
    build(graphs.logits, library, ReadEarly(file.path))
    library.timed.clear()
    build(graphs.mask_head, library, file)
    build(graphs.logits, library, file)
    assert library.timed == []


def test_timings_are_of_a_gpu_and_a_version(cache: Path) -> None:
    files = [timing_cache("tensorrt", *of).path for of in (("11.4", "A40"), ("11.4", "L40S"), ("11.5", "A40"))]
    assert len(set(files)) == 3
    assert all(path.is_relative_to(cache) for path in files)


def test_building_for_a_run_keeps_them(library: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_library(monkeypatch, library)
    command = ("build-engine", "tiny", "--backend", "tensorrt", "--precision", "fp32", "--quiet")
    monkeypatch.setattr("esam_rt.loading.engine_self_test.check_once", lambda *_: None)
    assert call(*command).exit_code == 0
    timed = len(library.timed)
    assert timed > 400
    assert call(*command, "--force").exit_code == 0
    assert len(library.timed) == timed
    (made,) = (p for p in (cache / "libraries" / "tensorrt" / "10.9.8").iterdir() if p.suffix == ".timing")
    assert made == timing_cache("tensorrt", "10.9.8", "Fake GPU").path


# Compiled kernels.


def engine_on(library: Any, kernels: ChecksummedFile | None) -> TensorRTEngine:
    device = CudaDevice(runtime=library.cuda)
    return TensorRTEngine("net", make_plan(scaling(), PROFILE), library, device, kernels)


def test_kernels_are_compiled_once(file: ChecksummedFile, caplog: pytest.LogCaptureFixture) -> None:
    library = FakeTensorRTRTX(FakeCuda())
    with engine_on(library, file) as engine:
        expected = engine.infer(feed(3))["y"]
        engine.infer(feed(3))
    compiled = list(library.compiled)
    assert compiled
    state = file.path.stat()
    with engine_on(library, file) as engine:
        np.testing.assert_array_equal(engine.infer(feed(3))["y"], expected)
    assert library.compiled == compiled
    assert (file.path.stat().st_ino, file.path.stat().st_mtime_ns) == (state.st_ino, state.st_mtime_ns), "unchanged"
    with engine_on(library, file) as engine:
        engine.infer(feed(5))
    assert len(library.compiled) == len(compiled) + 1
    with engine_on(library, file) as engine:
        engine.infer(feed(5))
        engine.infer(feed(3))
    assert len(library.compiled) == len(compiled) + 1
    assert not caplog.records


def test_kernels_of_another_driver(file: ChecksummedFile, caplog: pytest.LogCaptureFixture) -> None:
    library = FakeTensorRTRTX(FakeCuda())
    with engine_on(library, file) as engine:
        engine.infer(feed(3))
    library.driver = "999"
    with caplog.at_level(logging.INFO), engine_on(library, file) as engine:
        engine.infer(feed(3))
    assert len(library.compiled) == 2 * len(set(library.compiled))
    assert "made with another driver. Compiling its kernels again" in caplog.text


def test_kernels_of_a_library_that_compiles_none(file: ChecksummedFile) -> None:
    with engine_on(FakeTensorRT(FakeCuda()), file) as engine:
        engine.infer(feed(3))
    assert not file.path.exists()


def test_a_cache_that_cannot_be_written_stops_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with engine_on(FakeTensorRTRTX(FakeCuda()), ChecksummedFile(tmp_path / "file" / "kernels")) as engine:
        engine.infer(feed(3))
    assert "cannot be written" in caplog.text


def test_a_run_with_tensorrt_rtx_compiles_once(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    library: Any = FakeRTXBuilder(FakeCuda())
    use_library(monkeypatch, library)
    monkeypatch.setattr("esam_rt.loading.engine_self_test.check_once", lambda *_: None)
    image = np.zeros((64, 64, 3), np.uint8)
    for _ in range(2):
        sam = load_sam("tiny", ExecutionConfig("tensorrt-rtx"))
        sam.encode(image)
        sam.close()
    assert len(library.compiled) == len(set(library.compiled)) > 0
    made = [p.suffix for p in (cache / "libraries" / "tensorrt-rtx" / "10.9.8").iterdir() if p.suffix != ".lock"]
    assert set(made) == {".runtime"}, "and no timings"


# Pruning.


def test_prune(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_library(monkeypatch, FakeTensorRTBuilder(FakeCuda()))
    for version in ("10.9.8", "10.9.7"):
        for kept in (timing_cache("tensorrt", version, "A40"), runtime_cache("tensorrt-rtx", version, "A40", "00")):
            kept.update(lambda content: bytes(968))
    old = [cache / "libraries" / backend / "10.9.7" for backend in ("tensorrt", "tensorrt-rtx")]
    assert prune(everything=False, dry_run=True) == [(folder, 1000) for folder in old]
    result = call("engines", "prune")
    for folder in old:
        assert f"{folder}: its library version is not installed" in result.stdout
        assert not folder.exists()
    assert prune(everything=False, dry_run=False) == []
    assert "removing all" in call("engines", "prune", "--all").stdout
    assert prune(everything=True, dry_run=True) == []


def test_a_library_of_another_environment_is_no_reason_to_prune(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    timing_cache("tensorrt", "1", "A40").update(lambda content: b"")
    (cache / "libraries" / "antigravity" / "1").mkdir(parents=True)
    assert prune(everything=False, dry_run=True) == [(cache / "libraries" / "antigravity" / "1", 0)]


# The real libraries, where they are installed.


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_the_fakes_have_the_names_of_the_library(name: str) -> None:
    real = pytest.importorskip(name)
    from tests.support import fake_tensorrt as run
    from tests.support import fake_tensorrt_builder as builder

    pairs = [
        (builder.FakeTensorRTBuilder, real),
        (builder.FakeBuilder, real.Builder),
        (builder.FakeConfig, real.IBuilderConfig),
        (builder.FakeNetwork, real.INetworkDefinition),
        (builder.FakeParser, real.OnnxParser),
        (builder.FakeProfile, real.IOptimizationProfile),
        (builder.FakeTimingCache, real.ITimingCache),
    ]
    if name == "tensorrt_rtx":
        pairs += [(run.FakeRuntimeConfig, real.IRuntimeConfig), (run.FakeTensorRTRTX.IRuntimeCache, real.IRuntimeCache)]
        assert "WHOLE_GRAPH_CAPTURE" in real.CudaGraphStrategy.__members__
    assert hasattr(real, "IRuntimeCache") == (name == "tensorrt_rtx")
    for pretender, original in pairs:
        assert {n for n in vars(pretender) if not n.startswith("_")} <= set(dir(original)), pretender
    assert {"RUNTIME_ACTIVATION_RESIZE_10_10"} <= set(real.PreviewFeature.__members__)
