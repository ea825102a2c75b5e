"""Which quantisation a checkpoint is stored in, so that what cannot be read can be refused by its name.

What is stored decides: transformers keeps ``quantization_config`` for weights it only quantises while loading, and
a checkpoint that was dequantised may still carry one. Names follow ``quant_method`` in transformers 5.23, with
bitsandbytes told apart as ``bnb-4bit`` and ``bnb-8bit``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from adaptool.tensors.bnb_state import MARK
from adaptool.tensors.store import Store, TensorInfo

LABELS = {
    "bnb-4bit": "bitsandbytes 4-bit (NF4/FP4)",
    "bnb-8bit": "bitsandbytes 8-bit (LLM.int8)",
    "gptq": "GPTQ",
    "awq": "AWQ",
    "aqlm": "AQLM",
    "vptq": "VPTQ",
    "spqr": "SpQR",
    "quanto": "optimum-quanto",
    "eetq": "EETQ int8",
    "higgs": "HIGGS",
    "hqq": "HQQ",
    "sinq": "SINQ",
    "fp_quant": "FP-Quant",
    "compressed-tensors": "compressed-tensors",
    "fbgemm_fp8": "FBGEMM FP8",
    "fp8": "FP8",
    "mxfp4": "MXFP4",
    "mxfp8": "MXFP8",
    "nvfp4": "NVFP4",
    "modelopt": "NVIDIA ModelOpt",
    "torchao": "torchao",
    "bitnet": "BitNet",
    "quark": "AMD Quark",
    "auto-round": "AutoRound",
    "fouroversix": "Four Over Six",
    "metal": "Metal affine",
    "mlx": "MLX",
}
"""What to call each method in a message; one that is not here is called what its config calls it."""


def quantization_of(config: Mapping[str, Any] | None, store: Store) -> str | None:
    """The method the tensors of ``store`` are quantised with, or None where they are plain numbers.

    ``config`` is the model's config.json. It names the method where the tensors show that there is one; without it,
    the names and types of the tensors do (``"integer weights"`` where they fit no known method).
    """
    if all(_plain(info) for info in store.infos.values()):
        return None
    seen, named = _from_tensors(store), _from_config(config)
    if seen is not None and (seen.startswith("bnb") or named is None or named.startswith("bnb")):
        return seen
    return named or ("integer weights" if any(_integer_weight(info) for info in store.infos.values()) else None)


def label(method: str) -> str:
    """The name of a method for a message."""
    return LABELS.get(method, method)


def quantization_config(config: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The quantisation entry of a config.json, wherever the model's kind keeps it."""
    for part in (config or {}, (config or {}).get("text_config")):
        if isinstance(part, Mapping):
            for key in ("quantization_config", "compression_config", "quantization"):
                if isinstance(entry := part.get(key), Mapping):
                    return entry
    return None


def _from_config(config: Mapping[str, Any] | None) -> str | None:
    entry = quantization_config(config)
    if entry is None:
        return None
    method = entry.get("quant_method")
    if entry.get("load_in_8bit") is True:
        return "bnb-8bit"
    if entry.get("load_in_4bit") is True or method == "bitsandbytes":
        return "bnb-4bit"
    if isinstance(method, str) and method:
        return method.lower()
    return "mlx" if "group_size" in entry and "bits" in entry else None


def _plain(info: TensorInfo) -> bool:
    """Whether a tensor holds numbers as they are, or is a buffer that plain checkpoints have too."""
    return info.dtype.mergeable or info.dtype.name in ("I64", "BOOL", "C64")


def _integer_weight(info: TensorInfo) -> bool:
    return not _plain(info) and info.name.endswith("weight") and len(info.shape) > 1


def _from_tensors(store: Store) -> str | None:
    endings = _Endings(store)
    return next((method for method, shows in SIGNS if shows(endings)), None)


class _Endings:
    """Questions about how tensors are named: ``endings.together(".qweight", ".scales")``."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def any(self, *endings: str) -> bool:
        """Some tensor ends in one of them."""
        return any(name.endswith(endings) for name in self.store)

    def together(self, first: str, *others: str, kinds: tuple[str, ...] = ()) -> bool:
        """Some tensor ends in the first (with a type among ``kinds``), and its siblings in all the others are there."""
        return any(self.stems(first, *others, kinds=kinds))

    def stems(self, first: str, *others: str, kinds: tuple[str, ...] = ()) -> Iterator[str]:
        """What precedes the endings, for each tensor that ``together`` accepts."""
        for name, info in self.store.infos.items():
            stem = name.removesuffix(first)
            if stem != name and (not kinds or info.dtype.name in kinds) and all(stem + o in self.store for o in others):
                yield stem

    def same_columns(self, first: str, second: str) -> bool:
        """In the first pair of siblings, both have rows of the same length."""
        stem = next(self.stems(first, second), None)
        return stem is not None and self.store[stem + first].columns == self.store[stem + second].columns


_INT8 = ("I8", "U8")
_FP8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")

SIGNS: tuple[tuple[str, Callable[[_Endings], bool]], ...] = (
    (
        "bnb-4bit",
        lambda of: any(MARK in name for name in of.store) or of.together(".weight.absmax", ".weight.quant_map"),
    ),
    ("bnb-8bit", lambda of: of.together(".SCB", ".weight")),
    ("mxfp4", lambda of: of.together("_blocks", "_scales", kinds=("U8",))),
    ("nvfp4", lambda of: of.together(".weight_scale_2", ".weight_scale", ".weight")),
    ("compressed-tensors", lambda of: of.together(".weight_packed", ".weight_scale")),
    ("fp_quant", lambda of: of.any(".forward_hadamard_matrix", ".dqweight")),
    # GPTQ packs along the input and AWQ along the output, where the scales lie
    ("gptq", lambda of: of.together(".qweight", ".g_idx") or of.same_columns(".qweight", ".scales")),
    ("awq", lambda of: of.together(".qweight", ".scales")),
    ("eetq", lambda of: of.together(".weight", ".weight_scales", kinds=_INT8)),
    ("hqq", lambda of: of.together(".W_q", ".scale") or of.together(".W_q", ".zero")),
    ("sinq", lambda of: of.any(".W_q")),
    ("aqlm", lambda of: of.together(".codes", ".codebooks")),
    ("vptq", lambda of: of.together(".indices", ".centroids.weight")),
    ("spqr", lambda of: of.together(".dense_weights", ".row_offsets")),
    ("higgs", lambda of: of.together(".tables2", ".scales")),
    ("quanto", lambda of: of.together(".weight._data", ".weight._scale")),
    ("torchao", lambda of: of.any("_weight_qdata", "_weight_int_data")),
    ("metal", lambda of: of.together(".weight", ".scales", ".qbiases")),
    ("mlx", lambda of: of.together(".weight", ".scales", kinds=("U32",))),
    ("bitnet", lambda of: of.together(".weight", ".weight_scale", kinds=("U8",))),
    ("compressed-tensors", lambda of: of.together(".weight", ".weight_scale", kinds=("I8",))),
    ("fp8", lambda of: of.any("weight_scale_inv") or any(info.dtype.name in _FP8 for info in of.store.infos.values())),
)
"""What a method's checkpoints look like, the most telling first."""
