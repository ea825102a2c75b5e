"""A validation as SARIF 2.1.0, which code hosts and editors show beside the files.

Format: OASIS Standard SARIF 2.1.0 with Errata 01. A tensor key is a logical location in the weights' file, a config
field one in adapter_config.json with its line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from adaptool import __version__
from adaptool.reports.findings import path_of
from adaptool.rules.catalogue import catalogue
from adaptool.rules.engine import AdapterReport, Validation
from adaptool.rules.finding import Finding, Severity
from adaptool.rules.rule import Rule

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}
MOST_LOCATIONS = 100
"""Logical locations of one result: viewers list them all."""


def sarif(validation: Validation) -> str:
    """The log of one run over all the adapters."""
    rules = catalogue()
    index = {rule.code: number for number, rule in enumerate(rules)}
    standing = [_result(report, finding, index) for report in validation.results for finding in report.findings]
    waived = [
        {**_result(report, item.finding, index), "suppressions": [_suppression(item.by, item.reason)]}
        for report in validation.results
        for item in report.suppressed
    ]
    driver = {"name": "adaptool", "semanticVersion": __version__, "rules": [_rule(rule) for rule in rules]}
    run = {
        "tool": {"driver": driver},
        "invocations": [_invocation(validation, index)],
        "columnKind": "unicodeCodePoints",
        "results": [*standing, *waived],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": "".join(word.capitalize() for word in rule.check.__name__.split("_")),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": " ".join(rule.why.split())},
        "help": {"text": f"{rule.why}\n\nFix: {rule.fix}", "markdown": f"{rule.why}\n\n**Fix:** {rule.fix}"},
        "defaultConfiguration": {"level": LEVELS[rule.severity], "enabled": rule.default and rule.consumer is None},
        "properties": {"tags": [rule.family, *([rule.consumer] if rule.consumer else [])]},
    }


def _result(report: AdapterReport, finding: Finding, index: dict[str, int]) -> dict[str, Any]:
    return {
        "ruleId": finding.code,
        "ruleIndex": index[finding.code],
        "level": LEVELS[finding.severity],
        "message": {"text": f"{finding.message}\nFix: {finding.fix}"},
        "locations": [_location(report, finding)],
        "partialFingerprints": {"adaptool/v1": finding.fingerprint},
    }


def _location(report: AdapterReport, finding: Finding) -> dict[str, Any]:
    path = path_of(report, finding)
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": _uri(path)}, "region": {"startLine": finding.line or 1}}
    }
    names = [finding.field] if finding.field else list(finding.tensors[:MOST_LOCATIONS])
    if names:
        kind = "property" if finding.field else "tensor"
        location["logicalLocations"] = [
            {"name": name.rpartition(".")[2] or name, "fullyQualifiedName": f"{finding.file}::{name}", "kind": kind}
            for name in names
        ]
    return location


def _uri(path: str) -> str:
    absolute = Path(path).is_absolute()
    text = quote(Path(path).as_posix().encode("utf-8", "surrogateescape"))
    return f"file://{text}" if absolute else text


def _suppression(by: str, reason: str) -> dict[str, str]:
    return {"kind": "external", "status": "accepted", "justification": f"{by}: {reason}"}


def _invocation(validation: Validation, index: dict[str, int]) -> dict[str, Any]:
    """What could not be checked is a failed execution, not a silent one."""
    notices: list[dict[str, Any]] = [
        {
            "level": "error",
            "message": {"text": f"{report.path}: {unchecked.code} could not be checked: {unchecked.reason}"},
            "associatedRule": {"id": unchecked.code, "index": index[unchecked.code]},
        }
        for report in validation.results
        for unchecked in report.unchecked
    ]
    notices += [{"level": "error", "message": {"text": failure.message}} for failure in validation.failures]
    return {
        "executionSuccessful": validation.exit_code != 3,
        "exitCode": validation.exit_code,
        "toolExecutionNotifications": notices,
    }
