"""Buffers that a thread keeps from one block of rows to the next: fresh memory costs as much as the work in it."""

from __future__ import annotations

import threading

import numpy as np

from adaptool.tensors.dtypes import Array


class Scratch:
    """Named buffers, each thread's own; they grow as needed and are never sent elsewhere."""

    def __init__(self) -> None:
        self._held = threading.local()

    def __reduce__(self) -> tuple[object, ...]:
        return Scratch, ()

    def rows(self, name: str, rows: int, width: int, storage: str) -> Array:
        """An array of this shape and type, whose content is whatever it was."""
        nbytes = rows * width * np.dtype(storage).itemsize
        held = getattr(self._held, name, None)
        if held is None or held.nbytes < nbytes:
            held = np.empty(nbytes, np.uint8)
            setattr(self._held, name, held)
        return held[:nbytes].view(storage).reshape(rows, width)
