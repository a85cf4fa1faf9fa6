"""The pickle of a PyTorch state dict, read without running anything.

`pickle` calls what a file names. Here nothing is called or imported: the few operations that `torch.save` writes for
dicts of tensors build dicts, lists and tuples of plain values, a name is only compared with the names of a table, and
every other operation is refused before its argument is read.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

BEYOND = "which is more than tensors need and could run code"
PROTOCOL = 2  # of torch.save
MAX_DIMS = 32  # of an array in NumPy 1
KEY_MAX = 1 << 31  # of a number as the key of a dict; optimisers count their parameters

STORAGES = {
    "torch FloatStorage": "float32",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
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
    """A pickle that is broken or holds more than a state dict; the text says what was found."""


@dataclass(frozen=True)
class StorageRef:
    """Where a tensor's elements are: `key` within the archive; `numel` is what the pickle says, not yet checked."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class TensorRef:
    """A view of a storage as the pickle says it, in elements; non-negative integers, not yet checked further."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Name:
    """A name of the table, which stands for itself."""

    name: str


def read_state_pickle(data: bytes) -> Any:
    """What the pickle holds: dicts (keys str or int), lists, tuples, plain values and TensorRefs, perhaps cyclic.

    RefusedPickleError for anything else. Takes time and memory in proportion to the length of `data`.
    """
    machine = _Machine()
    try:
        for name, argument in _operations(data):
            if name == "STOP":
                return machine.pop()
            machine.step(name, argument)
    except (IndexError, KeyError) as e:  # of an empty stack, of a place never filled
        raise RefusedPickleError("a broken pickle") from e
    raise RefusedPickleError("a pickle without an end")


def _operations(data: bytes) -> Iterator[tuple[str, Any]]:
    """The operations, each with its argument."""
    stream = io.BytesIO(data)
    while code := stream.read(1):
        operation = OPERATIONS.get(code)
        if operation is None:
            raise RefusedPickleError("a broken pickle")
        if operation.name not in ALLOWED:
            raise RefusedPickleError(f"the pickle operation {operation.name}, {BEYOND}")
        try:
            argument = None if operation.arg is None else operation.arg.reader(stream)
        except ValueError as e:
            raise RefusedPickleError(f"a broken pickle (operation {operation.name})") from e
        yield operation.name, argument


class _Machine:
    """The stack machine of pickles, without the operations that call."""

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
        """One operation, not STOP."""
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
            case "BUILD":  # attributes of a dict, such as _metadata of a state dict: dropped
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
    """What a call stands for, of the three that a state dict has."""
    _expect(type(function) is _Name and type(arguments) is tuple, f"a call in its pickle, {BEYOND}")
    match function.name, arguments:
        case "collections OrderedDict", ():
            return {}
        case "torch._utils _rebuild_parameter", (TensorRef() as tensor, _, _):
            return tensor
        # The last, of newer versions, has bits: tensors to be conjugated or negated.
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
    """Of a persistent id: ("storage", type, key, device, number of elements)."""
    match identity:
        case ("storage", _Name(name), str(key), str(_), numel) if name in STORAGES and _is_size(numel):
            return StorageRef(key, STORAGES[name], numel)
    raise RefusedPickleError("a reference to what is no storage of torch")


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_key(value: Any) -> bool:
    """Names and small numbers: tuples and large numbers can be made such that hashing them takes for ever."""
    return type(value) is str or (_is_size(value) and value <= KEY_MAX)
