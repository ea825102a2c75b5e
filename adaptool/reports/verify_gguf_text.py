"""The verification of a GGUF for people: the verdict in a sentence, what each type lost, the tensors furthest off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptool.reports.figures import count, percent, size
from adaptool.reports.layout import BLANK, Column, Line, Style, heading, table
from adaptool.reports.verify_text import WORST, opening, unequal, worst_title

if TYPE_CHECKING:
    from adaptool.parity.gguf_report import GgufTensorVerdict, GgufVerification, TypeLoss

EXACT = 1e-6
"""What a type loses less than is nothing."""

STYLES: dict[str, Style] = {"bit-equal": "good", "within the band": "good", "wrong": "bad"}

TYPES = (
    Column("TYPE"),
    Column("TENSORS", right=True),
    Column("BYTES", right=True, keep=5),
    Column("LOSS", right=True),
    Column("WORST", right=True),
    Column("USUALLY", right=True, keep=6),
)

TENSORS = (
    Column("TENSOR", elastic=True),
    Column("TYPE", keep=6),
    Column("VERDICT"),
    Column("LOSS", right=True, keep=8),
    Column("ALLOWED", right=True, keep=7),
    Column("SCALE", right=True, keep=4),
    Column("FINDING", keep=5),
)


def gguf_verification_report(found: GgufVerification, name: str, width: int, *, verbose: bool = False) -> list[Line]:
    """One verification, in lines of at most ``width`` columns; ``name`` is what was checked."""
    lines = opening(found, name, STYLES[found.verdict], width)
    if found.types:
        title = "WHAT QUANTISING LOST, ‖q − x‖ / ‖x‖"
        lines += [BLANK, heading(title), *table(TYPES, [_type(one) for one in found.types], width)]
    off = unequal(found)
    worst = found.worst(off if verbose else WORST)
    if worst:
        title = worst_title(len(worst), off)
        lines += [BLANK, heading(title), *table(TENSORS, [_tensor(tensor) for tensor in worst], width)]
    return lines


def _type(loss: TypeLoss) -> list[str]:
    figures = [percent(value) for value in (loss.mean_rmse, loss.worst_rmse)]
    usually = percent(loss.typical_rmse) if loss.typical_rmse > EXACT else ""
    return [loss.type, count(loss.tensors), size(loss.nbytes), *figures, usually]


def _tensor(tensor: GgufTensorVerdict) -> list[str]:
    scale = "" if tensor.scale is None else f"{round(tensor.scale, 2) + 0.0:.2f}×"
    finding = "" if tensor.finding is None else tensor.finding.kind
    verdict = {"within the band": "in band"}.get(tensor.verdict, tensor.verdict)
    figures = [percent(tensor.rmse) or "NaN", percent(tensor.bound)]
    return [tensor.name, tensor.type, verdict, *figures, scale, finding]
