"""Modelfiles: the Go template writes what the Jinja template writes, for every family that is recognised."""

from __future__ import annotations

import re

import pytest

from adaptool.gguf.ollama import FORMATS, chat_format, modelfile
from adaptool.tensors.ggml.values import f32, text

jinja2 = pytest.importorskip("jinja2")

JINJA = {
    "<|im_start|>": (
        "{% for m in messages %}{{'<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
    ),
    "<|start_header_id|>": (
        "{% for m in messages %}{{'<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content + '<|eot_id|>'}}"
        "{% endfor %}{% if add_generation_prompt %}{{'<|start_header_id|>assistant<|end_header_id|>\n\n'}}{% endif %}"
    ),
    "<start_of_turn>": (
        "{% for m in messages %}{{'<start_of_turn>' + ('model' if m.role == 'assistant' else 'user') + '\n' + m.content"
        " + '<end_of_turn>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
    ),
    "<|end|>": (
        "{% for m in messages %}{{'<|' + m.role + '|>\n' + m.content + '<|end|>\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{'<|assistant|>\n'}}{% endif %}"
    ),
    "<|user|>": (
        "{% for m in messages %}{% if m.role == 'user' %}{{'<|user|>\n' + m.content + '</s>\n'}}"
        "{% elif m.role == 'system' %}{{'<|system|>\n' + m.content + '</s>\n'}}"
        "{% else %}{{'<|assistant|>\n' + m.content + '</s>\n'}}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{'<|assistant|>\n'}}{% endif %}"
    ),
    "<|start_of_role|>": (
        "{% for m in messages %}{{'<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{'<|start_of_role|>assistant<|end_of_role|>'}}{% endif %}"
    ),
}
TALK = [("user", "Hi!"), ("assistant", "Hello."), ("user", "How are you?\nFine?")]


def go(template: str, messages: list[tuple[str, str]]) -> str:
    """The few words of Go's templates that ours use, read by another hand than wrote them."""
    body, opening = re.fullmatch(r"\{\{ range \.Messages \}\}(.*)\{\{ end \}\}(.*)", template, re.DOTALL).groups()
    pieces = re.split(r"\{\{ (if eq \.Role \"\w+\"|else if eq \.Role \"\w+\"|else|end) \}\}", body)
    written = ""
    for role, content in messages:
        for test, words in zip(pieces[1::2], pieces[2::2], strict=True):
            named = re.search(r'"(\w+)"', test)
            if test != "end" and (named is None or named[1] == role):
                written += words.replace("{{ .Content }}", content)
                break
    return written + opening


@pytest.mark.parametrize("mark", JINJA)
def test_the_go_template_writes_what_the_jinja_template_writes(mark):
    known = chat_format(JINJA[mark])
    messages = [{"role": role, "content": content} for role, content in TALK]
    expected = jinja2.Template(JINJA[mark], keep_trailing_newline=True).render(
        messages=messages, add_generation_prompt=True
    )
    assert known.mark == mark
    assert go(known.template, TALK) == expected


def test_every_format_is_known_by_its_mark():
    assert [chat_format(f"x {known.mark} y") for known in FORMATS] == list(FORMATS)


def test_a_modelfile_names_its_gguf_its_template_and_its_stops():
    keys = {"tokenizer.chat_template": text(JINJA["<|im_start|>"]), "general.sampling.temp": f32(0.5)}
    written = modelfile("m-Q8_0.gguf", keys)
    assert written.startswith('FROM ./m-Q8_0.gguf\nTEMPLATE """{{ range .Messages }}')
    assert 'PARAMETER stop "<|im_end|>"\n' in written
    assert written.endswith("PARAMETER temperature 0.5\n")


def test_the_default_system_prompt_of_a_template_is_kept():
    jinja = (
        "{% if not system %}{{ '<|im_start|>system\\nYou are Smol.<|im_end|>\\n' }}{% endif %}" + JINJA["<|im_start|>"]
    )
    assert 'SYSTEM """You are Smol."""' in modelfile("m.gguf", {"tokenizer.chat_template": text(jinja)})


def test_an_unknown_template_is_left_to_ollama():
    written = modelfile("m.gguf", {"tokenizer.chat_template": text("{{ messages }}")})
    assert "TEMPLATE" not in written
    assert "not one adaptool can write" in written
    assert modelfile("m.gguf", {}) == "FROM ./m.gguf\n"
