"""Budgets of memory: the largest batch that fits, what is said of too small ones, and whether the figures hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esam_rt.engines.cuda.device import CudaDevice
from esam_rt.engines.tensorrt.trt_engine import TensorRTEngine
from esam_rt.errors import EngineError, SettingsError
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.loader import load_sam
from esam_rt.loading.memory_budget import MB, batch_within, largest_batch, onnxruntime_need, tensorrt_need
from esam_rt.loading.onnx_cache import onnx_model
from esam_rt.networks import Networks
from esam_rt.sam.models import MODELS
from esam_rt.sam.point_grids import point_grid
from esam_rt.sam.predictor import Engines, Sam
from tests.cli.test_app import assert_one_error_line, call
from tests.support.fake_cuda import FakeCuda
from tests.support.fake_tensorrt import FakeTensorRT, make_plan
from tests.support.scene import photo_of, quadrants

TINY = MODELS["tiny"]
EVERYTHING = None


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(-5, 400))
def test_the_largest_batch(steps: list[int], budget: int) -> None:
    needs = np.cumsum(steps)
    expected = max((b for b in range(1, len(steps) + 1) if needs[b - 1] <= budget), default=0)
    assert largest_batch(lambda batch: int(needs[batch - 1]), budget, len(steps)) == expected


def test_a_budget_that_is_too_small() -> None:
    with pytest.raises(SettingsError) as caught:
        batch_within(9, lambda batch: 9 * MB + batch, 64, "tiny on Mars")
    assert str(caught.value) == (
        "Memory: found 9 MB, expected at least 10 MB: tiny on Mars needs that with one prompt a call. Allow more "
        "memory, or use a smaller model."
    )
    assert batch_within(10, lambda batch: 9 * MB + batch, 64, "tiny on Mars") == 64


# ONNX Runtime.


@pytest.fixture(autouse=True)
def cache_of_the_module(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for all tests, so that `tiny` is exported once."""
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path_factory.getbasetemp() / "cache of test_memory"))


def test_every_model_was_measured() -> None:
    for row in MODELS.values():
        assert row.footprint is not None
        for precision in ("fp32", "fp16"):
            need = onnxruntime_need(row, precision)
            assert need(1) <= need(row.decode_batch) < need(64)
        assert onnxruntime_need(row, "fp32")(4) < onnxruntime_need(row, "fp16")(4)


@pytest.mark.parametrize(("memory_mb", "batch"), [(None, 16), (1000, 16), (188, 15), (162, 13)])
def test_batches_on_the_cpu(memory_mb: int | None, batch: int) -> None:
    sam = load_sam("tiny", ExecutionConfig(memory_mb=memory_mb))
    assert sam.model.decode_batch == batch
    sam.close()


def test_a_budget_changes_no_mask(tmp_path: Path) -> None:
    image, points = photo_of(quadrants()[0], scale=8), point_grid(6)
    found = []
    for execution in (ExecutionConfig(), ExecutionConfig(memory_mb=162)):
        sam = load_sam("tiny", execution)
        found.append(sam.decode(sam.encode(image), points, 0, EVERYTHING))
        sam.close()
    np.testing.assert_array_equal(found[0].bits, found[1].bits)
    (tmp_path / "photo.png").write_bytes(b"")
    result = call("run", tmp_path / "photo.png", "--out", tmp_path / "out", "--memory", "161")
    assert result.exit_code == 2
    assert_one_error_line(result, "found 161 MB, expected at least 162 MB: tiny on ONNX Runtime needs")


def test_no_memory_at_all() -> None:
    with pytest.raises(SettingsError, match="Memory: found 0 MB, expected at least 1"):
        ExecutionConfig(memory_mb=0)


# TensorRT, on a fake.


def fake_sam(cuda: FakeCuda, most: int, cuda_graphs: bool = False) -> Sam:
    """`tiny` in engines for up to `most` prompts."""
    device = CudaDevice(runtime=cuda)  # type: ignore[arg-type]
    cells = TINY.input_px // 16
    limits = {"B": most, "M": most, "rows": cells, "columns": cells}

    def load(path: Path) -> TensorRTEngine:
        model, profile = onnx.load(path), {}
        for t in model.graph.input:
            extents = [d.dim_param or d.dim_value for d in t.type.tensor_type.shape.dim]
            if any(n in limits for n in extents):
                profile[t.name] = tuple(
                    tuple(of.get(n, n) for n in extents) for of in (dict.fromkeys(limits, 1), limits)
                )
        plan = make_plan(model.SerializeToString(), profile)
        replays = cuda_graphs and path.stem == "decoder"
        return TensorRTEngine(path.stem, plan, FakeTensorRT(cuda), device, None, replays)  # type: ignore[arg-type]

    files = onnx_model(TINY)
    engines = Engines(*map(load, (files.encoder, files.decoder, files.mask_head, files.logits)))
    return Sam(replace(TINY, decode_batch=most), engines, "0" * 64)


def need_of(sam: Sam, cuda_graphs: bool = False, overlaps: bool = False) -> Any:
    e = sam.engines
    return tensorrt_need(Networks(e.encoder, e.decoder, e.mask_head, e.logits), cuda_graphs, overlaps)  # type: ignore[arg-type]


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("batch", [1, 5, 16])
def test_the_figures_are_those_of_the_fake(batch: int, cuda_graphs: bool, overlaps: bool) -> None:
    """A photo that fills the grid, of which every prompt passes."""
    cuda = FakeCuda()
    sam = fake_sam(cuda, 16, cuda_graphs)
    need = need_of(sam, cuda_graphs, overlaps)(batch)
    assert cuda.peak == sum(e.engine_bytes for e in vars(sam.engines).values()), "nothing was run for the figures"
    fitting = Sam(replace(TINY, decode_batch=batch), sam.engines, "0" * 64, overlaps=overlaps)
    image, points = photo_of(np.arange(64).reshape(8, 8), scale=64), point_grid(8)
    for _ in range(2):
        photo = fitting.encode(image)
        assert len(np.unique(fitting.decode(photo, points, 0, EVERYTHING).prompt_index)) == 64
        fitting.logits(photo, points[:20], np.zeros(20, np.uint8))
        del photo
    assert ("cudaGraphLaunch" in cuda.called) == cuda_graphs
    least = 0.5 if overlaps else 0.9 if cuda_graphs else 0.999  # what overlaps is left to chance
    assert least * need < cuda.peak <= need + 4096, "but for the alignment"


def test_figures_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    sam = fake_sam(FakeCuda(), 16)
    decoder: Any = sam.engines.decoder
    inputs = {"points_xy_px": (3, 1, 2), "labels": (3, 1)}
    call_bytes = decoder.call_bytes(inputs)
    assert call_bytes.tensors["prompt_image_embeddings"] == 3 * 1024 * 128 * 4
    assert call_bytes.tensors["labels"] == 3 * 8
    assert call_bytes.total == call_bytes.scratch + sum(call_bytes.tensors.values())
    with pytest.raises(EngineError, match="points_xy_px: axis 0: expected 1…16, got 17"):
        decoder.call_bytes({"points_xy_px": (17, 1, 2), "labels": (17, 1)})
    sam.close()
    with pytest.raises(EngineError, match="used after close"):
        decoder.call_bytes(inputs)
