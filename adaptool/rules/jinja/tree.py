"""Questions to a node of a template's syntax tree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jinja2 import nodes


def tag(node: nodes.Node) -> str:
    """The word of a tag that loads another file."""
    if isinstance(node, nodes.Import | nodes.FromImport):
        return "import"
    return "extends" if isinstance(node, nodes.Extends) else "include"


def called_name(node: nodes.Node) -> str:
    """What a call or a filter goes by."""
    if isinstance(node, nodes.Filter):
        return node.name
    inner = node.node if isinstance(node, nodes.Call) else node
    if isinstance(inner, nodes.Name):
        return inner.name
    if isinstance(inner, nodes.Getattr):
        return inner.attr
    argument = inner.arg if isinstance(inner, nodes.Getitem) else None
    if isinstance(inner, nodes.Filter) and inner.name == "attr" and inner.args:
        argument = inner.args[0]
    return str(argument.value) if isinstance(argument, nodes.Const) else "a call"


def leaves(node: nodes.Node) -> Iterator[nodes.Const]:
    """Every literal in an expression."""
    waiting = [node]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, nodes.Const):
            yield inner
        waiting.extend(inner.iter_child_nodes())


def operands(node: nodes.Node) -> Iterator[nodes.Node]:
    """What is put together by + and ~."""
    waiting = [node]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, nodes.Add | nodes.Mul | nodes.Concat):
            waiting.extend(inner.iter_child_nodes())
        else:
            yield inner


def variable(node: nodes.Node) -> str:
    """A variable's name, ``ns.name`` in a namespace; "" for anything else."""
    if isinstance(node, nodes.NSRef):
        return f"{node.name}.{node.attr}"
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        return f"{node.node.name}.{node.attr}"
    return node.name if isinstance(node, nodes.Name) else ""


def outputs(body: list[nodes.Node]) -> list[nodes.Expr]:
    """What a {% set %} block prints, where it only prints; an unknown name where it does more."""
    printed: list[Any] = []
    for node in body:
        printed += node.nodes if isinstance(node, nodes.Output) else [nodes.Name("", "load")]
    return printed
