"""PyTorch files written by hand, good and hostile: operations of pickles in their short codes, and their archives."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esam_rt.errors import ModelError
from esam_rt.export.checkpoints.torch_file import read_torch

PROTO = b"\x80\x02"
HUGE = 1 << 200
MB = 1 << 20


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def plain(value: Any) -> bytes:
    """Operations that push a value of plain types."""
    if isinstance(value, bytes):  # operations as they are
        return value
    if isinstance(value, str):
        return text(value)
    if isinstance(value, tuple):
        return b"(" + b"".join(map(plain, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(plain, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(plain(x) for item in value.items() for x in item) + b"u"
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if value is None or type(value) is bool:
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    return number(value)


FLOAT, REBUILD, PARAMETER, ORDERED = (
    b"ctorch\nFloatStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ccollections\nOrderedDict\n",
)
HOOKS = ORDERED + b")R"


def storage(key: Any = "0", numel: Any = 6, kind: bytes = FLOAT, tag: Any = "storage") -> bytes:
    return plain((tag, kind, key, "cpu", numel)) + b"Q"


def tensor(offset: Any = 0, shape: Any = (2, 3), strides: Any = (3, 1), of: bytes | None = None, *more: Any) -> bytes:
    arguments = (storage() if of is None else of, offset, shape, strides, False, HOOKS, *more)
    return REBUILD + plain(arguments) + b"R"


def state(*items: bytes) -> bytes:
    """A state dict of tensors by the names a, b …"""
    pairs = b"".join(text(chr(ord("a") + i)) + item for i, item in enumerate(items))
    return PROTO + HOOKS + b"(" + pairs + b"u."


def write(
    path: Path,
    content: bytes,
    records: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
    root: str = "archive",
) -> Path:
    """An archive as `torch.save` writes it, with records of six floats."""
    records = {"byteorder": b"little", "data/0": np.arange(6, dtype="<f4").tobytes()} | dict(records or {})
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", content)
        for name, data in records.items():
            archive.writestr(f"{root}/{name}", data)
    return path


def refusal(path: Path) -> str:
    """The message, one sentence that names the file."""
    with pytest.raises(ModelError) as e:
        read_torch(path)
    message = str(e.value)
    assert message.startswith(f"{path}: found ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400
    return message
