"""CFG001–CFG099: adapter_config.json as JSON."""

from __future__ import annotations
