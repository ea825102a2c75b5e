"""FIL300–FIL399: secrets in text beside the weights."""

from __future__ import annotations
