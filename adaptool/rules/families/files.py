"""FIL001–FIL099: what lies in an adapter's folder."""

from __future__ import annotations

from collections.abc import Iterator

from adaptool.adapters.adapter import WEIGHTS_NAME
from adaptool.adapters.config import CONFIG_NAME
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject


@rule("FIL001", "error", "no adapter_config.json", breaks=lambda draft: draft.removed.add(CONFIG_NAME))
def no_config(subject: Subject) -> Iterator[Problem]:
    """Without its config an adapter has no type, rank or scale: no library can load it.

    Fix: copy adapter_config.json from where the adapter was trained; save_pretrained writes both files.
    """
    if not (subject.folder / CONFIG_NAME).exists():
        yield Problem(f"there is no {CONFIG_NAME} beside {subject.weights_name}", CONFIG_NAME)


@rule("FIL002", "error", "no weights", breaks=lambda draft: draft.removed.add(WEIGHTS_NAME))
def no_weights(subject: Subject) -> Iterator[Problem]:
    """A config alone is not an adapter: loading it gives a randomly initialised one, or fails.

    Fix: fetch or save the weights again; the download or the save was cut off.
    """
    if subject.weights_path is None:
        yield Problem(f"there is a config and no {WEIGHTS_NAME}", WEIGHTS_NAME)
