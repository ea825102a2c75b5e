"""CFG200–CFG299: ranks, alphas and scales."""

from __future__ import annotations
