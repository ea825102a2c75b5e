"""Reports of a comparison: what comes first, what fits, and what reaches no terminal, comment or page raw."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from adapter_pairs import PAIRS
from jsonschema import Draft202012Validator
from making_comparisons import (
    EXAMPLES,
    HOSTILE,
    comparison,
    equal,
    experts,
    hostile,
    models,
    module,
    modules,
    several_stacks,
    tensors,
    unknown,
    untrained,
    usual,
)
from test_html import Page, loads, rendered

from adaptool.adapters.adapter import open_adapter
from adaptool.comparing.adapters import compare_adapters
from adaptool.comparing.result import ConfigChange, Place
from adaptool.reports.diff_html import diff_html
from adaptool.reports.diff_maps import ADDED, FROM_ZERO, MOST_COLUMNS, NOT_KNOWN, REMOVED, Together, maps_of
from adaptool.reports.diff_markdown import LIMIT, diff_markdown, marker
from adaptool.reports.diff_text import diff_report
from adaptool.reports.diff_words import change_of, cosine, together
from adaptool.reports.json import to_json
from adaptool.reports.layout import cells, plain
from adaptool.reports.schemas import read_schema

TAGS = {"details", "summary", "code", "br"}
"""What a comment may hold of HTML."""

REAL = [
    "identical: plain", "re-saved in another order: plain", "turned: plain", "padded to twice the rank",
    "alpha doubled for one projection", "rounded to bfloat16", "trained 20 steps on", "untrained, then trained",
    "another base", "a base of another width", "LoRA, then IA3", "a layer removed", "a NaN in a factor",
    "a saved head of a larger vocabulary",
]  # fmt: skip


def text_of(made, width=80, **how):
    return plain(diff_report(made, width, **how))


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("width", [40, 60, 80, 110])
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_line_fits_and_is_text(name, width, verbose):
    lines = text_of(EXAMPLES[name](), width, verbose=verbose).splitlines()
    assert max(map(cells, lines)) <= width
    assert all(line.isprintable() for line in lines)
    assert not any(line.strip() in ("CONFIG", "TENSORS", "MODULES") for line in lines[-1:])


def test_what_a_reader_needs_first():
    lines = text_of(usual()).splitlines()
    assert lines[:2] == ["sql 1.2.0 → sql 1.3.0  continued training", "  ΔW grew out of the old one"]
    order = ["CONFIG", "‖ΔW‖", "BY PROJECTION", "FURTHEST 10 OF 17", "OTHER TENSORS", "note", "version"]
    found = [next(i for i, line in enumerate(lines) if line.strip().startswith(word)) for word in order]
    assert found == sorted(found)
    assert lines[-1] == "  version       asks for a patch version: 48 tensors changed"


def test_the_figures_of_a_module():
    (line,) = [line for line in text_of(usual()).splitlines() if line.startswith("    0 mlp.down_proj")]
    moved = next(m for m in usual().modules if m.module == "model.layers.0.mlp.down_proj")
    assert f"1 → {1 + moved.relative:.4g}" in line
    assert f"{100 * moved.relative:.3g} %" in line
    assert f"{moved.cosine:.3f}" in line
    assert line.endswith("4/4")


def test_what_came_and_went_is_told_by_its_layers():
    text = text_of(usual())
    assert "  added         self_attn.k_proj in layer 1\n" in text
    assert "  removed       mlp.down_proj in layer 3\n" in text
    places = [Place("m", i, name) for i in range(3) for name in ("a", "b")] + [Place("", None, "head")]
    assert together(places, "m") == ["a, b in layers 0-2", "head"]
    assert together(places, None) == ["m.a, m.b in layers 0-2", "head"]


def test_what_changes_nothing_is_folded():
    assert "2 fields differ and change nothing: peft_version, inference_mode" in text_of(usual())
    assert "peft_version    0.18.0 → 0.21.2" in text_of(usual(), verbose=True)


@pytest.mark.parametrize("width", [40, 80, 110])
def test_equal_adapters_take_few_lines(width):
    lines = text_of(equal(), width).splitlines()
    assert len(lines) <= (3 if width >= 80 else 6)
    assert "re-factorised" in f"{lines[0]}"


def test_equal_adapters_that_owe_a_version_say_so():
    made = replace(equal(), level="minor", reasons=("rank 4 → 8",))
    assert text_of(made).splitlines()[-1] == "  version       asks for a minor version: rank 4 → 8"


def test_quiet_is_the_verdict():
    assert text_of(usual(), quiet=True).splitlines() == text_of(usual()).splitlines()[:2]


@pytest.mark.parametrize(("top", "shown"), [(0, 0), (1, 1), (3, 3), (1000, 17)])
def test_as_many_modules_as_asked_for(top, shown):
    rows = [line for line in text_of(usual(), top=top).splitlines() if re.match(r" {4}\d .*4/4$", line)]
    assert len(rows) == shown
    table = diff_markdown(usual(), top=top).count("| 4/4 |")
    assert table == shown


def test_models_have_tensors_and_no_modules():
    text = text_of(models())
    assert text.startswith("a → b  changed\n  5 of 9 tensors differ")
    assert "TENSORS" in text
    assert "‖W‖           10 → 10.1 (+1 %), 5 % of it apart, cosine 0.999" in text
    for said in (text, diff_markdown(models()), Page(diff_html(models())).text.partition("How to read")[0]):
        assert "‖ΔW‖" not in said
        assert "module" not in said
    assert "F32 40×64 → 48×64" in text
    assert "other shape" in text
    assert "9 tensors: 4 changed, 1 added, 4 the same" in text


def test_what_is_not_known_is_not_called_zero():
    for text in (text_of(unknown()), diff_markdown(unknown())):
        assert "from zero" not in text
        assert "unknown" not in text  # a table of nothing but that is none
    assert "from zero" in text_of(untrained())


def test_several_stacks_keep_their_names():
    text = text_of(several_stacks(), 110)
    assert "vision_tower.layers.self_attn.q_proj" in text
    assert re.search(r"language_model\.layers\.\d+\.mlp", text)


def test_names_of_two_that_are_called_the_same():
    made = usual()
    made = replace(made, before=replace(made.before, version=None), after=replace(made.after, version=None))
    assert text_of(made).splitlines()[0] == "v1.2.0:adapters/sql → adapters/sql  continued training"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (ConfigChange("r", 8, 16, "", True), "8 → 16"),
        (ConfigChange("r", 8, 16, "", True, "before"), "8 (default) → 16"),
        (ConfigChange("target_modules", ["a", "b"], ["c", "b"], "", True), "+ c  − a"),
        (ConfigChange("target_modules", None, ["a"], "", True, "before"), 'null (default) → ["a"]'),
        (ConfigChange("target_modules", ".*", ["a"], "", True), '.* → ["a"]'),
        (ConfigChange("task_type", "", "CAUSAL_LM", "", False), '"" → CAUSAL_LM'),
        (ConfigChange("x", {"a": [1]}, None, "", False), '{"a": [1]} → null'),
    ],
)
def test_a_field_in_words(change, expected):
    assert change_of(change) == expected


def test_cosines_near_one_are_told_from_it():
    assert [cosine(c) for c in (None, 1.0, 0.99998, 0.9999, 0.934, 0.5, -0.0001, -1.0)] == [
        "", "1", "0.99998", "0.9999", "0.934", "0.500", "0.000", "-1.000",
    ]  # fmt: skip


# ---- Markdown


def test_a_comment():
    lines = diff_markdown(usual()).splitlines()
    assert lines[0] == "<!-- adaptool diff sql -->"
    assert lines[1] == "### 🟡 `sql 1.2.0` → `sql 1.3.0`: continued training"
    assert lines.count("<details>") == lines.count("</details>") == 2
    assert "| `lora_alpha` | `16 → 32` | scale 1 → 2 on every module |" in lines
    assert lines[-1] == "**Version**: asks for a patch version: 48 tensors changed"


def test_a_comment_on_equal_adapters():
    text = diff_markdown(equal())
    assert "### ✅ `sql 1.2.0` → `sql 1.3.0`: re-factorised" in text
    assert "|" not in text
    assert "Version" not in text


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_tables_of_a_comment_are_tables(name):
    block: list[int] = []
    for line in [*diff_markdown(EXAMPLES[name]()).splitlines(), ""]:
        if line.startswith("|"):
            block.append(line.count("|"))
        elif block:
            assert len(set(block)) == 1
            assert len(block) > 2
            block = []


def test_a_comment_of_hostile_names_is_text():
    text = diff_markdown(hostile())
    hidden, _, shown = text.partition("\n")
    assert hidden.startswith("<!-- adaptool diff ")
    outside = re.sub(r"`[^`\n]*`", "", shown)
    assert "`" not in outside
    assert "<!--" not in outside
    assert set(re.findall(r"</?([a-z]+)", outside)) <= TAGS
    assert "http://" not in outside
    assert "www." not in outside
    assert "@" not in outside
    assert all(character.isprintable() or character == "\n" for character in text)
    assert len(text) <= LIMIT


@pytest.mark.parametrize("name", ["sql", "a -->b", "--", "x" * 1000, "\n<b>", "", "a/b@v1.0-rc.1"])
def test_the_marker_is_one_hidden_line(name):
    found = marker(name)
    assert re.fullmatch(r"<!-- adaptool diff (?:(?!--)[\w./+-])* -->", found)
    assert len(found) < 140


def test_a_comment_is_never_longer_than_it_may_be():
    bad = [replace(one, module=f"{HOSTILE * 3}{one.module}") for one in experts(40, 200)]
    config = [ConfigChange(f"{HOSTILE}{i}", i, HOSTILE, HOSTILE, True) for i in range(500)]
    others = [replace(one, name=f"{HOSTILE}{one.name}") for one in tensors(2000)]
    text = diff_markdown(comparison(bad, others, config, notes=(HOSTILE,) * 500), top=10_000)
    assert 10_000 < len(text.encode("utf-16-le")) // 2 <= LIMIT
    assert text.count("<details>") == text.count("</details>")


# ---- HTML


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_page_is_well_formed_and_loads_nothing(name):
    text = diff_html(EXAMPLES[name]())
    assert loads(text) == []
    parsed = Page(text)
    assert EXAMPLES[name]().verdict in parsed.text
    assert parsed.tags.count("script") == 1
    assert all(character.isprintable() or character == "\n" for character in text)


def test_the_map_has_a_cell_for_every_layer_and_projection():
    parsed = Page(diff_html(usual()))
    titles = [value for tag, name, value in parsed.attributes if tag == "td" and name == "title" and "layer " in value]
    assert len([title for title in titles if "magnitude" not in title]) == 20
    (shown,) = [title for title in titles if title.startswith("layer 0 · mlp.down_proj")]
    moved = next(m for m in usual().modules if m.module == "model.layers.0.mlp.down_proj")
    assert f"{100 * moved.relative:.3g} % of its norm apart, cosine {moved.cosine:.3f}" in shown


def test_equal_adapters_have_no_empty_tables():
    assert "table" not in set(Page(diff_html(replace(equal(), config=()))).tags)


@pytest.mark.parametrize(
    ("made", "most"),
    [
        (lambda: comparison([*modules(100), *modules(100, "b")], tensors(100)), 3_000_000),
        (lambda: comparison(experts(48, 200)), 300_000),
        (lambda: comparison(modules(1000)), 3_000_000),
        (
            lambda: comparison(
                module(f"s{i}.{i % 40}.p{i}", Place(f"s{i}", i % 40, f"p{i}"), 0.1) for i in range(9000)
            ),
            1_000_000,
        ),
        (lambda: comparison(module(f"s.{i}.p{i}", Place("s", i, f"p{i}"), 0.1) for i in range(1200)), 2_000_000),
    ],
    ids=["layers", "experts", "many layers", "many stacks", "a diagonal"],
)
def test_a_page_stays_small(made, most):
    text = diff_html(made())
    assert len(text.encode()) < most
    assert loads(text) == []


@pytest.mark.parametrize("name", ["usual", "hostile"])
def test_a_browser_shows_the_page(tmp_path, name):
    path = tmp_path / "page.html"
    path.write_text(diff_html(EXAMPLES[name]()), "utf-8")
    seen = rendered(path, "--dump-dom")
    assert 'aria-sort="none"' in seen  # its own script ran
    assert seen.count("<script>") == 1
    rendered(path, f"--screenshot={tmp_path / 'page.png'}", "--window-size=1280,900")
    blank = tmp_path / "blank.html"
    blank.write_text("<!doctype html><title>nothing</title>")
    rendered(blank, f"--screenshot={tmp_path / 'blank.png'}", "--window-size=1280,900")
    assert (tmp_path / "page.png").stat().st_size > 4 * (tmp_path / "blank.png").stat().st_size


# ---- maps


def test_experts_are_one_cell():
    ((one,), left_out) = maps_of(list(experts(3, 8)))
    assert left_out == 0
    assert one.columns == ("0", "1", "2")
    ((name, tiles),) = one.rows
    assert name == "mlp.experts.*.up_proj"
    assert [tile.mark for tile in tiles] == ["", "", ADDED]
    assert tiles[0].value == pytest.approx((sum(((i + 1) / 80) ** 2 for i in range(8)) / 8) ** 0.5)
    assert "8 of 8 modules" in tiles[0].title


def test_many_layers_are_ranges():
    (one,), _ = maps_of(list(modules(300)))
    assert len(one.columns) <= MOST_COLUMNS
    assert one.columns[0] == "0–2"


def test_what_stands_where_no_number_does():
    place = Place("m", 0, "p")
    changed, added, removed = (module("m", place, 0.5, state) for state in ("changed", "added", "removed"))
    zero, blank = (made().modules[0] for made in (untrained, unknown))
    marks = [Together((one,)).mark for one in (changed, added, removed, zero, blank)]
    assert marks == ["", ADDED, REMOVED, FROM_ZERO, NOT_KNOWN]
    assert Together((changed, added)).mark == ""
    assert Together((changed, added)).relative == pytest.approx(1.25**0.5)
    assert Together((changed, blank)).mark == NOT_KNOWN


# ---- JSON, and comparisons of real adapters


def check(made):
    value = json.loads(json.dumps(to_json("diff", made), allow_nan=False))
    Draft202012Validator(read_schema("diff")).validate(value)
    return value


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_schema_of_its_json(name):
    assert check(EXAMPLES[name]())["schema"] == "adaptool/diff/1"


@pytest.mark.parametrize("name", REAL)
def test_real_comparisons(tmp_path, name):
    pair = PAIRS[name]
    before, after = pair.before(tmp_path / "a"), pair.after(tmp_path / "b")
    made = compare_adapters(open_adapter(before), open_adapter(after))
    check(made)
    for width in (40, 110):
        lines = text_of(made, width).splitlines()
        assert max(map(cells, lines)) <= width
    assert made.verdict in lines[0]
    assert f": {made.verdict}\n" in diff_markdown(made)
    assert loads(diff_html(made)) == []


def test_nothing_here_depends_on_where_it_is_run():
    assert "/tmp" not in diff_html(usual())
    assert str(Path.cwd()) not in diff_html(usual())
