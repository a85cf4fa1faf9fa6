"""Open checkpoint files as Weights. The content of a file decides its format, not its name."""

from __future__ import annotations

import json
import stat
from collections.abc import Collection
from pathlib import Path

from esam_rt.errors import ModelError
from esam_rt.export.checkpoints.key_mapping import NAMINGS, Naming, naming_of
from esam_rt.export.checkpoints.lazy_tensor import HEADER_BYTES_MAX, FileTensor, unreadable
from esam_rt.export.checkpoints.name_prefixes import without_prefix
from esam_rt.export.checkpoints.safetensors_file import read_safetensors
from esam_rt.export.checkpoints.torch_file import FETCH_ANEW, read_torch
from esam_rt.export.checkpoints.weights import StoredTensor, Weights
from esam_rt.export.float_types import FLOAT_DTYPES

EXPECTED = "a checkpoint: a .pth file of PyTorch, a safetensors file or a folder of Hugging Face"
SAFETENSORS, INDEX, PYTORCH = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
HEAD_BYTES = 512
ONNX_FIELDS = {b"\x12", b"\x3a", b"\x42"}  # tags after the version: producer, graph, operator sets


def read_checkpoint(path: Path) -> Weights:
    """Open the checkpoint of a model. The tensors are read when they are taken.

    Args:
        path: A ``.pth`` file of ``torch.save``, a safetensors file, or a folder of Hugging Face's
            ``save_pretrained``. The tensors are float16, bfloat16 or float32. Their names are those of SAM, of Hugging
            Face's SamModel, or the exporter's own, with or without a prefix; see ``without_prefix``.

    Returns:
        The tensors.

    Raises:
        ModelError: The checkpoint is missing, broken or of another kind.
    """
    tensors: dict[str, FileTensor] = {}
    for file in checkpoint_files(path):
        more = _tensors(file)
        if twice := sorted(tensors.keys() & more.keys()):
            raise ModelError(f"{file}: found tensor {twice[0]!r:.80}, which another file has too; {FETCH_ANEW}.")
        tensors |= more
    tensors = without_prefix(path, tensors)
    naming = _naming(path, tensors)
    tensors = {name: tensor for name, tensor in tensors.items() if not naming.is_ignored(name)}
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOAT_DTYPES:
            expected = " or ".join(FLOAT_DTYPES)
            raise ModelError(f"{path}: tensor {name}: found dtype {tensor.dtype}, expected {expected}.")
    return Weights(path, {name: StoredTensor(t.shape, t.read) for name, t in tensors.items()}, naming)


def checkpoint_files(path: Path) -> list[Path]:
    """List the files that hold a checkpoint's tensors. Only an index of shards is opened.

    Args:
        path: A checkpoint file or folder.

    Returns:
        The file itself, or the tensor files of the folder.

    Raises:
        ModelError: The path is missing, or the folder has no tensor files.
    """
    if not stat.S_ISDIR(_mode(path)):
        return [path]
    for name in (SAFETENSORS, INDEX, PYTORCH):
        if (path / name).exists():
            return _shards(path / INDEX) if name == INDEX else [path / name]
    if (path / f"{PYTORCH}.index.json").exists():
        raise ModelError(
            f"{path}: found a checkpoint in several .bin files, expected one file or safetensors; save it anew: "
            "SamModel.from_pretrained(path).save_pretrained(new_path)."
        )
    raise ModelError(f"{path}: found a folder without {SAFETENSORS}, {INDEX} or {PYTORCH}, expected {EXPECTED}.")


def _shards(index: Path) -> list[Path]:
    """Return the files that an index of shards names. All must be in its folder."""
    try:
        names = set(json.loads(_start(index, HEADER_BYTES_MAX))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise ModelError(
            f"{index}: found no table of tensors and files, expected the index of shards; {FETCH_ANEW}."
        ) from e
    for name in names:
        is_plain = isinstance(name, str) and name.isprintable() and Path(name).name == name
        if not is_plain or not name.endswith(".safetensors"):
            raise ModelError(f"{index}: found shard {name!r:.80}, expected safetensors files in the same folder.")
    return [index.parent / name for name in sorted(names)]


def _tensors(file: Path) -> dict[str, FileTensor]:
    """Return the tensors of one file by their names in it."""
    head = _start(file, HEAD_BYTES)
    # Test this first: the length of a safetensors header may look like the start of another format.
    if head[6:9] == b"\0\0{":
        return read_safetensors(file)
    if head.startswith(b"PK\3\4"):
        return read_torch(file)
    raise ModelError(f"{file}: found {_other_kind(head)}, expected {EXPECTED}.")


def _other_kind(head: bytes) -> str:
    """Name the kind of a file by its first bytes, with a remedy."""
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a pointer of Git LFS in place of the file (run git lfs pull)"
    if head.lstrip().startswith(b"<"):
        return "a web page in place of the file (download it again, in a browser if need be)"
    if head[:1] == b"\x80" and head[1:2] in {b"\2", b"\3", b"\4", b"\5"}:
        return (
            "a pickle, as PyTorch wrote before 1.6, which can run code when it is loaded (if you trust it, save it "
            "anew: torch.save(torch.load(path), path))"
        )
    if head[:1] == b"\x08" and head[2:3] in ONNX_FIELDS:
        return "an ONNX model (give the checkpoint that it was made of)"
    return f"a file that begins with {head[:8]!r}"


def _naming(path: Path, names: Collection[str]) -> Naming:
    """Return the naming of the checkpoint."""
    if odd := next((name for name in names if not name.isprintable()), None):
        raise ModelError(f"{path}: found tensor {odd!r:.80}, expected printable names; {FETCH_ANEW}.")
    naming = naming_of(names)
    if naming is None:
        found = ", ".join(name[:80] for name in list(names)[:3]) or "nothing"
        known = ", ".join(naming.title for naming in NAMINGS)
        raise ModelError(
            f"{path}: found {len(names)} tensors ({found} …), expected the names of one of {known}: is this the "
            "checkpoint of another model?"
        )
    return naming


def _mode(path: Path) -> int:
    """Return the file's mode, with links followed."""
    try:
        return path.stat().st_mode
    except FileNotFoundError as e:
        raise ModelError(f"{path}: found no such file, expected {EXPECTED}.") from e
    except OSError as e:
        raise unreadable(path, e) from e


def _start(path: Path, size: int) -> bytes:
    """Read at most `size` bytes of a regular file. A pipe or device is not opened: reading it could block for ever."""
    if not stat.S_ISREG(_mode(path)):
        raise ModelError(f"{path}: found a folder, pipe or device, expected {EXPECTED}.")
    try:
        with path.open("rb") as f:
            return f.read(size)
    except OSError as e:
        raise unreadable(path, e) from e
