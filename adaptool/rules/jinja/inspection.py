"""One walk over a template's syntax tree, for what no conversation needs: Python's inside, files, endless work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from jinja2 import nodes

from adaptool.rules.jinja.folding import Folder
from adaptool.rules.jinja.operations import HUGE, Runaway, TooDeep, Unknown
from adaptool.rules.jinja.tree import called_name, leaves, operands, outputs, tag, variable
from adaptool.rules.jinja.words import CALLED_NAMES, DUNDERS, HIDDEN_NAMES, PIECES, STRANGERS, is_half
from adaptool.tensors.jsons import shown

Kind = Literal["internals", "stranger", "loads", "runaway", "deep", "syntax"]


@dataclass(frozen=True, slots=True)
class Sight:
    """One thing a template does that none needs to."""

    kind: Kind
    line: int
    what: str


@dataclass(frozen=True, slots=True)
class Stop:
    """One node still to be looked at, and where it stands."""

    node: nodes.Node
    times: int = 1
    """How often the loops around it run, as far as that is known."""
    macro: str = ""
    guarded: bool = False
    """Whether a condition or a loop stands between it and its macro."""
    in_loop: bool = False
    folded: bool = False
    """Whether it is inside an expression that was folded, or tried, as a whole."""


@dataclass
class Inspection:
    """One walk over a tree, in the order of the text and without recursion."""

    tree: nodes.Template
    folder: Folder = field(default_factory=Folder)
    calls: dict[str, dict[str, int]] = field(default_factory=dict)
    """By macro ("" outside all): which macros it calls, and how often."""
    weights: dict[str, int] = field(default_factory=dict)
    """By name: how many pieces of the conversation it was put together from."""

    def sights(self) -> Iterator[Sight]:
        """Everything worth telling."""
        own = set(self._own_names())
        waiting = [Stop(self.tree)]
        try:
            while waiting:
                stop = waiting.pop()
                yield from self._look(stop, own)
                waiting += reversed([*self._below(stop)])
        except TooDeep:
            yield Sight("deep", 1, "is too complex to follow")
        yield from self._expanded()

    def _own_names(self) -> Iterator[str]:
        """What the template itself defines."""
        waiting: list[nodes.Node] = [self.tree]
        while waiting:
            node = waiting.pop()
            if isinstance(node, nodes.Macro) or (isinstance(node, nodes.Name) and node.ctx != "load"):
                yield node.name
            waiting.extend(node.iter_child_nodes())

    def _below(self, stop: Stop) -> Iterator[Stop]:
        """The nodes inside one, each with what surrounds it."""
        node, times, macro, guarded, in_loop = stop.node, stop.times, stop.macro, stop.guarded, stop.in_loop
        if isinstance(node, nodes.Macro):
            macro, guarded = node.name, False
        elif isinstance(node, nodes.For):
            times, guarded, in_loop = times * self._rounds(node), True, True
        elif isinstance(node, nodes.If | nodes.CondExpr | nodes.And | nodes.Or):
            guarded = True
        spine = isinstance(node, nodes.BinExpr)
        for child in node.iter_child_nodes():
            inner = spine and type(child) is type(node)
            yield Stop(child, min(times, HUGE**2), macro, guarded, in_loop, inner)

    def _rounds(self, loop: nodes.For) -> int:
        try:
            value = self.folder.attempt(loop.iter)
        except Runaway:
            return HUGE
        return max(1, len(value)) if isinstance(value, str | list | tuple | dict | range) else 1

    def _look(self, stop: Stop, own: set[str]) -> Iterator[Sight]:
        node, line = stop.node, stop.node.lineno
        for name in self._names(node):
            if re.match(r"__\w", name) or name in HIDDEN_NAMES:
                yield Sight("internals", line, f"reads {shown(name)}")
        if isinstance(node, nodes.Const | nodes.Concat | nodes.BinExpr | nodes.Filter | nodes.Call | nodes.Getitem):
            yield from self._value(stop)
        if isinstance(node, nodes.Getitem | nodes.Filter):
            yield from self._computed(node)
        if isinstance(node, nodes.Call):
            yield from self._called(node, stop)
        if isinstance(node, nodes.Include | nodes.Import | nodes.FromImport | nodes.Extends):
            yield Sight("loads", line, f"has {{% {tag(node)} %}}")
        target = node.node if isinstance(node, nodes.Getattr | nodes.Getitem | nodes.Call | nodes.Filter) else None
        if isinstance(target, nodes.Name) and target.name in STRANGERS and target.name not in own:
            yield Sight("stranger", line, f"uses {target.name}")
        if isinstance(node, nodes.Output):
            for child in node.nodes:
                if isinstance(child, nodes.Name) and child.name in STRANGERS and child.name not in own:
                    yield Sight("stranger", line, f"prints {child.name}")
        if isinstance(node, nodes.Assign | nodes.AssignBlock):
            yield from self._assigned(node, stop)
        if isinstance(node, nodes.For):
            if stop.times * self._rounds(node) > HUGE and self._rounds(node) > 1:
                yield Sight("runaway", line, f"runs a loop more than {HUGE} times")
            self._forget(node.target)
        if isinstance(node, nodes.Macro):
            for argument in node.args:
                self._forget(argument)

    def _names(self, node: nodes.Node) -> Iterator[str]:
        """The attributes a node reads by a name that is written out."""
        if isinstance(node, nodes.Getattr):
            yield node.attr
        elif isinstance(node, nodes.Getitem):
            value = self._safely(node.arg)
            if isinstance(value, str):
                yield value
        elif isinstance(node, nodes.Filter) and node.name == "attr" and node.args:
            value = self._safely(node.args[0])
            if isinstance(value, str):
                yield value
        elif isinstance(node, nodes.Name) and re.match(r"__\w+__", node.name):
            yield node.name

    def _safely(self, node: nodes.Node) -> Any:
        try:
            return self.folder.attempt(node)
        except Runaway:
            return None

    def _value(self, stop: Stop) -> Iterator[Sight]:
        """What an expression of literals comes to: a hidden name, half of one, or something huge."""
        node = stop.node
        try:
            value = None if stop.folded else self.folder.fold(node)
        except Unknown:
            yield from self._huge_argument(node)
            return
        except Runaway as error:
            yield Sight("runaway", node.lineno, str(error))
            return
        for text in [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []:
            if isinstance(text, str) and (found := DUNDERS.search(text)):
                yield Sight("internals", node.lineno, f"spells {found[0]}")
            elif isinstance(text, str) and is_half(text):
                yield Sight("internals", node.lineno, f"spells {shown(text)}, a piece of one of Python's names")

    def _huge_argument(self, node: nodes.Node) -> Iterator[Sight]:
        """A number of millions given to something: a width, a count of repetitions."""
        given: list[nodes.Node] = []
        if isinstance(node, nodes.Filter | nodes.Call):
            given = [*node.args, *(pair.value for pair in node.kwargs)]
        elif isinstance(node, nodes.Mul):
            given = [node.left, node.right]
        for argument in given:
            value = self._safely(argument)
            if isinstance(value, int | float) and abs(value) >= HUGE:
                does = "multiplies by" if isinstance(node, nodes.Mul) else f"gives {called_name(node)}"
                yield Sight("runaway", node.lineno, f"{does} {value}")

    def _computed(self, node: nodes.Getitem | nodes.Filter) -> Iterator[Sight]:
        """Attributes whose name is only put together when the template runs."""
        if isinstance(node, nodes.Filter):
            by = node.args[0] if node.name == "attr" and node.args else None
            if node.name in ("map", "select", "reject") and len(node.args) > 1 and self._safely(node.args[0]) == "attr":
                by = node.args[1]
            if by is not None and self._safely(by) is None:
                yield Sight("internals", node.lineno, "reads an attribute whose name it computes (|attr)")
            return
        if isinstance(node.arg, nodes.Concat | nodes.BinExpr | nodes.Filter) and self._safely(node.arg) is None:
            texts = {inner.value.strip("_") for inner in leaves(node.arg) if isinstance(inner.value, str)}
            for piece in sorted(texts & PIECES):
                yield Sight("internals", node.lineno, f"puts together a name with {shown(piece)} in it")

    def _called(self, node: nodes.Call, stop: Stop) -> Iterator[Sight]:
        name = called_name(node)
        if isinstance(node.node, nodes.Name):
            made = self.calls.setdefault(stop.macro, {})
            made[name] = min(made.get(name, 0) + stop.times, HUGE**2)
            if name == stop.macro and not stop.guarded:
                yield Sight("runaway", node.lineno, f"calls the macro {name} from itself, without a condition")
            if name in STRANGERS - {"self", "cycler"}:
                return
        elif isinstance(node.node, nodes.Getattr | nodes.Getitem | nodes.Filter) and name in CALLED_NAMES:
            yield Sight("internals", node.lineno, f"calls {name}()")

    def _assigned(self, node: nodes.Assign | nodes.AssignBlock, stop: Stop) -> Iterator[Sight]:
        """Remembers what is set to a literal; what grows by itself in a loop doubles with every round."""
        target = node.target
        name = variable(target)
        if not name:
            self._forget(target)
            return
        body: nodes.Node = nodes.Concat(outputs(node.body)) if isinstance(node, nodes.AssignBlock) else node.node
        parts = [variable(inner) for inner in operands(body)]
        self.weights[name] = min(sum(self.weights.get(part, 1) for part in parts), HUGE**2)
        if stop.in_loop and parts.count(name) > 1:
            yield Sight("runaway", node.lineno, f"doubles {name} with every round of a loop")
        elif self.weights[name] > HUGE:
            yield Sight("runaway", node.lineno, f"puts {name} together from more than {HUGE} pieces")
        if isinstance(body, nodes.Call) and called_name(body) == "namespace":
            for pair in body.kwargs:
                self._remember(f"{name}.{pair.key}", pair.value)
            return
        self._remember(name, body)

    def _remember(self, name: str, body: nodes.Node) -> None:
        value = self._safely(body)
        if value is None:
            self.folder.known.pop(name, None)
        else:
            self.folder.known[name] = value

    def _forget(self, target: nodes.Node) -> None:
        for node in [target, *target.iter_child_nodes()]:
            if isinstance(node, nodes.Name):
                self.folder.known.pop(node.name, None)

    def _expanded(self) -> Iterator[Sight]:
        """Macros that call macros that call macros: how much text one page of them makes."""
        costs: dict[str, int] = {}

        def cost(name: str, above: tuple[str, ...]) -> int:
            if name in costs or name in above or len(above) > 100:
                return costs.get(name, 1)
            inner = self.calls.get(name, {})
            total = 1 + sum(
                times * cost(called, (*above, name)) for called, times in inner.items() if called in self.calls
            )
            costs[name] = min(total, HUGE**2)
            return costs[name]

        if cost("", ()) > HUGE:
            yield Sight("runaway", 1, f"has macros that call each other more than {HUGE} times")
