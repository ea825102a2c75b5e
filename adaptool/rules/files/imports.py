"""What a pickle would import, found without running it, and how far each name is to be trusted.

A pickle is a program whose power is its imports. The abstract machine here follows only what decides them: strings,
the memo and the depth of the stack. A name it cannot follow was put together to hide, and is reported as such.

Source: the opcode table of the standard library's ``pickletools``, with each opcode's effect on the stack.
"""

from __future__ import annotations

import pickletools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from adaptool.tensors.allowlist import CALLABLES, ELEMENT_TYPES, STORAGE_TYPES
from adaptool.tensors.opcodes import Source

OPCODES_LIMIT = 400_000
"""In one file, about half a second; an optimizer's state of a thousand tensors has 40 000."""

PICKLES_LIMIT = 8
"""One after another in one file: torch.save wrote five until 1.6."""

NEWEST_PROTOCOL = 5

HIDDEN = "a name put together while it loads"

Trust = Literal["tensors", "state", "code", "danger"]
"""tensors: what torch.save writes for them. state: objects of a class. code: a function. danger: the means to harm."""

_TENSOR_PARTS = frozenset(
    {
        "torch.device", "torch.dtype", "torch.Tensor", "torch.nn.parameter.Parameter", "torch.Generator",
        "torch._tensor._rebuild_from_type_v2", "torch.serialization._get_layout",
        "torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_device_tensor_from_numpy",
        "torch._utils._rebuild_device_tensor_from_cpu_tensor", "torch._utils._rebuild_qtensor",
        "torch._utils._rebuild_meta_tensor_no_storage", "torch._utils._rebuild_wrapper_subclass",
        "torch._utils._rebuild_parameter_with_state", "torch._utils._rebuild_nested_tensor",
        "numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy._core.numeric._frombuffer",
        "numpy.core.numeric._frombuffer", "_codecs.encode", "collections.defaultdict", "collections.Counter",
        "collections.deque", "numpy.random._pickle.__randomstate_ctor", "numpy.random._pickle.__bit_generator_ctor",
        "numpy.random._pickle.__generator_ctor", "numpy.random._mt19937.MT19937",
    }
)  # fmt: skip

_PLAIN = frozenset({"set", "frozenset", "dict", "list", "tuple", "int", "float", "complex", "bool", "str", "bytes",
                    "bytearray", "slice", "range", "object"})  # fmt: skip

_STANDARD_STATE = re.compile(
    r"datetime\.(?:datetime|date|time|timedelta|timezone)|pathlib\.(?:Pure)?(?:Posix|Windows)?Path|decimal\.Decimal"
    r"|fractions\.Fraction|uuid\.(?:UUID|SafeUUID)|argparse\.Namespace|types\.SimpleNamespace|random\.Random"
    r"|copy_?reg\._reconstructor|enum\.\w+|logging\.Logger|dataclasses\._MISSING_TYPE|signal\.Signals"
    r"|deepspeed\.utils\.tensor_fragment\.fragment_address"
)
"""Of the standard library (and one of DeepSpeed's), the types that configurations and training states are made of."""

_INDIRECT = re.compile(
    r"(?:builtins|__builtin__)\.getattr|functools\.partial|torch\.storage\._load_from_bytes|typing\.\w+|re\._compile"
)
"""Harmless in honest files, and a way around a list of names in others."""

_DANGEROUS = re.compile(
    r"(?:torch\.(?:hub|load|jit|package|ops|classes|serialization|_inductor|_dynamo|testing|cuda\._utils)"
    r"|torch\.utils\.(?!data\b|_pytree\b)\w+|numpy\.(?:load|f2py|testing|distutils|ctypeslib|lib|fromfile|memmap|save)"
    r"|joblib\.(?:load|parallel|externals|Parallel)|pandas\.(?:io|read_\w+|eval|core\.computation)|cloudpickle|dill"
    r"|pip|setuptools|pkg_resources|requests|httpx|aiohttp|urllib3|IPython|paramiko|fabric|invoke|pexpect|psutil"
    r"|transformers\.(?:pipeline|pipelines|dynamic_module_utils|commands|tools)|tensorflow\.(?:io|py_function)"
    r"|sympy\.(?:parsing|sympify|lambdify|utilities|printing)|win32\w*|sh|jinja2|numexpr|aiofiles|gevent)\b.*"
)
"""Beyond the standard library: loaders, downloaders, compilers and shells."""


@dataclass(frozen=True, slots=True)
class Program:
    """The imports of a pickle, ``module.name``, in order; ``whole`` where it was read to its end."""

    imports: tuple[str, ...]
    whole: bool
    too_long: bool = False
    """Longer than what is read: more imports may follow."""
    opcodes: int = 0

    @property
    def endless(self) -> bool:
        """Longer than any honest one, and not merely than what was left to read in its folder."""
        return self.too_long and self.opcodes > OPCODES_LIMIT

    @property
    def worst(self) -> Trust:
        """How far it is to be trusted."""
        return max((trust(name) for name in self.imports), key=_GRADES.index, default="tensors")

    def of(self, grade: Trust) -> tuple[str, ...]:
        """The imports of one grade."""
        return tuple(name for name in self.imports if trust(name) == grade)


_GRADES: tuple[Trust, ...] = ("tensors", "state", "code", "danger")


def trust(name: str) -> Trust:
    """How far an imported name is to be trusted, by what it gives a pickle."""
    if name in CALLABLES or name in STORAGE_TYPES or name in ELEMENT_TYPES or name in _TENSOR_PARTS:
        return "tensors"
    root, _, rest = name.partition(".")
    if root in ("builtins", "__builtin__") and rest in _PLAIN:
        return "tensors"
    if _STANDARD_STATE.fullmatch(name):
        return "state"
    if _INDIRECT.fullmatch(name):
        return "code"
    if name == HIDDEN or root in sys.stdlib_module_names or root in _OLD_NAMES or _DANGEROUS.fullmatch(name):
        return "danger"
    if any(part in _SHELLS for part in name.split(".")):
        return "danger"
    last = rest.rpartition(".")[2]
    return "state" if last[:1].isupper() or last.lstrip("_")[:1].isupper() else "code"


_OLD_NAMES = frozenset({"__builtin__", "commands", "urllib2", "httplib", "popen2", "distutils", "imp", "nt"})
_SHELLS = frozenset({"os", "sys", "subprocess", "builtins", "importlib", "shutil", "socket", "system", "popen", "Popen",
                     "__import__", "runpy", "ctypes", "pickle"})  # fmt: skip
"""Modules and functions reached through another module that imported them: ``transformers.trainer.os.system``."""


def read_program(source: Source, budget: int = OPCODES_LIMIT) -> Program | None:
    """The imports of the pickles ``source`` stands at; None where it does not stand at one.

    A text that begins with a "c" reads like an import: before protocol 2, a pickle counts if it is whole or dangerous.
    """
    program: Program | None = None
    for _ in range(PICKLES_LIMIT):
        before = program.imports if program else ()
        following = _read_one(source, budget - (program.opcodes if program else 0))
        if following is None:
            break
        imports = tuple(dict.fromkeys((*before, *following.imports)))
        opcodes = following.opcodes + (program.opcodes if program else 0)
        program = Program(imports, following.whole or program is not None, following.too_long, opcodes)
        if not following.whole:
            break
    return program


def _read_one(source: Source, budget: int) -> Program | None:
    imports: dict[str, None] = {}
    first = last = ""
    count = 0
    try:
        for last, name in _followed(source):
            first = first or last
            count += 1
            if name is not None:
                imports[name] = None
            if count > budget:
                return Program(tuple(imports), whole=False, too_long=True, opcodes=count)
    except (ValueError, IndexError, OverflowError, MemoryError):
        last = ""
    program = Program(tuple(imports), last == "STOP", opcodes=count)
    if first == "PROTO" or (program.whole and count > 1) or program.worst == "danger":
        return program
    return None


def _followed(source: Source) -> Iterator[tuple[str, str | None]]:
    """Each opcode, and the name it imports if it does."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(source):  # type: ignore[arg-type]
        name = opcode.name
        if name == "PROTO" and (argument or 0) > NEWEST_PROTOCOL:
            raise ValueError("no such protocol")
        match name:
            case "GLOBAL" | "INST":
                yield name, str(argument).replace(" ", ".", 1)
            case "STACK_GLOBAL":
                if len(stack) < 2:
                    raise ValueError("an import of nothing")
                yield name, _joined(stack[-2:])
            case "EXT1" | "EXT2" | "EXT4":
                yield name, f"copyreg.extension {argument}"
            case _:
                yield name, None
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            _move(opcode, argument, stack, memo)


def _move(opcode: pickletools.OpcodeInfo, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    """Take from the stack what the opcode takes, and put there what it gives: a string, or something unknown."""
    taken = list(opcode.stack_before)
    if pickletools.markobject in taken:
        while stack and stack.pop() is not pickletools.markobject:
            pass
        taken = taken[: taken.index(pickletools.markobject)]
    if len(stack) < len(taken):
        raise ValueError("it takes from an empty stack")  # as the unpickler would
    del stack[len(stack) - len(taken) :]
    for given in opcode.stack_after:
        if given is pickletools.markobject:
            stack.append(given)
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo.get(argument))
        else:
            stack.append(argument if given in _STRINGS and isinstance(argument, str) else None)


_STRINGS = (pickletools.pyunicode, pickletools.pybytes_or_str)


def _joined(parts: list[Any]) -> str:
    if len(parts) == 2 and all(isinstance(part, str) for part in parts):
        return ".".join(parts)
    return HIDDEN
