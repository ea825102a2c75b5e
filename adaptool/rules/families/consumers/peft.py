"""What peft makes of an adapter."""

from __future__ import annotations
