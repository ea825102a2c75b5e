"""Reports: what fits the screen, what colours it, and what must never reach it raw."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from making import lora, numbers

from adaptool.cli.main import main
from adaptool.reports import text_merge
from adaptool.reports.figures import layers, listed, number, size
from adaptool.reports.layout import Column, cells, coloured, elided, plain, table, visible
from adaptool.reports.sparkline import sparkline
from adaptool.reports.text import inspection_report
from adaptool.summary.summary import inspect_path, open_model

FIXTURES = Path(__file__).parent.parent / "fixtures"


HOSTILE = f"base_model.model.\x1b[31mevil\x07\u202eli.{'x' * 90}.lora_{{}}.weight\n"


def test_names_cannot_paint_the_terminal(capsys, tmp_path):
    extra = {
        HOSTILE.format("A"): ("F32", numbers("F32", (4, 8), 1)),
        "plain\r\x1b]0;title\x07": ("F32", numbers("F32", (1,), 2)),
    }
    adapter = lora(tmp_path / "adapter", extra=extra, base_model_name_or_path="\x1b[2Jgone", task_type="A\x9bB")
    for args in ((adapter,), (adapter, "--weights")):
        assert main(["inspect", *map(str, args)]) == 0
        text = capsys.readouterr().out
        assert all(character.isprintable() or character == "\n" for character in text)
    assert r"\x1b[2Jgone" in text


@pytest.mark.parametrize("width", [80, 60, 110])
@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize(
    "name", ["llama_patterns", "bert_bias_all", "mixtral_v4_experts", "llama_resized_modules", "t5_dora"]
)
def test_every_line_fits(zoo, name, width, verbose):
    built = zoo(name)
    summary = inspect_path(built.adapter_dirs[0], open_model(built.base_dir), weights=True)
    lines = plain(inspection_report([summary], width, verbose=verbose)).splitlines()
    assert max(map(cells, lines)) <= width


def test_colours_are_only_colours(zoo):
    summary = inspect_path(zoo("t5_dora").adapter_dirs[0], weights=True)
    lines = inspection_report([summary], 80)
    painted = coloured(lines)
    assert "\x1b[1m" in painted
    assert plain(lines) == re.sub(r"\x1b\[[\d;]*m", "", painted)


@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [({}, [], True), ({"NO_COLOR": "1"}, [], False), ({"TERM": "dumb"}, [], False), ({}, ["--no-color"], False)],
)
def test_colour_only_on_a_terminal_that_wants_it(environment, options, expected):
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-c",
        "from adaptool.cli.main import run; run()",
        *options,
        "inspect",
        str(FIXTURES / "smollm2-lora"),
    ]
    subprocess.run(command, stdout=theirs, check=True, env={"TERM": "xterm", **os.environ, **environment})
    os.close(theirs)
    text = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert expected == ("\x1b" in text)


@pytest.mark.parametrize(
    ("present", "missing", "expected"),
    [
        (range(32), (), "0-31"), ((0, 1), (), "0, 1"), ([*range(7), *range(8, 32)], (7,), "0-31, missing 7"),
        ((1, 3), (0, 2, 4), "1, 3"), ((0, 1, 2), (3,), "0-3, missing 3"), ((), (), ""), ((5,), (), "5"),
    ],
)  # fmt: skip
def test_layers_in_words(present, missing, expected):
    assert layers(tuple(present), tuple(missing)) == expected


def test_figures():
    assert [size(n) for n in (999, 1000, 83_886_080, 460_800, 2.2e9)] == [
        "999 B",
        "1.0 kB",
        "83.9 MB",
        "461 kB",
        "2.2 GB",
    ]
    assert [number(n) for n in (None, 0.123456, 16.0, 1234000000.0)] == ["", "0.1235", "16", "1.234e+09"]
    assert listed(["a", "b", "c"], most=2) == "a, b and 1 more"


def test_sparklines():
    assert sparkline([0, 1, 2, 4, 8], 10) == "·▂▃▅█"
    assert sparkline([1, 1, 3, 3], 2) == "▃█"
    assert sparkline([0.0, None], 4) == "··"
    assert sparkline([], 4) == ""


def test_elision_keeps_both_ends():
    assert elided("model.layers.self_attn.q_proj", 16) == "model.l…n.q_proj"
    assert elided("short", 16) == "short"
    assert cells(elided("模型" * 20, 15)) <= 15
    assert visible("a\tb\u200bc") == "a\\tb\\u200bc"


def test_where_it_is_narrow_the_cheapest_columns_go_first():
    columns = [Column("NAME", elastic=True), Column("DEAR", keep=8), Column("CHEAP", keep=1), Column("EMPTY", keep=9)]
    rows = [["a.long.name.of.a.module", "12345678", "123456", ""]]
    assert plain(table(columns, rows, 80)).splitlines()[0].split() == ["NAME", "DEAR", "CHEAP"]
    assert plain(table(columns, rows, 36)).splitlines()[0].split() == ["NAME", "DEAR"]
    assert plain(table(columns, rows, 36)).splitlines()[1] == "  a.long.name.of.a.module  12345678"
    assert plain(table(columns, rows, 32)).splitlines()[1] == "  a.long.na…f.a.module  12345678"


class Heard:
    """A console that remembers."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)

    result = say


def test_what_a_merge_says(tmp_path):
    from adaptool.merging.options import MergeEstimate, MergeReport

    changes = (("a", "update"), ("b", "update"), ("c", "new"))
    plan, done = Heard(), Heard()
    text_merge.plan(plan, MergeEstimate(Path("out"), 10, 3, 5_000_000, 4_000_000, 8_000_000, 2, ("x", "y"), changes))
    assert plan.lines == [
        "would write out: 5.0 MB of weights, 2 files",
        "  3 tensors changed, 7 copied as they are (4.0 MB)",
        "  about 8.0 MB of buffers for 2 workers",
        "  update: 2 tensors, such as a",
        "  new: 1 tensor, such as c",
    ]
    text_merge.summary(done, MergeReport(Path("out"), 10, 3, 5_000_000, 4_000_000, 12, 1, ("x",), (), {}))
    assert done.lines == [
        "merged 3 of 10 tensors into 5.0 MB (4.0 MB copied as it was)",
        "checked 12 rows against float64: all as they must be",
        "went on from 1 piece of an earlier run",
    ]
