"""The command: what it prints in every format, what it exits with, and what settings and waivers change."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from jsonschema import Draft4Validator
from test_schemas import check

from adaptool.adapters.adapter import open_adapter
from adaptool.api import validate, validation_options
from adaptool.cli.main import main
from adaptool.errors import UsageError
from adaptool.reports.github import github
from adaptool.reports.json import to_json
from adaptool.reports.junit import junit
from adaptool.reports.markdown import markdown
from adaptool.reports.rules_text import rule_values, rules_page
from adaptool.reports.sarif import sarif
from adaptool.rules.catalogue import RULES, catalogue
from adaptool.rules.draft import RANK, Draft, Q
from adaptool.rules.finding import Problem
from adaptool.rules.rule import Rule
from adaptool.rules.settings import find_settings, read_settings
from adaptool.versions import adapter_digest

FORMATS = {"sarif": sarif, "junit": junit, "github": github, "markdown": markdown}
SARIF_SCHEMA = json.loads((Path(__file__).parent / "data" / "sarif-2.1.0.json").read_text())


@pytest.fixture
def good(tmp_path):
    return Draft().write(tmp_path / "good")[0]


@pytest.fixture
def bad(tmp_path):
    """An adapter with NaN in two tensors."""
    draft = Draft()
    for part in ("lora_A", "lora_B"):
        draft.tensors[f"{Q}.{part}.weight"] = np.full_like(draft.tensors[f"{Q}.{part}.weight"], np.nan)
    return draft.write(tmp_path / "bad")[0]


def codes(validation):
    return [finding.code for report in validation.results for finding in report.findings]


def test_a_good_adapter_exits_0(good, capsys):
    assert main(["validate", str(good)]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip().endswith("ok")
    assert printed.err == ""


def test_a_bad_adapter_exits_1_and_says_what_to_do(bad, capsys):
    assert main(["validate", str(bad)]) == 1
    out = capsys.readouterr().out
    assert "VAL001" in out
    assert "lora_A.weight" in out
    assert f"→ {RULES['VAL001'].fix.split()[0]}" in out


def test_what_is_not_there_exits_3(good, tmp_path, capsys):
    assert main(["validate", str(good), str(tmp_path / "nowhere")]) == 3
    printed = capsys.readouterr()
    assert "nowhere: no such file" in printed.err
    assert "ok" in printed.out


@pytest.mark.parametrize("path", ["", "org/name", "hf://org/name", "\0", "a" * 5000, "~nobody/x"])
def test_what_is_no_path_is_worded(path, capsys):
    assert main(["validate", path]) == 3
    assert capsys.readouterr().err.startswith("error: ")


def test_a_folder_without_adapters_exits_3(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert main(["validate", str(tmp_path)]) == 3
    assert "looks like a model" in capsys.readouterr().err


def test_a_tree_is_searched(tmp_path):
    for name in ("b", "a", "deep/er"):
        Draft().write(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    found = [Path(report.path).parent.name for report in validate([tmp_path]).results]
    assert found == ["a", "b", "er"]


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_file_stands_for_its_adapter(good, name):
    assert [report.path for report in validate([good / name, good]).results] == [str(good)]


def test_unchecked_is_never_ok(good, monkeypatch):
    def fails(subject):
        raise RuntimeError("a bug")
        yield Problem("")

    monkeypatch.setitem(RULES, "VAL001", replace(RULES["VAL001"], check=fails))
    report = validate([good]).results[0]
    assert report.verdict == "unchecked"
    assert report.unchecked[0].reason == "internal error: RuntimeError: a bug"
    assert validate([good]).exit_code == 3
    for write in FORMATS.values():
        assert "VAL001" in write(validate([good]))
    assert json.loads(sarif(validate([good])))["runs"][0]["invocations"][0]["executionSuccessful"] is False


def test_an_error_explains_what_hides_behind_it(tmp_path):
    draft = Draft()
    draft.files["adapter_model.safetensors"] = draft.weights()[:-10]
    validation = validate([draft.write(tmp_path)[0]])
    assert validation.exit_code == 1
    assert validation.results[0].unchecked != ()


@pytest.mark.parametrize("style", FORMATS)
def test_formats_hold_every_finding(bad, good, style):
    text = FORMATS[style](validate([bad, good]))
    assert "VAL001" in text
    assert RULES["VAL001"].fix in text or RULES["VAL001"].fix in text.replace("\\", "")


def everything_wrong(tmp_path) -> list[Path]:
    """An adapter per rule, broken by its mutation."""
    folders = []
    for code, rule in RULES.items():
        draft = Draft()
        rule.breaks(draft)
        folders.append(draft.write(tmp_path / code)[0])
    return folders


@pytest.fixture(scope="module")
def all_findings(tmp_path_factory):
    """Every adapter that every rule's mutation makes, validated for every runtime."""
    folders = everything_wrong(tmp_path_factory.mktemp("all"))
    options = validation_options(select=["ALL"], consumers=["vllm,sglang,llama.cpp,ollama"])
    return validate([*folders, "/nowhere"], options=options)


def test_sarif_is_sarif(all_findings):
    log = json.loads(sarif(all_findings))
    errors = [error.message for error in Draft4Validator(SARIF_SCHEMA).iter_errors(log)]
    assert errors == []
    run = log["runs"][0]
    assert len(run["results"]) == len(codes(all_findings))
    assert {result["ruleId"] for result in run["results"]} <= {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert all(run["tool"]["driver"]["rules"][r["ruleIndex"]]["id"] == r["ruleId"] for r in run["results"])


def test_fingerprints_tell_findings_apart(all_findings):
    found = [(r.path, f.fingerprint) for r in all_findings.results for f in r.findings]
    assert len(set(found)) == len(found)


def test_junit_counts(all_findings):
    root = ElementTree.fromstring(junit(all_findings))
    for suite in root:
        assert int(suite.get("tests")) == len(suite)
        for kind, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(kind)) == len(suite.findall(f"testcase/{tag}"))


def test_annotations_stay_on_their_lines(all_findings):
    for line in github(all_findings).split("\n"):
        assert line.startswith(("::error ", "::warning ", "::notice "))


def test_json_is_as_its_schema_says(all_findings):
    check("validate", to_json("validate", all_findings))
    check("rules", to_json("rules", {"rules": rule_values(catalogue())}))


def test_config_findings_have_their_line(tmp_path, monkeypatch):
    def about(subject):
        yield Problem("r is bad", "adapter_config.json", field="r")

    rule = replace(RULES["VAL001"], check=about, needs=())
    monkeypatch.setitem(RULES, "VAL001", rule)
    adapter = Draft().write(tmp_path)[0]
    text = (adapter / "adapter_config.json").read_text()
    (finding,) = (f for f in validate([adapter]).results[0].findings if f.code == "VAL001")
    assert f'"r": {RANK}' in text.splitlines()[finding.line - 1]


def hostile_names(tmp_path, monkeypatch):
    """A finding whose texts try to break out of every format."""
    nasty = "a\x1b[31m\n::error::x|`<script>&\u202e@me%0A]]>\x00"

    def about(subject):
        yield Problem(f"bad {nasty}", f"{nasty}", tensors=(nasty,))

    monkeypatch.setitem(RULES, "VAL001", replace(RULES["VAL001"], check=about, needs=()))
    return validate([Draft().write(tmp_path)[0]])


@pytest.mark.parametrize("style", ["text", "json", *FORMATS])
def test_names_cannot_break_out(style, tmp_path, monkeypatch, capsys):
    from adaptool.cli.console import Console
    from adaptool.cli.validate import show

    show(Console(), hostile_names(tmp_path, monkeypatch), style)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x00" not in out
    assert "\u202e" not in out
    if style == "github":
        assert [line for line in out.splitlines() if line.startswith("::error::")] == []
    if style == "junit":
        ElementTree.fromstring(out)
    if style == "markdown":
        assert "<script>" not in re.sub("`[^`]*`", "", out.replace("\\`", ""))


def test_select_and_ignore(bad):
    assert codes(validate([bad], options=validation_options(select=["FIL"]))) == []
    assert codes(validate([bad], options=validation_options(select=["val"]))) == ["VAL001"]
    assert "VAL001" not in codes(validate([bad], options=validation_options(ignore=["VAL,FIL001"])))
    assert codes(validate([bad], options=validation_options(select=["VAL001"], ignore=["VAL"]))) == ["VAL001"]
    assert codes(validate([bad], options=validation_options(select=["VAL"], ignore=["VAL001"]))) == []


@pytest.mark.parametrize("arguments", [["--select", "XYZ"], ["--ignore", "FIL9999"], ["--for", "vlm"],
                                       ["--fail-on", "never"], ["--out", "x"], ["--max-rank", "0"],
                                       ["--baseline", "absent.json"], ["--config", "absent.toml"]])  # fmt: skip
def test_a_wrong_request_is_worded(good, arguments, capsys):
    code = main(["validate", str(good), *arguments])
    assert code in (2, 3)
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_the_help_names_every_runtime():
    from adaptool.cli.validate import RUNTIMES
    from adaptool.rules.selection import CONSUMERS

    assert RUNTIMES.split(", ") == list(CONSUMERS)


def test_a_misspelt_consumer_is_answered(good):
    with pytest.raises(UsageError) as error:
        validation_options(consumers=["vlm"])
    assert error.value.hint == "did you mean: vllm"


def test_fail_on(good, monkeypatch):
    rule: Rule = replace(RULES["VAL001"], severity="warning", check=lambda subject: iter([Problem("meh")]))
    monkeypatch.setitem(RULES, "VAL001", rule)
    assert validate([good]).exit_code == 0
    assert validate([good], options=validation_options(fail_on="warning")).exit_code == 1


def test_a_baseline_is_what_was_found_before(bad, tmp_path, capsys):
    assert main(["validate", str(bad), "--json"]) == 1
    baseline = tmp_path / "baseline.json"
    baseline.write_text(capsys.readouterr().out)
    assert main(["validate", str(bad), "--baseline", str(baseline), "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["results"][0]["findings"] == []
    assert result["results"][0]["suppressed"][0]["by"] == "baseline"
    baseline.write_text(json.dumps(result))  # a baseline of a run with a baseline
    assert main(["validate", str(bad), "--baseline", str(baseline)]) == 0


@pytest.mark.parametrize("text", ["", "[]", '{"schema": "adaptool/inspect/1"}', "\x00", "{" * 10_000])
def test_what_is_no_baseline_is_refused(good, tmp_path, text, capsys):
    (tmp_path / "b.json").write_text(text)
    assert main(["validate", str(good), "--baseline", str(tmp_path / "b.json")]) == 3


def allowing(folder: Path, digest: str, expires: str = "2999-01-01", rule: str = "VAL001") -> Path:
    path = folder / "adaptool.toml"
    path.write_text(
        f'[[validate.allow]]\ndigest = "{digest}"\nrule = "{rule}"\nreason = "known"\nexpires = {expires}\n'
    )
    return path


def test_an_allowance_holds_for_these_bytes_until_its_day(bad, tmp_path):
    digest = adapter_digest(open_adapter(bad))
    settings = allowing(tmp_path, digest, "2026-06-30")
    for today, expected in ((date(2026, 6, 30), []), (date(2026, 7, 1), ["VAL001"])):
        found = validate([bad], options=validation_options(settings=settings, today=today))
        assert [code for code in codes(found) if code == "VAL001"] == expected
    assert "VAL001" in codes(validate([bad], options=validation_options(settings=settings)))
    held = validate([bad], options=validation_options(settings=settings, today=date(2026, 1, 1))).results[0]
    assert held.digest == digest
    assert held.suppressed[0].reason == "known (until 2026-06-30)"
    other = allowing(tmp_path, "0" * 64)
    assert "VAL001" in codes(validate([bad], options=validation_options(settings=other, today=date(2026, 1, 1))))


@pytest.mark.parametrize("text", [
    "[validate]\nignor = []", "[validat]", "validate = 3", "[validate]\nselect = 3", "[validate]\nfail-on = 'no'",
    "[validate]\nmax-rank = true", "[validate]\nbaseline = 3", "[validate]\nallow = 3", "[[validate.allow]]",
    "[[validate.allow]]\ndigest = '0'\nrule = 'VAL001'\nreason = 'x'\nexpires = 2030-01-01",
    f"[[validate.allow]]\ndigest = '{'0' * 64}'\nrule = 'VAL999'\nreason = 'x'\nexpires = 2030-01-01",
    f"[[validate.allow]]\ndigest = '{'0' * 64}'\nrule = 'VAL001'\nreason = ' '\nexpires = 2030-01-01",
    f"[[validate.allow]]\ndigest = '{'0' * 64}'\nrule = 'VAL001'\nreason = 'x'\nexpires = '2030-01-01'",
    f"[[validate.allow]]\ndigest = '{'0' * 64}'\nrule = 'VAL001'\nreason = 'x'\nexpires = 2030-01-01T00:00:00",
    "not toml", "\udcff",
])  # fmt: skip
def test_settings_that_are_wrong_are_worded(tmp_path, text):
    (tmp_path / "adaptool.toml").write_text(text, errors="surrogateescape")
    with pytest.raises(UsageError):
        read_settings(tmp_path / "adaptool.toml")


def test_settings_are_the_nearest(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / "adaptool.toml").write_text('[validate]\nfor = ["vllm"]\nmax-rank = 64\nfail-on = "warning"\n')
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert find_settings(inner).consumers == ("vllm",)
    (tmp_path / "a" / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert find_settings(inner).max_rank == 64
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.adaptool.validate]\nignore = ['VAL']\n")
    assert find_settings(inner).ignore == ("VAL",)
    assert find_settings(inner).consumers == ()


def test_settings_are_found_and_used(bad, tmp_path, monkeypatch):
    (tmp_path / "adaptool.toml").write_text('[validate]\nignore = ["VAL"]\n')
    monkeypatch.chdir(tmp_path)
    assert main(["validate", str(bad)]) == 0
    assert main(["validate", str(bad), "--ignore", "ADV"]) == 1


def test_rules_are_listed_and_explained(capsys):
    assert main(["rules"]) == 0
    listed = capsys.readouterr().out
    assert all(code in listed for code in RULES)
    assert main(["rules", "val001"]) == 0
    assert RULES["VAL001"].title in capsys.readouterr().out
    assert main(["rules", "VAL0019"]) == 2
    assert "did you mean: VAL001" in capsys.readouterr().err
    assert main(["rules", "--json"]) == 0
    assert {rule["code"] for rule in json.loads(capsys.readouterr().out)["rules"]} == set(RULES)


def test_the_page_of_rules_is_the_rules():
    page = Path(__file__).parent.parent / "docs" / "rules.md"
    assert page.read_text(encoding="utf-8") == rules_page(catalogue()), "run: make docs"


def test_nothing_is_written_or_executed(tmp_path, monkeypatch):
    """No file of an adapter, or beside it, is new, changed or gone after a validation of everything."""
    folders = everything_wrong(tmp_path)
    before = {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in sorted(tmp_path.rglob("*"))}
    for name in ("system", "execv", "fork", "posix_spawn"):
        monkeypatch.setattr(os, name, lambda *_: pytest.fail("something was executed"))
    validate(folders, options=validation_options(select=["ALL"]))
    after = {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in sorted(tmp_path.rglob("*"))}
    assert after == before
