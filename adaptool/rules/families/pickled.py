"""FIL200–FIL299: pickles, by their first bytes, whatever they are called."""

from __future__ import annotations
