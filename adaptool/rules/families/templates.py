"""FIL400–FIL499: chat templates, parsed and never rendered."""

from __future__ import annotations
