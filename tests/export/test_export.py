"""The exported graphs against the PyTorch model, and every way in which a checkpoint can be wrong."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from esam_rt.engines.onnxruntime.ort_engine import OnnxRuntimeEngine
from esam_rt.errors import ModelError, OutputError, SettingsError
from esam_rt.export import ExportedModel, export_model
from esam_rt.export.checkpoints.checkpoint_reader import read_checkpoint
from esam_rt.export.checkpoints.weights import Weights
from esam_rt.export.configs import TINY, DecoderDims, TinyDims
from esam_rt.export.exporter_version import EXPORTER_VERSION
from esam_rt.export.graphs.fine_map import FINE_STRIDE
from esam_rt.export.graphs.graph import Graph, Precision
from esam_rt.export.graphs.mask_decoder import add_image_features, build_decoder, build_logits, build_masks
from esam_rt.export.graphs.mask_packing import packed_masks
from esam_rt.export.model import build_graphs
from esam_rt.export.train_tiny.tiny_model import Decoder, Features, Prediction, TinySam

SIZE, GRID = 512, 128
Arrays = dict[str, NDArray[np.generic]]
Infer = Callable[[Arrays], Arrays]


def stir(model: torch.nn.Module, seed: int = 0) -> None:
    """Move norms, biases and zeros of the fine map from their defaults; make logits and scores large enough to test."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.add_(0.2 * torch.randn(p.shape, generator=generator))
            elif not p.any():
                p.copy_(0.05 * torch.randn(p.shape, generator=generator))
            if ".hyper." in f".{name}" and "layers.2" in name:
                p.mul_(12)
            if "iou_head.layers.2" in name:
                p.mul_(4)


def to_arrays(model: torch.nn.Module, dtype: type[np.floating] = np.float32) -> dict[str, NDArray[np.floating]]:
    return {name: tensor.numpy().astype(dtype) for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def model() -> TinySam:
    torch.manual_seed(0)
    model = TinySam().eval().requires_grad_(False)
    stir(model)
    return model


@pytest.fixture(scope="module")
def checkpoint(model: TinySam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_file(to_arrays(model), path)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    return export_model("tiny", checkpoint, tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="module")
def decoder(exported: ExportedModel) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(exported.decoder)


@pytest.fixture(scope="module")
def masks(exported: ExportedModel) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(exported.mask_head)


@pytest.fixture(scope="module")
def logits(exported: ExportedModel) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(exported.logits)


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """A wide photo: smooth shapes and noise at the top left, zeros below."""
    rng = np.random.default_rng(1)
    image = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    coarse = rng.integers(0, 200, (24, 32, 3)).repeat(16, 0).repeat(16, 1)
    image[0, :384] = coarse + rng.integers(0, 56, coarse.shape)
    return image


def encode(model: TinySam, image: NDArray[np.uint8]) -> Features:
    return model.encoder(torch.from_numpy(image).permute(0, 3, 1, 2).float())


@pytest.fixture(scope="module")
def features(model: TinySam, image: NDArray[np.uint8]) -> Features:
    return encode(model, image)


def run(graph: Graph, feed: Arrays) -> Arrays:
    proto = ir.to_proto(graph.model({}, "0"))
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def image_features(
    dims: DecoderDims,
    weights: Weights,
    embedding: NDArray[np.float32],
    precision: Precision = Precision.FP32,
    fine: NDArray[np.float32] | None = None,
) -> Arrays:
    """The outputs of `add_image_features` for an embedding, and a fine map of `tiny`, that stand in for an encoder."""
    g = Graph("encoder", precision)
    feed: Arrays = {"given": embedding}
    g.output(g.op("Identity", g.input("given", np.float32, embedding.shape)), "embedding", np.float32, embedding.shape)
    if fine is not None:
        feed["given_fine"] = fine
        g.keep(g.narrow(g.input("given_fine", np.float32, fine.shape)), "fine")
    add_image_features(g, dims, weights)
    out = run(g, feed)
    del out["embedding"]
    return out


def tiny_features(checkpoint: Path, features: Features) -> Arrays:
    embedding, fine = (x.numpy() for x in features)
    return image_features(TINY.decoder, read_checkpoint(checkpoint), embedding, fine=fine)


@pytest.fixture(scope="module")
def side(checkpoint: Path, features: Features) -> Arrays:
    return tiny_features(checkpoint, features)


def random_points(n: int, size: int = SIZE) -> NDArray[np.float32]:
    """Points anywhere; the first lies in the last cell of the fine map."""
    points = np.random.default_rng(n).uniform(0, size, (n, 2)).astype(np.float32)
    points[0] = size - 0.1
    return points


def predict(decoder: Decoder, features: Features, points: NDArray[np.float32], size: int = SIZE) -> Prediction:
    return decoder(features.embedding[0], features.fine[0], torch.from_numpy(points), size)


def prompts(side: Arrays, points: NDArray[np.float32], padding: int = 0) -> Arrays:
    """Single foreground points, each followed by `padding` points of label -1 anywhere."""
    anywhere = np.random.default_rng(3).uniform(-50, 2000, (len(points), padding, 2))
    return {
        **side,
        "points_xy_px": np.concatenate([points[:, None], anywhere], 1).astype(np.float32),
        "labels": np.tile(np.array([1] + [-1] * padding), (len(points), 1)),
    }


def upscaling(valid_hw: tuple[int, int], grid: int, index: NDArray[np.integer], offset: float = 1.0) -> Arrays:
    """The inputs of the mask head besides the decoder's outputs."""
    cells = np.arange((grid // 4) ** 2).reshape(grid // 4, -1)
    return {
        "index": index,
        "cells": cells[: -(-valid_hw[0] // 4), : 2 * -(-valid_hw[1] // 8)],
        "valid_hw": np.array(valid_hw, np.int64),
        "stability_offset": np.array([offset], np.float32),
    }


def decode(
    decoder: Infer,
    masks: Infer,
    feed: Arrays,
    valid_hw: tuple[int, int] = (GRID, GRID),
    index: NDArray[np.integer] | None = None,
    offset: float = 1.0,
    grid: int = GRID,
) -> Arrays:
    """Scores, and the masks of some prompts or of all, bits [M, 3, G, G]."""
    out = decoder(feed)
    score = out.pop("predicted_iou")
    index = np.arange(len(score)) if index is None else index
    out = masks(out | upscaling(valid_hw, grid, index, offset))
    bits = np.unpackbits(out["bits"], axis=-1, bitorder="little").astype(bool)
    rows, columns = bits.shape[2:]
    assert (rows, columns) == (4 * -(-valid_hw[0] // 4), 8 * -(-valid_hw[1] // 8))
    whole = np.zeros((*bits.shape[:2], grid, grid), bool)
    whole[:, :, :rows, :columns] = bits
    return out | {"predicted_iou": score, "bits": whole}


def measure(logits: NDArray[np.float32], valid_hw: tuple[int, int], offset: float) -> Arrays:
    """Stability, area, box and masks of logits [M, K, G, G], one mask at a time."""
    inside = np.zeros(logits.shape[2:], bool)
    inside[: valid_hw[0], : valid_hw[1]] = True
    masks = (logits > 0) & inside
    stability, box = np.zeros(logits.shape[:2], np.float32), np.zeros((*logits.shape[:2], 4), np.int32)
    for i in np.ndindex(logits.shape[:2]):
        high, low = (logits[i] > offset) & inside, (logits[i] > -offset) & inside
        union = (high | low).sum()
        stability[i] = (high & low).sum() / union if union else 0
        ys, xs = np.nonzero(masks[i])
        if len(ys):
            box[i] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    return {"stability_score": stability, "area": masks.sum((2, 3)), "box_xyxy": box, "masks": masks}


def test_encoder(
    model: TinySam, exported: ExportedModel, image: NDArray[np.uint8], features: Features, side: Arrays
) -> None:
    outside = image.copy()
    outside[:, 384:] = 200
    outside[:, :, 500:] = 7
    with OnnxRuntimeEngine(exported.encoder) as encoder:
        ours = encoder.infer({"image": outside, "valid_hw_px": np.array([384, 500])})
        whole = encoder.infer({"image": image, "valid_hw_px": np.array([384, 512])})
    black = image.copy()
    black[:, :, 500:] = 0
    expected = encode(model, black).embedding.numpy()
    embedding = features.embedding.numpy()
    assert expected.shape == (1, 128, 32, 32)
    assert np.abs(embedding).max() > 2
    np.testing.assert_allclose(ours["embedding"], expected, atol=1e-3)
    np.testing.assert_allclose(whole.pop("embedding"), embedding, atol=1e-3)
    assert np.abs(expected - embedding).max() > 0.1
    np.testing.assert_array_equal(ours["image_tokens"][:1024], ours["embedding"].reshape(128, -1).T)
    assert {name: array.shape for name, array in whole.items()} == {
        "image_tokens": (6 * 1024, 128),
        "image_keys": (4, 16, 4096),
        "image_values": (4, 4096, 16),
        "image_queries": (4, 16, 1024),
    }
    for name, array in side.items():
        np.testing.assert_allclose(whole[name], array, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("n", [1, 7, 64])
def test_scores_and_logits(
    model: TinySam, decoder: OnnxRuntimeEngine, logits: OnnxRuntimeEngine, features: Features, side: Arrays, n: int
) -> None:
    points = random_points(n)
    theirs = predict(model.decoder, features, points)
    out = decoder.infer(prompts(side, points))
    np.testing.assert_allclose(out.pop("predicted_iou"), theirs.iou, atol=1e-4)
    level = np.random.default_rng(0).integers(0, 3, n)
    ours = logits.infer(out | {"mask_index": level})["logits"]
    expected = theirs.logits.numpy()[np.arange(n), level]
    assert ours.shape == (n, GRID, GRID)
    assert 3 < np.abs(expected).max() < 100
    np.testing.assert_allclose(ours, expected, atol=1e-3)


@pytest.mark.parametrize("valid_hw", [(128, 128), (96, 128), (128, 85), (61, 128), (128, 1), (1, 128), (3, 9)])
@pytest.mark.parametrize("offset", [1.0, 0.25])
def test_masks(
    model: TinySam,
    decoder: OnnxRuntimeEngine,
    masks: OnnxRuntimeEngine,
    features: Features,
    side: Arrays,
    valid_hw: tuple[int, int],
    offset: float,
) -> None:
    points = random_points(7)
    theirs = predict(model.decoder, features, points).logits.numpy()
    out = decode(decoder.infer, masks.infer, prompts(side, points), valid_hw, offset=offset)
    bits = out["bits"]
    expected = measure(theirs, valid_hw, offset)
    clear = np.abs(theirs) > 1e-3
    np.testing.assert_array_equal(bits & clear, expected["masks"] & clear)
    assert not bits[:, :, valid_hw[0] :].any()
    assert not bits[:, :, :, valid_hw[1] :].any()
    np.testing.assert_array_equal(out["area"], bits.sum((2, 3)))
    inside = (slice(None), slice(None), slice(valid_hw[0]), slice(valid_hw[1]))
    unclear = sum((np.abs(theirs[inside] - t) < 1e-3).sum((2, 3)) for t in (offset, -offset))
    union = np.maximum((theirs[inside] > -offset).sum((2, 3)), 1)
    assert (np.abs(out["stability_score"] - expected["stability_score"]) <= 1e-6 + 2 * unclear / union).all()
    assert [out[name].dtype for name in ("area", "box_xyxy")] == [np.int32, np.int32]
    np.testing.assert_array_equal(out["box_xyxy"], measure(bits - 0.5, valid_hw, 1)["box_xyxy"])


@pytest.mark.parametrize("index", [[3], [0, 1, 5], [15], [5, 1, 5]])
def test_masks_of_some_prompts(
    decoder: OnnxRuntimeEngine, masks: OnnxRuntimeEngine, side: Arrays, index: list[int]
) -> None:
    feed = prompts(side, random_points(16))
    everything = decode(decoder.infer, masks.infer, feed, (96, 128))
    some = decode(decoder.infer, masks.infer, feed, (96, 128), np.array(index))
    for name in ("stability_score", "area", "box_xyxy", "bits"):
        np.testing.assert_array_equal(some[name], everything[name][index])


def test_outputs_that_stay_where_they_are(
    decoder: OnnxRuntimeEngine, masks: OnnxRuntimeEngine, logits: OnnxRuntimeEngine, side: Arrays
) -> None:
    feed = prompts(side, random_points(5))
    kept = decoder.infer(feed, outputs_on_device=("tokens", "prompt_image_embeddings"))
    assert isinstance(kept["predicted_iou"], np.ndarray)
    assert (kept["prompt_image_embeddings"].shape, kept["prompt_image_embeddings"].dtype) == (
        (5, 1024, 128),
        np.float32,
    )
    assert not isinstance(kept["prompt_image_embeddings"], np.ndarray)
    plain = decoder.infer(feed)
    for engine, more in (
        (masks, upscaling((GRID, GRID), GRID, np.array([1, 4]))),
        (logits, {"mask_index": np.array([0, 1, 2, 1, 0])}),
    ):
        ours, theirs = (
            engine.infer({"tokens": out["tokens"], "prompt_image_embeddings": out["prompt_image_embeddings"]} | more)
            for out in (kept, plain)
        )
        for name, array in theirs.items():
            np.testing.assert_array_equal(ours[name], array)


def test_packing_of_hard_masks() -> None:
    grid, valid_hw = 16, (13, 11)
    rng = np.random.default_rng(0)
    logits = np.full((12, 2, grid, grid), -2.0, np.float32)
    corners = [(0, 0), (0, 10), (12, 0), (12, 10), (13, 3), (3, 11), (5, 7), (6, 8)]
    for i, (y, x) in enumerate(corners):
        logits[i, 0, y, x] = 3
    logits[:8, 1] = rng.normal(size=(8, grid, grid))
    logits[8, 0] = 5  # full
    logits[9] = 0.5  # above zero, nowhere above the offset
    logits[10] = -0.5  # empty, but not below the offset
    logits[11, :, 4:9, 2:7] = 0.0  # zero is outside
    g = Graph("packing")
    # Cells of stride 4 as the decoder orders them: y, x, then halves of y and x, then halves of those, masks last.
    cells = logits.reshape(12, 2, 4, 2, 2, 4, 2, 2).transpose(0, 2, 5, 3, 6, 4, 7, 1)
    x = g.input("logits", np.float32, [12, 64, 8])
    valid = g.input("valid_hw", np.int64, [2])
    outputs = packed_masks(
        g,
        x,
        valid,
        rows=g.op("Identity", np.array([4])),
        pairs=g.op("Identity", np.array([2])),
        offset=g.input("offset", np.float32, []),
        grid=grid,
        masks=2,
    )
    kinds = (np.float32, np.int32, np.int32, np.uint8)
    for value, name, dtype in zip(outputs, ("stability_score", "area", "box_xyxy", "bits"), kinds, strict=True):
        g.output(value, name, dtype, [None] * {"box_xyxy": 3, "bits": 4}.get(name, 2))
    session = onnxruntime.InferenceSession(
        ir.to_proto(g.model({}, "0")).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    # The four rows of cells and two pairs of columns hold the valid part and some padding.
    feed = {
        "logits": np.ascontiguousarray(cells).reshape(12, 64, 8),
        "valid_hw": np.array(valid_hw),
        "offset": np.array(1, np.float32),
    }
    stability, area, box, bits = session.run(None, feed)
    expected = measure(logits, valid_hw, 1.0)
    np.testing.assert_array_equal(np.unpackbits(bits, axis=-1, bitorder="little").astype(bool), expected["masks"])
    np.testing.assert_array_equal(area, expected["area"])
    np.testing.assert_array_equal(box, expected["box_xyxy"])
    np.testing.assert_allclose(stability, expected["stability_score"], atol=1e-7)
    words = np.ascontiguousarray(bits).view("<u2")[..., 0]
    assert words[6, 0, 5] == 1 << 7
    assert words[7, 0, 6] == 1 << 8


@pytest.mark.parametrize("seed", [0, 1])
def test_decoder_of_other_sizes(seed: int) -> None:
    torch.manual_seed(seed)
    size, fine_side = 128, 128 // FINE_STRIDE
    dims = TinyDims(
        input_px=size, width=64, inner=32, heads=8, mlp=96, depth=3, masks=4, fine_width=24, near_px=(5.0, 20.0, 50.0)
    )
    theirs = Decoder(dims).eval()
    stir(theirs, seed)
    theirs.requires_grad_(False)
    features = Features(torch.randn(1, 64, 8, 8), torch.randn(1, 24, fine_side, fine_side))
    points = random_points(5, size)
    expected = predict(theirs, features, points, size)
    weights = Weights.of_arrays(Path("small"), {f"decoder.{name}": a for name, a in to_arrays(theirs).items()})

    embedding, fine = (x.numpy() for x in features)
    side = image_features(dims.decoder, weights, embedding, fine=fine)
    infer = [partial(run, build(dims.decoder, weights)) for build in (build_decoder, build_masks)]
    out = decode(*infer, prompts(side, points), (32, 32), grid=32)
    np.testing.assert_allclose(out["predicted_iou"], expected.iou, atol=1e-4)
    wanted = expected.logits.numpy()
    clear = np.abs(wanted) > 1e-3
    np.testing.assert_array_equal(out["bits"] & clear, (wanted > 0) & clear)
    level = np.array([0, 1, 2, 3, 0])
    made = run(build_decoder(dims.decoder, weights), prompts(side, points))
    del made["predicted_iou"]
    out = run(build_logits(dims.decoder, weights), made | {"mask_index": level})
    weights.check_all_taken()
    np.testing.assert_allclose(out["logits"], wanted[np.arange(5), level], atol=1e-3)


def test_each_part_of_the_fine_map_matters(model: TinySam, features: Features) -> None:
    points = random_points(4)
    before = predict(model.decoder, features, points).logits
    for name in ("fine.keys", "fine.values", "fine.local", "fine.detail", "layers.0.near", "layers.1.near"):
        weight = model.decoder.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        kept = weight.clone()
        weight.zero_()
        assert (predict(model.decoder, features, points).logits - before).abs().max() > 1e-3, name
        weight.copy_(kept)


def test_fp16_is_near(
    model: TinySam, checkpoint: Path, image: NDArray[np.uint8], features: Features, tmp_path: Path
) -> None:
    half = export_model("tiny", checkpoint, tmp_path, Precision.FP16)
    points = random_points(9)
    expected = predict(model.decoder, features, points)
    with OnnxRuntimeEngine(half.encoder) as encoder, OnnxRuntimeEngine(half.decoder) as decoder:
        shared = encoder.infer({"image": image, "valid_hw_px": np.array([384, 512])})
        del shared["embedding"]
        out = decoder.infer(prompts(shared, points))
    np.testing.assert_allclose(out["predicted_iou"], expected.iou, atol=0.02)


def assert_bf16_throughout(graph: Graph) -> None:
    """ONNX Runtime's CPU provider has no bfloat16: the types are checked instead, from the inputs to the outputs."""
    proto = ir.to_proto(graph.model({}, "0"))
    onnx.checker.check_model(proto, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output, *inferred.input)}
    types |= {t.name: t.data_type for t in inferred.initializer}
    products = [node for node in inferred.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    assert {types[name] for node in products for name in node.input} == {onnx.TensorProto.BFLOAT16}
    norms = [node for node in inferred.node if node.op_type in ("LayerNormalization", "Softmax", "Exp")]
    assert {types[name] for node in norms for name in node.input} == {onnx.TensorProto.FLOAT}


def test_bf16_is_typed_throughout(checkpoint: Path) -> None:
    for graph in build_graphs("tiny", read_checkpoint(checkpoint), Precision.BF16):
        assert_bf16_throughout(graph)


def test_float16_checkpoint(
    model: TinySam, exported: ExportedModel, tmp_path: Path, features: Features, side: Arrays
) -> None:
    save_file(to_arrays(model, np.float16), tmp_path / "half.safetensors")
    half = export_model("tiny", tmp_path / "half.safetensors", tmp_path)
    rounded = TinySam().eval().requires_grad_(False)
    rounded.load_state_dict({k: v.half().float() for k, v in model.state_dict().items()})
    points = random_points(3)
    half_side = tiny_features(tmp_path / "half.safetensors", features)

    def first_logits(files: ExportedModel, image: Arrays) -> NDArray[np.float32]:
        with OnnxRuntimeEngine(files.decoder) as decoder, OnnxRuntimeEngine(files.logits) as logits:
            made = decoder.infer(prompts(image, points))
            del made["predicted_iou"]
            return logits.infer(made | {"mask_index": np.zeros(3, np.int64)})["logits"]

    ours = first_logits(half, half_side)
    expected = predict(rounded.decoder, features, points).logits[:, 0]
    np.testing.assert_allclose(ours, expected, atol=1e-3)
    assert np.abs(ours - first_logits(exported, side)).max() > 1e-3


def test_files(exported: ExportedModel, checkpoint: Path, tmp_path: Path) -> None:
    for path in exported.files:
        proto = onnx.load(path)
        onnx.checker.check_model(proto, full_check=True)
        assert [(o.domain, o.version) for o in proto.opset_import] == [("", 18)]
        assert {p.key: p.value for p in proto.metadata_props} == {
            "esam_rt.exporter_version": EXPORTER_VERSION,
            "esam_rt.model": "tiny",
            "esam_rt.precision": "fp32",
            "esam_rt.checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        }
        used = {name for node in proto.graph.node for name in node.input}
        assert used.issuperset(tensor.name for tensor in proto.graph.initializer)
        assert not {"Tile", "OneHot", "Expand"} & {node.op_type for node in proto.graph.node}
    again = export_model("tiny", checkpoint, tmp_path / "a" / "b")
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == [
        *("decoder.onnx", "encoder.onnx", "esam-rt.json", "logits.onnx", "mask_head.onnx")
    ]
    for name in ("encoder", "decoder", "mask_head", "logits"):
        assert getattr(again, name).read_bytes() == getattr(exported, name).read_bytes()


def broken(checkpoint: Path, out: Path, **changes: NDArray | None) -> Path:
    tensors = load_file(checkpoint)
    for name, array in changes.items():
        if array is None:
            del tensors[name]
        else:
            tensors[name] = array
    save_file(tensors, out)
    return out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder.iou_token": None}, r"decoder\.iou_token is missing, expected shape \[1, 128\]"),
        ({"encoder.stem.bias": None}, r"encoder\.stem\.bias is missing, expected shape \[32\]"),
        (
            {"decoder.layers.1.near.weight": None},
            r"decoder\.layers\.1\.near\.weight is missing, expected shape \[128, 20\]",
        ),
        (
            {"encoder.stem.weight": np.zeros((32, 3, 5, 5), np.float32)},
            r"encoder\.stem\.weight: found shape \[32, 3, 5, 5\], expected \[32, 3, 3, 3\]",
        ),
        (
            {"decoder.layers.1.mlp.layers.0.weight": np.zeros((128, 512), np.float32)},
            r"mlp\.layers\.0\.weight: found shape \[128, 512\], expected \[512, 128\]",
        ),
        ({"decoder.layers.2.norm1.bias": np.zeros(128, np.float32)}, r"unexpected tensor decoder\.layers\.2\.norm1"),
        ({"decoder.foreground": np.zeros(128, np.int32)}, r"decoder\.foreground: found dtype I32, expected float16 or"),
        ({"decoder.foreground": np.zeros(128)}, r"decoder\.foreground: found dtype F64, expected float16 or float32"),
    ],
)
def test_wrong_tensors(checkpoint: Path, tmp_path: Path, change: dict[str, NDArray | None], message: str) -> None:
    path = broken(checkpoint, tmp_path / "wrong.safetensors", **change)
    with pytest.raises(ModelError, match=message) as e:
        export_model("tiny", path, tmp_path / "out")
    assert str(path) in str(e.value)
    assert not (tmp_path / "out").exists()


def test_weights_from_before_the_fine_map(checkpoint: Path, tmp_path: Path) -> None:
    without = dict.fromkeys(name for name in load_file(checkpoint) if "fine." in name or "near." in name)
    path = broken(checkpoint, tmp_path / "earlier.safetensors", **without)
    with pytest.raises(ModelError) as e:
        export_model("tiny", path, tmp_path / "out")
    assert str(e.value) == (
        f"{path}: tensor encoder.fine.from4.weight is missing, found weights of tiny from before it had a fine map. "
        "Leave out the checkpoint to use the weights that ship with esam-rt, or train anew as the model card says."
    )
    assert not (tmp_path / "out").exists()


def test_bfloat16_checkpoint(model: TinySam, tmp_path: Path) -> None:
    path = tmp_path / "bf16.safetensors"
    rounded = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    save_torch(rounded, path)
    weights = read_checkpoint(path)
    for name, tensor in rounded.items():
        np.testing.assert_array_equal(weights.take(name, *tensor.shape), tensor.double())
    weights.check_all_taken()


@pytest.mark.parametrize("kind", ["truncated", "cut header", "text", "empty", "missing", "folder"])
def test_broken_files(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "broken.safetensors"
    data = checkpoint.read_bytes()
    contents = {"truncated": data[:-1000], "cut header": data[:500], "text": b"<html>not found</html>", "empty": b""}
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(ModelError, match=r"broken\.safetensors"):
        export_model("tiny", path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_model(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Did you mean tiny"):
        export_model("tinny", checkpoint, tmp_path)


def test_folder_that_cannot_be_written(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        export_model("tiny", checkpoint, tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_works_without_torch(checkpoint: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "import esam_rt.export, esam_rt.engines\n"
        "from esam_rt.engines.onnxruntime.ort_engine import OnnxRuntimeEngine\n"
        "m = esam_rt.export.export_model('tiny', Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "print([t.name for t in OnnxRuntimeEngine(m.decoder).outputs])\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(checkpoint), str(tmp_path)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(["predicted_iou", "tokens", "prompt_image_embeddings"])
