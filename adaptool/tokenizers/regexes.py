"""The patterns that split text into words before BPE, in the spelling tokenizer.json files have.

Each is a fact of a published tokenizer; the runtime has its own spelling of the same split.
"""

from __future__ import annotations

import re

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
NEWLINES = r"\s*[\r\n]+"
SPACES = r"\s+(?!\S)|\s+"
OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGIT = r"\p{N}"
DIGITS = r"\p{N}+"
PUNCTUATION = r"[\p{P}$+<=>^~|`]+"
THREE_ASCII_DIGITS = "[0-9][0-9][0-9]"

LLAMA3 = rf"{CONTRACTIONS}|{WORD}|\p{{N}}{{1,3}}|{OTHERS}|{NEWLINES}|{SPACES}"
QWEN2 = rf"{CONTRACTIONS}|{WORD}|\p{{N}}|{OTHERS}|{NEWLINES}|{SPACES}"
_MARKED = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
QWEN35 = f"{CONTRACTIONS}|{_MARKED}|{NEWLINES}|{SPACES}"
UFAKZEKA = rf"{WORD}|\p{{N}}|{OTHERS}|{NEWLINES}|{SPACES}"
MINICPM5 = rf"{CONTRACTIONS}|{WORD}|\p{{N}}+|{OTHERS}|{NEWLINES}|{SPACES}"
SEED_CODER = rf"{CONTRACTIONS}|{WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{NEWLINES}|{SPACES}"
BAILING = rf"'(?i:[sdmt]|ll|ve|re)|{WORD}|\p{{N}}|{OTHERS}|\s*[\r\n]|{SPACES}"
EXAONE_MOE = (
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]|{SPACES}"
)
CASCADE = "|".join(rf"\s{{{count}}}(?!\S)" for count in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2"))
JAIS2 = rf"{CONTRACTIONS}|{WORD}|\p{{N}}{{1,3}}|{OTHERS}|{NEWLINES}|{CASCADE}|\s{{1}}"

UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(contraction: str, digits: str) -> str:
    """Words split where their case says so: ``fooBar`` is two."""
    start = r"[^\r\n\p{L}\p{N}]?"
    words = f"{start}{UPPER}*{LOWER}+{contraction}|{start}{UPPER}+{LOWER}*{contraction}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{NEWLINES}|{SPACES}"


TEKKEN = _cased("", r"\p{N}")
GPT4O = _cased(f"{CONTRACTIONS}?", r"\p{N}{1,3}")
YOUTU = _cased(f"{CONTRACTIONS}?", r"\p{N}")
YOUTU_SCRIPTS = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"
THOUSANDS = r"\d{1,3}(?=(?:\d{3})*\b)"

NEWLINE = r"[\r\n]"
CJK = "[一-龥ࠀ-一가-퟿]+"
CJK_KANA = "[一-龥぀-ゟ゠-ヿ]+"
CODER_WORD = r"\s?\p{L}+"
CODER_PUNCTUATION = r"\s?\p{P}+"
# escaped: letters that an editor normalising to NFC would turn into others, and the ranges with them
DEEPSEEK_LETTERS = (
    r"\s?"
    "[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-"
    "\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-"
    "ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
)
DEEPSEEK_PUNCTUATION = r"\s?[!-/:-~！-／：-～‘-‟　-。]+"
DEEPSEEK_LLM = (NEWLINE, DEEPSEEK_LETTERS, DEEPSEEK_PUNCTUATION, r"\s+$", CJK)
ASCII_SIGNS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_SIGNED = rf"{ASCII_SIGNS}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+"
DEEPSEEK3 = rf"{_SIGNED}[\r\n]*|{NEWLINES}|{SPACES}"
SPARK = rf"{_SIGNED}|[\r\n]|{SPACES}"
THREE_DIGITS = r"\p{N}{1,3}"

BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"
LINES = r"[^\n]+|[\n]+"
EVERY_THIRD = r"(?=(\d{3})+(?!\d))"

HAN = r"[\p{Han}]+"
_KIMI_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_KIMI_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_KIMI_START = r"[^\r\n\p{L}\p{N}]?"
KIMI = (
    rf"{HAN}|{_KIMI_START}{_KIMI_UPPER}*{_KIMI_LOWER}+{CONTRACTIONS}?|{_KIMI_START}{_KIMI_UPPER}+{_KIMI_LOWER}*{CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}|{OTHERS}|{NEWLINES}|{SPACES}"
)


def canonical(regex: str) -> str:
    """One spelling for patterns that differ only in writing, so that they compare equal; not itself a pattern to run.

    Possessive quantifiers are made greedy: in these patterns what follows never matches what they took.
    """
    for written, plain in (("\r", r"\r"), ("\n", r"\n"), ("\t", r"\t"), (r"\p{N}{1}|", r"\p{N}|"), (r"\/", "/")):
        regex = regex.replace(written, plain)
    for spelled in ("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", "'(?i:[sdmt]|ll|ve|re)"):
        regex = regex.replace(spelled, CONTRACTIONS)
    return re.sub(r"(\{\d+(?:,\d*)?\}|[?+*])\+", r"\1", regex)
