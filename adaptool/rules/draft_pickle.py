"""PyTorch files made by hand, for drafts: what torch.save would write, and pickles that would do harm."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping

from adaptool.rules.draft import Array

SYSTEM = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
"""What pickle.dumps makes of an object whose __reduce__ is (os.system, ("true",)), in protocol 4."""

ARGUMENTS = b"\x80\x02ctransformers.training_args\nTrainingArguments\n)\x81}X\x04\x00\x00\x00seedK*sb."
"""A training_args.bin in short: an object of a class, rebuilt by importing it."""

_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def torch_zip(tensors: Mapping[str, Array], name: str = "archive") -> bytes:
    """A file of torch.save since PyTorch 1.6: a stored zip of one pickle and a member per storage; float32 only."""
    members = {f"{name}/data.pkl": _program(tensors), f"{name}/byteorder": b"little"}
    members |= {f"{name}/data/{number}": array.tobytes() for number, array in enumerate(tensors.values())}
    return zipped(members | {f"{name}/version": b"3\n"})


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of these members, under any names."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return out.getvalue()


def _program(tensors: Mapping[str, Array]) -> bytes:
    items = b"".join(_text(key) + _tensor(number, array) for number, (key, array) in enumerate(tensors.items()))
    return b"\x80\x02" + _ORDERED_DICT + b"(" + items + b"u."


def _tensor(number: int, array: Array) -> bytes:
    storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text(str(number)) + _text("cpu")
    strides = [stride // array.itemsize for stride in array.strides]
    layout = b"K\x00" + _numbers(array.shape) + _numbers(strides)
    arguments = b"(" + storage + _int(array.size) + b"tQ" + layout + b"\x89" + _ORDERED_DICT + b"t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _int(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def _numbers(values: tuple[int, ...] | list[int]) -> bytes:
    return b"(" + b"".join(_int(value) for value in values) + b"t"
