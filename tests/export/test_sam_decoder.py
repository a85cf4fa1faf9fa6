"""SAM's prompt encoder and mask decoder as graphs, at their real size, against transformers' `SamModel` in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import SamConfig, SamModel

from esam_rt.export.checkpoints.key_mapping import HUGGING_FACE
from esam_rt.export.checkpoints.weights import Weights
from esam_rt.export.configs import SAM_DECODER
from esam_rt.export.graphs.graph import Graph, Precision
from esam_rt.export.graphs.mask_decoder import build_decoder, build_logits, build_masks
from tests.export.test_export import Arrays, assert_bf16_throughout, decode, image_features, run

INPUT_PX, GRID = 1024, 256


@pytest.fixture(scope="module")
def model() -> SamModel:
    """SAM with random weights that are far from their defaults, and logits of both signs."""
    torch.manual_seed(0)
    config = SamConfig(
        vision_config={"num_hidden_layers": 1}, mask_decoder_config={"layer_norm_eps": SAM_DECODER.token_norm_eps}
    )
    model = SamModel(config).eval().requires_grad_(False)
    gains = {"transformer": 3, "hypernetworks": 5, "upscale_conv": 5, "iou_prediction": 3, "vision": 1}
    for name, p in model.named_parameters():
        if p.ndim == 1:
            p.add_(0.2 * torch.randn(p.shape))
        elif gain := next((gain for part, gain in gains.items() if part in name), None):
            p.mul_(gain)
        else:  # tokens and labels
            p.copy_(torch.randn(p.shape))
    model.shared_image_embedding.positional_embedding.copy_(torch.randn(2, 128))
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(model.shared_image_embedding.positional_embedding)
    return model


def weights_of(model: SamModel) -> Weights:
    tensors = {name: t.numpy() for name, t in model.state_dict().items() if not name.startswith("vision_encoder.")}
    return Weights.of_arrays(Path("sam"), tensors, HUGGING_FACE)


@pytest.fixture(scope="module")
def embedding() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(1, 256, 64, 64)).astype(np.float32)


def predict(
    model: SamModel, embedding: NDArray[np.float32], points: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """PyTorch's logits [B, 3, 256, 256] and scores [B, 3]."""
    logits, scores = [], []
    for xy, label in zip(torch.from_numpy(points), torch.from_numpy(labels), strict=True):
        if label[0] == 2:
            sparse, dense = model.prompt_encoder(None, None, xy.reshape(1, 1, 4), None)
        else:
            # SAM adds the padding by itself.
            sparse, dense = model.prompt_encoder(xy[None, None, :1], label[None, None, :1].int(), None, None)
            assert sparse.shape[2] == 2
        out = model.mask_decoder(
            image_embeddings=torch.from_numpy(embedding),
            image_positional_embeddings=model.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        logits.append(out[0][0, 0].numpy())
        scores.append(out[1][0, 0].numpy())
    return np.stack(logits), np.stack(scores)


@pytest.fixture(scope="module")
def prompts() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A foreground point, a background point, two boxes; what stands in place of the padding is of no matter."""
    points = np.random.default_rng(1).uniform(0, INPUT_PX, (4, 2, 2)).astype(np.float32)
    points[2:].sort(axis=1)
    return points, np.array([[1, -1], [0, -1], [2, 3], [2, 3]])


def feed(side: Arrays, prompts: tuple[NDArray[np.float32], NDArray[np.int64]]) -> Arrays:
    return {
        **side,
        "points_xy_px": prompts[0],
        "labels": prompts[1],
    }


def relative_error(ours: NDArray[np.floating], theirs: NDArray[np.floating]) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def cosine(ours: NDArray[np.floating], theirs: NDArray[np.floating]) -> float:
    a, b = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_prompts_of_every_kind(
    model: SamModel,
    embedding: NDArray[np.float32],
    prompts: tuple[NDArray[np.float32], NDArray[np.int64]],
    precision: Precision,
) -> None:
    theirs, scores = predict(model, embedding, *prompts)
    weights = weights_of(model)
    side = image_features(SAM_DECODER, weights, embedding, precision)
    infer = [partial(run, build(SAM_DECODER, weights, precision)) for build in (build_decoder, build_masks)]
    weights.check_all_taken()
    out = decode(*infer, feed(side, prompts), (GRID, GRID), grid=GRID)
    made = run(build_decoder(SAM_DECODER, weights, precision), feed(side, prompts))
    assert [made.pop("predicted_iou").dtype, made["prompt_image_embeddings"].dtype] == [np.float32, precision.dtype]
    level = np.array([0, 1, 2, 1])
    logits = run(build_logits(SAM_DECODER, weights, precision), made | {"mask_index": level})["logits"]
    bits = out["bits"]
    masks = theirs > 0
    iou = (bits & masks).sum((2, 3)) / (bits | masks).sum((2, 3))
    assert 0.05 < masks.mean() < 0.95
    assert [a.dtype for a in (out["predicted_iou"], out["stability_score"], logits)] == [np.float32] * 3
    if precision is Precision.FP32:
        assert relative_error(out["predicted_iou"], scores) < 1e-4
        assert relative_error(logits, theirs[np.arange(4), level]) < 1e-4
        assert iou.min() > 0.999
    else:
        assert cosine(out["predicted_iou"], scores) > 0.999
        assert cosine(logits, theirs[np.arange(4), level]) > 0.999
        assert iou.min() > 0.97


@pytest.mark.parametrize("build", [build_decoder, build_masks, build_logits])
def test_bf16_is_typed_throughout(model: SamModel, build: Callable[..., Graph]) -> None:
    assert_bf16_throughout(build(SAM_DECODER, weights_of(model), Precision.BF16))


def test_no_operator_that_converters_stumble_over(model: SamModel) -> None:
    for build in (build_decoder, build_masks, build_logits):
        graph: Graph = build(SAM_DECODER, weights_of(model))
        operators = {node.op_type for node in graph.model({}, "0").graph}
        assert not operators & {"Tile", "OneHot", "Expand", "Loop", "If", "Scan", "Einsum", "ScatterND", "NonZero"}
