"""What a change asks of a version: every rule of docs/decisions/0010, from contents made by hand and from adapters."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from making import VOCABULARY, WIDTH, lora, numbers, write_json

from adaptool.adapters.adapter import open_adapter
from adaptool.comparing.added_tokens import MOST, added_tokens
from adaptool.comparing.contents import Contents, TensorContent, contents_of, vocabulary_of
from adaptool.comparing.level import level_of

PREFIX = "base_model.model."
COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40


def tensor(*shape: int, digest: str = "0") -> TensorContent:
    return TensorContent("F32", shape, digest)


def factors(module: str, rank: int = 4, rows: int = 32, columns: int = 64) -> dict[str, TensorContent]:
    key = f"{PREFIX}{module}"
    return {f"{key}.lora_A.weight": tensor(rank, columns), f"{key}.lora_B.weight": tensor(rows, rank)}


def layered(*projections: str, rank: int = 4) -> dict[str, TensorContent]:
    names = [f"model.layers.{layer}.self_attn.{name}" for name in projections for layer in range(2)]
    return {key: found for name in names for key, found in factors(name, rank).items()}


def contents(tensors: dict[str, TensorContent], **fields: object) -> Contents:
    known = {"config": {"peft_type": "LORA", "r": 4}, "config_digest": "c"} | fields
    return Contents("LORA", known.pop("base", "org/base"), known.pop("revision", None), tensors=tensors, **known)


PLAIN = contents(layered("q_proj", "v_proj"))
HEAD = {f"{PREFIX}lm_head.weight": tensor(40, 64)}
BIASED = {f"{PREFIX}model.layers.0.self_attn.q_proj.base_layer.bias": tensor(32)}
ON_EMBEDDING = {f"{PREFIX}model.embed_tokens.lora_embedding_A": tensor(4, 40),
                f"{PREFIX}model.embed_tokens.lora_embedding_B": tensor(64, 4)}  # fmt: skip
EXPERTS = {f"{PREFIX}model.layers.0.mlp.experts.lora_A.weight": tensor(32, 64),
           f"{PREFIX}model.layers.0.mlp.experts.lora_B.weight": tensor(64, 32)}  # fmt: skip


def with_tensors(*others: dict[str, TensorContent], **fields: object) -> Contents:
    return contents({key: found for part in (PLAIN.tensors, *others) for key, found in part.items()}, **fields)


def moved(given: Contents) -> Contents:
    return replace(given, tensors={key: replace(found, digest="1") for key, found in given.tensors.items()})


RULES = [
    ("nothing", PLAIN, PLAIN, "none", ()),
    ("another base", PLAIN, replace(PLAIN, base="org/other"), "major", ("another base: org/base → org/other",)),
    ("another revision", replace(PLAIN, revision=COMMIT), replace(PLAIN, revision=OTHER_COMMIT), "major",
     (f"another revision of the base: {COMMIT} → {OTHER_COMMIT}",)),
    ("pinned", PLAIN, replace(PLAIN, revision=COMMIT), "none", (f"the base's revision is pinned: {COMMIT}",)),
    ("unpinned", replace(PLAIN, revision=COMMIT), PLAIN, "none",
     (f"the base's revision is no longer pinned to {COMMIT}",)),
    ("the base by a path", PLAIN, replace(PLAIN, base="/data/base"), "none",
     ("the base under another name: org/base → /data/base (by its hub id before, by a path now)",)),
    ("another name, the same digest", replace(PLAIN, base_digest="d"), replace(PLAIN, base="x", base_digest="d"),
     "none", ()),
    ("the same name, another digest", replace(PLAIN, base_digest="d"), replace(PLAIN, base_digest="e"), "major",
     ("another base: org/base has tensors of another digest",)),
    ("another type", PLAIN, replace(PLAIN, peft_type="LOHA"), "major", ("another PEFT type: LORA → LOHA",)),
    ("removed modules", PLAIN, contents(layered("q_proj")), "major", ("removed: v_proj in 2 modules",)),
    ("removed and added", PLAIN, contents(layered("q_proj", "k_proj")), "major", ("removed: v_proj in 2 modules",)),
    ("added modules", PLAIN, contents(layered("q_proj", "v_proj", "k_proj")), "minor", ("new: k_proj in 2 modules",)),
    ("removed head", with_tensors(HEAD), PLAIN, "major", ("removed, and was saved whole: lm_head",)),
    ("added head", PLAIN, with_tensors(HEAD), "minor", ("new, and saved whole: lm_head",)),
    ("removed bias", with_tensors(BIASED), PLAIN, "major",
     ("removed, and was saved whole: model.layers.0.self_attn.q_proj.bias",)),
    ("rank", PLAIN, contents({**layered("q_proj", rank=8), **layered("v_proj")}), "minor",
     ("rank 4 → 8: q_proj in 2 modules",)),
    ("rank of experts", contents(EXPERTS),
     contents({key: tensor(*(2 * n if n == 32 else n for n in found.shape)) for key, found in EXPERTS.items()}),
     "minor", ("another rank: model.layers.0.mlp.experts",)),
    ("another width", contents(factors("model.x")), contents(factors("model.x", columns=128)), "major",
     ("for modules of another size: model.x",)),
    ("rows of a head", with_tensors(HEAD), with_tensors({f"{PREFIX}lm_head.weight": tensor(48, 64)}), "major",
     ("another vocabulary: lm_head of 40 → 48 tokens",)),
    ("tokens of an embedding's update", with_tensors(ON_EMBEDDING),
     with_tensors(ON_EMBEDDING, {f"{PREFIX}model.embed_tokens.lora_embedding_A": tensor(4, 48)}), "major",
     ("another vocabulary: model.embed_tokens of 40 → 48 tokens",)),
    ("labels", with_tensors({f"{PREFIX}score.weight": tensor(2, 64)}),
     with_tensors({f"{PREFIX}score.weight": tensor(3, 64)}), "major",
     ("score.weight has another shape: [2, 64] → [3, 64]",)),
    ("trained tokens", replace(PLAIN, vocabulary={"trained": {"model.embed_tokens": [1, 2]}}),
     replace(PLAIN, vocabulary={"trained": {"model.embed_tokens": [1, 3]}}), "major",
     ("other trained tokens (trainable_token_indices)",)),
    ("added tokens", replace(PLAIN, vocabulary={"added": {"<a>": 40, "<b>": 41}}),
     replace(PLAIN, vocabulary={"added": {"<a>": 41, "<c>": 42}}), "major",
     ("the tokenizer's added tokens changed: 1 added, 1 removed, 1 with another id",)),
    ("a tokenizer beside", PLAIN, replace(PLAIN, vocabulary={"added": {"<a>": 40}}), "none", ()),
    ("merged in", PLAIN, moved(replace(PLAIN, parents=frozenset({("composed_of", "sql")}))), "minor",
     ("merged in: sql",)),
    ("trained from", PLAIN, moved(replace(PLAIN, parents=frozenset({("trained_from", "sql")}))), "patch",
     ("8 tensors of 8 changed",)),
    ("weights", PLAIN, moved(PLAIN), "patch", ("8 tensors of 8 changed",)),
    ("config", PLAIN, replace(PLAIN, config={"peft_type": "LORA", "r": 4, "lora_alpha": 2}, config_digest="d"),
     "patch", ("the config changed: lora_alpha",)),
    ("config known by digest", replace(PLAIN, config=None), replace(PLAIN, config=None, config_digest="d"), "patch",
     ("the config changed",)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "level", "reasons"), [rule[1:] for rule in RULES], ids=[r[0] for r in RULES]
)
def test_rules(before, after, level, reasons):
    assert level_of(before, after, equal=None) == (level, reasons)


def test_equal_updates_ask_for_nothing_whatever_they_are_made_of():
    scaled = moved(replace(PLAIN, config={"peft_type": "LORA", "r": 4, "lora_alpha": 2}, config_digest="d"))
    assert level_of(PLAIN, scaled, equal=True) == ("none", ())
    assert level_of(PLAIN, scaled, equal=False)[0] == "patch"
    wider = moved(contents(layered("q_proj", "v_proj", rank=8)))
    assert level_of(PLAIN, wider, equal=True)[0] == "minor"


def test_equal_updates_do_not_excuse_what_no_update_shows():
    other = replace(PLAIN, config={"peft_type": "LORA", "r": 4, "alora_invocation_tokens": [5]}, config_digest="d")
    assert level_of(PLAIN, other, equal=True) == ("patch", ("the config changed: alora_invocation_tokens",))


def of(folder: Path) -> Contents:
    return contents_of(open_adapter(folder))


def test_contents_of_an_adapter(tmp_path):
    found = of(lora(tmp_path / "a", base_model_name_or_path="org/base", revision=COMMIT))
    assert (found.peft_type, found.base, found.revision) == ("LORA", "org/base", COMMIT)
    assert found.config == {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    assert found.vocabulary == {}
    assert {(t.dtype, t.shape) for t in found.tensors.values()} == {
        ("F32", (4, 64)), ("F32", (64, 4)), ("F32", (32, 4)),
    }  # fmt: skip


def test_levels_of_adapters_on_disk(tmp_path):
    base = lora(tmp_path / "base")
    cases = {
        "none": lora(tmp_path / "same", target_modules=["v_proj", "q_proj"], lora_dropout=0.2, peft_version="0.19.1"),
        "patch": lora(tmp_path / "alpha", lora_alpha=16),
        "minor": lora(tmp_path / "wide", rank=8),
        "major": lora(tmp_path / "less", targets=["q_proj"]),
    }
    assert {level_of(of(base), of(folder), equal=None)[0]: folder for folder in cases.values()} == cases


def test_vocabulary_of_an_adapter(tmp_path):
    rows = numbers("F32", (2, WIDTH), 1)
    folder = lora(
        tmp_path / "a", trainable_token_indices=[3, VOCABULARY - 1],
        extra={f"{PREFIX}lm_head.weight": ("F32", numbers("F32", (VOCABULARY, WIDTH), 2)),
               f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta": ("F32", rows)},
    )  # fmt: skip
    assert vocabulary_of(open_adapter(folder)) == {
        "rows": {"lm_head": VOCABULARY},
        "trained": {"model.embed_tokens": [3, VOCABULARY - 1]},
    }


def fast(*added: tuple[str, int]) -> dict[str, object]:
    tokens = [{"id": number, "content": text, "special": True} for text, number in added]
    return {"version": "1.0", "added_tokens": tokens, "model": {"type": "WordLevel", "vocab": {"<s>": 0, "a": 1},
                                                                "unk_token": "<s>"}}  # fmt: skip


def test_added_tokens(tmp_path):
    folder = lora(tmp_path / "a")
    adapter = open_adapter(folder)
    assert added_tokens(adapter) is None
    write_json(folder / "added_tokens.json", {"<x>": 2})
    assert added_tokens(adapter) == {"<x>": 2}
    write_json(folder / "tokenizer.json", fast(("<s>", 0), ("<x>", 2), ("<y>", 3)))
    assert added_tokens(adapter) == {"<x>": 2, "<y>": 3}


def test_hundreds_of_added_tokens_are_a_number_and_a_digest(tmp_path):
    folder = lora(tmp_path / "a")
    write_json(folder / "tokenizer.json", fast(*((f"<{n}>", n) for n in range(2, 2 * MOST))))
    one = of(folder)
    assert one.vocabulary["added"]["count"] == 2 * MOST - 2
    write_json(folder / "tokenizer.json", fast(*((f"<{n}>", n) for n in range(2, 2 * MOST + 1))))
    assert level_of(one, one, equal=None) == ("none", ())
    level, reasons = level_of(one, of(folder), equal=True)
    assert (level, reasons) == ("major", ("the tokenizer's added tokens changed: 126 of them → 127 of them",))


@pytest.mark.parametrize("text", ["[" * 5000, "{}", "[]", "", json.dumps({"model": {}, "added_tokens": 3}),
                                  json.dumps(fast(("\ud800", 3))), json.dumps(fast(("<x>", True)))])  # fmt: skip
def test_a_tokenizer_that_cannot_be_read_says_nothing(tmp_path, text):
    folder = lora(tmp_path / "a")
    (folder / "tokenizer.json").write_text(text)
    assert added_tokens(open_adapter(folder)) is None
