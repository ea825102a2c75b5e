"""Which rules run: by the prefixes the user selects and ignores, and the runtimes the adapter is for."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property

from adaptool.errors import UsageError
from adaptool.rules.catalogue import RULES, catalogue
from adaptool.rules.families.consumers.facts import CONSUMERS
from adaptool.rules.prefixes import EVERYTHING, matched
from adaptool.rules.rule import Rule


@dataclass(frozen=True)
class Selection:
    """``select`` and ``ignore`` hold prefixes of codes ("TEN", "VAL2", "CFG103") or "ALL"; the longest match wins."""

    select: tuple[str, ...] = ()
    """Empty: every rule that is on by default."""
    ignore: tuple[str, ...] = ()
    consumers: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for prefix in (*self.select, *self.ignore):
            if prefix != EVERYTHING and not any(code.startswith(prefix) for code in RULES):
                raise UsageError(f"no rule's code begins with {prefix!r}", hint=_nearest(prefix))
        for name in self.consumers:
            if name not in CONSUMERS:
                near = difflib.get_close_matches(name, CONSUMERS, n=1)
                hint = f"did you mean: {near[0]}" if near else f"one of: {', '.join(CONSUMERS)}"
                raise UsageError(f"no rules for {name!r}", hint=hint)

    def __contains__(self, rule: Rule) -> bool:
        chosen, dropped = matched(rule.code, self.select), matched(rule.code, self.ignore)
        if rule.consumer is not None:
            return rule.consumer in self.consumers and dropped < 0
        if self.select and chosen < 0:
            return False
        return (rule.default or chosen >= 0) and dropped <= (chosen if self.select else -1)

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The selected rules, in order: one list for all the adapters of a run."""
        return tuple(rule for rule in catalogue() if rule in self)


def _nearest(prefix: str) -> str:
    near = difflib.get_close_matches(prefix, RULES, n=1, cutoff=0.5)
    return f"did you mean: {near[0]}; see: adaptool rules" if near else "see: adaptool rules"
