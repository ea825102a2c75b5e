"""A Modelfile: what ``ollama create`` needs beside the GGUF.

Ollama does not run the Jinja template a GGUF holds but a Go template of its own, so the format is recognised by the
marks of its turns and written again. One that is not recognised is left to Ollama, which knows some by heart.
Source: the Modelfile reference of Ollama; the chat templates of the families named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from adaptool.tensors.ggml.values import KeyValues

MODELFILE = "Modelfile"


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How a family writes a conversation: what stands before and after each role's words."""

    mark: str
    """What only its Jinja templates hold."""
    turns: Mapping[str, tuple[str, str]]
    """Role → (before, after); a role that is missing is written as the user's."""
    opening: str
    """What the model continues."""
    stops: tuple[str, ...]

    @property
    def template(self) -> str:
        """The Go template; nothing in it is trimmed, because the spaces between turns are part of the format."""
        named = [(f'if eq .Role "{role}"', turn) for role, turn in self.turns.items() if role != "user"]
        branches = [(f"else {test}" if number else test, turn) for number, (test, turn) in enumerate(named)]
        branches.append(("else", self.turns["user"]))
        body = "".join(f"{{{{ {test} }}}}{before}{{{{ .Content }}}}{after}" for test, (before, after) in branches)
        return f"{{{{ range .Messages }}}}{body}{{{{ end }}}}{{{{ end }}}}{self.opening}"


def _alike(before: str, after: str, *roles: str) -> dict[str, tuple[str, str]]:
    """Turns that differ in the role's name alone, which stands where ``before`` has {}."""
    return {role: (before.format(role), after) for role in roles or ("system", "user", "assistant")}


FORMATS = (
    ChatFormat(
        "<|im_start|>",
        _alike("<|im_start|>{}\n", "<|im_end|>\n"),
        "<|im_start|>assistant\n",
        ("<|im_start|>", "<|im_end|>"),
    ),
    ChatFormat(
        "<|start_header_id|>",
        _alike("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>"),
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|start_header_id|>", "<|eot_id|>"),
    ),
    ChatFormat(
        "<start_of_turn>",
        {
            "assistant": ("<start_of_turn>model\n", "<end_of_turn>\n"),
            "user": ("<start_of_turn>user\n", "<end_of_turn>\n"),
        },
        "<start_of_turn>model\n",
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    ChatFormat(
        "<|start_of_role|>",
        _alike("<|start_of_role|>{}<|end_of_role|>", "<|end_of_text|>\n"),
        "<|start_of_role|>assistant<|end_of_role|>",
        ("<|start_of_role|>", "<|end_of_text|>"),
    ),
    ChatFormat(
        "<|START_OF_TURN_TOKEN|>",
        {
            role: (f"<|START_OF_TURN_TOKEN|><|{name}_TOKEN|>", "<|END_OF_TURN_TOKEN|>")
            for role, name in (("system", "SYSTEM"), ("user", "USER"), ("assistant", "CHATBOT"))
        },
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    ),
    ChatFormat(
        "<|end|>",
        _alike("<|{}|>\n", "<|end|>\n"),
        "<|assistant|>\n",
        ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
    ),
    ChatFormat(
        "<|user|>",
        _alike("<|{}|>\n", "</s>\n"),
        "<|assistant|>\n",
        ("</s>", "<|user|>", "<|assistant|>", "<|system|>"),
    ),
    ChatFormat(
        "[/INST]",
        {
            "system": ("[INST] ", "\n\n"),
            "assistant": ("", "</s>"),
            "user": ("[INST] ", " [/INST]"),
        },
        "",
        ("[INST]", "[/INST]"),
    ),
)
"""The first whose mark a Jinja template holds; the more particular before the more general."""

DEFAULT_SYSTEM = re.compile(r"<\|im_start\|>system(?:\\n|\n)((?:(?!<\|im_end\|>)[^{}'\"+])+)<\|im_end\|>")
"""A system prompt that a ChatML template writes where the conversation has none."""


def chat_format(jinja: str) -> ChatFormat | None:
    """The format a chat template writes, or None where it is not one of those known."""
    return next((known for known in FORMATS if known.mark in jinja), None)


def modelfile(gguf_name: str, keys: KeyValues) -> str:
    """The Modelfile of a GGUF beside it: its file, its chat template in Ollama's words, its stop tokens."""
    lines = [f"FROM ./{gguf_name}"]
    jinja = keys["tokenizer.chat_template"].data if "tokenizer.chat_template" in keys else ""
    known = chat_format(jinja) if isinstance(jinja, str) else None
    if known is not None:
        lines.append(f'TEMPLATE """{known.template}"""')
        if system := DEFAULT_SYSTEM.search(jinja):
            lines.append(f'SYSTEM """{system[1].strip()}"""')
        lines += [f'PARAMETER stop "{stop}"' for stop in known.stops]
    elif jinja:
        lines.append("# This chat template is not one adaptool can write for Ollama, which may know it: ollama show")
    for name, parameter in (("temp", "temperature"), ("top_p", "top_p"), ("top_k", "top_k"), ("min_p", "min_p")):
        if (value := keys.get(f"general.sampling.{name}")) is not None:
            lines.append(f"PARAMETER {parameter} {value.data:g}")
    return "\n".join(lines) + "\n"
