"""CFG100–CFG199: its fields against the schema of its PEFT type."""

from __future__ import annotations
