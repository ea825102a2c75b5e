"""BPE tokenizers back: over bytes, split into words first, or over whole lines of text."""

from __future__ import annotations

from adaptool.errors import UnsupportedError
from adaptool.tensors.ggml.values import ValueType
from adaptool.tokenizers import regexes
from adaptool.tokenizers.bpe import SPACE
from adaptool.tokenizers.families import BY_NAME, Family
from adaptool.tokenizers.parts import Component, Rebuilt, bpe, framing, replace, sequence, split
from adaptool.tokenizers.parts import byte_level as bytes_part
from adaptool.tokenizers.rows import Rows


def byte_level(rows: Rows) -> Rebuilt:
    """GPT-2's kind, splitting as the pre-tokenizer's name says."""
    family = named_family(rows)
    return Rebuilt(
        model=bpe(rows.vocab(), rows.merges, ignore_merges=family.ignore_merges),
        decoder=bytes_part(use_regex=True) | {"add_prefix_space": True},
        normalizer={"type": "NFC"} if family.nfc else None,
        pre_tokenizer=pre_tokenizer(family),
        post_processor=post_processor(rows, family),
        clean_spaces=family.clean_spaces,
    )


def whole_text(rows: Rows) -> Rebuilt:
    """Gemma 4's kind: spaces made visible, no words, bytes for what the vocabulary lacks."""
    return Rebuilt(
        model=bpe(rows.vocab(), rows.merges, unk_token=rows.text("unk"), fuse_unk=True, byte_fallback=True),
        decoder={"type": "Sequence", "decoders": [replace(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]},
        normalizer=replace(" ", SPACE),
        pre_tokenizer=split(regexes.LINES),
        post_processor=framing(rows, bos=True, eos=rows.flag("eos") is True),
    )


def named_family(rows: Rows) -> Family:
    """The row of ``tokenizer.ggml.pre``; a file without the key is split as the runtime's default has it."""
    name = rows.find("tokenizer.ggml.pre", ValueType.STRING)
    if (family := BY_NAME.get(str(name or "default"))) is None:
        raise UnsupportedError(
            f"tokenizer.ggml.pre {name!r}: how this pre-tokenizer splits text cannot be written as a tokenizer.json",
            hint="the base model's own tokenizer files serve as well",
        )
    return family


def pre_tokenizer(family: Family) -> Component:
    """The splits in turn, then bytes; GPT-2's pattern as the last split is ByteLevel's own."""
    own = family.splits[-1] == regexes.GPT2
    patterns = family.splits[:-1] if own else family.splits
    return sequence("pretokenizers", [*map(split, patterns), bytes_part(use_regex=own)])


def post_processor(rows: Rows, family: Family) -> Component | None:
    """What is put around a text; where the GGUF does not say, what the runtime does."""
    bos = family.add_bos if rows.flag("bos") is None else rows.flag("bos") is True
    eos = rows.flag("eos") is True
    first, last = rows.text("bos"), rows.text("eos")
    if bos and eos and rows.flag("sep") and first is not None and last is not None:
        pairs = {"sep": [last, rows.ids["eos"]], "cls": [first, rows.ids["bos"]]}
        return {"type": "RobertaProcessing", **pairs, "trim_offsets": True, "add_prefix_space": False}
    if (frame := framing(rows, bos=bos, eos=eos)) is not None:
        return frame
    said = rows.flag("bos") is False and rows.flag("eos") is False
    return bytes_part(use_regex=True) | {"add_prefix_space": True, "trim_offsets": False} if said else None
