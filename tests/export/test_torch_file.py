"""PyTorch files are read as PyTorch reads them; broken and hostile archives are refused."""

from __future__ import annotations

import io
import os
import random
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esam_rt.errors import ModelError
from esam_rt.export.checkpoints import lazy_tensor
from esam_rt.export.checkpoints.lazy_tensor import FileTensor
from esam_rt.export.checkpoints.torch_file import read_torch
from tests.support.checkpoints import assert_same_tensors
from tests.support.pickles import HOOKS, HUGE, MB, PARAMETER, plain, refusal, state, storage, tensor, write


def saved(path: Path, value: Any) -> dict[str, FileTensor]:
    torch.save(value, path)
    return read_torch(path)


def views() -> dict[str, Tensor]:
    """Views of one storage, and tensors of their own: transposed, shifted, stepped, overlapping, of every shape."""
    base = torch.arange(120, dtype=torch.float32).reshape(4, 5, 6)
    return {
        "base": base,
        "transposed": base.transpose(0, 2),
        "permuted": base.permute(1, 2, 0),
        "rows": base[1:3],
        "steps": base[::2, 1::3, ::4],
        "column": base[:, 2, 3],
        "element": base[3, 4, 5],
        "last": base.flatten()[119:],
        "windows": base.flatten().as_strided((5, 4), (3, 2), 7),
        "diagonal": base.flatten()[:36].reshape(6, 6).diagonal(),
        "nothing": base[:0],
        "odd stride of one row": torch.arange(4.0).as_strided((1, 4), (77, 1)),
        "huge stride of one row": torch.empty_strided((1, 1, 2), (1 << 40, 1 << 41, 1)).fill_(3),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 256),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "half": torch.randn(3, 4).half().T,
        "brain": torch.randn(3, 4).bfloat16().T,
        "parameter": torch.nn.Parameter(torch.randn(3, 2)),
        "odd values": torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45]),
        "ünïcode/../name": torch.ones(1),
    }


def test_views(tmp_path: Path) -> None:
    path = tmp_path / "views.pth"
    found = saved(path, views())
    assert_same_tensors(found, torch.load(path))
    assert len(zipfile.ZipFile(path).namelist()) < len(found)  # storages are shared


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_view(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    storage = torch.randn(64)
    state = {}
    for i in range(8):
        shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
        strides = data.draw(st.lists(st.integers(1, 6), min_size=len(shape), max_size=len(shape)))
        last = sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if all(shape) else 0
        if last < 64 and np.prod(shape) <= 64:
            state[str(i)] = storage.as_strided(shape, strides, data.draw(st.integers(0, 63 - last)))
    path = tmp_path_factory.mktemp("view") / "x"
    if state:
        assert_same_tensors(saved(path, state), torch.load(path))


def test_module_with_metadata_and_buffers(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    state = module.state_dict()
    found = saved(tmp_path / "x", state)
    assert list(found) == list(state)
    assert found["1.num_batches_tracked"].dtype == "int64"
    assert_same_tensors({k: v for k, v in found.items() if v.dtype == "float32"}, dict(list(state.items())[:-1]))


@pytest.mark.parametrize("way", ["without checksums", "aligned", "plain"])
def test_ways_to_save(tmp_path: Path, way: str) -> None:
    path = tmp_path / "x"
    alignment = {"save.storage_alignment": 4096 if way == "aligned" else 64}
    try:
        torch.serialization.set_crc32_options(way != "without checksums")
        with torch.utils.serialization.config.patch(alignment):
            torch.save(views(), stream := io.BytesIO())
    finally:
        torch.serialization.set_crc32_options(True)
    path.write_bytes(stream.getvalue())
    assert (path.stat().st_size > 40_000) == (way == "aligned")
    assert_same_tensors(read_torch(path), torch.load(path))


def test_nested(tmp_path: Path) -> None:
    path, state = tmp_path / "x", {"a": torch.ones(2), "b": torch.zeros(3)}
    for key in ("model", "state_dict", "anything"):
        nested = {"epoch": 3, key: state, "args": {"lr": 0.1, "names": ["a", ("b", None)]}, "big": 1 << 70, "t": ()}
        assert_same_tensors(saved(path, nested), state)
    assert_same_tensors(saved(path, {"state_dict": state, "loss": torch.ones(1)}), state)
    torch.save({"model": state, "model_ema": state}, path)
    assert "found 2 dicts of tensors ('model', 'model_ema'), expected one" in refusal(path)
    deep, numbered = {"x": {"y": state}}, {1: torch.ones(1)}
    for nothing in ({}, {"a": {}}, {"a": 1}, [state], torch.ones(2), None, deep, numbered):
        torch.save(nothing, path)
        assert "found no dict of nothing but tensors, expected one: save it anew" in refusal(path)


def test_what_a_state_dict_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "x"
    odd = {
        "torch.nn.modules.linear Linear": torch.nn.Linear(1, 1),
        "torch._utils _rebuild_tensor_v3": {"a": torch.ones(1, dtype=torch.uint16)},
        "torch._utils _rebuild_parameter_with_state": {"a": with_state()},
        "torch._utils _rebuild_sparse_tensor": {"a": torch.ones(2).to_sparse()},
        "numpy": {"a": np.ones(2)},
        "posixpath": {"a": Path("x")},
        "builtin": {"a": {1, 2}, "b": complex(1, 2)},
    }
    for name, value in odd.items():
        torch.save(value, path)
        assert "could run code; expected a dict of tensors: save it anew" in refusal(path), name
    torch.save({"a": torch.ones(2)}, path, pickle_protocol=4)
    assert "a pickle of protocol 4 instead of 2" in refusal(path)
    torch.save({"a": torch.view_as_complex(torch.ones(2, 2)).conj().imag}, path)  # a view that is to be negated
    assert "odd arguments" in refusal(path)
    torch.save({"a": torch.ones(1).expand(1000)}, path)
    assert "tensor 'a' with more elements than are stored" in refusal(path)


def with_state() -> torch.nn.Parameter:
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter.note = "kept by PyTorch"
    return parameter


def test_by_hand_is_as_by_torch(tmp_path: Path) -> None:
    """The pickles below differ from good ones only in what each is about."""
    parameter = PARAMETER + plain((tensor(), True, HOOKS)) + b"R"
    path = write(tmp_path / "x", state(tensor(), tensor(2, (2,), (3,)), parameter), {"version": b"3"})
    expected = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(torch.load(path)["b"], expected[:, 2])
    assert_same_tensors(read_torch(path), {"a": expected, "b": expected[:, 2], "c": expected})


VIEWS_BEYOND = {
    "offset": tensor(1),
    "stride": tensor(0, (2, 3), (4, 1)),
    "extent": tensor(0, (7,), (1,)),
    "scalar": tensor(6, (), ()),
    "huge extent": tensor(0, (HUGE, 2), (1, 1)),
    "huge stride": tensor(0, (2, 3), (HUGE, 1)),
    "huge offset": tensor(HUGE, (1,), (1,)),
    "wrapped": tensor(0, (1 << 32, 1 << 32), (1 << 32, 1 << 32)),
    "wrapped to zero": tensor(0, (2, 2), (1 << 63, 1 << 63)),
    "zero stride": tensor(0, (1 << 40,), (0,)),
    "zero strides": tensor(0, (1 << 20,) * 8, (0,) * 8),
    "empty of a huge shape": tensor(0, (0, HUGE), (1, 1)),
    "storage says more": tensor(0, (7,), (1,), storage(numel=7)),
    "storage says less": tensor(0, (2,), (1,), storage(numel=2)),
    "storage says far more": tensor(0, (HUGE,), (1,), storage(numel=HUGE)),
    "storage of another type": tensor(of=storage(kind=b"ctorch\nHalfStorage\n")),
    "no such storage": tensor(of=storage("1")),
    "storage elsewhere": tensor(of=storage("../../x")),
    "storage is the pickle": tensor(of=storage("../data.pkl")),
    "storage without name": tensor(of=storage("")),
}


def test_views_of_odd_shapes_within_the_storage(tmp_path: Path) -> None:
    odd = state(tensor(0, (1, 6), (HUGE, 1)), tensor(0, (0, 1 << 30), (1, 1)), tensor(HUGE, (0,), (HUGE,)))
    expected = {"a": torch.arange(6.0)[None], "b": torch.empty(0, 1 << 30), "c": torch.empty(0)}
    assert_same_tensors(read_torch(write(tmp_path / "x", odd)), expected)


@pytest.mark.parametrize("kind", VIEWS_BEYOND)
def test_views_beyond_the_storage(tmp_path: Path, kind: str) -> None:
    message = refusal(write(tmp_path / "x", state(VIEWS_BEYOND[kind])))
    assert "tensor 'a'" in message or "without entry 'data/" in message


def test_big_endian(tmp_path: Path) -> None:
    values = np.arange(6) + 0.5
    content = state(tensor(of=storage(kind=b"ctorch\nHalfStorage\n")), tensor(1, (2,), (3,), storage("1")))
    records = {"byteorder": b"big", "data/0": values.astype(">f2").tobytes(), "data/1": values.astype(">f4").tobytes()}
    expected = torch.from_numpy(values)
    found = read_torch(write(tmp_path / "x", content, records))
    assert_same_tensors(found, {"a": expected.reshape(2, 3).half(), "b": expected[1::3].float()})
    assert "an unknown byte order" in refusal(write(tmp_path / "x", content, records | {"byteorder": b"middle"}))


def test_files_of_older_versions(tmp_path: Path) -> None:
    """Without byteorder; below any folder."""
    path = tmp_path / "x"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sam_vit_b/data.pkl", state(tensor()))
        archive.writestr("sam_vit_b/data/0", np.arange(6, dtype="<f4").tobytes())
        archive.writestr("sam_vit_b/version", "3\n")
    assert_same_tensors(read_torch(path), {"a": torch.arange(6.0).reshape(2, 3)})


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed(tmp_path: Path, method: int) -> None:
    path = write(tmp_path / "x", state(tensor()), {"data/1": bytes(100 * MB)}, method)
    assert path.stat().st_size < MB
    assert "found a compressed entry, 'archive/data.pkl'" in refusal(path)


def patched(path: Path, offset_in_entry: int, value: bytes) -> Path:
    """With every entry of the directory changed."""
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\1\2")
    while at >= 0:
        data[at + offset_in_entry : at + offset_in_entry + len(value)] = value
        at = data.find(b"PK\1\2", at + 4)
    path.write_bytes(data)
    return path


def test_entries_that_lie(tmp_path: Path) -> None:
    def good() -> Path:
        return write(tmp_path / "x", state(tensor()))

    assert "found an encrypted entry" in refusal(patched(good(), 8, b"\1\0"))
    assert "cannot be read" in refusal(patched(good(), 6, b"\xff\xff"))  # version
    assert "beyond the end of the file" in refusal(patched(good(), 42, b"\xff\xff\xff\x7f"))  # offset
    assert "beyond the end of the file" in refusal(patched(good(), 42, b"\1\0\0\0"))  # no entry starts there
    assert "beyond the end of the file" in refusal(patched(good(), 20, b"\xff\xff\xff\x7f" * 2))  # sizes
    assert "differ from their checksum" in refusal(patched(good(), 16, b"abcd"))
    unchecked = patched(good(), 16, bytes(4))
    assert list(read_torch(unchecked)) == ["a"]
    unchecked.write_bytes(unchecked.read_bytes().replace(b"PK\3\4", b"PK\3\5"))
    assert "beyond the end of the file" in refusal(unchecked)


def test_archives_of_others(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        np.savez(file, a=np.ones(2))
    assert "a zip archive with 0 entries data.pkl" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", state(tensor()))
        archive.writestr("b/data.pkl", state(tensor()))
    assert "a zip archive with 2 entries data.pkl" in refusal(path)
    assert "a TorchScript model" in refusal(write(path, state(tensor()), {"constants.pkl": b""}))
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", state(tensor()))
        archive.writestr("a/data.pkl", state(tensor()))
    assert "several entries of one name" in refusal(path)


def test_damaged_storage(tmp_path: Path) -> None:
    """The checksum is of a whole storage, also where a tensor is a part of it."""
    path = tmp_path / "x"
    values = torch.arange(2_000_000.0)
    torch.save({"all": values, "part": values[5:9]}, path)
    data = bytearray(path.read_bytes())
    data[5_000_000] ^= 4
    path.write_bytes(data)
    for name in ("all", "part"):
        with pytest.raises(ModelError, match="differ from their checksum; the file is damaged"):
            read_torch(path)[name].read()


def test_cut_or_flipped_anywhere(tmp_path: Path) -> None:
    """A file of PyTorch has checksums: no bit can change what is read."""
    path = tmp_path / "x"
    expected = {"a": torch.randn(3, 4).half(), "b": torch.randn(5)}
    values = [(name, tensor.tolist()) for name, tensor in expected.items()]
    torch.save({"model": expected, "epoch": 3}, path)
    data = path.read_bytes()
    rng = random.Random(0)
    for i in range(len(data)):
        path.write_bytes(data[:i])
        assert i < 4 or "truncated" in refusal(path)
        path.write_bytes(data[:i] + bytes([data[i] ^ 1 << rng.randrange(8)]) + data[i + 1 :])
        try:
            found = {name: tensor.read() for name, tensor in read_torch(path).items()}
        except ModelError as e:
            assert str(path) in str(e)
        else:
            assert [(name, array.tolist()) for name, array in found.items()] == values


def test_many_parts_of_one_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checksum of what they share is compared once."""
    summed = []

    def crc32(data: memoryview, crc: int = 0) -> int:
        summed.append(len(data))
        return zlib.crc32(data, crc)

    monkeypatch.setattr(lazy_tensor, "zlib", SimpleNamespace(crc32=crc32))
    values = torch.arange(5_000_000.0)
    found = saved(tmp_path / "x", {str(i): values[i : i + 2] for i in range(1000)})
    assert all(tensor.read().tolist() == [i, i + 1] for i, tensor in enumerate(found.values()))
    assert 20_000_000 <= sum(summed) < 20_100_000  # 20 MB of numbers, and the pickle


def test_truncated(tmp_path: Path) -> None:
    path = tmp_path / "x"
    torch.save({"a": torch.ones(1000)}, path)
    os.truncate(path, 3000)
    assert "found 3000 bytes that begin as a zip archive but do not end as one" in refusal(path)
