"""The pickle language, read as data: an interpreter that can build tensors' descriptions and nothing else.

A pickle is a program. Python's unpickler imports and calls whatever the program names; this one
has no import and no call: it looks every name up in ``allowlist``, where it is a description or a refusal.

Every opcode costs constant time and stores at most one value, save those that consume what earlier ones
pushed, so the opcode limit bounds time, stack and memo. Nothing here walks, hashes or prints
a nested value: a tuple of tuples can be exponentially larger than the program that made it.

Source: the opcode table of the standard library's ``pickletools``, used to decode, not to run.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from adaptool.errors import FormatError
from adaptool.tensors.allowlist import Global, StorageRef, broken, called, named, refused, stored

PICKLE_LIMIT = 64 << 20
"""Bytes."""

OPCODE_LIMIT = 1_500_000
"""About 26 are spent on a tensor, and a second and a half on all."""

NESTING_LIMIT = 256
INTEGER_BITS_LIMIT = 128

T = TypeVar("T", list[Any], dict[Any, Any])


class Source(Protocol):
    """What a pickle is read from: io.BytesIO, or a window on a file."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self) -> bytes: ...
    def tell(self) -> int: ...


def interpret(source: Source, where: str, storages: dict[str, StorageRef] | None = None) -> object:
    """The value of the one pickle ``source`` stands at, leaving it behind its end.

    The result holds dicts, lists, tuples, strings, bytes, numbers, None, ``TensorRef``, ``StorageRef`` and ``Global``.
    With ``storages``, every storage named is noted there by its key.
    Raises UnsupportedError naming whatever is outside the allow-list, FormatError for a broken program.
    """
    machine = _Machine(where, {} if storages is None else storages)
    for opcode, argument in _decoded(source, where):
        step = _STEPS.get(opcode)
        if step is None:
            raise refused(str(argument).replace(" ", ".") if opcode == "INST" else f"the pickle opcode {opcode}", where)
        step(machine, argument)
    return machine.pop()


def _decoded(source: Source, where: str) -> Iterator[tuple[str, Any]]:
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(source)):  # type: ignore[arg-type]
            if count >= OPCODE_LIMIT:
                raise FormatError(
                    f"{where}: a pickle of more than {OPCODE_LIMIT} opcodes, which no adapter's file needs",
                    hint="do not load it; ask its maker for safetensors",
                )
            yield opcode.name, argument
    except ValueError:
        raise FormatError(
            f"{where}: not a whole pickle",
            hint="the file is truncated or damaged: fetch it again",
            defect="broken-pickle",
        ) from None


@dataclass(slots=True)
class _Machine:
    """The stack (one per open MARK) and the memo of a running pickle."""

    where: str
    storages: dict[str, StorageRef]
    stack: list[Any] = field(default_factory=list)
    outer: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def broken(self, why: str) -> FormatError:
        return broken(why, self.where)

    def pop(self) -> object:
        if not self.stack:
            raise self.broken("it takes from an empty stack")
        return self.stack.pop()

    def top(self, kind: type[T]) -> T:
        if not self.stack or not isinstance(container := self.stack[-1], kind):
            raise self.broken(f"it puts items into something that is no {kind.__name__}")
        return container

    def nothing(self, _: object) -> None:
        pass

    def push(self, value: object) -> None:
        if type(value) is int and value.bit_length() > INTEGER_BITS_LIMIT:
            raise self.broken(f"a number of {value.bit_length()} bits")
        self.stack.append(value)

    def mark(self, _: object) -> None:
        if len(self.outer) >= NESTING_LIMIT:
            raise self.broken(f"nested deeper than {NESTING_LIMIT}")
        self.outer.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        if not self.outer:
            raise self.broken("it closes what it did not open")
        items, self.stack = self.stack, self.outer.pop()
        return items

    def discard(self, _: object) -> None:
        self.pop()

    def discard_mark(self, _: object) -> None:
        self.pop_mark()

    def duplicate(self, _: object) -> None:
        self.push(self.pop())
        self.push(self.stack[-1])

    def put(self, index: int) -> None:
        self.push(self.pop())
        self.memo[index] = self.stack[-1]

    def memoize(self, _: object) -> None:
        self.put(len(self.memo))

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise self.broken("it recalls what it did not store")
        self.stack.append(self.memo[index])

    def tuple_of(self, count: int) -> None:
        self.stack.append(tuple(reversed([self.pop() for _ in range(count)])))

    def append(self, _: object) -> None:
        item = self.pop()
        self.top(list).append(item)

    def appends(self, _: object) -> None:
        items = self.pop_mark()
        self.top(list).extend(items)

    def set_item(self, _: object) -> None:
        value, key = self.pop(), self.pop()
        self.set_all([key, value])

    def set_items(self, _: object) -> None:
        self.set_all(self.pop_mark())

    def set_all(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise self.broken("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int, float, bool, type(None)):
                raise refused("a dictionary whose keys are not names or numbers", self.where)
            target[key] = value

    def dictionary(self, _: object) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.set_all(items)

    def name(self, argument: str) -> None:
        self.stack.append(named(argument.replace(" ", ".", 1), self.where))

    def name_from_stack(self, _: object) -> None:
        name, module = self.pop(), self.pop()
        if type(name) is not str or type(module) is not str:
            raise self.broken("it imports something that is no name")
        self.name(f"{module} {name}")

    def reduce(self, _: object) -> None:
        arguments, function = self.pop(), self.pop()
        if type(function) is not Global or type(arguments) is not tuple:
            raise self.broken("it calls something that is no function")
        self.stack.append(called(function, arguments, self.where))

    def storage(self, _: object) -> None:
        storage = stored(self.pop(), self.where)
        self.storages.setdefault(storage.key, storage)
        self.stack.append(storage)

    def build(self, _: object) -> None:
        # the attributes of an OrderedDict: a state_dict's _metadata, versions of modules
        self.pop()
        self.top(dict)


def _constant(value: Callable[[], object]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(value())


def _listed(kind: type) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(kind(machine.pop_mark()))


_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _Machine.nothing),
    **dict.fromkeys(
        ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"), _Machine.push
    ),
    **dict.fromkeys(
        ("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _Machine.push
    ),
    **dict.fromkeys(("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), _Machine.push),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_TUPLE": _constant(tuple),
    "EMPTY_LIST": _constant(list),
    "EMPTY_DICT": _constant(dict),
    "TUPLE": _listed(tuple),
    "LIST": _listed(list),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "DICT": _Machine.dictionary,
    "MARK": _Machine.mark,
    "POP": _Machine.discard,
    "POP_MARK": _Machine.discard_mark,
    "DUP": _Machine.duplicate,
    "MEMOIZE": _Machine.memoize,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_from_stack,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}
