"""CFG400–CFG499: where the adapter comes from, and what would import code."""

from __future__ import annotations
