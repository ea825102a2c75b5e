"""BAS001–BAS099: the adapter against its base, from headers."""

from __future__ import annotations
