"""SAM's ViT encoder as a graph, in each form of its attention, against transformers' `SamVisionEncoder` in PyTorch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder

from esam_rt.errors import ModelError
from esam_rt.export.checkpoints.key_mapping import HUGGING_FACE
from esam_rt.export.checkpoints.weights import Weights
from esam_rt.export.configs import VIT_B, VIT_H, VIT_L, VitDims
from esam_rt.export.graphs import vit
from esam_rt.export.graphs.graph import NEW_OPSET, OPSET, Precision
from esam_rt.export.graphs.vit import AttentionForm, build_vit_encoder
from tests.export.test_export import run
from tests.export.test_sam_decoder import cosine, relative_error
from tests.export.test_tinyvit import photo
from tests.support.tinyvit_torch import normalised

# Few positions and both kinds of windows: 5 a side, cut by windows of 3; 6 a side, which fit.
CUT = VitDims(width=24, depth=3, heads=3, global_blocks=(1,), input_px=80, window=3, neck=16)
WHOLE = replace(CUT, input_px=96)
SIZES = {"vit_b": VIT_B, "vit_l": VIT_L, "vit_h": VIT_H}


def encoder(dims: VitDims) -> SamVisionEncoder:
    """Random weights that are far from their defaults: relative positions, which are zero there, matter."""
    torch.manual_seed(0)
    config = SamVisionConfig(
        hidden_size=dims.width,
        output_channels=dims.neck,
        num_hidden_layers=dims.depth,
        num_attention_heads=dims.heads,
        image_size=dims.input_px,
        window_size=dims.window,
        global_attn_indexes=list(dims.global_blocks),
        mlp_dim=dims.mlp_ratio * dims.width,
    )
    model = SamVisionEncoder(config).eval().requires_grad_(False)
    for name, p in model.named_parameters():
        if "rel_pos" in name:
            p.normal_(0, 0.3)
        elif "pos_embed" in name:
            p.normal_()
        elif p.ndim == 1:
            p.add_(0.3 * torch.randn(p.shape))
        else:
            p.normal_(0, 1.5 / p[0].numel() ** 0.5)
    return model


def weights_of(model: SamVisionEncoder) -> Weights:
    arrays = {f"vision_encoder.{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    return Weights.of_arrays(Path("sam"), arrays, HUGGING_FACE)


def embed(
    model: SamVisionEncoder,
    dims: VitDims,
    valid_hw_px: tuple[int, int],
    form: AttentionForm = AttentionForm.BIAS,
    precision: Precision = Precision.FP32,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The graph's embedding of a photo, and PyTorch's."""
    image, weights = photo(dims.input_px), weights_of(model)
    graph = build_vit_encoder(dims, weights, precision, form)
    weights.check_all_taken()
    ours = run(graph, {"image": image, "valid_hw_px": np.array(valid_hw_px)})["embedding"]
    theirs = model(normalised(torch.from_numpy(image), valid_hw_px)).last_hidden_state.numpy()
    assert ours.shape == theirs.shape == (1, dims.neck, dims.embedding_cells, dims.embedding_cells)
    assert ours.dtype == np.float32
    assert theirs.std() > 0.5
    return ours, theirs


@pytest.mark.parametrize("form", AttentionForm)
@pytest.mark.parametrize(
    ("dims", "valid_hw_px"),
    [
        (CUT, (80, 80)),
        (CUT, (33, 80)),
        (CUT, (80, 1)),
        (WHOLE, (96, 96)),
        (WHOLE, (96, 50)),
        (replace(CUT, global_blocks=()), (80, 80)),
        (replace(CUT, global_blocks=(0, 1, 2)), (80, 80)),
        (replace(CUT, window=7), (80, 80)),
    ],
    ids=["cut", "cut wide", "cut narrow", "whole", "whole narrow", "windows only", "global only", "one window, filled"],
)
def test_embedding(dims: VitDims, valid_hw_px: tuple[int, int], form: AttentionForm) -> None:
    assert relative_error(*embed(encoder(dims), dims, valid_hw_px, form)) < 1e-4


@pytest.mark.parametrize("positions", [1, 10, 12, 20])
def test_uneven_chunks(monkeypatch: pytest.MonkeyPatch, positions: int) -> None:
    monkeypatch.setattr(vit, "CHUNK_POSITIONS", positions)
    assert relative_error(*embed(encoder(CUT), CUT, (60, 80))) < 1e-4


@pytest.mark.parametrize("name", SIZES)
def test_widths_of_sam(name: str) -> None:
    """Two layers, on a quarter of the photo's positions."""
    dims = replace(SIZES[name], depth=2, global_blocks=(1,), input_px=512)
    assert relative_error(*embed(encoder(dims), dims, (384, 512))) < 1e-4


@pytest.mark.parametrize("form", AttentionForm)
def test_fp16(form: AttentionForm) -> None:
    dims = replace(VIT_B, depth=2, global_blocks=(1,), input_px=256)
    ours, theirs = embed(encoder(dims), dims, (256, 200), form, Precision.FP16)
    assert cosine(ours, theirs) > 0.999
    assert relative_error(ours, theirs) > 1e-5, "this was float32"


@pytest.mark.parametrize("form", AttentionForm)
@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_types(form: AttentionForm, precision: Precision) -> None:
    """Products in the precision, norms and softmax in float32."""
    proto = ir.to_proto(build_vit_encoder(CUT, weights_of(encoder(CUT)), precision, form).model({}, "0"))
    onnx.checker.check_model(proto, full_check=True)
    graph = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output, *graph.input)}
    types |= {t.name: t.data_type for t in graph.initializer}
    narrow = onnx.TensorProto.FLOAT16 if precision is Precision.FP16 else onnx.TensorProto.BFLOAT16
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv", "Attention")]
    assert {types[name] for node in products for name in node.input} == {narrow}
    norms = [node for node in graph.node if node.op_type in ("LayerNormalization", "Softmax")]
    assert {types[name] for node in norms for name in node.input} == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("form", AttentionForm)
def test_operators(form: AttentionForm) -> None:
    model = build_vit_encoder(CUT, weights_of(encoder(CUT)), attention=form).model({}, "0")
    operators = [node.op_type for node in model.graph]
    fused = form is AttentionForm.FUSED
    assert model.opset_imports == {"": NEW_OPSET if fused else OPSET}
    assert operators.count("Attention") == (CUT.depth if fused else 0)
    assert not set(operators) & {"Tile", "OneHot", "Expand", "Loop", "If", "Scan", "Einsum", "ScatterND"}


def test_what_is_no_photo_is_not_looked_at() -> None:
    weights = weights_of(encoder(CUT))
    image = photo(CUT.input_px)
    other = image.copy()
    other[:, 50:] = 255 - other[:, 50:]
    same, more = (
        [
            run(build_vit_encoder(CUT, weights), {"image": x, "valid_hw_px": np.array(hw)})["embedding"]
            for x in (image, other)
        ]
        for hw in ((50, 80), (51, 80))
    )
    np.testing.assert_array_equal(*same)
    assert relative_error(*more) > 1e-3


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("vision_encoder.layers.1.attn.rel_pos_h", (5, 8), r"rel_pos_h: found shape \[5, 8\], expected \[9, 8\]"),
        (
            "vision_encoder.pos_embed",
            (1, 6, 6, 24),
            r"pos_embed: found shape \[1, 6, 6, 24\], expected \[1, 5, 5, 24\]",
        ),
        (
            "vision_encoder.layers.0.attn.qkv.weight",
            (24, 72),
            r"qkv\.weight: found shape \[24, 72\], expected \[72, 24\]",
        ),
        (
            "vision_encoder.layers.2.mlp.lin2.bias",
            None,
            r"layers\.2\.mlp\.lin2\.bias is missing, expected shape \[24\]",
        ),
        ("vision_encoder.layers.3.mlp.lin2.bias", (24,), r"unexpected tensor vision_encoder\.layers\.3\.mlp\.lin2"),
    ],
)
def test_wrong_tensors(name: str, shape: tuple[int, ...] | None, message: str) -> None:
    arrays = {f"vision_encoder.{key}": tensor.numpy() for key, tensor in encoder(CUT).state_dict().items()}
    arrays.pop(name, None)
    if shape is not None:
        arrays[name] = np.zeros(shape, np.float32)
    weights = Weights.of_arrays(Path("sam.pth"), arrays, HUGGING_FACE)
    with pytest.raises(ModelError, match=message):
        build_vit_encoder(CUT, weights)
        weights.check_all_taken()
