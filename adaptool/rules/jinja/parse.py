"""Chat templates as syntax trees: what one would do, seen without rendering it.

Jinja's own parser makes the tree (the one transformers and vLLM parse it with); nothing is compiled or evaluated by it.
"""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from adaptool.rules.jinja.inspection import Inspection, Sight
from adaptool.rules.jinja.words import DUNDERS


class Generation(Extension):
    """transformers' own tag, {% generation %} … {% endgeneration %}: it marks what the assistant says."""

    tags = {"generation"}  # noqa: RUF012  (as jinja2 declares it)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Its body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def inspect(source: str) -> tuple[Sight, ...]:
    """What a template does that none needs to, in its order; a broken one is a single "syntax" or "deep"."""
    environment = Environment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do", Generation])
    try:
        tree = environment.parse(source)
    except TemplateError as error:
        broken = Sight("syntax", getattr(error, "lineno", 1), str(error.message or "not a template"))
        return (broken, *_raw(source))
    except RecursionError:
        return (Sight("deep", 1, "is nested deeper than Jinja's parser follows"),)
    except (ValueError, OverflowError, UnicodeError) as error:
        return (Sight("syntax", 1, str(error)[:100]), *_raw(source))
    return tuple(dict.fromkeys(Inspection(tree).sights()))


def _raw(source: str) -> Iterator[Sight]:
    """Python's names in a text that is no template: another parser may read it."""
    for found in DUNDERS.finditer(source):
        yield Sight("internals", source.count("\n", 0, found.start()) + 1, f"names {found[0]}")
