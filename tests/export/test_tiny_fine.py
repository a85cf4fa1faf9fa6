"""The exported graphs of `tiny` with a fine map, against the PyTorch model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from esam_rt import EntitySegmenter, Settings
from esam_rt.engines.onnxruntime.ort_engine import OnnxRuntimeEngine
from esam_rt.errors import ModelError
from esam_rt.export import ExportedModel, Precision, export_model
from esam_rt.export.configs import TINY_FINE
from esam_rt.export.train_tiny.state import load_weights, save_weights
from esam_rt.export.train_tiny.tiny_model import TinySam
from esam_rt.sam.models import WEIGHTS
from tests.export.test_export import GRID, SIZE, Arrays, decode, measure, prompts, random_points


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinySam, Path]:
    """The shipped weights with a fine map that says something, rounded as they are stored."""
    torch.manual_seed(0)
    model = TinySam(TINY_FINE).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    missing = load_weights(model, WEIGHTS / "tiny.safetensors")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name in missing:
                p.add_(0.05 * torch.randn(p.shape, generator=generator))
    path = tmp_path_factory.mktemp("fine") / "tiny.safetensors"
    save_weights(model, path)
    load_weights(model, path)
    return model, path


@pytest.fixture(scope="module")
def exported(model: tuple[TinySam, Path], tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    return export_model("tiny", model[1], tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """A wide photo; zeros below it."""
    rng = np.random.default_rng(1)
    image = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    coarse = rng.integers(0, 200, (24, 32, 3)).repeat(16, 0).repeat(16, 1)
    image[0, :384] = coarse + rng.integers(0, 56, coarse.shape)
    return image


@pytest.fixture(scope="module")
def side(exported: ExportedModel, image: NDArray[np.uint8]) -> Arrays:
    with OnnxRuntimeEngine(exported.encoder) as encoder:
        out = encoder.infer({"image": image, "valid_hw_px": np.array([384, 512])})
    return {name: np.asarray(value) for name, value in out.items()}


def reference(model: TinySam, image: NDArray[np.uint8], points: NDArray[np.float32]) -> tuple[Arrays, NDArray]:
    """Scores and logits, and the embedding."""
    features = model.encoder.features(torch.from_numpy(image).permute(0, 3, 1, 2).float())
    assert features.fine is not None
    found = model.decoder(features.embedding[0], torch.from_numpy(points), SIZE, features.fine[0])
    return {"score": found.iou.numpy(), "logits": found.logits.numpy()}, features.embedding.numpy()


@pytest.mark.parametrize("n", [1, 9])
def test_scores_and_logits(
    model: tuple[TinySam, Path], exported: ExportedModel, image: NDArray[np.uint8], side: Arrays, n: int
) -> None:
    points = random_points(n)
    points[0] = 510.9, 383.2  # the last cell of the fine map
    expected, embedding = reference(model[0], image, points)
    shared = dict(side)
    np.testing.assert_allclose(shared.pop("embedding"), embedding, atol=1e-4)
    assert [shared[name].shape for name in ("image_tokens", "image_keys", "image_values")] == [
        (6 * 1024, 128),
        (4, 16, 4096),
        (4, 4096, 16),
    ]
    with OnnxRuntimeEngine(exported.decoder) as decoder, OnnxRuntimeEngine(exported.logits) as logits:
        out = decoder.infer(prompts(shared, points))
        np.testing.assert_allclose(out.pop("predicted_iou"), expected["score"], atol=1e-4)
        for level in range(3):
            ours = logits.infer(out | {"mask_index": np.full(n, level)})["logits"]
            np.testing.assert_allclose(ours, expected["logits"][:, level], atol=1e-3)
    assert 2 < np.abs(expected["logits"]).max() < 100


def test_masks(model: tuple[TinySam, Path], exported: ExportedModel, image: NDArray[np.uint8], side: Arrays) -> None:
    points, valid_hw = random_points(5), (96, 128)
    theirs = reference(model[0], image, points)[0]["logits"]
    shared = {name: value for name, value in side.items() if name != "embedding"}
    with OnnxRuntimeEngine(exported.decoder) as decoder, OnnxRuntimeEngine(exported.mask_head) as masks:
        out = decode(decoder.infer, masks.infer, prompts(shared, points), valid_hw)
    expected = measure(theirs, valid_hw, 1.0)
    clear = np.abs(theirs) > 1e-3
    np.testing.assert_array_equal(out["bits"] & clear, expected["masks"] & clear)
    assert out["bits"].shape == (5, 3, GRID, GRID)


def test_each_part_of_the_fine_map_matters(model: tuple[TinySam, Path], image: NDArray[np.uint8]) -> None:
    points = random_points(4)
    before = reference(model[0], image, points)[0]["logits"]
    for name in ("fine.keys", "fine.values", "fine.local", "fine.detail", "layers.0.near", "layers.1.near"):
        weight = model[0].decoder.get_submodule(name).weight
        kept = weight.clone()
        weight.zero_()
        assert np.abs(reference(model[0], image, points)[0]["logits"] - before).max() > 1e-3, name
        weight.copy_(kept)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_half_precision_is_near(
    model: tuple[TinySam, Path], image: NDArray[np.uint8], tmp_path: Path, precision: Precision
) -> None:
    if precision is Precision.BF16:
        export_model("tiny", model[1], tmp_path, precision)  # ONNX Runtime has no bfloat16 on a CPU
        return
    half = export_model("tiny", model[1], tmp_path, precision)
    points = random_points(9)
    expected, _ = reference(model[0], image, points)
    with OnnxRuntimeEngine(half.encoder) as encoder, OnnxRuntimeEngine(half.decoder) as decoder:
        shared = encoder.infer({"image": image, "valid_hw_px": np.array([384, 512])})
        del shared["embedding"]
        out = decoder.infer(prompts(shared, points))
    np.testing.assert_allclose(out["predicted_iou"], expected["score"], atol=0.02)


def test_it_segments(
    model: tuple[TinySam, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    copy_kernels: Callable[[Path], list[Path]],
) -> None:
    copy_kernels(tmp_path)
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 255, (6, 8, 3)).repeat(40, 0).repeat(40, 1).astype(np.uint8)
    settings = Settings.preset("fast").with_model_defaults({"filters.score_min": 0.0})
    with EntitySegmenter("tiny", settings=settings, checkpoint=model[1]) as segment:
        first, again = segment(photo), segment(photo)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.labels.shape == (240, 320)


def test_a_checkpoint_with_half_of_a_fine_map(model: tuple[TinySam, Path], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(model[1])
    del tensors["decoder.layers.1.near.weight"]
    save_file(tensors, tmp_path / "t.safetensors")
    with pytest.raises(ModelError, match=r"decoder\.layers\.1\.near\.weight is missing"):
        export_model("tiny", tmp_path / "t.safetensors", tmp_path / "onnx")
