"""TEN001–TEN199: every saved tensor in one place, and LoRA's factors against each other and the config."""

from __future__ import annotations
