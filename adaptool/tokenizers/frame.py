"""Which special tokens a tokenizer puts around a text, read from its post-processors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from adaptool.tokenizers.fast import Node, children


@dataclass
class Frame:
    """The settings and the roles looked for; reading post-processors completes them and fills ``add``.

    Mutable because each post-processor is read in the light of the ones before it: a template that ends in another
    token than the configured eos makes that token eos and the configured one the end of a turn.
    """

    settings: dict[str, Any]
    roles: list[str]
    add: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known = bool(self.settings)  # without a tokenizer_config.json a template's tokens are taken at their word
        self.bos, self.cls, self.eos, self.sep = (self.settings.get(f"{r}_token") for r in ("bos", "cls", "eos", "sep"))
        if self.known and not self.bos and self.cls:
            self.bos = self._name("bos", self.cls)
        if self.known and not self.eos and self.sep:
            self.eos = self._name("eos", self.sep)

    def read(self, post_processor: Node | None) -> None:
        """Take over what a post-processor, or each one of a sequence, says."""
        for part in children(post_processor, "processors"):
            match part.get("type"):
                case "ByteLevel":
                    self.add.setdefault("bos", False)
                    self.add.setdefault("eos", False)
                case "RobertaProcessing":
                    self._roberta(part)
                case "TemplateProcessing":
                    self._single(_pieces(part.get("single")), _pieces(part.get("pair")))

    def _name(self, role: str, token: Any) -> Any:
        self.settings[f"{role}_token"] = token
        return token

    def _roberta(self, part: Node) -> None:
        """``<s> text </s>``; the two tokens are given as (text, id) pairs."""
        self.add |= {"bos": True, "eos": True, "sep": True}
        if self.known and not self.cls:
            self.cls = self._name("cls", _first(part.get("cls"), self.bos))
        if self.known and not self.sep:
            self.sep = self._name("sep", _first(part.get("sep"), self.eos))

    def _single(self, single: Sequence[Node], pair: Sequence[Node]) -> None:
        """The template of one text: what it begins and ends with."""
        first = _special(single[0]) if len(single) > 1 else None
        last = _special(single[-1]) if len(single) > 1 else None
        if first:
            self._begin(first)
        if last:
            self._end(last)
        if pair:
            head = 1 if first and _special(pair[0]) == first else 0
            tail = len(pair) - 1 if last and _special(pair[-1]) == last else len(pair)
            self._pair(pair[head:tail], bool(last))

    def _begin(self, token: str) -> None:
        if not self.known:
            self.bos = token
        elif token not in (self.bos, self.cls):
            self.bos = self.bos or self._name("bos", token)
            self.cls = self.cls or self._name("cls", token)
        self.add["bos"] = token in (self.bos, self.cls)

    def _end(self, token: str) -> None:
        if self.known and token != self.eos:
            for role in ("eot", "eom"):
                if role not in self.roles:
                    self.roles.append(role)
                    self._name(role, self.eos)
                    break
            self._name("eos", token)
        self.eos = token
        self.add["eos"] = True

    def _pair(self, pair: Sequence[Node], ended: bool) -> None:
        """The template of two texts, less its ends: a separator between A and B."""
        if len(pair) < 3 or _sequence(pair[0]) != "A" or _sequence(pair[-1]) != "B":
            return
        between = pair[1:-1]
        separators = (self.sep, self.eos)
        first = _special(between[0])
        add = bool(first) and first in separators and not ended
        if len(between) == 2 and (second := _special(between[1])):
            add = add or second in separators
        self.add["sep"] = add
        if add and not self.sep and self.known:
            self._name("sep", self.eos)


def adds_nothing(post_processor: Node | None) -> bool:
    """Whether there is a template, and it is the text alone."""
    templates = [part for part in children(post_processor, "processors") if part.get("type") == "TemplateProcessing"]
    singles = [_pieces(part.get("single")) for part in templates]
    return bool(singles) and all(len(single) == 1 and _sequence(single[0]) for single in singles)


def _pieces(value: Any) -> list[Node]:
    return [piece for piece in value if isinstance(piece, dict)] if isinstance(value, list) else []


def _special(piece: Node) -> str | None:
    return _identity(piece.get("SpecialToken"))


def _sequence(piece: Node) -> str | None:
    return _identity(piece.get("Sequence"))


def _identity(part: Any) -> str | None:
    name = part.get("id") if isinstance(part, dict) else None
    return name if isinstance(name, str) else None


def _first(pair: Any, otherwise: Any) -> Any:
    return pair[0] if isinstance(pair, list) and pair else otherwise
