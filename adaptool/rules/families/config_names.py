"""CFG300–CFG399: names and patterns of modules."""

from __future__ import annotations
