"""docs/diff.md shows what adaptool prints; ``PYTHONPATH=.:fixtures python tests/test_diff_docs.py`` writes it anew."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from adapter_pairs import PAIRS

from adaptool.adapters.adapter import open_adapter
from adaptool.comparing.adapters import compare_adapters
from adaptool.reports.diff_text import diff_report
from adaptool.reports.layout import plain

PAGE = Path(__file__).parents[1] / "docs" / "diff.md"
SHOWN = {"shown": "trained on and its alpha doubled", "equal": "turned: plain"}
BLOCK = re.compile(r"(<!-- tests/test_diff_docs\.py: (\w+) -->\n```\n)(.*?)(```\n<!-- end -->)", re.DOTALL)

ROUNDOFF = re.compile(r"\de-\d\d")
"""What is left of rounding: another machine's linear algebra leaves something else."""


def printed(name: str, folder: Path) -> str:
    """What ``adaptool diff old/sql new/sql --top 3`` prints of a pair, 80 columns wide."""
    pair = PAIRS[name]
    for side, version, make in (("old", "1.2.0", pair.before), ("new", "1.3.0", pair.after)):
        made = make(folder / side / "sql")
        (made / "adaptool.json").write_text(json.dumps({"version": version}), "utf-8")
    before, after = (open_adapter(folder / side / "sql") for side in ("old", "new"))
    return plain(diff_report(compare_adapters(before, after, ("old/sql", "new/sql")), 80, top=3)) + "\n"


@pytest.mark.parametrize("block", SHOWN)
def test_the_page_shows_what_is_printed(tmp_path, block):
    (shown,) = [found[3] for found in BLOCK.finditer(PAGE.read_text("utf-8")) if found[2] == block]
    assert ROUNDOFF.sub("", shown) == ROUNDOFF.sub("", printed(SHOWN[block], tmp_path))


def write() -> None:
    """Put what is printed into the page."""
    with TemporaryDirectory() as folder:
        told = {block: printed(name, Path(folder) / block) for block, name in SHOWN.items()}
    PAGE.write_text(BLOCK.sub(lambda found: found[1] + told[found[2]] + found[4], PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    write()
