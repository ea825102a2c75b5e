"""The linter's rules: one file per family in ``families``, one decorated generator per rule.

Importing this package registers them all, in the order they are reported and documented.
"""

from __future__ import annotations

from adaptool.rules import families  # noqa: F401  (importing it registers the rules)
from adaptool.rules.rule import FAMILIES, RULES, Rule, rule

__all__ = ["FAMILIES", "RULES", "Rule", "rule"]
