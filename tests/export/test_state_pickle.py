"""Pickles of state dicts: hostile and broken ones are refused, run nothing and take little time."""

from __future__ import annotations

import contextlib
import copyreg
import io
import pickle
import pickletools
import struct
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esam_rt.export.checkpoints.state_pickle import ALLOWED, RefusedPickleError, TensorRef, read_state_pickle
from esam_rt.export.checkpoints.torch_file import read_torch
from tests.support.checkpoints import assert_same_tensors
from tests.support.pickles import (
    FLOAT,
    HOOKS,
    HUGE,
    MB,
    ORDERED,
    PARAMETER,
    PROTO,
    REBUILD,
    number,
    plain,
    refusal,
    state,
    storage,
    tensor,
    text,
    write,
)

MARKER = "marker-of-a-pickle-that-ran"
COMMAND = f"touch {MARKER}"


def call(module: str, name: str, *arguments: Any) -> bytes:
    return f"c{module}\n{name}\n".encode() + plain(arguments) + b"R"


RUNNING = {
    "GLOBAL REDUCE": PROTO + call("os", "system", COMMAND) + b".",
    "builtins": PROTO + call("builtins", "eval", f"__import__('os').system({COMMAND!r})") + b".",
    "py2 builtins": PROTO + call("__builtin__", "eval", f"__import__('os').system({COMMAND!r})") + b".",
    "dotted": b"\x80\x04" + text("os") + text("sys.modules") + b"\x930" + call("os", "system", COMMAND) + b".",
    "STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + b"\x93" + plain((COMMAND,)) + b"R.",
    "STACK_GLOBAL of memo": PROTO
    + b"".join((text("system"), b"q\x00", text("os"), b"q\x01", b"00", b"h\x01h\x00\x93", plain((COMMAND,)), b"R.")),
    "INST": PROTO + b"(" + text(COMMAND) + b"ios\nsystem\n.",
    "OBJ": PROTO + b"(cos\nsystem\n" + text(COMMAND) + b"o.",
    "EXT1": PROTO + b"\x82\x77" + plain((COMMAND,)) + b"R.",
    "EXT2": PROTO + b"\x83\x77\x00" + plain((COMMAND,)) + b"R.",
    "EXT4": PROTO + b"\x84\x77\x00\x00\x00" + plain((COMMAND,)) + b"R.",
    "NEWOBJ": PROTO + b"ctypes\nSimpleNamespace\n)\x810" + call("os", "system", COMMAND) + b".",
    "BUILD calls __setstate__": PROTO
    + call("types", "SimpleNamespace")
    + plain({"__setstate__": b"cos\nsystem\n"})
    + b"b"
    + text(COMMAND)
    + b"b.",
    "after the state dict": state(tensor())[:-1] + call("os", "system", COMMAND) + b"0.",
    "within the state dict": state(tensor(), call("os", "system", COMMAND)),
    "as the attributes": state(tensor())[:-1] + plain({"_metadata": call("os", "system", COMMAND)}) + b"b.",
    "as the hooks": state(REBUILD + plain((storage(), 0, (2,), (1,), False, call("os", "system", COMMAND))) + b"R"),
    "as the storage": state(tensor(0, (2,), (1,), storage(call("os", "system", COMMAND)))),
    "as a key": PROTO + b"}" + call("os", "system", COMMAND) + b"Ns.",
}


class Permissive(pickle.Unpickler):
    """A loader without care."""

    def persistent_load(self, pid: object) -> object:
        untyped = torch.zeros(6).untyped_storage()
        return torch.storage.TypedStorage(wrap_storage=untyped, dtype=torch.float32, _internal=True)


@pytest.fixture
def extension() -> Any:
    copyreg.add_extension("os", "system", 0x77)
    yield
    copyreg.remove_extension("os", "system", 0x77)


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("kind", RUNNING)
def test_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(write(tmp_path / "x.pth", RUNNING[kind]))
    assert "expected a dict of tensors: save it anew" in message
    assert not Path(MARKER).exists()
    with contextlib.suppress(TypeError, AttributeError):  # it does run elsewhere, else this test would say nothing
        Permissive(io.BytesIO(RUNNING[kind])).load()
    assert Path(MARKER).exists()


REFUSED_OPERATIONS = """
INT LONG LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 NEXT_BUFFER READONLY_BUFFER
UNICODE SHORT_BINUNICODE BINUNICODE8 FLOAT LIST DICT EMPTY_SET ADDITEMS FROZENSET POP DUP POP_MARK GET PUT MEMOIZE EXT1
EXT2 EXT4 STACK_GLOBAL INST OBJ NEWOBJ NEWOBJ_EX FRAME PERSID
"""


CODES = {operation.name: operation.code.encode("latin-1") for operation in pickletools.opcodes}


@pytest.mark.parametrize("operation", REFUSED_OPERATIONS.split())
def test_operations_that_torch_does_not_write(operation: str) -> None:
    for stack in (b"", b"(", state(tensor())[2:-1]):
        with pytest.raises(RefusedPickleError, match=f"the pickle operation {operation}, which is more"):
            read_state_pickle(PROTO + stack + CODES[operation] + b"1\n" * 9)


def test_all_operations_are_known() -> None:
    """A new version of Python must not add an operation that nobody has considered."""
    refused = set(REFUSED_OPERATIONS.split())
    assert refused | ALLOWED == set(CODES)
    assert not refused & ALLOWED


ODD_TENSORS = {
    "no storage": tensor(of=b"N"),
    "name as storage": tensor(of=FLOAT),
    "tensor as storage": tensor(of=tensor()),
    "shape is a list": tensor(0, [2, 3]),
    "shape is a number": tensor(0, 2),
    "strides are a list": tensor(0, (2, 3), [3, 1]),
    "too few strides": tensor(0, (2, 3), (1,)),
    "too many strides": tensor(0, (2,), (1, 1)),
    "33 axes": tensor(0, (1,) * 33, (1,) * 33),
    "negative offset": tensor(-1),
    "negative extent": tensor(0, (-2, 3)),
    "negative stride": tensor(5, (2, 3), (-3, 1)),
    "fraction": tensor(0, (2.0, 3)),
    "text": tensor("0"),
    "truth": tensor(0, (True, 3)),
    "truth as offset": tensor(False),
    "nothing": tensor(None),
    "hooks missing": REBUILD + plain((storage(), 0, (2,), (1,), False)) + b"R",
    "bits": tensor(0, (2, 3), (3, 1), None, {"neg": True}),
    "two more": tensor(0, (2, 3), (3, 1), None, {}, {}),
    "no arguments": REBUILD + b")R",
    "arguments are a list": REBUILD + plain([storage(), 0, (2,), (1,), False, HOOKS]) + b"R",
    "arguments are nothing": REBUILD + b"NR",
    "parameter of nothing": PARAMETER + plain((None, False, HOOKS)) + b"R",
    "parameter of a storage": PARAMETER + plain((storage(), False, HOOKS)) + b"R",
    "parameter of little": PARAMETER + plain((tensor(),)) + b"R",
    "dict of pairs": ORDERED + plain(([("a", tensor())],)) + b"R",
    "dict of a number": ORDERED + plain((1 << 40,)) + b"R",
    "dict of a list": ORDERED + b"]R",
    "storage that is called": FLOAT + plain((1 << 50,)) + b"R",
    "dict that is called": HOOKS + b")R",
    "text that is called": text("os.system") + plain((COMMAND,)) + b"R",
    "name with attributes": REBUILD + plain({"__code__": None}) + b"b",
    "tensor with attributes": tensor() + plain({"shape": (9,)}) + b"b",
    "storage with attributes": storage() + b"}b",
    "list with attributes": b"]}b",
    "item of a tensor": tensor() + b"Na",
    "item of a tuple": b")Na",
    "items of a dict": b"}(NNe",
    "items of a list": b"](NNu",
    "half an item": b"}(" + text("a") + b"u",
    "name as key": b"}" + FLOAT + b"Ns",
    "tuple as key": b"})Ns",
    "negative key": b"}" + number(-1) + b"Ns",
    "key nobody counts to": b"}" + number(HUGE) + b"Ns",
    "fraction as key": b"}" + plain(0.5) + b"Ns",
    "persistent text": text("storage") + b"Q",
    "persistent nothing": b"NQ",
    "persistent name": FLOAT + b"Q",
    "persistent storage": storage() + b"Q",
    "persistent cut": plain(("storage", FLOAT, "0", "cpu")) + b"Q",
    "persistent long": plain(("storage", FLOAT, "0", "cpu", 6, None)) + b"Q",
    "persistent tag": storage(tag="module"),
    "persistent tag of no text": storage(tag=None),
    "persistent type": storage(kind=ORDERED),
    "persistent type as text": storage(kind=text("torch FloatStorage")),
    "persistent key": storage(key=0),
    "persistent key of bytes": storage(key=None),
    "persistent number": storage(numel=-6),
    "persistent truth": storage(numel=True),
    "persistent fraction": storage(numel=6.0),
    "persistent text as number": storage(numel="6"),
    "nothing in the memo": b"h\x63",
    "nothing far in the memo": b"j\xff\xff\xff\xff",
    "nothing to remember": b"(q\x00",
    "no mark": b"tttttt",
    "nothing below": b"(R",
    "unknown name": b"ctorch\nload\n",
    "name with spaces": b"ctorch FloatStorage\n\n",
    "name of no letters": b"c\x00\xff\n\n",
    "name without end": b"ctorch\nFloat",
    "text without end": b"X\xff\xff\xff\xffab",
    "text of no characters": b"X\x01\x00\x00\x00\xff",
    "number without end": b"\x8a\xff",
    "unknown byte": b"\xff",
    "second protocol": b"\x80\x05",
}


@pytest.mark.parametrize("kind", ODD_TENSORS)
def test_odd_arguments(kind: str) -> None:
    with pytest.raises(RefusedPickleError):
        read_state_pickle(state(ODD_TENSORS[kind]))


def test_attributes_do_not_matter(tmp_path: Path) -> None:
    """Not those that PyTorch writes, nor any others."""
    for attributes in ({"_metadata": HOOKS}, {"__class__": FLOAT, "a": None, "items": REBUILD}, None, (None, {"a": 1})):
        content = state(tensor())[:-1] + plain(attributes) + b"b."
        expected = {"a": torch.arange(6.0).reshape(2, 3)}
        assert_same_tensors(read_torch(write(tmp_path / "x", content)), expected)


def test_structures_that_contain_themselves(tmp_path: Path) -> None:
    itself = PROTO + b"}q\x00" + text("model") + b"h\x00s."
    assert "no dict of nothing but tensors" in refusal(write(tmp_path / "x", itself))
    inner = (
        PROTO
        + b"}q\x00("
        + text("self")
        + b"h\x00"
        + text("model")
        + state(tensor())[2:-1]
        + text("l")
        + b"]q\x01h\x01au."
    )
    assert list(read_torch(write(tmp_path / "x", inner))) == ["a"]
    again = PROTO + b"}q\x00(" + text("model") + state(tensor())[2:-1] + b"q\x01" + text("ema") + b"h\x01u."
    assert "2 dicts of tensors" in refusal(write(tmp_path / "x", again))


def test_a_wrong_escape_in_a_name_is_an_error_where_warnings_are(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "a broken pickle (operation GLOBAL)" in refusal(write(tmp_path / "x", PROTO + b"ca\\e\nb\n."))


SLOW = {
    "deep tuples": b"N" + b"\x85" * MB,
    "deep lists": b"]" * (MB // 2) + b"a" * (MB // 2 - 1),
    "deep dicts": (b"}" + text("a")) * (MB // 4) + b"N" + b"s" * (MB // 4),
    "marks": b"(" * MB,
    "tuples of tuples": b"N" + b"q\x00h\x00\x86" * 60 + b"q\x00}h\x00Ns",
    "lists of lists": b"N" + b"q\x00]h\x00ah\x00aq\x00" * 60,
    "numbers of one hash": b"}(" + b"".join(number(i * ((1 << 61) - 1)) + b"N" for i in range(1, 50_000)) + b"u",
    "one long tuple": b"(" + b"N" * MB + b"tq\x00" + REBUILD + b"q\x01" + b"h\x01h\x00R" * 1000,
    "calls": HOOKS * (MB // 8),
    "far memo": b"N" + b"".join(b"r" + struct.pack("<I", (i << 22) - 1 & 0xFFFFFFFF) for i in range(MB // 8)),
}


@pytest.mark.parametrize("kind", SLOW)
def test_every_pickle_comes_to_an_end(tmp_path: Path, kind: str) -> None:
    """Pickles that grow or nest without bounds, or whose keys hash alike, are refused before they take hours."""
    refusal(write(tmp_path / "x", PROTO + SLOW[kind] + b"."))


def test_too_many_names(tmp_path: Path) -> None:
    assert "bytes of names, more than 4194304" in refusal(write(tmp_path / "x", PROTO + b"N" * 4 * MB))


PIECES = [PROTO, FLOAT, REBUILD, PARAMETER, ORDERED, HOOKS, storage(), tensor(), plain((2, 3)), text("storage")]
PIECES += [b"q\x00", b"h\x00", b"K\x02", b"\x8a\x08" + b"\xff" * 8, text("a")]
PIECES += [bytes([code]) for code in b"(t}]aesuRQbN).\x85\x86\x87"]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=3)), max_size=40))
def test_any_pickle_is_read_or_refused(pieces: list[bytes]) -> None:
    try:
        read_state_pickle(b"".join(pieces))
    except RefusedPickleError as e:
        assert len(str(e)) < 200


def test_what_is_read(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True], 3: ("x", -(1 << 40)), "é\n": {}}
    assert read_state_pickle(pickle.dumps(value, 2)) == value
    found = read_state_pickle(state(tensor(1, (2,), (3,))))["a"]
    assert isinstance(found, TensorRef)
    assert (found.offset, found.shape, found.strides, found.storage.key) == (1, (2,), (3,), "0")
