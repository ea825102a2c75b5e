"""The checks of a merge's GGUFs, run on the written files before anything is published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adaptool.errors import ParityError
from adaptool.gguf.quantised import Quantised
from adaptool.parity.gguf_model import merged_model_of
from adaptool.parity.gguf_verify import open_gguf_job
from adaptool.writing.job import Output

if TYPE_CHECKING:
    from adaptool.merging.folder import MergeJob
    from adaptool.parity.gguf_forward import GgufForward
    from adaptool.parity.gguf_report import GgufVerification


@dataclass(frozen=True)
class GgufsVerified:
    """Every GGUF of a merge held against the merge, tensor by tensor."""

    sentence: str
    files: tuple[GgufVerification, ...]


@dataclass(frozen=True)
class GgufsRun:
    """Every GGUF of a merge run in llama.cpp beside the merged model."""

    sentence: str
    files: tuple[GgufForward, ...]


def verify_gguf_check(job: MergeJob, folder: Path) -> tuple[str, GgufsVerified]:
    """Every tensor of the written GGUFs against the merge computed once more."""
    model = merged_model_of(job)
    findings, said = [], []
    for output in _ggufs(job):
        name = output.plans[0].name
        imatrix = output.store.imatrix if isinstance(output.store, Quantised) else None
        check = open_gguf_job(model, folder / name, imatrix=imatrix, workers=job.workers)
        for _ in check:
            pass
        findings.append(check.report)
        said.append(f"{name}: {check.report.sentence}")
        if not check.report.ok:
            raise ParityError(f"verification failed: {said[-1]}", hint="see what differs with: adaptool verify")
    return "verify GGUF", GgufsVerified("; ".join(said), tuple(findings))


@dataclass(frozen=True)
class forward_gguf_check:  # noqa: N801
    """What the GGUFs answer in llama.cpp against the merged model in transformers."""

    prompts: Sequence[str] = ()

    def __call__(self, job: MergeJob, folder: Path) -> tuple[str, GgufsRun]:
        from adaptool.parity.gguf_forward import forward_gguf

        findings, said = [], []
        for output in _ggufs(job):
            name = output.plans[0].name
            found = forward_gguf(folder / name, folder, self.prompts, threads=job.workers)
            findings.append(found)
            said.append(f"{name}: {_told(found)}")
            if not found.agrees:
                hint = "--verify compares the weights themselves; a tokenizer that differs is one of --pre NAME"
                raise ParityError(f"the GGUF does not answer like the merged model: {said[-1]}", hint=hint)
        return "forward GGUF", GgufsRun("; ".join(said), tuple(findings))


def _ggufs(job: MergeJob) -> Iterator[Output]:
    for export in job.exports:
        yield from export.outputs


def _told(found: GgufForward) -> str:
    if found.tokenization:
        first = found.tokenization[0]
        where = f"{first.text[:40]!r} from token {first.position}"
        return f"cuts {len(found.tokenization)} of the prompts into other tokens, {where}"
    if found.embeddings is not None:
        return f"embeddings point alike, to a cosine of {found.embeddings.min_cosine:.4f}"
    assert found.distributions is not None
    top1 = found.distributions.top1_agreement
    same = (
        "" if top1 is None else f"the same likeliest token in {top1:.1%} of {found.distributions.positions} positions, "
    )
    bound = f"where {found.file_type} may have {found.bound.mean_kl:g}"
    return f"{same}mean KL {found.distributions.mean_kl:.2g} nats {bound}"
