"""ADV001–ADV099: what practitioners would look at again."""

from __future__ import annotations
