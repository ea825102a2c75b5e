"""What to quantise to: llama.cpp's file types by name, the user's exceptions to them, and an imatrix.

A file type ("Q4_K_M") is a mixture: a default tensor type and rules that give some tensors another
(``mixtures``). Source: llama.h (``llama_ftype``) and tools/quantize of llama.cpp b11434.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from adaptool.adapters.config import matches
from adaptool.errors import FormatError, UnsupportedError, UsageError
from adaptool.gguf.imatrix import Imatrix
from adaptool.tensors.dtypes import DType
from adaptool.tensors.ggml.types import ggml_type
from adaptool.tensors.ggml.values import KeyValues, Value, text, u32


@dataclass(frozen=True, slots=True)
class FileType:
    """One of llama.cpp's file types: its name, its number (``general.file_type``) and the type most tensors get."""

    label: str
    number: int
    default: DType


FILE_TYPES = {
    label: FileType(label, number, ggml_type(default))
    for label, number, default in (
        ("F32", 0, "F32"),
        ("F16", 1, "F16"),
        ("BF16", 32, "BF16"),
        ("Q8_0", 7, "Q8_0"),
        ("Q4_0", 2, "Q4_0"),
        ("Q4_1", 3, "Q4_1"),
        ("Q5_0", 8, "Q5_0"),
        ("Q5_1", 9, "Q5_1"),
        ("Q2_K", 10, "Q2_K"),
        ("Q2_K_S", 21, "Q2_K"),
        ("Q3_K_S", 11, "Q3_K"),
        ("Q3_K_M", 12, "Q3_K"),
        ("Q3_K_L", 13, "Q3_K"),
        ("Q4_K_S", 14, "Q4_K"),
        ("Q4_K_M", 15, "Q4_K"),
        ("Q5_K_S", 16, "Q5_K"),
        ("Q5_K_M", 17, "Q5_K"),
        ("Q6_K", 18, "Q6_K"),
        ("IQ4_NL", 25, "IQ4_NL"),
        ("IQ4_XS", 30, "IQ4_XS"),
        ("IQ1_S", 24, "IQ1_S"),
        ("IQ1_M", 31, "IQ1_M"),
        ("IQ2_XXS", 19, "IQ2_XXS"),
        ("IQ2_XS", 20, "IQ2_XS"),
        ("IQ2_S", 28, "IQ2_XS"),
        ("IQ2_M", 29, "IQ2_S"),
        ("IQ3_XXS", 23, "IQ3_XXS"),
        ("IQ3_XS", 22, "IQ3_S"),
        ("IQ3_S", 26, "IQ3_S"),
        ("IQ3_M", 27, "IQ3_S"),
        ("TQ1_0", 36, "TQ1_0"),
        ("TQ2_0", 37, "TQ2_0"),
        ("MXFP4_MOE", 38, "MXFP4"),
    )
}

ALIASES = {
    "q2": "q2_k",
    "q3": "q3_k_m",
    "q4": "q4_k_m",
    "q5": "q5_k_m",
    "q6": "q6_k",
    "q8": "q8_0",
    "q3_k": "q3_k_m",
    "q4_k": "q4_k_m",
    "q5_k": "q5_k_m",
    "mxfp4": "mxfp4_moe",
}
"""Short names; those without a file type of their own are llama-quantize's (q3_k) or the usual choice (q4)."""

OVERRIDE_TYPES = tuple(
    sorted({kind.default.name for kind in FILE_TYPES.values()}, key=lambda name: (name.startswith("IQ"), name))
)
"""What ``--tensor-type`` may ask for: every type that something can be quantised to."""

IMATRIX_TEXT_BYTES = 127
"""llama-quantize keeps the imatrix's path and dataset in a buffer of 128 bytes."""

Overrides = tuple[tuple[str, DType], ...]
"""Pattern → type: the first pattern found in a tensor's name decides."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One GGUF to write: a file type, ``--tensor-type`` exceptions to its mixture, and an imatrix."""

    file_type: FileType
    overrides: Overrides = ()
    imatrix: Imatrix | None = None

    @property
    def label(self) -> str:
        """What stands in a file name: "Q4_K_M", "BF16"."""
        return self.file_type.label

    @property
    def quantises(self) -> bool:
        """Whether the file type is a quantised one: for the plain ones no mixture and no override counts."""
        return self.label not in ("F32", "F16", "BF16")

    def override(self, name: str) -> tuple[str, DType] | None:
        """The first override whose pattern occurs in ``name``."""
        found = (pair for pair in self.overrides if _occurs(pair[0], name))
        return next(found, None)


def parse_recipes(words: str, *, overrides: Iterable[str] = (), imatrix: Imatrix | None = None) -> tuple[Recipe, ...]:
    """The recipes of a list such as "q4,q8_0", all with the same overrides ("PATTERN=TYPE") and imatrix."""
    exceptions = parse_overrides(overrides)
    kinds = [_file_type(word.strip()) for word in words.split(",")]
    label, count = Counter(kind.label for kind in kinds).most_common(1)[0]
    if count > 1:
        raise UsageError(f"{label} is asked for {count} times in {words!r}", hint="name each file type once")
    return tuple(Recipe(kind, exceptions, imatrix) for kind in kinds)


def parse_overrides(pairs: Iterable[str]) -> Overrides:
    """``PATTERN=TYPE`` pairs; patterns are lower-cased and searched in GGUF names, as llama-quantize does."""
    return tuple(_override(pair) for pair in pairs)


def quantized_keys(keys: KeyValues, recipe: Recipe) -> dict[str, Value]:
    """A 16-bit file's metadata as llama-quantize rewrites it: same order, what it sets moved to the end.

    ``split.*`` goes (a writer of shards sets its own), ``general.quantization_version`` and
    ``general.file_type`` come last, then what the imatrix was.
    """
    added = {"general.quantization_version": u32(2), "general.file_type": u32(recipe.file_type.number)}
    if recipe.imatrix is not None:
        added |= _imatrix_keys(recipe.imatrix)
    gone = {"split.no", "split.count", "split.tensors.count"} | set(added)
    return {key: value for key, value in keys.items() if key not in gone} | added


def _file_type(word: str) -> FileType:
    key = word.lower()
    label = ALIASES.get(key, key).upper()
    if label in FILE_TYPES:
        return FILE_TYPES[label]
    known = [*(label.lower() for label in FILE_TYPES), *ALIASES]
    listed = f"one of: {', '.join(known)}"
    if not word:
        raise UsageError("no file type between two commas", hint=listed)
    close = get_close_matches(key, known, n=1)
    raise UsageError(
        f"unknown file type {word!r}", hint=f"did you mean {close[0]}? It is {listed}" if close else listed
    )


def _override(pair: str) -> tuple[str, DType]:
    pattern, equals, name = pair.partition("=")
    if not (pattern and equals and name):
        raise UsageError(f"--tensor-type {pair!r} is not PATTERN=TYPE", hint="for example: attn_v=q8_0")
    pattern = pattern.lower()
    _occurs(pattern, "")
    return pattern, _override_type(name.strip(), pair)


def _override_type(name: str, pair: str) -> DType:
    if name.upper() in OVERRIDE_TYPES:
        return ggml_type(name)
    known = ", ".join(kind.lower() for kind in OVERRIDE_TYPES)
    mixture = FILE_TYPES.get(ALIASES.get(name.lower(), name).upper())
    hint = f"one of: {known}"
    if mixture is not None:
        hint = f"{mixture.label} is a mixture for whole files; for one tensor say {mixture.default.name.lower()}"
    try:
        ggml_type(name)
    except UnsupportedError:
        raise UsageError(f"--tensor-type {pair!r}: unknown type {name!r}", hint=hint) from None
    raise UsageError(f"--tensor-type {pair!r}: {name} is no type to store weights in", hint=hint)


def _occurs(pattern: str, name: str) -> bool:
    """Whether ``pattern`` is found anywhere in ``name``, within a time limit."""
    try:
        matches(pattern, "", "--tensor-type")
        return matches(f".*(?:{pattern})", name, "--tensor-type")
    except FormatError as error:
        raise UsageError(error.message, hint="a regular expression, searched in names such as blk.0.attn_v") from None


def _imatrix_keys(imatrix: Imatrix) -> dict[str, Value]:
    keys = {"quantize.imatrix.file": _short(str(imatrix.path))}
    if imatrix.datasets:
        keys["quantize.imatrix.dataset"] = _short(imatrix.datasets[0])
    keys["quantize.imatrix.entries_count"] = u32(len(imatrix.entries))
    if imatrix.chunks > 0:
        keys["quantize.imatrix.chunks_count"] = u32(imatrix.chunks)
    return keys


def _short(words: str) -> Value:
    raw = words.encode(errors="surrogateescape")[:IMATRIX_TEXT_BYTES]
    try:
        return text(raw.decode())
    except UnicodeDecodeError:  # cut inside a character
        return text(raw)
