"""Writing a fixed adapter: into a new folder, proved before it is published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adaptool.adapters.adapter import open_adapter
from adaptool.errors import UnsupportedError
from adaptool.fixing.fixes import Change, fixed
from adaptool.fixing.proof import Proof, prove
from adaptool.rules.subject import Subject
from adaptool.summary.beside import files_beside
from adaptool.writing.adapter_folder import AdapterJob, parent_of

TRAVELS = ("tokenizer", "chat template", "model card", "licence")
"""What goes with an adapter; the rest (pickles, code, checkpoints, logs) stays where it is."""


@dataclass(frozen=True)
class FixReport:
    """What was changed, and the proof that nothing else was."""

    out: Path
    files: tuple[str, ...]
    changes: tuple[Change, ...]
    proof: Proof | None
    """None in a dry run."""
    left: tuple[str, ...]
    """Files of the old folder that were not taken along."""


class FixJob(AdapterJob):
    """One adapter, corrected. Iterate it to run it, then read ``report``."""

    kind = "fixed"

    def __init__(self, subject: Subject, out: Path, *, workers: int = 1, overwrite: bool = False) -> None:
        self.state = fixed(subject)
        """The corrected adapter, and what it was."""
        beside = files_beside(subject.folder)
        taken = [file.name for file in beside if file.what in TRAVELS and _plain(subject.folder / file.name)]
        super().__init__(
            self.state.adapter, out, sides=[subject.folder / name for name in taken],
            workers=workers, overwrite=overwrite,
        )  # fmt: skip
        self.folder = subject.folder
        self.left = tuple(file.name for file in beside if file.name not in (*taken, *self.files))
        self.notes: tuple[str, ...] = ()
        self._proof: Proof | None = None

    @property
    def inputs(self) -> Iterable[Path]:
        return [self.folder, *super().inputs]

    def check(self, *, dry: bool = False) -> None:
        if not self.state.changes:
            raise UnsupportedError(
                f"{self.state.before.path}: there is nothing that --fix can correct",
                hint="see what the findings say to do",
            )
        super().check(dry=dry)

    def origin(self) -> Mapping[str, Any]:
        parents = [parent_of(self.state.before, "fixed_from")]
        return {"parents": parents, "changes": [change.what for change in self.state.changes]}

    def inspected(self, folder: Path) -> None:
        self._proof = prove(self.state.before, replace(open_adapter(folder), path=self.out))

    @property
    def estimate(self) -> FixReport:
        """What running the job would change."""
        return FixReport(self.out, self.files, self.state.changes, None, self.left)

    @property
    def report(self) -> FixReport:
        """What was done, once the job has run to its end."""
        assert self._proof is not None, "the job has not run to its end"
        return replace(self.estimate, proof=self._proof)


def _plain(path: Path) -> bool:
    """A file that lies in the folder itself: links are not followed."""
    return path.is_file() and not path.is_symlink()
