"""The checks a merge can be asked for, run on the finished folder before it is published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adaptool.errors import ParityError

if TYPE_CHECKING:
    from adaptool.merging.folder import MergeJob
    from adaptool.parity.forward import ForwardParity
    from adaptool.parity.verify import Verification


def verify_check(job: MergeJob, folder: Path) -> tuple[str, Verification]:
    """Every tensor of the written files against the merge computed once more."""
    from adaptool.adapters.base import open_base
    from adaptool.parity.verify import verify_store

    found = verify_store(job.merged, job.names, open_base(folder).store, job.options.workers, adapters=job.adapters)
    if not found.ok:
        raise ParityError(f"verification failed: {found.sentence}", hint="see what differs with: adaptool verify")
    return "verify", found


@dataclass(frozen=True)
class forward_check:  # noqa: N801
    """The outputs on prompts against PEFT's."""

    prompts: Sequence[str] = ()

    def __call__(self, job: MergeJob, folder: Path) -> tuple[str, ForwardParity]:
        from adaptool.parity.forward import forward_parity

        found = forward_parity(job.merged.plan.base.folder, job.adapters, folder, self.prompts)
        if not found.agrees:
            raise ParityError(
                f"the merged model does not answer like base + adapter: mean divergence {found.mean_divergence:.3g}, "
                f"where the bare base has {found.base_divergence:.3g}",
                hint="--verify compares the weights themselves",
            )
        return "forward", found
