"""Every rule: silent on the good adapter, loud on the one its mutation breaks, explained in its docstring."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptool.adapters.base import open_base
from adaptool.rules.catalogue import RULES
from adaptool.rules.draft import Draft
from adaptool.rules.engine import AdapterReport, Options, validate
from adaptool.rules.rule import Rule
from adaptool.rules.selection import CONSUMERS, EVERYTHING, Selection


def validated(draft: Draft, folder: Path, rule: Rule | None = None) -> AdapterReport:
    """What every rule says of a draft; consumers' rules only under the consumer of ``rule``."""
    adapter, base = draft.write(folder)
    consumers = frozenset(CONSUMERS if rule is None else [rule.consumer] if rule.consumer else [])
    options = Options(Selection((EVERYTHING,), consumers=consumers), max_rank=draft.max_rank)
    result = validate([adapter], open_base(base), options)
    assert result.failures == ()
    return result.results[0]


def test_the_good_adapter_is_good(tmp_path):
    report = validated(Draft(), tmp_path)
    # no adapter of PEFT's on the q_proj of a Llama is good for Ollama, and none at all for MLX-LM
    assert {finding.code: finding.severity for finding in report.findings} == {"OLL003": "error", "MLX001": "error"}
    assert report.unchecked == ()
    assert report.verdict == "findings"
    assert len(report.checked) == len(RULES)


@pytest.mark.parametrize("code", RULES)
def test_the_mutation_triggers_its_rule(code, tmp_path):
    rule = RULES[code]
    draft = Draft()
    rule.breaks(draft)
    report = validated(draft, tmp_path, rule)
    found = [finding for finding in report.findings if finding.code == code]
    assert found, f"{code} is silent; found {[f.code for f in report.findings]}, unchecked {report.unchecked}"
    assert found[0].severity == rule.severity
    assert [unchecked for unchecked in report.unchecked if "internal error" in unchecked.reason] == []


@pytest.mark.parametrize("code", RULES)
def test_a_rule_is_explained(code):
    rule = RULES[code]
    assert not rule.title.endswith(".")
    assert len(rule.title) <= 60
    assert rule.why.endswith((".", "?"))
    assert rule.fix.endswith(".")
