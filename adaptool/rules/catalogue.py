"""Every rule there is. Importing this registers them; who only asks what a config means need not wait for them."""

from __future__ import annotations

from adaptool.rules import families  # noqa: F401  (importing it registers the rules)
from adaptool.rules.rule import FAMILIES, RULES, Rule

__all__ = ["RULES", "catalogue"]


def catalogue() -> tuple[Rule, ...]:
    """Every rule, family by family."""
    order = list(FAMILIES)
    return tuple(sorted(RULES.values(), key=lambda rule: (order.index(rule.family), rule.code)))
