"""The names a pickle of tensors may use, and what each means here: a description, never an import or a call.

A name is held as an inert ``Global``; "calling" it yields a ``TensorRef``, a dict, a tuple, or a refusal.
The list is what torch.save writes for a state_dict of dense tensors, and no more: not NumPy's reconstructors, not
``torch.nn`` modules, not quantised or sparse tensors, not ``argparse.Namespace``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

from adaptool.errors import FormatError, UnsupportedError
from adaptool.tensors.dtypes import DTYPES, DType

DIMENSIONS_LIMIT = 32
"""The most axes every NumPy can give an array."""

ARGUMENTS_LIMIT = 8
"""What the longest signature takes; a longer tuple is not looked through: it could be handed over again and again."""

STORAGE_TYPES = {
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
    "torch.ComplexFloatStorage": "C64",
    # counted in bytes; the tensor brings its own type
    "torch.storage.UntypedStorage": "U8",
    "torch.storage.TypedStorage": "U8",
    "torch.UntypedStorage": "U8",
}

ELEMENT_TYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.float8_e4m3fnuz": "F8_E4M3FNUZ",
    "torch.float8_e5m2fnuz": "F8_E5M2FNUZ",
    "torch.float8_e8m0fnu": "F8_E8M0",
    "torch.complex64": "C64",
    "torch.uint64": "U64",
    "torch.uint32": "U32",
    "torch.uint16": "U16",
    "torch.uint8": "U8",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.bool": "BOOL",
}

CALLABLES = frozenset(
    {
        "collections.OrderedDict",
        "torch.Size",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
    }
)


@dataclass(frozen=True, slots=True)
class Global:
    """A name the pickle asked to import, on the allow-list, and not imported."""

    name: str


@dataclass(frozen=True, slots=True)
class StorageRef:
    """``numel`` elements of a storage called ``key``, from element ``start`` of the whole, which has ``whole``."""

    key: str
    dtype: DType
    start: int
    numel: int
    whole: int

    @property
    def nbytes(self) -> int:
        """Bytes of the part."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor as torch describes it: a view of a storage; offset and strides in elements."""

    storage: StorageRef
    dtype: DType
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def named(name: str, where: str) -> Global:
    """The name as an inert value; UnsupportedError if it is not on the list."""
    if name not in CALLABLES and name not in STORAGE_TYPES and name not in ELEMENT_TYPES:
        raise refused(name, where)
    return Global(name)


def called(function: Global, arguments: tuple[Any, ...], where: str) -> object:
    """What torch would build by calling ``function``, described."""
    if len(arguments) > ARGUMENTS_LIMIT:
        raise refused(f"{function.name} with unusual arguments", where)
    match function.name, arguments:
        case "collections.OrderedDict", ():
            return {}
        case "torch.Size", (tuple() as shape,):
            return shape
        case "torch._utils._rebuild_parameter", (TensorRef() as tensor, _, _):
            return tensor
        case "torch._utils._rebuild_tensor", (StorageRef() as storage, offset, shape, strides):
            return _tensor(storage, storage.dtype, (offset, shape, strides), where)
        case "torch._utils._rebuild_tensor_v2", (StorageRef() as storage, offset, shape, strides, _, _, *bits):
            _check_bits(bits, where)
            return _tensor(storage, storage.dtype, (offset, shape, strides), where)
        case (
            "torch._utils._rebuild_tensor_v3",
            (StorageRef() as storage, offset, shape, strides, _, _, Global(name), *bits),
        ) if name in ELEMENT_TYPES:
            _check_bits(bits, where)
            return _tensor(storage, DTYPES[ELEMENT_TYPES[name]], (offset, shape, strides), where)
    raise refused(f"{function.name} with unusual arguments", where)


def stored(identity: object, where: str) -> StorageRef:
    """The storage a persistent id stands for: ("storage", type, key, device, elements, and once a view of it)."""
    if type(identity) is not tuple or len(identity) > ARGUMENTS_LIMIT:
        raise refused("a persistent object that is not a storage", where)
    match identity:
        case ("storage", Global(name), str() as key, str(), whole, *view) if name in STORAGE_TYPES:
            start, part = 0, whole
            match view:
                case [] | [None]:
                    pass
                case [(_, start, part)]:  # torch before 0.4 stored views so
                    pass
                case _:
                    raise broken("a storage that is an impossible view", where)
            if not _naturals((whole, start, part)) or start + part > whole:
                raise broken("a storage of an impossible size", where)
            return StorageRef(key, DTYPES[STORAGE_TYPES[name]], start, part, whole)
    raise refused("a persistent object that is not a storage", where)


def refused(what: str, where: str) -> UnsupportedError:
    """The error for what is understood, and more than a file of tensors needs."""
    return UnsupportedError(
        f"{where}: asks for {shown(what)}, which a file of tensors does not need",
        hint="nothing was executed; if you trust its maker, have it converted to safetensors where it was made",
        defect="refused",
    )


def broken(why: str, where: str) -> FormatError:
    """The error for what no pickler writes."""
    return FormatError(f"{where}: a broken pickle: {why}", defect="broken-pickle")


def shown(name: str) -> str:
    """A stranger's name, short and printable."""
    return ascii(name[:200])[1:-1]


def _tensor(storage: StorageRef, kind: DType, layout: tuple[object, object, object], where: str) -> TensorRef:
    offset, shape, strides = layout
    if _naturals((offset,)) and _naturals(shape) and _naturals(strides) and len(shape) == len(strides):
        return TensorRef(storage, kind, offset, shape, strides)  # type: ignore[arg-type]
    raise broken("a tensor of an impossible shape, strides or offset", where)


def _check_bits(bits: list[Any], where: str) -> None:
    # torch may store a tensor as the conjugate or the negative of its bytes
    if (
        bits
        and bits[0] is not None
        and (type(bits[0]) is not dict or any(bit is not False for bit in bits[0].values()))
    ):
        raise refused("a tensor with its conjugate or negative bit set", where)


def _naturals(values: object) -> TypeGuard[tuple[int, ...]]:
    return (
        type(values) is tuple
        and len(values) <= DIMENSIONS_LIMIT
        and all(type(value) is int and 0 <= value < 2**63 for value in values)
    )
