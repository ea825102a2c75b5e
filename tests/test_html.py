"""The pages: text stays text, every tag is closed, nothing is fetched, and a browser shows them."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from adaptool.reports.heat_map import STEPS, Scale, Tile, heat_map, legend, scale_of, short
from adaptool.reports.html import Cell, Heading, Markup, escaped, facts, page, pill, section, table, tag, tiles
from adaptool.reports.line_chart import Series, line_chart

VOID = {"meta", "br", "wbr"}
SHAPES = {"path", "circle", "line", "rect"}
HOSTILE = "</td><script>alert(1)</script>\"'><img src=http://evil.example/x>\x1b[31m\u202e&amp;\n"
CHROMIUM = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)


class Page(HTMLParser):
    """What a document holds: its tags in order, its texts, what it would load; it fails on a tag left open."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag == self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self):
        return "".join(self.texts)


def loads(text):
    """Everything in a document that a browser would fetch, or that would run."""
    parsed = Page(text)
    fetching = [
        a for a in parsed.attributes if a[1] in ("src", "href", "srcset", "action", "background") or a[1][:2] == "on"
    ]
    styles = re.findall(r"@import|url\(", text)
    return [*fetching, *styles, *(tag for tag in parsed.tags if tag in ("link", "iframe", "object", "embed", "base"))]


def rendered(path, *options):
    """What headless Chromium makes of a file."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={path.parent / 'profile'}"]
    done = subprocess.run([*command, *options, path.as_uri()], capture_output=True, text=True, timeout=120)
    return done.stdout


def test_text_is_escaped_by_construction():
    assert tag("p", 'a < b & "c"', class_="x", title="'\"<") == (
        '<p class="x" title="&#x27;&quot;&lt;">a &lt; b &amp; &quot;c&quot;</p>'
    )
    assert escaped(HOSTILE).count("<") == 0
    assert tag("p", tag("b", "x"), None, ["y", ("z",)]) == "<p><b>x</b>yz</p>"
    assert tag("br", disabled=True, hidden=False, value=None, tabindex=0) == '<br disabled tabindex="0">'
    assert escaped(Markup("<b>")) == "<b>"


def sample():
    scale = scale_of([0.001, 0.5, None])
    rows = [(HOSTILE, [Tile(0.001, HOSTILE), Tile(None, "new", "+"), Tile(0.0, "same"), None, Tile(math.nan, "nan")])]
    headings = [Heading("NAME"), Heading("N", number=True, note=HOSTILE)]
    return page(
        HOSTILE,
        tag("h1", HOSTILE),
        pill(HOSTILE, "bad"),
        tiles([(HOSTILE, HOSTILE, HOSTILE)]),
        facts([(HOSTILE, HOSTILE)]),
        section(HOSTILE, table(headings, [[HOSTILE, Cell("1", 1.0, HOSTILE)]], caption=HOSTILE), note=HOSTILE),
        heat_map(HOSTILE, ["0", "1", "2", "3", HOSTILE], rows, scale, corner=HOSTILE),
        legend(scale, [("mark", "+", HOSTILE)]),
        line_chart([HOSTILE, "b", "c"], [Series(HOSTILE, (1.0, None, 2.0), (HOSTILE,) * 3)], caption=HOSTILE),
    )


def test_a_page_is_well_formed_and_alone():
    text = sample()
    assert loads(text) == []
    parsed = Page(text)
    assert parsed.tags.count("script") == 1
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "alert(1)" in parsed.text
    (policy,) = [value for _, name, value in parsed.attributes if name == "content" and "default-src" in value]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")


def test_a_browser_runs_its_own_script_and_no_other(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(sample(), "utf-8")
    seen = rendered(path, "--dump-dom")
    assert "aria-sort" in seen  # the script ran, so its hash is the policy's
    assert 'class="readout"' in seen
    assert "<script>alert" not in seen


def test_scales():
    wide, narrow = scale_of([1e-7, 1e-3, 1.0]), scale_of([0.5, 1.0])
    assert (wide.logarithmic, narrow.logarithmic) == (True, False)
    assert wide.low == 1e-4  # four decades
    assert [wide.step(value) for value in (1e-9, 1e-4, 1e-2, 1.0)] == [0, 0, 4, STEPS - 1]
    assert [narrow.step(value) for value in (0.0, 0.5, 1.0, 2.0)] == [0, 4, STEPS - 1, STEPS - 1]
    assert wide.bounds()[-1] == pytest.approx(1.0)
    assert scale_of([None, 0.0, math.nan, math.inf]) == Scale(0.0, 0.0)


def test_shares_in_few_characters():
    shares = (1e-9, 0.00001, 0.0002, 0.01, 0.034, 0.12, 1.0, 123.0)
    assert [short(share) for share in shares] == ["<.01", "<.01", ".02", "1", "3.4", "12", "100", "1e4"]


def test_a_heat_map_names_few_of_many_columns():
    row = [Tile(i / 100, f"layer {i}") for i in range(100)]
    text = heat_map("map", [str(i) for i in range(100)], [("q_proj", row)], Scale(0.0, 1.0), corner="projection")
    assert text.count('<span class="hidden">') == 90
    assert len(re.findall(r"<td", text)) == 100


@pytest.mark.parametrize("values", [(), (None,), (0.0,), (1.0,), (0.5, None, 0.7), (math.nan, 2e-9), (1e12, 3.0)])
def test_a_chart_of_anything(values):
    text = line_chart([str(i) for i in range(len(values))], [Series("drift", values)], caption="drift")
    parsed = Page(text)
    known = sum(value is not None and math.isfinite(value) for value in values)
    assert parsed.tags.count("circle") == known + 1  # and the key's
    assert "nan" not in text


def test_a_chart_of_many_grows_wider():
    text = line_chart([str(i) for i in range(1000)], [Series("drift", tuple(map(float, range(1000))))], caption="drift")
    assert 'viewBox="0 0 9080 300"' in text
    assert len(text) < 300_000
