"""Which backend, device and precision go together, and what is said when they do not."""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from esam_rt import EntitySegmenter, Settings
from esam_rt.engines.cuda.device import CudaDevice
from esam_rt.engines.tensorrt.loaded_engine import Weights
from esam_rt.engines.tensorrt.trt_engine import TensorRTEngine
from esam_rt.errors import DeviceError, EngineError, InputError, MissingDependencyError, ModelError, SettingsError
from esam_rt.loading.engine_cache import outdated, stored
from esam_rt.loading.engine_record import FORMAT, EngineRecord, EngineSet
from esam_rt.loading.engine_self_test import SelfTest
from esam_rt.loading.engine_spec import EngineSpec, Gpu
from esam_rt.loading.engine_trust import check_trusted
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.loader import load_sam
from esam_rt.loading.memory_budget import MB
from esam_rt.loading.onnx_cache import OnnxModel
from esam_rt.loading.stripped_weights import weights_of
from esam_rt.sam.models import MODELS, ModelSpec
from esam_rt.sam.point_grids import point_grid
from tests.cli.test_app import assert_one_error_line, call
from tests.loading.test_exported_folder import list_anew, say
from tests.loading.test_memory_budget import EVERYTHING, fake_sam, need_of
from tests.support.cuda_on_cpu import place_photo
from tests.support.fake_cuda import FakeCuda
from tests.support.fake_tensorrt import FakeTensorRT, make_plan, without_weights
from tests.support.fake_tensorrt_builder import FakeTensorRTBuilder
from tests.support.gpu_arrays import ByDlpack, Foreign
from tests.support.scene import photo_of, quadrants


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_defaults_follow_the_backend() -> None:
    assert [ExecutionConfig().device, ExecutionConfig().precision] == ["cpu", "fp32"]
    assert [ExecutionConfig("tensorrt").device, ExecutionConfig("tensorrt").precision] == ["cuda", "fp16"]
    assert ExecutionConfig("onnxruntime", "cuda").precision == "fp32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "tensorr"}, "Unknown backend 'tensorr'. Did you mean tensorrt, .* Known: onnxruntime, tensorrt"),
        ({"device": "gpu"}, "Unknown device 'gpu'. .*Known: cpu, cuda, tensorrt"),
        ({"precision": "int8"}, "Unknown precision 'int8'. Known: fp32, fp16, bf16"),
        ({"backend": "tensorrt", "device": "cpu"}, "tensorrt runs on device cuda only, found device cpu"),
        ({"backend": "tensorrt", "device": "tensorrt"}, "tensorrt runs on device cuda only, found device tensorrt"),
        ({"cuda_graphs": True}, "CUDA graphs are for device cuda, found device cpu"),
        ({"backend": "tensorrt", "threads": 3}, "Threads are for the CPU, found backend tensorrt"),
        ({"stream": 0}, "Stream: found one with device cpu, expected device cuda"),
        (
            {"precision": "bf16"},
            "bf16: ONNX Runtime has no kernels for it on device cpu",
        ),
        ({"precision": "bf16", "device": "cuda"}, "bf16: ONNX Runtime has no kernels for it on device cuda"),
        ({"memory_mb": 100, "device": "tensorrt"}, "Memory: device tensorrt has no memory limit. Use backend tensorrt"),
        (
            {"memory_mb": 100, "device": "cuda", "cuda_graphs": True},
            "Memory: CUDA graphs of ONNX Runtime keep memory beside the limit. Leave out one",
        ),
        (
            {"cuda_graphs": True, "device": "tensorrt"},
            "CUDA graphs are for device cuda, found device tensorrt",
        ),
        ({"engines": Path("x")}, "Engines are for the backends tensorrt and tensorrt-rtx, found backend onnxruntime"),
    ],
)
def test_what_does_not_go_together(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ExecutionConfig(**arguments)


class Stream:
    """As cuda.core, CuPy and PyTorch have it."""

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, 4711


def test_streams() -> None:
    own = Stream()
    assert ExecutionConfig("tensorrt", stream=own).stream is own
    assert ExecutionConfig("tensorrt", stream=4711).stream == 4711
    for stream in ("4711", True, -1, 1.5):
        with pytest.raises(InputError, match="Stream: expected the address of a CUDA stream or an object"):
            ExecutionConfig("tensorrt", stream=stream)


def test_a_path_may_be_a_string(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.pth: found no such file"):
        load_sam("vit_b", checkpoint=str(tmp_path / "gone.pth"))


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setitem(sys.modules, backend.replace("-", "_"), None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'esam-rt\[{backend}\]'"):
        load_sam("tiny", ExecutionConfig(backend))


def test_no_gpu_is_an_error_never_a_quiet_run_on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none(**_: object) -> None:
        raise DeviceError("GPU 0: found no NVIDIA driver; expected one.")

    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.setattr("esam_rt.engines.cuda.device.CudaDevice", none)
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        load_sam("tiny", ExecutionConfig("tensorrt"))
    (tmp_path / "photo.png").write_bytes(b"")
    result = call("run", tmp_path / "photo.png", "--backend", "tensorrt", "--out", tmp_path / "out")
    assert result.exit_code == 4
    assert_one_error_line(result, "no NVIDIA driver")


@pytest.mark.parametrize(("device", "batch", "form"), [("cpu", 4, None), ("cuda", 64, "concat")])
def test_graphs_and_batches_follow_the_device(
    monkeypatch: pytest.MonkeyPatch, device: str, batch: int, form: str | None
) -> None:
    asked: list[Any] = []

    def export(
        row: ModelSpec, checkpoint: object, precision: str, attention: str | None, on_event: object
    ) -> OnnxModel:
        asked.append(attention)
        path = Path("graph.onnx")
        return OnnxModel(path, path, path, path, "0" * 64, ())

    monkeypatch.setattr("esam_rt.engines.onnxruntime.providers.import_onnxruntime", lambda device: None)

    monkeypatch.setattr("esam_rt.loading.onnxruntime_loader.onnx_model", export)
    monkeypatch.setattr(
        "esam_rt.engines.onnxruntime.ort_engine.OnnxRuntimeEngine", lambda path, **options: asked.append(options)
    )
    assert load_sam("vit_b", ExecutionConfig(device=device)).model.decode_batch == batch
    placed = {"in_arena": False, "whole": False, "cuda_graphs": False} if device == "cuda" else {}
    assert asked == [form, *[{"device": device, "threads": None, **placed}] * 4]
    load_sam("tiny", ExecutionConfig(device=device))
    assert asked[5] is None, "it has no choice of forms"


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRTBuilder:
    """A stand-in for TensorRT, on one for CUDA."""
    return use_library(monkeypatch, FakeTensorRTBuilder(FakeCuda()))


@pytest.fixture
def built(library: FakeTensorRTBuilder) -> list[str]:
    """The graphs that it has built."""
    return library.built


def use_library(monkeypatch: pytest.MonkeyPatch, library: FakeTensorRTBuilder) -> FakeTensorRTBuilder:
    """Have the product find this library, and its GPU."""
    places = ("loading.engine_cache", "loading.stripped_weights", "loading.library_caches", "engines.tensorrt.builder")
    for place in places:
        monkeypatch.setattr(f"esam_rt.{place}.load_library", lambda backend: library)
    monkeypatch.setattr("esam_rt.engines.cuda.api.cuda_python", lambda: library.cuda)
    return library


def test_a_run_on_engines_that_are_built_first(built: list[str], cache: Path) -> None:
    """From a name to entities."""
    settings = Settings().with_overrides({"prompts.coarse_side": 5, "prompts.fine_side": 9})
    photo = photo_of(quadrants()[0], scale=6)
    with EntitySegmenter("tiny", settings=settings) as segment:
        expected = segment(photo)
    for _ in range(2):
        with EntitySegmenter(
            "tiny", settings=settings, execution=ExecutionConfig(backend="tensorrt", precision="fp32")
        ) as segment:
            found = segment(photo)
            info = segment.model_info()
        assert [info[key] for key in ("backend", "device", "precision")] == ["tensorrt", "cuda", "fp32"]
        np.testing.assert_array_equal(found.labels, expected.labels)
    assert built == ["encoder.onnx", "decoder.onnx", "mask_head.onnx", "logits.onnx"]
    (folder,) = (p for p in (cache / "engines").iterdir() if p.is_dir())
    with EntitySegmenter(
        "tiny", settings=settings, execution=ExecutionConfig(backend="tensorrt", precision="fp32", engines=folder)
    ) as segment:
        np.testing.assert_array_equal(segment(photo).labels, expected.labels)
    (folder / "decoder.engine").write_bytes(b"hostile")
    with pytest.raises(ModelError, match=r"decoder\.engine: found 7 bytes"):
        EntitySegmenter("tiny", execution=ExecutionConfig(backend="tensorrt", precision="fp32", build=False))


def test_photos_on_the_gpu(library: FakeTensorRTBuilder) -> None:
    """Scaled there, on the caller's stream: the same entities, but for what a level of a pixel changes."""
    cuda = library.cuda
    cuda.kernels["place_photo"] = place_photo()
    settings = Settings().with_overrides({"prompts.coarse_side": 5, "prompts.fine_side": 9})
    photo = photo_of(quadrants()[0], scale=11)
    _, stream = cuda.cudaStreamCreateWithFlags(1)
    for method in ("e-sam", "amg", "superpixels"):
        execution = ExecutionConfig("tensorrt", precision="fp32", stream=stream)
        with EntitySegmenter("tiny", settings=settings, method=method, execution=execution) as segment:
            expected = segment(photo)
            cuda.called.clear()
            memory = Foreign(cuda, photo)
            found = segment(memory)
            copied = [name for name in cuda.called if name == "cuLaunchKernel"]
            expected_copies = {"e-sam": 3, "amg": 2, "superpixels": 1}  # encoder, superpixels, guide of boundaries
            assert len(copied) == expected_copies[method]
            again = segment(ByDlpack(memory))
        assert found.labels.shape == expected.labels.shape == photo.shape[:2]
        assert (found.labels == expected.labels).mean() > 0.97
        np.testing.assert_array_equal(again.labels, found.labels)
    assert found.labels.max() > 1


def test_photos_on_a_gpu_without_one() -> None:
    with (
        EntitySegmenter("tiny") as segment,
        pytest.raises(InputError, match="found an array on a GPU, expected one on"),
    ):
        segment(Foreign(FakeCuda(), np.zeros((4, 5, 3), np.uint8)))


def test_photos_of_other_libraries_on_the_host() -> None:
    class Tensor:
        """As PyTorch has it on the CPU."""

        def __init__(self, array: Any) -> None:
            self.array = array

        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

    settings = Settings().with_overrides({"prompts.coarse_side": 3, "prompts.fine_side": 4})
    photo = photo_of(quadrants()[0], scale=3)
    with EntitySegmenter("tiny", settings=settings) as segment:
        np.testing.assert_array_equal(segment(Tensor(photo)).labels, segment(photo).labels)
        with pytest.raises(InputError, match="expected a NumPy array uint8"):
            segment(Tensor(photo.astype(np.float32)))


@pytest.mark.parametrize(
    "of",
    [
        lambda torch: torch.zeros(4, 5, 3, dtype=torch.bfloat16),
        lambda torch: torch.zeros(4, 5, 3, requires_grad=True),
        lambda torch: torch.zeros(4, 5, 3).to_sparse(),
        lambda torch: torch.zeros(4, 5, 3, device="meta"),
    ],
)
def test_tensors_that_are_no_photos(of: Any) -> None:
    with EntitySegmenter("tiny") as segment, pytest.raises(InputError, match=r"(Photo|Array): expected .*, found one"):
        segment(of(pytest.importorskip("torch")))


def test_build_engine_ends_with_a_self_test(built: list[str]) -> None:
    result = call("build-engine", "tiny", "--backend", "tensorrt", "--precision", "fp32")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "mean IoU 1.0000 with ONNX Runtime in fp32, scores within 0.0000." in result.stdout
    tested = json.loads(call("build-engine", "tiny", "--backend", "tensorrt", "--precision", "fp32", "--json").stdout)
    assert tested["self_test"]["masks"] > 30
    assert tested["gpu"]["capability"].startswith("sm_")
    assert len(built) == 4


def test_given_graphs_are_tested_where_their_weights_are_known(built: list[str], tmp_path: Path) -> None:
    call("export", "tiny", "--out", tmp_path / "mine")
    result = call("build-engine", "--onnx", tmp_path / "mine", "--backend", "tensorrt")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Self-test: " in result.stdout
    for name in ("encoder.onnx", "decoder.onnx", "mask_head.onnx", "logits.onnx"):
        say(tmp_path / "mine" / name, "checkpoint_sha256", "0" * 64)
    list_anew(tmp_path / "mine")
    result = call("build-engine", "--onnx", tmp_path / "mine", "--backend", "tensorrt")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Self-test skipped: the weights of these graphs are unknown; give --checkpoint." in result.stdout
    assert len(built) == 8


def test_what_the_self_test_needs_is_missed_before_anything_is_built(
    built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"ONNX Runtime is not installed; .*esam-rt\[cpu\]"):
        load_sam("tiny", ExecutionConfig("tensorrt", precision="fp32"))
    assert built == []


def test_a_self_test_that_fails_is_3(built: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esam_rt.loading.engine_self_test.IOU_MIN", 1.1)
    result = call("build-engine", "tiny", "--backend", "tensorrt", "--precision", "fp32")
    assert result.exit_code == 3
    assert_one_error_line(result, "Self-test", "--no-fusion")
    with pytest.raises(EngineError, match=r"Self-test: .* To build these again"):
        EntitySegmenter("tiny", execution=ExecutionConfig(backend="tensorrt", precision="fp32", build=False))


def test_engines_without_weights(library: FakeTensorRTBuilder, cache: Path, tmp_path: Path) -> None:
    """They get them from the graphs that they were built of, and from no others."""
    settings = Settings().with_overrides({"prompts.coarse_side": 5, "prompts.fine_side": 9})
    photo = photo_of(quadrants()[0], scale=6)
    with EntitySegmenter("tiny", settings=settings) as segment:
        expected = segment(photo)
    options = ("--backend", "tensorrt", "--precision", "fp32", "--strip-weights", "--out", tmp_path / "mine")
    result = call("build-engine", "tiny", *options)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Self-test: " in result.stdout
    given = ExecutionConfig("tensorrt", precision="fp32", engines=tmp_path / "mine")
    with EntitySegmenter("tiny", settings=settings, execution=given) as segment:
        np.testing.assert_array_equal(segment(photo).labels, expected.labels)
        graph = next((cache / "onnx").glob("tiny*/encoder.onnx"))
        encoder: Any = segment.sam.engines.encoder
        assert encoder.engine_bytes > graph.stat().st_size, "the weights count"
    content, state = graph.read_bytes(), graph.stat()
    graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(graph, ns=(state.st_atime_ns, state.st_mtime_ns))
    with EntitySegmenter("tiny", settings=settings, execution=given) as segment:  # the graph is exported again
        np.testing.assert_array_equal(segment(photo).labels, expected.labels)
    assert graph.read_bytes() == content
    sidecar = json.loads((tmp_path / "mine" / "engine.json").read_text())
    assert sidecar["options"]["strip_weights"] is True
    for field, value, words in (
        ("onnx_sha256", {"encoder.onnx": "0" * 64}, "expected the hashes of the graphs of tiny"),
        ("checkpoint_sha256", "1" * 64, "…, expected .* of tiny. These engines take their weights"),
    ):
        (tmp_path / "mine" / "engine.json").write_text(json.dumps({**sidecar, field: value}))
        with pytest.raises(ModelError, match=f"{field}: found .*{words}"):
            EntitySegmenter("tiny", execution=given)


def test_engines_without_weights_of_a_model_to_download(cache: Path, tmp_path: Path) -> None:
    """Nothing is fetched for engines of another checkpoint."""
    options = {"max_batch": 64, "strip_weights": True}
    record = EngineRecord(
        *(FORMAT, "vit_h", "1" * 64, "1", "fp16", {}, "tensorrt", "10.9.8", (), Gpu("sm_86", "A40"), options),
        engines={},
        built="",
    )
    engines = EngineSet(tmp_path, record)
    with pytest.raises(ModelError, match=r"expected [0-9a-f]{12}… of vit_h\. .*name it with --checkpoint"):
        weights_of(engines, MODELS["vit_h"], EngineSpec("tensorrt"), None)
    assert not cache.exists()


def test_weights_that_an_engine_does_not_take(device: CudaDevice, cuda: FakeCuda, tmp_path: Path) -> None:
    other, plan = helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], [3.0, 4.0]), stripped_plan()
    (tmp_path / "net.onnx").write_bytes(scaled_by(other, "Add").SerializeToString())
    with pytest.raises(ModelError, match=r"net: TensorRT could not take its weights from .*net\.onnx: The model"):
        TensorRTEngine("net", plan, FakeTensorRT(cuda), device, weights=Weights(tmp_path / "net.onnx", 8))  # type: ignore[arg-type]


def test_engines_for_later_versions(
    built: list[str], library: FakeTensorRTBuilder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = ("--backend", "tensorrt", "--precision", "fp32", "--version-compatible")
    assert "Self-test: " in call("build-engine", "tiny", *options).stdout
    assert len(built) == 4
    for version in ("10.9.8", "10.10.1", "11.0.0"):
        monkeypatch.setattr(FakeTensorRT, "__version__", version)
        load_sam("tiny", ExecutionConfig("tensorrt", precision="fp32", build=False)).close()
        assert outdated(stored()[0]) is None
    monkeypatch.setattr(FakeTensorRT, "__version__", "10.9.7")
    assert "installed is 10.9.7" in str(outdated(stored()[0]))
    with pytest.raises(ModelError, match="found no such file"):
        load_sam("tiny", ExecutionConfig("tensorrt", precision="fp32", build=False))
    monkeypatch.setattr(FakeTensorRT, "__version__", "10.9.8")
    result = call("build-engine", "tiny", *options, "--out", tmp_path / "mine")
    assert "Self-test skipped: version-compatible engines run from the cache only." in result.stdout
    with pytest.raises(
        ModelError, match=r"contain host code and load only from .*engines\. Copy the folder there if you"
    ):
        load_sam("tiny", ExecutionConfig("tensorrt", precision="fp32", engines=tmp_path / "mine"))


@pytest.mark.skipif(os.name != "posix", reason="no owners and modes")
def test_engines_that_bring_code_are_nobody_elses(built: list[str]) -> None:
    was = os.umask(0)
    try:
        call("build-engine", "tiny", "--backend", "tensorrt", "--precision", "fp32", "--version-compatible")
    finally:
        os.umask(was)
    was = os.umask(0)
    try:
        load_sam("tiny", ExecutionConfig("tensorrt", precision="fp32", build=False)).close()
    finally:
        os.umask(was)
    (folder,) = stored()
    for path in (folder, folder / "engine.json", folder / "mask_head.engine"):
        mode = path.stat().st_mode
        assert not mode & 0o022, path
        path.chmod(0o666 | mode)
        with pytest.raises(ModelError, match=r"contain host code, and other users can write to .*\. Build them again"):
            check_trusted(folder)
        with pytest.raises(ModelError):
            load_sam("tiny", ExecutionConfig("tensorrt", precision="fp32", build=False))
        path.chmod(mode)
    check_trusted(folder)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--version-compatible", "--strip-weights"), "found both, expected one"),
        (
            ("--backend", "tensorrt-rtx", "--version-compatible"),
            "TensorRT-RTX runs only what its own version has built",
        ),
        (("--backend", "onnxruntime", "--strip-weights"), "are for TensorRT"),
    ],
)
def test_options_that_do_not_go_together(built: list[str], arguments: tuple[str, ...], words: str) -> None:
    result = call("build-engine", "tiny", "--backend", "tensorrt", *arguments)
    assert result.exit_code == 2
    assert_one_error_line(result, words)


def scaled_by(weight: onnx.TensorProto, kind: str = "Mul") -> onnx.ModelProto:
    """y = x · weight, or another operator."""
    tensors = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node(kind, ["x", "w"], ["y"])], "net", *([t] for t in tensors), [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def stripped_plan() -> bytes:
    weight = helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], [3.0, 4.0])
    return make_plan(without_weights(scaled_by(weight)).SerializeToString(), stripped=True)


def test_engines_are_tested_once(built: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def count(*arguments: Any) -> SelfTest:
        tests.append(arguments)
        return SelfTest(1, 1.0, 0.0)

    tests: list[Any] = []
    monkeypatch.setattr("esam_rt.loading.engine_self_test.self_test", count)
    for _ in range(2):
        EntitySegmenter("tiny", execution=ExecutionConfig(backend="tensorrt")).close()
    assert len(tests) == 1


def test_cuda_graphs_are_tested_apart(library: FakeTensorRTBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once each: engines that are right without may be wrong with them."""
    execution = ExecutionConfig("tensorrt", precision="fp32", memory_mb=60)
    load_sam("tiny", execution).close()
    launched = library.cuda.called
    assert "cudaGraphLaunch" not in launched
    load_sam("tiny", replace(execution, cuda_graphs=True)).close()
    assert "cudaGraphLaunch" in launched
    (folder,) = stored()
    assert json.loads((folder / "engine.json").read_text())["self_test"]["cuda_graphs"] is True
    launched.clear()
    for cuda_graphs in (True, False):
        load_sam("tiny", replace(execution, cuda_graphs=cuda_graphs)).close()
    assert not {"cudaGraphLaunch", "cudaMemcpyAsync"} & set(launched), "nothing is left to test"


def test_cuda_graphs_that_are_wrong(library: FakeTensorRTBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    execution = ExecutionConfig("tensorrt", precision="fp32", memory_mb=60)
    load_sam("tiny", execution).close()
    monkeypatch.setattr("esam_rt.loading.engine_self_test.IOU_MIN", 1.1)
    with pytest.raises(EngineError, match=r"Self-test: .* This was with CUDA graphs; try without\."):
        load_sam("tiny", replace(execution, cuda_graphs=True))
    load_sam("tiny", execution).close()


# Budgets of memory.


def test_what_is_free_decides_on_a_gpu(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """No call finds the memory at its end, although 64 prompts would."""
    monkeypatch.setattr("esam_rt.loading.engine_self_test.check_once", lambda *_: None)
    need = need_of(fake_sam(FakeCuda(), 64), overlaps=True)
    cuda = use_library(monkeypatch, FakeTensorRTBuilder(FakeCuda(memory=need(40)))).cuda
    with caplog.at_level(logging.WARNING):
        sam = load_sam("tiny", ExecutionConfig("tensorrt", precision="fp32"))
        assert 30 < sam.model.decode_batch < 40
        photo = sam.encode(photo_of(np.arange(64).reshape(8, 8), scale=64))
        sam.decode(photo, point_grid(10), 0, EVERYTHING)
    assert not caplog.records
    assert cuda.peak > 0.4 * need(40), "what overlaps is left to chance"
    sam.close()


def test_a_budget_on_a_gpu(built: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esam_rt.loading.engine_self_test.check_once", lambda *_: None)
    need = need_of(fake_sam(FakeCuda(), 64))
    for batch in (7, 64):
        with_budget = ExecutionConfig("tensorrt", precision="fp32", memory_mb=-(-need(batch) // MB))
        sam = load_sam("tiny", with_budget)
        assert batch <= sam.model.decode_batch <= batch + 1
        sam.close()
    least = -(-need(1) // MB)
    with pytest.raises(SettingsError, match=rf"expected at least {least} MB: tiny in these engines of tensorrt"):
        load_sam("tiny", ExecutionConfig("tensorrt", precision="fp32", memory_mb=least - 1))
