"""Checkpoints of every format give one model, one tensor at a time, and what is no checkpoint says so."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import re
import struct
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor
from transformers import SamModel

from esam_rt.errors import ModelError
from esam_rt.export.checkpoints.checkpoint_reader import checkpoint_files, read_checkpoint
from esam_rt.export.checkpoints.key_mapping import HUGGING_FACE
from esam_rt.export.checkpoints.name_prefixes import without_prefix
from esam_rt.export.checkpoints.safetensors_file import read_safetensors
from esam_rt.export.checkpoints.torch_file import read_torch
from esam_rt.export.checkpoints.weights import Weights
from esam_rt.export.configs import DecoderDims
from esam_rt.export.graphs.mask_decoder import build_decoder, build_logits, build_masks
from tests.export.test_export import image_features
from tests.support.checkpoints import (
    assert_same_tensors,
    sam_state_dict,
    save_pth,
    save_safetensors,
    small_sam,
    to_numpy,
)

DECODER = DecoderDims(
    input_px=64,
    width=16,
    inner=8,
    heads=2,
    mlp=24,
    depth=2,
    mask_tokens=4,
    norm_eps=1e-6,
    token_norm_eps=1e-6,
    dropped_masks=1,
    points=2,
    labelled=True,
    no_mask=True,
)
# Our names of the encoder's tensors → the model's.
ENCODER = {
    "pos_embed": "pos_embed",
    **{f"patch.{part}": f"patch_embed.projection.{part}" for part in ("weight", "bias")},
    **{
        f"blocks.{i}.{ours}": f"layers.{i}.{theirs}"
        for i in (0, 1)
        for ours, theirs in (
            ("attn.rel_pos_h", "attn.rel_pos_h"),
            ("attn.rel_pos_w", "attn.rel_pos_w"),
            *(
                (f"{ours}.{part}", f"{theirs}.{part}")
                for part in ("weight", "bias")
                for ours, theirs in (
                    ("norm1", "layer_norm1"),
                    ("attn.qkv", "attn.qkv"),
                    ("attn.proj", "attn.proj"),
                    ("norm2", "layer_norm2"),
                    ("mlp.lin1", "mlp.lin1"),
                    ("mlp.lin2", "mlp.lin2"),
                )
            ),
        )
    },
    "neck.conv1.weight": "neck.conv1.weight",
    "neck.norm1.weight": "neck.layer_norm1.weight",
    "neck.norm1.bias": "neck.layer_norm1.bias",
    "neck.conv2.weight": "neck.conv2.weight",
    "neck.norm2.weight": "neck.layer_norm2.weight",
    "neck.norm2.bias": "neck.layer_norm2.bias",
}
# One name of each kind of module, as they stand in the sources of segment-anything.
NAMES_OF_SAM = """
image_encoder.pos_embed image_encoder.patch_embed.proj.weight image_encoder.blocks.1.norm1.bias
image_encoder.blocks.0.attn.rel_pos_w image_encoder.blocks.0.attn.qkv.weight image_encoder.blocks.1.attn.proj.bias
image_encoder.blocks.1.norm2.weight image_encoder.blocks.0.mlp.lin1.weight image_encoder.blocks.0.mlp.lin2.bias
image_encoder.neck.0.weight image_encoder.neck.1.bias image_encoder.neck.2.weight image_encoder.neck.3.weight
prompt_encoder.pe_layer.positional_encoding_gaussian_matrix prompt_encoder.point_embeddings.3.weight
prompt_encoder.not_a_point_embed.weight prompt_encoder.no_mask_embed.weight prompt_encoder.mask_downscaling.0.weight
prompt_encoder.mask_downscaling.1.bias prompt_encoder.mask_downscaling.3.bias prompt_encoder.mask_downscaling.4.weight
prompt_encoder.mask_downscaling.6.weight mask_decoder.iou_token.weight mask_decoder.mask_tokens.weight
mask_decoder.transformer.layers.0.self_attn.q_proj.weight mask_decoder.transformer.layers.1.norm4.bias
mask_decoder.transformer.layers.1.cross_attn_token_to_image.k_proj.bias
mask_decoder.transformer.layers.0.cross_attn_image_to_token.out_proj.weight
mask_decoder.transformer.layers.0.mlp.lin1.weight mask_decoder.transformer.layers.0.mlp.lin2.bias
mask_decoder.transformer.final_attn_token_to_image.v_proj.weight mask_decoder.transformer.norm_final_attn.weight
mask_decoder.output_upscaling.0.weight mask_decoder.output_upscaling.1.bias mask_decoder.output_upscaling.3.weight
mask_decoder.output_hypernetworks_mlps.3.layers.0.weight mask_decoder.output_hypernetworks_mlps.3.layers.1.bias
mask_decoder.output_hypernetworks_mlps.0.layers.2.weight mask_decoder.iou_prediction_head.layers.0.weight
mask_decoder.iou_prediction_head.layers.1.weight mask_decoder.iou_prediction_head.layers.2.bias
"""


def refusal(path: Path) -> str:
    """The message, one sentence that names the file, or one in its folder."""
    with pytest.raises(ModelError) as e:
        read_checkpoint(path)
    message = str(e.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 2 * len(str(path)) + 400
    assert e.value.exit_code == 3
    return message


@pytest.fixture(scope="module")
def model() -> SamModel:
    return small_sam()


def of_type(state: dict[str, Tensor], dtype: torch.dtype) -> OrderedDict[str, Tensor]:
    return OrderedDict((name, tensor.to(dtype)) for name, tensor in state.items())


def graphs(weights: Weights) -> list[bytes]:
    """All that the decoder's graphs make of the weights."""
    embedding = np.random.default_rng(0).normal(size=(1, 16, 4, 4)).astype(np.float32)
    side = image_features(DECODER, weights, embedding)
    builders = (build_decoder, build_masks, build_logits)
    built = [ir.to_proto(build(DECODER, weights).model({}, "0")) for build in builders]
    return [array.tobytes() for array in side.values()] + [p.SerializeToString(deterministic=True) for p in built]


def test_names_of_sam(model: SamModel) -> None:
    names = sam_state_dict(model).keys()
    assert set(NAMES_OF_SAM.split()) <= names
    assert len(names) == len(model.state_dict()) - 1


def write_pth(path: Path, model: SamModel, dtype: torch.dtype) -> None:
    bookkeeping = {"image_encoder.bn.num_batches_tracked": torch.tensor(7), "pixel_mean": torch.zeros(3, 1, 1)}
    save_pth(path, of_type(sam_state_dict(model), dtype) | bookkeeping)


def write_parallel(path: Path, model: SamModel, dtype: torch.dtype) -> None:
    save_pth(path, {f"module.{name}": tensor for name, tensor in of_type(sam_state_dict(model), dtype).items()})


def write_nested(path: Path, model: SamModel, dtype: torch.dtype) -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()
    state = of_type(sam_state_dict(model), dtype)
    torch.save({"epoch": 3, "model": state, "optimizer": optimizer.state_dict(), "loss": [0.5, None, True]}, path)


def write_safetensors(path: Path, model: SamModel, dtype: torch.dtype) -> None:
    tracked = {"image_encoder.bn.num_batches_tracked": torch.tensor(7)}
    save_safetensors(path, of_type(sam_state_dict(model), dtype) | tracked)


def write_hf(path: Path, model: SamModel, dtype: torch.dtype) -> None:
    small_sam().to(dtype).save_pretrained(path)


def write_hf_shards(path: Path, model: SamModel, dtype: torch.dtype) -> None:
    small_sam().to(dtype).save_pretrained(path, max_shard_size="20KB")
    assert len(checkpoint_files(path)) > 3


def write_hf_bin(path: Path, model: SamModel, dtype: torch.dtype) -> None:
    path.mkdir()
    torch.save(small_sam().to(dtype).state_dict(), path / "pytorch_model.bin")  # with _metadata


WRITERS = (write_pth, write_parallel, write_nested, write_safetensors, write_hf, write_hf_shards, write_hf_bin)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same_model(
    model: SamModel, tmp_path: Path, write: Callable[[Path, SamModel, torch.dtype], None], dtype: torch.dtype
) -> None:
    write(tmp_path / "checkpoint", model, dtype)
    weights = read_checkpoint(tmp_path / "checkpoint")
    state = of_type(model.vision_encoder.state_dict(), dtype)
    assert len(ENCODER) == len(state)
    for ours, theirs in ENCODER.items():
        expected = state[theirs]
        taken = weights.take(f"encoder.{ours}", *expected.shape)
        np.testing.assert_array_equal(taken, expected.double().numpy())
        assert weights.lazy(f"encoder.{ours}", *expected.shape).read().dtype.itemsize == expected.itemsize
    arrays = {name: to_numpy(tensor) for name, tensor in of_type(model.state_dict(), dtype).items()}
    assert graphs(weights) == graphs(Weights.of_arrays(Path("memory"), arrays, HUGGING_FACE))
    weights.check_all_taken()


def test_what_another_model_has_is_noticed(model: SamModel, tmp_path: Path) -> None:
    state = sam_state_dict(model)
    save_pth(tmp_path / "more.pth", state | {"mask_decoder.hf_token.weight": torch.ones(2)})
    weights = read_checkpoint(tmp_path / "more.pth")
    graphs(weights)
    for ours, theirs in ENCODER.items():
        weights.take(f"encoder.{ours}", *model.vision_encoder.state_dict()[theirs].shape)
    with pytest.raises(ModelError, match=r"unexpected tensor .*mask_decoder\.hf_token\.weight"):
        weights.check_all_taken()
    del state["mask_decoder.output_upscaling.0.weight"]
    save_pth(tmp_path / "less.pth", state)
    with pytest.raises(ModelError, match=r"less.pth: tensor mask_decoder\.output_upscaling\.0\.weight is missing"):
        graphs(read_checkpoint(tmp_path / "less.pth"))
    save_pth(tmp_path / "other.pth", {"backbone.w": torch.ones(2), "backbone.b": torch.ones(2)})
    found = refusal(tmp_path / "other.pth")
    assert "found 2 tensors (backbone.w, backbone.b" in found
    assert "Segment Anything, Hugging Face SamModel, esam-rt" in found


@pytest.mark.parametrize("save", [save_pth, save_safetensors])
def test_dtypes_that_weights_do_not_have(
    model: SamModel, tmp_path: Path, save: Callable[[Path, dict[str, Tensor]], None]
) -> None:
    for dtype, found in ((torch.int64, "(int64|I64)"), (torch.float64, "(float64|F64)"), (torch.bool, "(bool|BOOL)")):
        state = sam_state_dict(model)
        state["mask_decoder.iou_token.weight"] = state["mask_decoder.iou_token.weight"].to(dtype)
        save(tmp_path / "x", state)
        message = refusal(tmp_path / "x")
        expected = f"tensor mask_decoder.iou_token.weight: found dtype {found}, expected float16 or float32 or bfloat16"
        assert re.search(expected, message)


PREFIXES = ("", "module.", "model.", "sam.", "_orig_mod.", "module._orig_mod.", "model.sam.", "net.student.1.")


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}decoder.a": torch.ones(2), f"{prefix}decoder.b": torch.zeros(2)}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_before_all_names_are_removed(tmp_path: Path, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    save_safetensors(tmp_path / "x", prefixed(prefix))
    weights = read_checkpoint(tmp_path / "x")
    np.testing.assert_array_equal(weights.take("decoder.a", 2), np.ones(2))
    np.testing.assert_array_equal(weights.take("decoder.b", 2), np.zeros(2))
    weights.check_all_taken()
    assert caplog.text == ""


@pytest.mark.parametrize("prefix", PREFIXES[1:])
@pytest.mark.parametrize("save", [save_pth, save_safetensors])
def test_tensors_beside_the_model_are_left_out_and_counted(
    tmp_path: Path,
    prefix: str,
    save: Callable[[Path, dict[str, Tensor]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    others = {"criterion.weight": torch.zeros(2), "step": torch.ones(1, dtype=torch.int64)}
    save(tmp_path / "x", prefixed(prefix) | others)
    weights = read_checkpoint(tmp_path / "x")
    np.testing.assert_array_equal(weights.take("decoder.a", 2), np.ones(2))
    weights.take("decoder.b", 2)
    weights.check_all_taken()
    (record,) = caplog.records
    assert f"named {prefix}…; 2 tensors are left out (criterion.weight, step)" in record.getMessage()


@pytest.mark.parametrize("inside", ["_orig_mod", "module", "_fsdp_wrapped_module", "module._orig_mod"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_wrappers_inside_of_names_are_removed(
    model: SamModel, tmp_path: Path, inside: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = sam_state_dict(model)
    wrapped = {prefix + re.sub(r"^(image_encoder|mask_decoder)\.", rf"\1.{inside}.", k): v for k, v in plain.items()}
    save_pth(tmp_path / "x", wrapped)
    assert_same_tensors(without_prefix(tmp_path, read_torch(tmp_path / "x")), plain)
    assert caplog.text == ""


def test_a_hostile_name_takes_no_time(tmp_path: Path) -> None:
    name = "a." * 400_000
    assert without_prefix(tmp_path, {name: 1}) == {name: 1}


@pytest.mark.parametrize(("one", "other"), [("", "ema."), ("student.", "teacher."), ("module.", "")])
def test_two_models_in_one_file(tmp_path: Path, one: str, other: str) -> None:
    save_safetensors(tmp_path / "x", prefixed(one) | prefixed(other))
    with pytest.raises(ModelError, match=r"tensors of 2 models \(.*\), expected one"):
        read_checkpoint(tmp_path / "x")


def test_one_name_with_and_without_wrapper(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "x", prefixed("") | {"decoder._orig_mod.a": torch.zeros(2)})
    with pytest.raises(ModelError, match=r"tensor 'decoder\.a' twice"):
        read_checkpoint(tmp_path / "x")


def test_another_model_has_no_prefix(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "x", {"model.layer1.weight": torch.ones(2), "model.fc.bias": torch.ones(2)})
    with pytest.raises(ModelError, match=r"found 2 tensors .*another model\?"):
        read_checkpoint(tmp_path / "x")


# Files that are something else.


def onnx_bytes() -> bytes:
    graph = onnx.helper.make_graph([], "g", [], [])
    return onnx.helper.make_model(graph, producer_name="tests").SerializeToString()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 375042383\n"
OTHERS = {
    "pointer": (LFS, r"Git LFS .*git lfs pull"),
    "page": (b"<!DOCTYPE html><html><body>{'a': 1} 404</body></html>", r"web page .*download it again"),
    "page with space": (b"\n\n  <html>", r"web page"),
    "empty": (b"", r"an empty file"),
    "onnx": (onnx_bytes(), r"an ONNX model"),
    "pickle": (pickle.dumps({"a": 1}), r"a pickle, .*before 1\.6"),
    "text": (b"hello world, this is no checkpoint", r"begins with b'hello wo'"),
    "bytes": (b"\x00\xff", r"begins with b'\\x00\\xff'"),
    "json": (b"{}", r"begins with b'\{\}'"),
    "long header": (struct.pack("<Q", 1 << 40) + b"{}", r"a header of 1099511627776 bytes"),
    "cut header": (struct.pack("<Q", 1000) + b'{"a":', r"whole safetensors file"),
    "no header": (struct.pack("<Q", 9) + b'{"a": 1 }', r"whole safetensors file"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_files(tmp_path: Path, kind: str) -> None:
    content, expected = OTHERS[kind]
    (tmp_path / "model.pth").write_bytes(content)
    assert re.search(expected, refusal(tmp_path / "model.pth"))


def test_pytorch_before_1_6(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert "before 1.6" in refusal(path)
    torch.save(torch.load(path), path)  # as the message says
    assert_same_tensors(read_torch(path), {"a": torch.ones(2)})


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    assert "found no such file, expected a checkpoint" in refusal(tmp_path / "missing.pth")
    (tmp_path / "file").write_bytes(b"x")
    assert "cannot be read (Not a directory)" in refusal(tmp_path / "file" / "model.pth")
    os.mkfifo(tmp_path / "pipe")
    assert "pipe or device" in refusal(tmp_path / "pipe")
    assert "pipe or device" in refusal(Path("/dev/zero"))
    (tmp_path / "broken link").symlink_to("nowhere")
    assert "no such file" in refusal(tmp_path / "broken link")


def test_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pth"
    save_pth(path, {"decoder.a": torch.ones(2)})

    def forbidden(*_: object, **__: object) -> None:  # a superuser may read everything
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    assert "cannot be read (Permission denied)" in refusal(path)


@pytest.mark.parametrize("save", [save_pth, save_safetensors])
def test_file_that_shrinks_after_it_was_opened(tmp_path: Path, save: Callable[[Path, dict[str, Tensor]], None]) -> None:
    save(tmp_path / "x", {"decoder.a": torch.ones(5000)})
    weights = read_checkpoint(tmp_path / "x")
    os.truncate(tmp_path / "x", 10000)
    with pytest.raises(ModelError, match=r"/x: found 10000 bytes, expected .* changed"):
        weights.take("decoder.a", 5000)


# Folders.


def test_folder_without_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "without model.safetensors, model.safetensors.index.json or pytorch_model.bin" in refusal(tmp_path)
    for name in ("pytorch_model.bin", "model.safetensors.index.json", "model.safetensors"):
        os.mkfifo(tmp_path / name)
        assert refusal(tmp_path).startswith(f"{tmp_path}/{name}: found a folder, pipe or device")


def test_folder_prefers_safetensors(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "model.safetensors", {"decoder.a": torch.ones(2)})
    (tmp_path / "pytorch_model.bin").write_bytes(b"something else")
    assert read_checkpoint(tmp_path).take("decoder.a", 2).tolist() == [1, 1]


def test_pointer_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(LFS)
    assert refusal(tmp_path).startswith(f"{tmp_path}/model.safetensors: found a pointer of Git LFS")


OUTSIDE = ("../out.safetensors", "/out.safetensors", "..", "", ".", "a\0.safetensors", 7, None, [1])


@pytest.mark.parametrize("shard", OUTSIDE)
def test_shards_outside_the_folder(tmp_path: Path, shard: object) -> None:
    save_safetensors(tmp_path / "out.safetensors", {"decoder.a": torch.ones(2)})
    folder = tmp_path / "folder"
    folder.mkdir()
    if shard == "/out.safetensors":
        shard = f"{tmp_path}{shard}"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"decoder.a": shard}}))
    message = refusal(folder)
    assert message.startswith(f"{folder}/model.safetensors.index.json: found")
    assert "expected safetensors files in the same folder" in message or "expected the index of shards" in message


def test_shards_of_a_hub_cache_are_links(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    save_safetensors(tmp_path / "blobs" / "0a1b", {"decoder.a": torch.ones(2)})
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "1.safetensors").symlink_to("../blobs/0a1b")
    (tmp_path / "snapshot" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"decoder.a": "1.safetensors"}})
    )
    assert read_checkpoint(tmp_path / "snapshot").take("decoder.a", 2).tolist() == [1, 1]


def test_sharded_pickles(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin.index.json").write_text("{}")
    assert "several .bin files, expected one file or safetensors; save it anew" in refusal(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_no_numbers(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    save_safetensors(tmp_path / "x", {"decoder.a": torch.tensor([1, value], dtype=dtype)})
    weights = read_checkpoint(tmp_path / "x")
    for read in (lambda: weights.take("decoder.a", 2), weights.lazy("decoder.a", 2).read):
        with pytest.raises(ModelError, match=r"x: tensor decoder\.a: found NaN or infinite"):
            read()


INDEXES = {
    "empty": b"",
    "no map": b"{}",
    "list": b"[]",
    "number": b"7",
    "number as map": b'{"weight_map": 3}',
    "no text": b"\xff\xfe",
    "deep": b"[" * 100_000,
    "cut": b'{"weight_map": {"a": "b"',
    "long number": b"9" * 5000,
}


@pytest.mark.parametrize("kind", INDEXES)
def test_broken_index(tmp_path: Path, kind: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(INDEXES[kind])
    assert "expected the index of shards" in refusal(tmp_path)


def test_missing_and_repeated_shards(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "a.safetensors", {"decoder.a": torch.ones(2)})
    save_safetensors(tmp_path / "b.safetensors", {"decoder.a": torch.zeros(2)})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"decoder.a": "a.safetensors", "decoder.b": "b.safetensors"}}))
    assert f"{tmp_path}/b.safetensors: found tensor 'decoder.a', which another file has too" in refusal(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    assert f"{tmp_path}/b.safetensors: found no such file" in refusal(tmp_path)


# Safetensors.


def test_safetensors_of_all_shapes(tmp_path: Path) -> None:
    state = {
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3).half(),
        "half": torch.randn(3, 4).half(),
        "brain": torch.randn(2, 3, 4, 5).bfloat16(),
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    save_safetensors(tmp_path / "x", state)
    found = read_safetensors(tmp_path / "x")
    assert_same_tensors({name: found[name] for name in state}, state)


def header(path: Path, tensors: dict[str, object], data: bytes = bytes(8)) -> None:
    text = json.dumps(tensors).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0]},
        {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]},
        {"shape": [2], "data_offsets": [0, 8]},
        [],
    ],
)
def test_headers_that_lie(tmp_path: Path, entry: object) -> None:
    header(tmp_path / "x", {"decoder.a": entry})
    assert "expected a whole safetensors file" in refusal(tmp_path / "x")


@pytest.mark.parametrize("length", [0x280, 0x3C20, 0x3C0A, 0x121208])
def test_header_whose_length_looks_like_another_file(tmp_path: Path, length: int) -> None:
    """Like a pickle, a web page, an ONNX model."""
    text = json.dumps({"decoder.a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode().ljust(length)
    (tmp_path / "x").write_bytes(struct.pack("<Q", length) + text + bytes(8))
    assert read_checkpoint(tmp_path / "x").take("decoder.a", 2).tolist() == [0, 0]


def test_header_that_is_right(tmp_path: Path) -> None:
    header(tmp_path / "x", {"decoder.a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})
    assert read_checkpoint(tmp_path / "x").take("decoder.a", 2).tolist() == [0, 0]
    header(tmp_path / "x", {"decoder.\n": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})
    assert r"found tensor 'decoder.\n', expected printable names" in refusal(tmp_path / "x")


def test_safetensors_cut_or_flipped_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_safetensors(path, {"decoder.a": torch.randn(3, 4), "decoder.b": torch.randn(5).half()})
    data = path.read_bytes()
    rng = random.Random(0)
    for i in range(len(data)):
        path.write_bytes(data[:i])
        refusal(path)
        path.write_bytes(data[:i] + bytes([data[i] ^ 1 << rng.randrange(8)]) + data[i + 1 :])
        try:
            tensors = read_safetensors(path)
            read_checkpoint(path)
        except ModelError:
            continue
        for tensor in tensors.values():
            assert tensor.read().shape == tensor.shape


# Memory.

PEAK = """
import sys
from pathlib import Path
from esam_rt.export.checkpoints.checkpoint_reader import read_checkpoint

def peak_mb():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) / 1024

weights = read_checkpoint(Path(sys.argv[1]))
before = peak_mb()
for i in range(16):
    assert weights.lazy(f"decoder.{i}", 1024, 1024).read()[0, 0] == i
one = peak_mb() - before
held = [weights.lazy(f"decoder.{i}", 1024, 1024).read() for i in range(16)]
print(one, peak_mb() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("save", [save_pth, save_safetensors])
def test_memory_of_reading_one_by_one(tmp_path: Path, save: Callable[[Path, dict[str, Tensor]], None]) -> None:
    """16 tensors of 4 MB: at most three of them at a time, where holding all takes 64 MB."""
    save(tmp_path / "x", {f"decoder.{i}": torch.full((1024, 1024), float(i)) for i in range(16)})
    run = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path / "x")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    one, held = map(float, run.stdout.split())
    assert one < 12
    assert held > 60
