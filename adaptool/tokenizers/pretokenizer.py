"""Which of llama.cpp's pre-tokenizers a tokenizer.json has, told by its structure.

Upstream tells it by the token ids of one text, so that a vocabulary with one token more is unknown to it; the regexes
that split the text stay the same, and they are what the runtime goes by. The ids decide between names that split alike.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from adaptool.errors import UnsupportedError, UsageError
from adaptool.tokenizers import regexes
from adaptool.tokenizers.bpe import added_tokens, is_byte_level
from adaptool.tokenizers.families import BY_NAME, FAMILIES, NAMES, WORDPIECE, Family
from adaptool.tokenizers.fast import FastTokenizer, Node, children
from adaptool.tokenizers.files import TokenizerFiles
from adaptool.tokenizers.fingerprint import known_name

SLOW = {
    "GPT2Tokenizer": "gpt-2",
    "RobertaTokenizer": "roberta-bpe",
    "Qwen2Tokenizer": "qwen2",
    "CodeGenTokenizer": "phi-2",
}
"""What the classes of folders without a tokenizer.json split by."""


def check_name(name: str) -> str:
    """``name`` if llama.cpp has such a pre-tokenizer; else a UsageError with the nearest names."""
    if name in NAMES:
        return name
    near = difflib.get_close_matches(name, NAMES, n=3)
    raise UsageError(
        f"{name!r} is not a pre-tokenizer that llama.cpp has",
        hint=f"did you mean {' or '.join(near)}?" if near else f"the names are {', '.join(NAMES)}",
    )


def recognise(files: TokenizerFiles) -> str:
    """The name for ``tokenizer.ggml.pre``; UnsupportedError, with what was found, where there is none."""
    fast = files.fast
    if fast is None:
        return _slow(files)
    if fast.kind == "WordPiece":
        return known_name(fast) or WORDPIECE[0]
    found = [regexes.canonical(step) for step in steps(fast)]
    rows = [family for family in FAMILIES if matches(family, found, fast)] if is_byte_level(fast) else []
    if (name := known_name(fast)) and (not rows or (name in BY_NAME and BY_NAME[name].splits == rows[0].splits)):
        return name
    if not rows:
        raise _unknown(fast, found)
    return max(rows, key=lambda family: _likeness(family, files, fast)).names[0]


def steps(fast: FastTokenizer) -> Iterator[str]:
    """The pre-tokenizer as patterns that each isolate their matches; any other step as a description of it."""
    for part in children(fast.pre_tokenizer, "pretokenizers"):
        yield from _step(part)


def matches(family: Family, found: list[str], fast: FastTokenizer) -> bool:
    """Whether the structure is this family's: the same splits, and words looked up whole or not."""
    wanted = [regexes.canonical(pattern) for pattern in family.splits]
    if family.ignore_merges != fast.flag("ignore_merges"):
        return False
    # falcon's Digits step splits runs of digits from other characters, which the GPT-2 pattern before it has done
    return found == wanted or ([step for step in found if step != regexes.DIGITS] == wanted and regexes.GPT2 in wanted)


def _step(part: Node) -> Iterator[str]:
    kind = part.get("type")
    match part:
        case {"type": "Split", "pattern": {"Regex": str(regex)}}:
            total = regex.endswith(r"\s+")  # such a pattern leaves nothing between its matches
            behaviour = part.get("behavior"), part.get("invert") is True
            plain = behaviour == ("Isolated", False) or (total and behaviour == ("Removed", True))
            yield regex if plain else f"Split {behaviour[0]} invert={behaviour[1]} {regex}"
        case {"type": "Split", "pattern": {"String": str(text)}}:
            yield f"Split on {text!r}"
        case {"type": "Digits"}:
            yield regexes.DIGIT if part.get("individual_digits") is True else regexes.DIGITS
        case {"type": "Punctuation", "behavior": "Contiguous"}:
            yield regexes.PUNCTUATION
        case {"type": "ByteLevel"}:
            if part.get("add_prefix_space") is True:
                yield "ByteLevel add_prefix_space"
            if part.get("use_regex") is not False:
                yield regexes.GPT2
        case _:
            yield str(kind)


def _likeness(family: Family, files: TokenizerFiles, fast: FastTokenizer) -> tuple[bool, ...]:
    """How well a row fits beyond its splits: a marker token, the separator, how text is shown, the normaliser."""
    contents = {token.content for token in added_tokens(files).values()}
    posts = {part.get("type") for part in children(fast.post_processor, "processors")}
    normalizers = {part.get("type") for part in children(fast.normalizer, "normalizers")}
    clean = files.setting("clean_up_tokenization_spaces", bool)
    return (
        (family.marker in contents) if family.marker else not contents & {f.marker for f in FAMILIES if f.marker},
        family.add_sep == ("RobertaProcessing" in posts),
        clean is None or family.clean_spaces == clean,
        family.nfc == ("NFC" in normalizers),
    )


def _slow(files: TokenizerFiles) -> str:
    if files.text("vocab.txt") is not None and files.mapping("vocab.json") is None:
        return WORDPIECE[0]
    kind = files.setting("tokenizer_class", str) or "none"
    if (name := SLOW.get(kind.removesuffix("Fast"))) is None:
        raise UnsupportedError(
            f"{files.folder}: how tokenizer_class {kind!r} splits text is not known without a tokenizer.json",
            hint="load it once with transformers and save it, or name llama.cpp's pre-tokenizer with --pre NAME",
        )
    return name


def _unknown(fast: FastTokenizer, found: list[str]) -> UnsupportedError:
    if not is_byte_level(fast):
        return UnsupportedError(
            f"{fast.where}: a {fast.kind} model that does not work on bytes has no pre-tokenizer in llama.cpp",
            hint="is the architecture's tokenizer.model missing beside it?",
        )
    wanted = {"  ".join(regexes.canonical(p) for p in family.splits): family.names[0] for family in reversed(FAMILIES)}
    near = difflib.get_close_matches("  ".join(found), wanted, n=3, cutoff=0.3)
    names = ", ".join(dict.fromkeys(wanted[text] for text in near)) or "gpt-2, llama-bpe, qwen2"
    shown = "; ".join(repr(step[:300]) for step in found) or "no split"
    merged = ", words looked up whole" if fast.flag("ignore_merges") else ""
    return UnsupportedError(
        f"{fast.where}: llama.cpp has no pre-tokenizer that splits text so: {shown}{merged}",
        hint=f"--pre NAME forces one; the closest are {names}. A wrong one gives other tokens than in training",
    )
