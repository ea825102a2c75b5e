"""What verifying a GGUF found, as values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from adaptool.parity.defects import Defect
from adaptool.parity.diagnosis import Finding

GgufVerdict = Literal["bit-equal", "within the band", "wrong"]
GGUF_VERDICTS: tuple[GgufVerdict, ...] = get_args(GgufVerdict)


@dataclass(frozen=True, slots=True)
class GgufTensorVerdict:
    """What one tensor of the file is."""

    name: str
    type: str
    verdict: GgufVerdict
    touched: bool
    """Whether an adapter changes it."""
    elements: int
    rmse: float | None
    """‖q − x‖ / ‖x‖, of the file's values and the model's; None where it holds NaN or Inf."""
    expected_rmse: float | None
    """What llama-quantize's own quantiser loses on the same rows; None where it was not asked."""
    bound: float
    """The most a faithful tensor may lose."""
    scale: float | None
    """At which the update is there, 1 being right, where that was measured."""
    finding: Finding | None


@dataclass(frozen=True, slots=True)
class TypeLoss:
    """The tensors of one type."""

    type: str
    tensors: int
    nbytes: int
    mean_rmse: float | None
    worst_rmse: float | None
    typical_rmse: float
    """Of normal weights."""


@dataclass(frozen=True, slots=True)
class GgufVerification:
    """What a GGUF is."""

    verdict: GgufVerdict
    sentence: str
    file_type: str | None
    counts: Mapping[GgufVerdict, int]
    types: tuple[TypeLoss, ...]
    defects: tuple[Defect, ...]
    """The likeliest cause of the rest first."""
    tensors: tuple[GgufTensorVerdict, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.verdict != "wrong"

    def worst(self, number: int) -> tuple[GgufTensorVerdict, ...]:
        """The tensors furthest off, by how much of what they may lose they lose; wrong ones first."""
        other = [tensor for tensor in self.tensors if tensor.verdict != "bit-equal"]
        return tuple(sorted(other, key=severity, reverse=True)[:number])


def severity(tensor: GgufTensorVerdict) -> tuple[bool, float]:
    """By which the worst tensors come first."""
    share = tensor.rmse / tensor.bound if tensor.rmse is not None and tensor.bound else math.inf
    return tensor.verdict == "wrong", float(share)


def good_sentence(tensors: Sequence[GgufTensorVerdict], file_type: str | None, *, whole: bool) -> str:
    """What is said of a file with nothing wrong in it."""
    near = [tensor for tensor in tensors if tensor.verdict == "within the band"]
    label = f" as {file_type}" if file_type else ""
    if not near:
        return f"all {len(tensors)} tensors are bit for bit what llama-quantize writes of this model{label}"
    worst = max(near, key=severity)
    why = "" if whole else ", as with an imatrix or another quantiser"
    return (
        f"all {len(tensors)} tensors lose what their types lose on this model{label}: {len(near)} are not bit-equal"
        f"{why}; the furthest is {worst.name}, by {worst.rmse:.2%} where {worst.bound:.2%} is the most"
    )
