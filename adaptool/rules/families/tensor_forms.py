"""TEN200–TEN299: what each other PEFT type saves."""

from __future__ import annotations
