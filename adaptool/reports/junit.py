"""JUnit XML, which every CI system shows: of a validation, where an adapter is a suite, a rule a test."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from adaptool.reports.findings import place_of
from adaptool.rules.catalogue import RULES
from adaptool.rules.engine import AdapterReport, Validation
from adaptool.rules.finding import Finding, Severity, fails

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold even escaped."""


def junit(validation: Validation) -> str:
    """One document for all the adapters."""
    root = Element("testsuites", name="adaptool validate")
    for report in validation.results:
        _suite(root, report, validation.fail_on)
    if validation.failures:
        number = str(len(validation.failures))
        suite = SubElement(root, "testsuite", name="paths", tests=number, failures="0", errors=number, skipped="0")
        for failure in validation.failures:
            case = SubElement(suite, "testcase", classname="paths", name=clean(failure.path))
            SubElement(case, "error", message=clean(failure.message)).text = clean(failure.hint or "")
    return document(root)


def _suite(root: Element, report: AdapterReport, fail_on: Severity) -> None:
    by_code: dict[str, list[Finding]] = {}
    for finding in report.findings:
        by_code.setdefault(finding.code, []).append(finding)
    waived = {item.finding.code: item for item in report.suppressed}
    failed = {code for code, found in by_code.items() if any(fails(finding, fail_on) for finding in found)}
    skipped = set(waived) - set(by_code)
    name = clean(report.path)
    numbers = {"tests": len(report.checked) + len(report.unchecked), "failures": len(failed),
               "errors": len(report.unchecked), "skipped": len(skipped)}  # fmt: skip
    suite = SubElement(root, "testsuite", {"name": name, **{key: str(value) for key, value in numbers.items()}})
    for code in report.checked:
        case = SubElement(suite, "testcase", classname=name, name=f"{code} {RULES[code].title}")
        text = clean("\n\n".join(map(_told, by_code.get(code, []))))
        if code in failed:
            worst = by_code[code][0]
            SubElement(case, "failure", type=worst.severity, message=clean(worst.message)).text = text
        elif text:
            SubElement(case, "system-out").text = text
        elif code in skipped:
            SubElement(case, "skipped", message=clean(f"{waived[code].by}: {waived[code].reason}"))
    for unchecked in report.unchecked:
        case = SubElement(suite, "testcase", classname=name, name=f"{unchecked.code} {RULES[unchecked.code].title}")
        SubElement(case, "error", type="unchecked", message=clean(f"could not be checked: {unchecked.reason}"))


def _told(finding: Finding) -> str:
    return f"{finding.severity}: {finding.message}\n{place_of(finding)}\nfix: {finding.fix}"


def document(root: Element) -> str:
    """The file."""
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode")


def clean(text: str) -> str:
    """``text`` as XML can hold it."""
    return _FORBIDDEN.sub(lambda found: found[0].encode("unicode_escape", "replace").decode("ascii"), text)
