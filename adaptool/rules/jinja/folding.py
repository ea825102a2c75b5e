"""Constant folding over a Jinja syntax tree: what an expression of literals comes to, without rendering anything.

Names are spelled in pieces to get past a search for them ('__cla' ~ 'ss__', "%c" | format(95), '__ssalc__'[::-1]).
Only the handful of operations below are followed, each on values that stay small; nothing of the template runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import nodes

from adaptool.rules.jinja.operations import (
    DEEPEST,
    FILTERS,
    LONGEST,
    METHODS,
    OPERATORS,
    TooDeep,
    Unknown,
    applied,
    as_text,
    counted,
    number,
    small,
)  # fmt: skip


class Folder:
    """Folds expressions; ``known`` holds what the template has set so far, ``ns.name`` for a namespace's."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self.left = 200_000
        """Steps until a template counts as too complex to follow."""

    def fold(self, node: nodes.Node | None, depth: int = 0) -> Any:
        """The value of an expression of literals; raises Unknown, Runaway or TooDeep."""
        self.left -= 1
        if depth > DEEPEST or self.left < 0:
            raise TooDeep
        work = HANDLERS.get(type(node))
        if work is None:
            raise Unknown
        value = small(work(self, node, depth + 1))
        self.left -= len(value) // 8 if isinstance(value, str | list | tuple | dict) else 0
        return value

    def attempt(self, node: nodes.Node | None) -> Any:
        """Its value, None where it is not known."""
        try:
            return self.fold(node)
        except Unknown:
            return None

    def several(self, found: list[Any], depth: int) -> list[Any]:
        """The values of a list of expressions."""
        return [self.fold(node, depth) for node in found]


def _literal(value: Any) -> Any:
    """A text of pages is written out, not put together: it is what it is."""
    if isinstance(value, str) and len(value) > LONGEST // 2:
        raise Unknown
    return value


def _name(folder: Folder, node: nodes.Name, depth: int) -> Any:
    if node.name not in folder.known:
        raise Unknown
    return folder.known[node.name]


def _getattr(folder: Folder, node: nodes.Getattr, depth: int) -> Any:
    path = f"{node.node.name}.{node.attr}" if isinstance(node.node, nodes.Name) else ""
    if path not in folder.known:
        raise Unknown
    return folder.known[path]


def _joined(folder: Folder, node: nodes.Concat, depth: int) -> str:
    return "".join(as_text(value) for value in folder.several(node.nodes, depth))


def _spine(folder: Folder, node: nodes.BinExpr, depth: int) -> Any:
    """a + b + c is ((a + b) + c): followed along its left side without recursion, however long it is."""
    right: list[nodes.BinExpr] = []
    inner: nodes.Node = node
    while isinstance(inner, nodes.BinExpr) and type(inner) in OPERATORS:
        right.append(inner)
        inner = inner.left
    value = folder.fold(inner, depth)
    for step in reversed(right):
        value = small(applied(OPERATORS[type(step)], [value, folder.fold(step.right, depth)]))
    return value


def _item(folder: Folder, node: nodes.Getitem, depth: int) -> Any:
    value = folder.fold(node.node, depth)
    if isinstance(node.arg, nodes.Slice):
        ends = [
            None if end is None else folder.fold(end, depth) for end in (node.arg.start, node.arg.stop, node.arg.step)
        ]
        where: Any = slice(*ends)
    else:
        where = folder.fold(node.arg, depth)
    try:
        return value[where]
    except (TypeError, IndexError, KeyError, ValueError, OverflowError):
        raise Unknown from None


def _filter(folder: Folder, node: nodes.Filter, depth: int) -> Any:
    work = FILTERS.get(node.name)
    if work is None or node.node is None or node.kwargs:
        raise Unknown
    return applied(work, [folder.fold(node.node, depth), *folder.several(node.args, depth)])


def _call(folder: Folder, node: nodes.Call, depth: int) -> Any:
    if isinstance(node.node, nodes.Getattr):
        work = METHODS.get(node.node.attr)
        if work is None or node.kwargs:
            raise Unknown
        return applied(work, [folder.fold(node.node.node, depth), *folder.several(node.args, depth)])
    name = node.node.name if isinstance(node.node, nodes.Name) else ""
    if name == "range" and node.args:
        return counted(folder.several(node.args, depth))
    if name == "dict" and not node.args:
        return {pair.key: folder.fold(pair.value, depth) for pair in node.kwargs}
    raise Unknown


def _dict(folder: Folder, node: nodes.Dict, depth: int) -> dict[Any, Any]:
    return {as_text(folder.fold(pair.key, depth)): folder.fold(pair.value, depth) for pair in node.items}


HANDLERS: Mapping[type, Callable[[Folder, Any, int], Any]] = {
    nodes.Const: lambda folder, node, depth: _literal(node.value),
    nodes.TemplateData: lambda folder, node, depth: _literal(node.data),
    nodes.Name: _name,
    nodes.Getattr: _getattr,
    nodes.Concat: _joined,
    nodes.List: lambda folder, node, depth: folder.several(node.items, depth),
    nodes.Tuple: lambda folder, node, depth: tuple(folder.several(node.items, depth)),
    nodes.Dict: _dict,
    nodes.Neg: lambda folder, node, depth: -number(folder.fold(node.node, depth)),
    nodes.Getitem: _item,
    nodes.Filter: _filter,
    nodes.Call: _call,
    nodes.Add: _spine, nodes.Sub: _spine, nodes.Mul: _spine, nodes.Div: _spine, nodes.FloorDiv: _spine,
    nodes.Mod: _spine, nodes.Pow: _spine,
}  # fmt: skip
