"""A check as JUnit XML: all adapters are one suite, an adapter a test."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

from adaptool.reports.check_words import happened, place, versions
from adaptool.reports.junit import clean, document
from adaptool.rules.finding import Severity, fails
from adaptool.versioning.gate.check_result import AdapterCheck, Check


def check_junit(check: Check) -> str:
    """One document; an adapter that could not be checked is an error, one with findings that fail a failure."""
    root = Element("testsuites", name="adaptool version check")
    failed = sum(adapter.verdict == "findings" for adapter in check.adapters)
    errors = sum(adapter.verdict == "unchecked" for adapter in check.adapters) + len(check.failures)
    numbers = {"tests": len(check.adapters) + len(check.failures), "failures": failed, "errors": errors, "skipped": 0}
    name = f"{check.at} against {check.against}" if check.against else check.at
    suite = SubElement(root, "testsuite", {"name": clean(name), **{key: str(n) for key, n in numbers.items()}})
    for adapter in check.adapters:
        _case(suite, adapter, check.fail_on)
    for failure in check.failures:
        case = SubElement(suite, "testcase", classname="paths", name=clean(failure.path))
        SubElement(case, "error", message=clean(failure.message)).text = clean(failure.hint or "")
    return document(root)


def _case(suite: Element, adapter: AdapterCheck, fail_on: Severity) -> None:
    case = SubElement(
        suite, "testcase", classname=clean(adapter.path), name=clean(f"{adapter.name} {versions(adapter)}")
    )
    told = "\n\n".join(
        f"{one.severity}: {one.code} {one.message}\n{place(adapter, one)}" + (f"\nfix: {one.fix}" if one.fix else "")
        for one in adapter.findings
    )
    failing = [one for one in adapter.findings if fails(one, fail_on)]
    if failing:
        worst = failing[0]
        SubElement(case, "failure", type=worst.code, message=clean(worst.message)).text = clean(told)
    for unchecked in adapter.unchecked:
        SubElement(case, "error", type=unchecked.code, message=clean(f"could not be checked: {unchecked.reason}"))
    said = "\n\n".join(part for part in (happened(adapter), told if not failing else "", *adapter.notes) if part)
    if said:
        SubElement(case, "system-out").text = clean(said)
