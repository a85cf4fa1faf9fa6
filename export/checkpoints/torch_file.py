"""PyTorch checkpoints (`torch.save` since 1.6: a zip archive) → tensors that are read one by one, without PyTorch."""

from __future__ import annotations

import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from esam_rt.errors import ModelError
from esam_rt.export.checkpoints.lazy_tensor import FLOATS, HEADER_BYTES_MAX, FileRange, FileTensor, unreadable
from esam_rt.export.checkpoints.state_pickle import RefusedPickleError, TensorRef, read_state_pickle

BYTE_ORDERS = {b"little": "<", b"big": ">"}
ELEMENTS_MAX = 1 << 40  # of a tensor, empty extents aside: an array of more cannot be made
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip entry: signature, lengths of the name and of the extra field
LOCAL_SIGNATURE = b"PK\3\4"
ENCRYPTED = 1  # bit of an entry's flags
SAVE_ANEW = "save it anew with torch.save(model.state_dict(), path)"
FETCH_ANEW = "the file is damaged: download or copy it again"


def read_torch(path: Path) -> dict[str, FileTensor]:
    """The tensors of a `.pth` file by name; ModelError if it is broken or holds more than dicts of tensors.

    The file may be a state dict, or a dict with one state dict among its values. Nothing in it is run.
    """
    archive = _Archive(path)
    try:
        content = read_state_pickle(archive.pickle())
    except RefusedPickleError as e:
        raise ModelError(f"{path}: found {e}; expected a dict of tensors: {SAVE_ANEW}.") from e
    return {name: archive.tensor(name, ref) for name, ref in _state_dict(path, content).items()}


def _state_dict(path: Path, content: Any) -> dict[str, TensorRef]:
    """The dict of nothing but tensors that `content` is, or the one that it has."""
    if _is_state_dict(content):
        return dict(content)
    inner = content.items() if isinstance(content, dict) else ()
    found = {key: value for key, value in inner if _is_state_dict(value)}
    if len(found) == 1:
        return dict(next(iter(found.values())))
    if found:
        keys = ", ".join(f"{key!r:.40}" for key in list(found)[:3])
        raise ModelError(f"{path}: found {len(found)} dicts of tensors ({keys}), expected one: save only that one.")
    raise ModelError(f"{path}: found no dict of nothing but tensors, expected one: {SAVE_ANEW}.")


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(type(key) is str and isinstance(item, TensorRef) for key, item in value.items())
    )


class _Archive:
    """The zip archive, whose entries are ranges of the file: none is compressed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.size = path.stat().st_size
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except zipfile.BadZipFile as e:
            raise ModelError(
                f"{path}: found {self.size} bytes that begin as a zip archive but do not end as one ({e}), "
                "expected a whole file of torch.save; it looks truncated: download or copy it again."
            ) from e
        except OSError as e:
            raise unreadable(path, e) from e
        except (NotImplementedError, ValueError, OverflowError, struct.error) as e:
            raise self._broken(f"a zip archive that cannot be read ({e})", FETCH_ANEW) from e
        self.entries = {entry.filename: entry for entry in entries}
        self.ranges: dict[str, FileRange] = {}  # tensors that share a storage share its range
        if len(self.entries) != len(entries):
            raise self._broken("a zip archive with several entries of one name", FETCH_ANEW)
        for entry in entries:
            if entry.flag_bits & ENCRYPTED or entry.compress_type != zipfile.ZIP_STORED:
                kind = "an encrypted" if entry.flag_bits & ENCRYPTED else "a compressed"
                raise self._broken(f"{kind} entry, {entry.filename!r:.80}", SAVE_ANEW)
        self.root = self._root()
        self.byte_order = self._byte_order()

    def pickle(self) -> bytes:
        """The pickle of the object that was saved."""
        entry = self._range("data.pkl")
        if entry.size > HEADER_BYTES_MAX:
            raise self._broken(f"{entry.size} bytes of names, more than {HEADER_BYTES_MAX}", SAVE_ANEW)
        return entry.read().tobytes()

    def tensor(self, name: str, ref: TensorRef) -> FileTensor:
        """The tensor that the pickle describes; ModelError unless it lies within its storage."""
        storage, shape = ref.storage, ref.shape
        entry = self._range(f"data/{storage.key}")
        dtype = FLOATS[storage.dtype] if storage.dtype in FLOATS else np.dtype(storage.dtype)
        if storage.numel * dtype.itemsize != entry.size:
            raise self._broken(f"{entry.size} bytes for tensor {name!r:.80}, not as many as its type needs", FETCH_ANEW)
        last = ref.offset + sum((n - 1) * stride for n, stride in zip(shape, ref.strides, strict=True))
        # More elements than are stored: a stride of zero could ask for any amount of memory.
        held = 0 in shape or (last < storage.numel and math.prod(shape) <= storage.numel)
        if not held or math.prod(max(n, 1) for n in shape) > ELEMENTS_MAX:
            raise self._broken(f"tensor {name!r:.80} with more elements than are stored", SAVE_ANEW)
        return FileTensor(entry, storage.dtype, shape, ref.strides, ref.offset, self.byte_order)

    def _root(self) -> str:
        """The folder in the archive that holds everything."""
        roots = [name.removesuffix("/data.pkl") for name in self.entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise self._broken(f"a zip archive with {len(roots)} entries data.pkl", "give the file of torch.save")
        if f"{roots[0]}/constants.pkl" in self.entries:
            raise self._broken("a TorchScript model", SAVE_ANEW)
        return roots[0]

    def _byte_order(self) -> str:
        if f"{self.root}/byteorder" not in self.entries:  # PyTorch before 2.1
            return "<"
        word = self._range("byteorder").read().tobytes()
        if word not in BYTE_ORDERS:
            raise self._broken("an unknown byte order", FETCH_ANEW)
        return BYTE_ORDERS[word]

    def _range(self, name: str) -> FileRange:
        """Where in the file the bytes of an entry are."""
        if name not in self.ranges:
            self.ranges[name] = self._find(name)
        return self.ranges[name]

    def _find(self, name: str) -> FileRange:
        entry = self.entries.get(f"{self.root}/{name}")
        if entry is None:
            raise self._broken(f"a zip archive without entry {name!r:.80}", FETCH_ANEW)
        # The lengths before the data may differ from those in the archive's directory: torch.save pads the data here.
        start = entry.header_offset + LOCAL_HEADER.size
        if entry.header_offset >= 0 and start <= self.size:
            header = FileRange(self.path, entry.header_offset, LOCAL_HEADER.size).read().tobytes()
            signature, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
            start += name_bytes + extra_bytes
            if signature == LOCAL_SIGNATURE and start + entry.file_size <= self.size:
                # torch.serialization.set_crc32_options(False) writes zeros.
                return FileRange(self.path, start, entry.file_size, entry.CRC or None)
        raise self._broken(f"entry {name!r:.80} beyond the end of the file", FETCH_ANEW)

    def _broken(self, found: str, remedy: str) -> ModelError:
        return ModelError(f"{self.path}: found {found}, expected a plain state dict as torch.save writes it; {remedy}.")
