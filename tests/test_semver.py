"""Semantic versions: parsed as the specification's grammar says, ordered by its examples, moved by a level."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptool.errors import UsageError
from adaptool.versioning.semver import LEVELS, Version, level_between, parse_version, require_label, require_version

# valid and invalid ones: the cases that semver.org publishes with its grammar
VALID = [
    "0.0.4", "1.2.3", "10.20.30", "1.1.2-prerelease+meta", "1.1.2+meta", "1.1.2+meta-valid", "1.0.0-alpha",
    "1.0.0-alpha.beta.1", "1.0.0-alpha.0valid", "1.0.0-alpha-a.b-c-somethinglong+build.1-aef.1-its-okay",
    "1.0.0-0A.is.legal", "1.0.0+0.build.1-rc.10000aaa-kk-0.1", "99999999999999999999999.999999999999999999.99999",
    "2.0.1-alpha.1227", "1.2.3----RC-SNAPSHOT.12.9.1--.12+788", "1.2.3----R-S.12.9.1--.12+meta",
]  # fmt: skip
INVALID = [
    "", "1", "1.2", "1.2.3-0123", "1.2.3-0123.0123", "1.1.2+.123", "+invalid", "-invalid", "alpha", "alpha.1",
    "1.0.0-alpha_beta", "1.0.0-alpha..", "01.1.1", "1.01.1", "1.1.01", "1.2.3.DEV", "1.2-SNAPSHOT", "1.0.0-",
    "-1.0.3-gamma+b7718", "+justmeta", "9.8.7+meta+meta", "v1.2.3", "1.2.3\n", " 1.2.3", "1.2.3-", "1.2.3+", "١.٢.٣",
    "1.2.3-é", "1.0." + "9" * 300, 1.2, 1, None, ["1.2.3"],
]  # fmt: skip

ORDERED = [
    "0.0.0-0", "0.0.0", "0.1.0", "1.0.0-1", "1.0.0-2", "1.0.0-10", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta",
    "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1-rc.1", "1.0.1", "1.0.10", "1.2.0",
    "1.10.0", "2.0.0",
]  # fmt: skip

versions = st.builds(
    Version, st.integers(0, 20), st.integers(0, 20), st.integers(0, 20),
    st.sampled_from([(), ("rc", "1"), ("rc", "2"), ("alpha",), ("beta", "9", "x")]),
)  # fmt: skip


@pytest.mark.parametrize("text", VALID)
def test_what_the_specification_allows(text):
    version = parse_version(text)
    assert text == str(version)


@pytest.mark.parametrize("text", INVALID, ids=repr)
def test_what_it_does_not(text):
    assert parse_version(text) is None


def test_a_version_that_is_none_is_an_error_in_words():
    with pytest.raises(UsageError, match="'v1' is not a semantic version"):
        require_version("v1")


@pytest.mark.parametrize("text", ["", "r c", "1", "01", "rc\n", "a.b", "x" * 300])
def test_what_cannot_name_a_pre_release(text):
    with pytest.raises(UsageError, match="cannot name a pre-release"):
        require_label(text)


@pytest.mark.parametrize(("lower", "higher"), list(pairwise(ORDERED)))
def test_precedence(lower, higher):
    before, after = parse_version(lower), parse_version(higher)
    assert (before < after, before <= after, before > after, before >= after) == (True, True, False, False)


def test_a_build_has_no_precedence():
    one, other = parse_version("1.0.0+a"), parse_version("1.0.0+b")
    assert (one < other, one > other, one <= other, one >= other) == (False, False, True, True)
    assert one != other


@pytest.mark.parametrize(
    ("before", "level", "pre", "after"),
    [
        ("1.2.3", "none", "", "1.2.3"),
        ("1.2.3", "patch", "", "1.2.4"),
        ("1.2.3", "minor", "", "1.3.0"),
        ("1.2.3", "major", "", "2.0.0"),
        ("0.3.1", "major", "", "1.0.0"),
        ("1.2.3+b", "patch", "", "1.2.4"),
        ("1.2.3", "minor", "rc", "1.3.0-rc.1"),
        ("1.3.0-rc.1", "minor", "rc", "1.3.0-rc.2"),
        ("1.3.0-rc.1", "patch", "rc", "1.3.0-rc.2"),
        ("1.3.0-rc.1", "major", "rc", "2.0.0-rc.1"),
        ("1.3.0-rc.9", "minor", "", "1.3.0"),
        ("1.3.0-rc.9", "patch", "", "1.3.0"),
        ("1.3.0-rc.9", "none", "", "1.3.0-rc.9"),
        ("1.3.1-rc.9", "minor", "", "1.4.0"),
        ("2.0.0-rc.1", "major", "", "2.0.0"),
        ("1.3.0-alpha.4", "minor", "beta", "1.3.0-beta.1"),
        ("1.2.3", "none", "rc", "1.2.4-rc.1"),
    ],
)
def test_bumps(before, level, pre, after):
    assert after == str(parse_version(before).bumped(level, pre))


@given(versions, st.sampled_from(LEVELS[1:]), st.sampled_from(["", "rc"]))
def test_a_bump_is_always_bump_enough_for_its_level(version, level, pre):
    after = version.bumped(level, pre)
    if pre and version.pre > (pre,):  # from beta back to alpha is for the user to decide
        return
    assert version.suffices(level, after)


@pytest.mark.parametrize(
    ("before", "level", "after", "enough"),
    [
        ("1.2.0", "minor", "1.2.1", False),
        ("1.2.0", "minor", "1.3.0-rc.1", True),
        ("1.3.0-rc.1", "minor", "1.3.0-rc.2", True),
        ("1.3.0-rc.1", "major", "1.3.0", False),
        ("1.2.0", "major", "3.1.0", True),
        ("1.2.0", "none", "1.2.0", True),
        ("1.2.0", "patch", "1.2.0", False),
        ("1.2.0", "patch", "1.1.9", False),
        ("1.2.0", "none", "1.1.0", False),
    ],
)
def test_whether_a_step_is_enough(before, level, after, enough):
    assert enough == parse_version(before).suffices(level, parse_version(after))


@pytest.mark.parametrize(
    ("before", "after", "level"),
    [
        ("1.2.3", "1.2.3", "none"), ("1.2.3", "1.2.2", "none"), ("1.2.3", "1.2.4", "patch"),
        ("1.2.3", "1.3.0", "minor"), ("1.2.3", "2.0.0", "major"), ("1.3.0-rc.1", "1.3.0", "patch"),
    ],
)  # fmt: skip
def test_how_large_a_step_was(before, after, level):
    assert level == level_between(parse_version(before), parse_version(after))
