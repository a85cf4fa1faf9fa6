"""Read the pickle of a PyTorch state dict without running anything.

Nothing that the file names is called or imported. The few operations that ``torch.save`` writes for dicts of tensors
build dicts, lists and tuples of plain values. A name is only compared with a table of names. Every other operation is
refused before its argument is read.

``pickle.Unpickler`` with ``find_class`` is not enough: a small hostile file makes it hash dict keys for hours or
allocate gigabytes of memo.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from esam_rt.export.float_types import FLOAT_TYPES

BEYOND = "which is more than tensors need and could run code"
PROTOCOL = 2  # torch.save writes it
MAX_DIMS = 32  # NumPy 1 has no arrays of more dimensions
KEY_MAX = 1 << 31  # largest number as a dict key; optimizers number their parameters

STORAGES = {
    **{f"torch {t.torch_storage}": t.dtype.name for t in FLOAT_TYPES},
    "torch DoubleStorage": "float64",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
    "torch ShortStorage": "int16",
    "torch CharStorage": "int8",
    "torch ByteStorage": "uint8",
    "torch BoolStorage": "bool",
}
NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *STORAGES,
}

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
ARGUMENTS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
OTHERS = {
    *("PROTO", "STOP", "MARK", "TUPLE", "EMPTY_DICT", "EMPTY_LIST", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
    *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL", "REDUCE", "BINPERSID", "BUILD"),
}
ALLOWED = CONSTANTS.keys() | ARGUMENTS | TUPLES.keys() | OTHERS
OPERATIONS = {operation.code.encode("latin-1"): operation for operation in pickletools.opcodes}


class RefusedPickleError(ValueError):
    """The pickle is broken or holds more than a state dict. The message says what was found."""


@dataclass(frozen=True)
class StorageRef:
    """The storage of a tensor's elements.

    Attributes:
        key: The entry within the archive.
        dtype: The name of the NumPy dtype.
        numel: The number of elements as the pickle states it, not checked yet.
    """

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class TensorRef:
    """A view of a storage as the pickle states it. The numbers are not negative and not checked further.

    Attributes:
        storage: The storage.
        offset: The first element.
        shape: The view's shape.
        strides: The view's strides, elements.
    """

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Name:
    """A name of the table. It stands for itself and is never called."""

    name: str


def read_state_pickle(data: bytes) -> Any:
    """Read a pickle. Time and memory are proportional to its length.

    Args:
        data: The pickle.

    Returns:
        Dicts (with keys str or int), lists, tuples, plain values and ``TensorRef``. They may contain themselves.

    Raises:
        RefusedPickleError: The pickle is broken or holds anything else.
    """
    machine = _Machine()
    try:
        for name, argument in _operations(data):
            if name == "STOP":
                return machine.pop()
            machine.step(name, argument)
    except (IndexError, KeyError) as e:  # an empty stack, a memo entry that was never written
        raise RefusedPickleError("a broken pickle") from e
    raise RefusedPickleError("a pickle without an end")


def _operations(data: bytes) -> Iterator[tuple[str, Any]]:
    """Iterate over the operations and their arguments."""
    stream = io.BytesIO(data)
    while code := stream.read(1):
        operation = OPERATIONS.get(code)
        if operation is None:
            raise RefusedPickleError("a broken pickle")
        if operation.name not in ALLOWED:
            raise RefusedPickleError(f"the pickle operation {operation.name}, {BEYOND}")
        try:
            argument = None if operation.arg is None else operation.arg.reader(stream)
        except (ValueError, DeprecationWarning) as e:  # of a wrong escape, where warnings are errors
            raise RefusedPickleError(f"a broken pickle (operation {operation.name})") from e
        yield operation.name, argument


class _Machine:
    """The stack machine of pickles without the operations that call code."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # stacks below the marks
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def step(self, name: str, argument: Any) -> None:
        """Run one operation other than STOP."""
        push = self.stack.append
        match name:
            case "PROTO":
                _expect(argument == PROTOCOL, f"a pickle of protocol {argument} instead of {PROTOCOL}")
            case "MARK":
                self.outer.append(self.stack)
                self.stack = []
            case "EMPTY_DICT":
                push({})
            case "EMPTY_LIST":
                push([])
            case "TUPLE":
                items = self.pop_to_mark()
                self.stack.append(tuple(items))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                push(self.memo[argument])
            case "GLOBAL":
                push(_name(argument))
            case "APPEND":
                self.extend([self.pop()])
            case "APPENDS":
                self.extend(self.pop_to_mark())
            case "SETITEM":
                value, key = self.pop(), self.pop()
                self.update([key, value])
            case "SETITEMS":
                self.update(self.pop_to_mark())
            case "REDUCE":
                arguments, function = self.pop(), self.pop()
                push(_reduce(function, arguments))
            case "BINPERSID":
                push(_storage(self.pop()))
            case "BUILD":  # drop the attributes of a dict, such as _metadata of a state dict
                self.pop()
                _expect(type(self.stack[-1]) is dict, "attributes of what is no dict")
            case _ if name in CONSTANTS:
                push(CONSTANTS[name])
            case _ if name in TUPLES:
                items = [self.pop() for _ in range(TUPLES[name])]
                push(tuple(reversed(items)))
            case _:
                push(argument)

    def extend(self, items: list[Any]) -> None:
        _expect(type(self.stack[-1]) is list, "an item of what is no list")
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        _expect(type(self.stack[-1]) is dict and len(items) % 2 == 0, "an item of what is no dict")
        _expect(all(map(_is_key, items[::2])), "a dict with keys that are no names")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))


def _expect(condition: bool, otherwise_found: str) -> None:
    if not condition:
        raise RefusedPickleError(otherwise_found)


def _name(argument: str) -> _Name:
    _expect(argument in NAMES, f"the name {argument[:80]!r}, {BEYOND}")
    return _Name(argument)


def _reduce(function: Any, arguments: Any) -> Any:
    """Return the result of one of the three calls in a state dict."""
    _expect(type(function) is _Name and type(arguments) is tuple, f"a call in its pickle, {BEYOND}")
    match function.name, arguments:
        case "collections OrderedDict", ():
            return {}
        case "torch._utils _rebuild_parameter", (TensorRef() as tensor, _, _):
            return tensor
        # Newer versions add bits, which mark tensors to conjugate or negate.
        case "torch._utils _rebuild_tensor_v2", (
            StorageRef() as storage,
            offset,
            tuple(shape),
            tuple(strides),
            _,
            _,
            *bits,
        ) if bits in ([], [{}]):
            _expect(len(shape) == len(strides) <= MAX_DIMS, "a tensor whose strides do not fit its shape")
            _expect(all(map(_is_size, (offset, *shape, *strides))), "a tensor whose sizes are no natural numbers")
            return TensorRef(storage, offset, shape, strides)
    raise RefusedPickleError(f"a call of {function.name!r} with odd arguments")


def _storage(identity: Any) -> StorageRef:
    """Return the storage of a persistent id ("storage", type, key, device, number of elements)."""
    match identity:
        case ("storage", _Name(name), str(key), str(_), numel) if name in STORAGES and _is_size(numel):
            return StorageRef(key, STORAGES[name], numel)
    raise RefusedPickleError("a reference to what is no storage of torch")


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_key(value: Any) -> bool:
    """Accept names and small numbers only: tuples and large numbers can be built to hash for hours."""
    return type(value) is str or (_is_size(value) and value <= KEY_MAX)
