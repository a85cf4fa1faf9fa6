"""MobileSAM's encoder as a graph against the same network in PyTorch (`tinyvit_torch.py`)."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from esam_rt.errors import ModelError
from esam_rt.export.checkpoints.key_mapping import SAM
from esam_rt.export.checkpoints.weights import Weights
from esam_rt.export.configs import VIT_T
from esam_rt.export.graphs.graph import Precision
from esam_rt.export.graphs.tinyvit import build_tinyvit_encoder
from tests.export.test_export import Arrays, run
from tests.export.test_sam_decoder import cosine, relative_error
from tests.support.tinyvit_torch import TinyVit, normalised

WHOLE_WINDOWS_PX, CUT_WINDOWS_PX = 224, 256  # 224: 28, 14 and 14 positions a side; 256: 32, 16 and 16


@pytest.fixture(scope="module")
def model() -> TinyVit:
    """Random weights that are far from their defaults and let the photo through to the embedding."""
    torch.manual_seed(0)
    model = TinyVit().train().requires_grad_(False)
    for name, tensor in model.named_parameters():
        if name.endswith("attention_biases"):
            tensor.normal_(0, 2)
        elif tensor.ndim == 1:
            tensor.add_(0.2 * torch.randn(tensor.shape))
        else:
            tensor.mul_(2)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = None  # the statistics are those of the photos below
    for size in (CUT_WINDOWS_PX, WHOLE_WINDOWS_PX):
        model(normalised(torch.from_numpy(photo(size)), (size, size)))
    for name, tensor in model.named_buffers():
        if name.endswith("running_var"):
            tensor.mul_(torch.empty_like(tensor).uniform_(0.5, 2))
        elif name.endswith("running_mean"):
            tensor.add_(0.2 * torch.randn(tensor.shape))
    return model.eval()


def arrays_of(model: TinyVit) -> Arrays:
    """As `mobile_sam.pt` calls them."""
    return {f"image_encoder.{name}": tensor.numpy() for name, tensor in model.state_dict().items()}


def weights_of(arrays: Arrays) -> Weights:
    return Weights.of_arrays(Path("mobile_sam.pt"), arrays, SAM)


@pytest.fixture(scope="module")
def weights(model: TinyVit) -> Weights:
    return weights_of(arrays_of(model))


def photo(size: int) -> NDArray[np.uint8]:
    """Patches of one color with noise on them."""
    rng = np.random.default_rng(size)
    coarse = rng.integers(0, 200, (size // 16, size // 16, 3)).repeat(16, 0).repeat(16, 1)
    return (coarse + rng.integers(0, 56, coarse.shape)).astype(np.uint8)[None]


def embed(
    weights: Weights, image: NDArray[np.uint8], valid_hw_px: tuple[int, int], precision: Precision = Precision.FP32
) -> NDArray[np.float32]:
    graph = build_tinyvit_encoder(replace(VIT_T, input_px=image.shape[1]), weights, precision)
    return run(graph, {"image": image, "valid_hw_px": np.array(valid_hw_px)})["embedding"]


def embed_in_torch(model: TinyVit, image: NDArray[np.uint8], valid_hw_px: tuple[int, int]) -> NDArray[np.float32]:
    return model(normalised(torch.from_numpy(image), valid_hw_px)).numpy()


@pytest.mark.parametrize(
    ("size", "valid_hw_px"),
    [
        (WHOLE_WINDOWS_PX, (224, 224)),
        (WHOLE_WINDOWS_PX, (150, 224)),
        (CUT_WINDOWS_PX, (256, 256)),
        (CUT_WINDOWS_PX, (256, 101)),
        (CUT_WINDOWS_PX, (1, 256)),
        (1024, (768, 1024)),
    ],
)
def test_embedding(model: TinyVit, weights: Weights, size: int, valid_hw_px: tuple[int, int]) -> None:
    image = photo(size)
    ours, theirs = embed(weights, image, valid_hw_px), embed_in_torch(model, image, valid_hw_px)
    weights.check_all_taken()
    assert ours.shape == theirs.shape == (1, 256, size // 16, size // 16)
    assert ours.dtype == np.float32
    assert theirs.std() > 0.5
    assert relative_error(ours, theirs) < 1e-4


def test_what_is_no_photo_is_not_looked_at(weights: Weights) -> None:
    image = photo(CUT_WINDOWS_PX)
    other = image.copy()
    other[:, 200:], other[:, :, 131:] = 255 - image[:, 200:], 7
    first, second = (embed(weights, x, (200, 131)) for x in (image, other))
    np.testing.assert_array_equal(first, second)
    assert relative_error(first, embed(weights, image, (200, 147))) > 0.1


@pytest.mark.parametrize("size", [WHOLE_WINDOWS_PX, CUT_WINDOWS_PX])
def test_attention_is_part_of_what_is_compared(model: TinyVit, size: int) -> None:
    """The weights are such that an error in the tables, or in what fills the windows, does not go unnoticed."""
    image = photo(size)
    expected = embed_in_torch(model, image, (size, size))
    for part in ("attention_biases", "attn.norm.bias", "attn.qkv.bias"):
        other = copy.deepcopy(model)
        for name, tensor in other.state_dict().items():
            if name.endswith(part):
                tensor.zero_()
        assert relative_error(embed_in_torch(other, image, (size, size)), expected) > 0.1, part


def test_epsilons(model: TinyVit, weights: Weights) -> None:
    """Too small to show in the embedding of random weights."""
    nodes = build_tinyvit_encoder(VIT_T, weights).model({}, "0").graph
    ours = [node.attributes["epsilon"].as_float() for node in nodes if node.op_type == "LayerNormalization"]
    theirs = [m.eps for name, m in model.named_modules() if isinstance(m, nn.LayerNorm) and name != "norm_head"]
    np.testing.assert_allclose(ours, theirs)
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {VIT_T.batch_norm_eps}


def test_fp16(model: TinyVit, weights: Weights) -> None:
    image, valid_hw_px = photo(CUT_WINDOWS_PX), (256, 200)
    ours, theirs = embed(weights, image, valid_hw_px, Precision.FP16), embed_in_torch(model, image, valid_hw_px)
    assert ours.dtype == np.float32
    assert cosine(ours, theirs) > 0.999


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_types_throughout(weights: Weights, precision: Precision) -> None:
    """ONNX Runtime's CPU provider has no bfloat16 convolution: the types are checked instead, and that the graph is
    that of float32 but for its casts."""
    dims = replace(VIT_T, input_px=CUT_WINDOWS_PX)
    proto = ir.to_proto(build_tinyvit_encoder(dims, weights, precision).model({}, "0"))
    onnx.checker.check_model(proto, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output, *inferred.input)}
    types |= {t.name: t.data_type for t in inferred.initializer}

    def types_into(*operators: str) -> set[int]:
        return {types[name] for node in inferred.node if node.op_type in operators for name in node.input}

    narrow = {Precision.FP16: onnx.TensorProto.FLOAT16, Precision.BF16: onnx.TensorProto.BFLOAT16}[precision]
    assert types_into("Conv", "MatMul", "Gemm", "Erf") == {narrow}
    assert types_into("LayerNormalization", "Softmax") == {onnx.TensorProto.FLOAT}
    in_float32 = build_tinyvit_encoder(dims, weights).model({}, "0").graph
    expected = [node.op_type for node in in_float32 if node.op_type != "Cast"]
    assert [node.op_type for node in proto.graph.node if node.op_type != "Cast"] == expected


@pytest.mark.parametrize(("precision", "opset"), [(Precision.FP32, 18), (Precision.FP16, 18), (Precision.BF16, 23)])
def test_plain_operators_and_static_shapes(weights: Weights, precision: Precision, opset: int) -> None:
    proto = ir.to_proto(build_tinyvit_encoder(VIT_T, weights, precision).model({}, "0"))
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", opset)]
    assert proto.graph.name == "encoder"
    operators = {node.op_type for node in proto.graph.node}
    assert not operators & {"Tile", "OneHot", "Expand", "Loop", "If", "Scan", "Einsum", "ScatterND", "Shape"}
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    assert all(d.HasField("dim_value") for v in values for d in v.type.tensor_type.shape.dim)
    used = {name for node in inferred.node for name in node.input} | {o.name for o in inferred.output}
    assert used.issuperset(name for node in inferred.node for name in node.output)
    assert used.issuperset(tensor.name for tensor in inferred.initializer)


def test_tables_of_indices_that_older_checkpoints_have_are_ignored(model: TinyVit) -> None:
    arrays = arrays_of(model)
    arrays["image_encoder.layers.1.blocks.0.attn.attention_bias_idxs"] = np.zeros((49, 49), np.int64)
    weights = weights_of(arrays)
    build_tinyvit_encoder(VIT_T, weights)
    weights.check_all_taken()
    weights = weights_of(arrays | {"image_encoder.layers.4.blocks.0.attn.proj.bias": np.zeros(320, np.float32)})
    build_tinyvit_encoder(VIT_T, weights)
    with pytest.raises(ModelError, match=r"unexpected tensor image_encoder\.layers\.4\.blocks\.0\.attn\.proj\.bias"):
        weights.check_all_taken()


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("neck.3.bias", None, r"image_encoder\.neck\.3\.bias is missing, expected shape \[256\]"),
        (
            "neck.0.weight",
            (256, 160, 1, 1),
            r"neck\.0\.weight: found shape \[256, 160, 1, 1\], expected \[256, 320, 1, 1\]",
        ),
        (
            "patch_embed.seq.2.bn.running_var",
            None,
            r"image_encoder\.patch_embed\.seq\.2\.bn\.running_var is missing, expected shape \[64\]",
        ),
        (
            "layers.0.blocks.1.conv2.c.weight",
            (256, 1, 5, 5),
            r"layers\.0\.blocks\.1\.conv2\.c\.weight: found shape \[256, 1, 5, 5\], expected \[256, 1, 3, 3\]",
        ),
        (
            "layers.2.blocks.5.attn.attention_biases",
            (5, 49),
            r"layers\.2\.blocks\.5\.attn\.attention_biases: found shape \[5, 49\], expected \[5, 196\]",
        ),
        (
            "layers.2.downsample.conv3.c.weight",
            None,
            r"layers\.2\.downsample\.conv3\.c\.weight is missing, expected shape \[320, 320, 1, 1\]",
        ),
    ],
)
def test_wrong_tensors(model: TinyVit, name: str, shape: tuple[int, ...] | None, message: str) -> None:
    arrays = arrays_of(model)
    del arrays[f"image_encoder.{name}"]
    if shape is not None:
        arrays[f"image_encoder.{name}"] = np.zeros(shape, np.float32)
    with pytest.raises(ModelError, match=rf"^mobile_sam\.pt: tensor .*{message}"):
        build_tinyvit_encoder(VIT_T, weights_of(arrays))
