"""FIL100–FIL199: the layout of the weights' file."""

from __future__ import annotations
