"""A subject of `trials`: checkpoints, changed, and read by `read_checkpoint`. Nothing in them may run."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from safetensors.numpy import save

from esam_rt.errors import ModelError
from esam_rt.export.checkpoints.checkpoint_reader import read_checkpoint
from tests.support import pickles
from tests.support.mutations import mutated
from tests.support.trials import Limits

LIMITS = Limits(cpu_s=5, growth_mb=100, address_space_mb=8192)
NAMES = ("decoder.iou_token", "decoder.mask_tokens", "decoder.up1.weight", "encoder.patch.weight")
RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class", "ctypes.dlopen")
CALLS = (  # operations of pickles that load a function and call it
    b"cposix\nsystem\n" + pickles.text("true") + b"\x85R",
    b"c__builtin__\neval\n" + pickles.text("1") + b"\x85R",
    b"(" + pickles.text("true") + b"iposix\nsystem\n",
    b"(cposix\nsystem\n" + pickles.text("true") + b"o",
    pickles.text("posix") + pickles.text("system") + b"\x93" + pickles.text("true") + b"\x85R",
    b"cnumpy\nfromfile\n" + pickles.text("/etc/passwd") + b"\x85R",
    b"ctorch\nload\n" + pickles.text("/etc/passwd") + b"\x85R",
    b"}b",
    b"Ptrue\n",
)
_happened: list[str] = []
_watched: list[Path] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note all that runs a program, opens a connection, or opens another file."""
    if not _watched:
        return
    name = event.partition(".")[0]
    if event in RUNS or name in ("socket", "shutil"):
        _happened.append(f"{event} {arguments!r:.200}")
    elif event == "open" and isinstance(arguments[0], str | bytes | Path):
        path, flags = Path(str(arguments[0])), arguments[2]
        if not path.is_relative_to(_watched[0]) or (isinstance(flags, int) and flags & 3):
            _happened.append(f"open {arguments!r:.200}")


@cache
def corpus() -> tuple[bytes, ...]:
    """Small checkpoints of each kind."""
    arrays = {name: np.arange(6, dtype=np.float32).reshape(2, 3) for name in NAMES}
    halves = {name: array.astype(np.float16) for name, array in arrays.items()}
    return (*(save(a, {"format": "pt"}) for a in (arrays, halves)), *(_archive(p) for p in states()))


@cache
def states() -> tuple[bytes, ...]:
    """Pickles of state dicts: plain, inside another dict, with a prefix, and several tensors of one storage."""
    tensors = {name: pickles.tensor() for name in NAMES}
    plain = pickles.plain(tensors)
    nested = pickles.plain({"model": pickles.HOOKS + plain[1:], "epoch": 3})
    prefixed = pickles.plain({f"module.{name}": tensor for name, tensor in tensors.items()})
    views = pickles.plain({name: pickles.tensor(i, (2,), (1,)) for i, name in enumerate(NAMES)})
    return tuple(pickles.PROTO + content + b"." for content in (plain, nested, prefixed, views))


def _archive(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", np.arange(6, dtype="<f4").tobytes())
    return file.getvalue()


def prepare(folder: Path) -> None:
    """Read each checkpoint once, then watch."""
    kinds = set()
    for data in corpus():
        (folder / "model").write_bytes(data)
        kinds.add(_read(folder / "model"))
    assert kinds == {"read"}, kinds
    sys.addaudithook(watch)


def trial(random: Random, folder: Path) -> str:
    path = folder / "model"
    path.write_bytes(_changed(random))
    _happened.clear()
    _watched.append(folder)
    try:
        outcome = _read(path)
    finally:
        _watched.clear()
    assert not _happened, _happened
    return outcome


def _changed(random: Random) -> bytes:
    """Changed as a file, as the pickle inside, or as the header of a safetensors file."""
    kind = random.random()
    if kind < 0.4:
        return mutated(random, corpus())
    if kind < 0.8:
        content = bytearray(mutated(random, states()))
        for _ in range(random.randint(0, 2)):
            at = random.randrange(len(content) + 1)
            content[at:at] = random.choice(CALLS)
        return _archive(bytes(content))
    file = corpus()[random.randrange(2)]
    size = int.from_bytes(file[:8], "little")
    header = file[8 : 8 + size]
    header = mutated(random, (header,)) if random.random() < 0.5 else _other_header(random, header)
    return len(header).to_bytes(8, "little") + header + file[8 + size :]


def _other_header(random: Random, header: bytes) -> bytes:
    """Valid JSON with another number, type or name."""
    entries = json.loads(header)
    entry = entries[random.choice(NAMES)]
    odd = random.choice([-1, 0, 1 << 31, 1 << 63, 1 << 80, None, "2", [], 1e300, True])
    key = random.choice(["dtype", "shape", "data_offsets"])
    if isinstance(entry[key], list) and random.random() < 0.8:
        entry[key][random.randrange(len(entry[key]))] = odd
    else:
        entry[key] = random.choice([odd, "F64", "I8", "BF16", "F8_E4M3"])
    return json.dumps(entries).encode()


def _read(path: Path) -> str:
    try:
        weights = read_checkpoint(path)
        for tensor in weights._tensors.values():
            array = tensor.read()
            assert array.shape == tensor.shape
    except ModelError as e:
        message = str(e)
        assert message.startswith(str(path)) and "\n" not in message and len(message) < 1000, message
        return "refused"
    return "read"
