"""Read PyTorch checkpoints without PyTorch: the zip archives that ``torch.save`` writes since version 1.6."""

from __future__ import annotations

import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from esam_rt.errors import ModelError
from esam_rt.export.checkpoints.lazy_tensor import HEADER_BYTES_MAX, FileRange, FileTensor, unreadable
from esam_rt.export.checkpoints.state_pickle import RefusedPickleError, TensorRef, read_state_pickle
from esam_rt.export.float_types import FLOAT_DTYPES

BYTE_ORDERS = {b"little": "<", b"big": ">"}
ELEMENTS_MAX = 1 << 40  # per tensor, not counting dimensions of zero: NumPy cannot make a larger array
LOCAL_HEADER = struct.Struct("<4s22xHH")  # zip entry: signature, lengths of the name and of the extra field
LOCAL_SIGNATURE = b"PK\3\4"
ENCRYPTED = 1  # bit of a zip entry's flags
SAVE_ANEW = "save it anew with torch.save(model.state_dict(), path)"
FETCH_ANEW = "the file is damaged: download or copy it again"


def read_torch(path: Path) -> dict[str, FileTensor]:
    """List the tensors of a ``.pth`` file. No code in the file is run.

    Args:
        path: A file with a state dict, or with a dict that has one state dict among its values.

    Returns:
        The tensors by name.

    Raises:
        ModelError: The file is broken or holds more than dicts of tensors.
    """
    archive = _Archive(path)
    try:
        content = read_state_pickle(archive.pickle())
    except RefusedPickleError as e:
        raise ModelError(f"{path}: found {e}; expected a dict of tensors: {SAVE_ANEW}.") from e
    return {name: archive.tensor(name, ref) for name, ref in _state_dict(path, content).items()}


def _state_dict(path: Path, content: Any) -> dict[str, TensorRef]:
    """Return the content if it is a dict of tensors, else the one dict of tensors among its values."""
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
    """The zip archive. The entries are not compressed, so they are ranges of the file."""

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
        self.ranges: dict[str, FileRange] = {}  # tensors of one storage share its range and its checksum test
        if len(self.entries) != len(entries):
            raise self._broken("a zip archive with several entries of one name", FETCH_ANEW)
        for entry in entries:
            if entry.flag_bits & ENCRYPTED or entry.compress_type != zipfile.ZIP_STORED:
                kind = "an encrypted" if entry.flag_bits & ENCRYPTED else "a compressed"
                raise self._broken(f"{kind} entry, {entry.filename!r:.80}", SAVE_ANEW)
        self.root = self._root()
        self.byte_order = self._byte_order()

    def pickle(self) -> bytes:
        """Return the pickle of the saved object."""
        entry = self._range("data.pkl")
        if entry.size > HEADER_BYTES_MAX:
            raise self._broken(f"{entry.size} bytes of names, more than {HEADER_BYTES_MAX}", SAVE_ANEW)
        return entry.read().tobytes()

    def tensor(self, name: str, ref: TensorRef) -> FileTensor:
        """Return the tensor that the pickle describes. ModelError if it is not within its storage."""
        storage, shape = ref.storage, ref.shape
        entry = self._range(f"data/{storage.key}")
        dtype = FLOAT_DTYPES.get(storage.dtype) or np.dtype(storage.dtype)
        if storage.numel * dtype.itemsize != entry.size:
            raise self._broken(f"{entry.size} bytes for tensor {name!r:.80}, not as many as its type needs", FETCH_ANEW)
        last = ref.offset + sum((n - 1) * stride for n, stride in zip(shape, ref.strides, strict=True))
        # A stride of zero could ask for any amount of memory: refuse more elements than are stored.
        held = 0 in shape or (last < storage.numel and math.prod(shape) <= storage.numel)
        if not held or math.prod(max(n, 1) for n in shape) > ELEMENTS_MAX:
            raise self._broken(f"tensor {name!r:.80} with more elements than are stored", SAVE_ANEW)
        return FileTensor(entry, storage.dtype, shape, ref.strides, ref.offset, self.byte_order)

    def _root(self) -> str:
        """Return the archive's top folder."""
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
        """Return the bytes of an entry."""
        if name not in self.ranges:
            self.ranges[name] = self._find(name)
        return self.ranges[name]

    def _find(self, name: str) -> FileRange:
        entry = self.entries.get(f"{self.root}/{name}")
        if entry is None:
            raise self._broken(f"a zip archive without entry {name!r:.80}", FETCH_ANEW)
        # torch.save pads the data here, so these lengths may differ from those in the archive's directory.
        start = entry.header_offset + LOCAL_HEADER.size
        if entry.header_offset >= 0 and start <= self.size:
            header = FileRange(self.path, entry.header_offset, LOCAL_HEADER.size).read().tobytes()
            signature, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
            start += name_bytes + extra_bytes
            if signature == LOCAL_SIGNATURE and start + entry.file_size <= self.size:
                # A CRC of zero is unknown: torch.serialization.set_crc32_options(False) writes zeros.
                return FileRange(self.path, start, entry.file_size, entry.CRC or None)
        raise self._broken(f"entry {name!r:.80} beyond the end of the file", FETCH_ANEW)

    def _broken(self, found: str, remedy: str) -> ModelError:
        return ModelError(f"{self.path}: found {found}, expected a plain state dict as torch.save writes it; {remedy}.")
