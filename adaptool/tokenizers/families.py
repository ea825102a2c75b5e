"""llama.cpp's pre-tokenizers: for every name a GGUF may carry, how it splits text and what else it implies.

One table, read both ways: tokenizer.json's structure to a name, and a name to a tokenizer.json. Names in one row split
alike and imply the same; which of them a GGUF carries makes no difference to the runtime.
"""

from __future__ import annotations

from dataclasses import dataclass

from adaptool.tokenizers import regexes as r


@dataclass(frozen=True, slots=True)
class Family:
    """Pre-tokenizers that behave alike. ``splits`` are patterns, each splitting what the one before left.

    ``ignore_merges``: a word in the vocabulary is a token at once. ``clean_spaces``: " ." is shown as ".".
    ``add_bos`` and ``add_sep`` are what happens where the GGUF does not say. ``nfc``: published with that normaliser,
    which the runtime does not have. ``marker``: a token that tells this row from another with the same splits.
    """

    names: tuple[str, ...]
    splits: tuple[str, ...]
    ignore_merges: bool = False
    clean_spaces: bool = True
    add_bos: bool = False
    add_sep: bool = False
    nfc: bool = False
    marker: str | None = None


FAMILIES = (
    Family(
        (
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "jais",
        ),
        (r.GPT2,),
    ),
    Family(("olmo", "mpt"), (r.GPT2,), nfc=True),
    Family(("granite-docling", "trillion"), (r.GPT2,), clean_spaces=False),
    Family(("roberta-bpe", "jina-v1-en", "jina-v2-code"), (r.GPT2,), add_sep=True),
    Family(("starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"), (r.DIGIT, r.GPT2)),
    Family(("smollm",), (r.DIGIT, r.GPT2), clean_spaces=False),
    Family(("command-r",), (r.DIGIT, r.GPT2), clean_spaces=False, nfc=True),
    Family(("dbrx", "smaug-bpe"), (r.LLAMA3,)),
    Family(("chatglm-bpe",), (r.LLAMA3,), marker="[gMASK]"),
    Family(("glm4", "glm5"), (r.LLAMA3,), ignore_merges=True, marker="[gMASK]"),
    Family(
        (
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ),
        (r.LLAMA3,),
        ignore_merges=True,
        add_bos=True,
    ),
    Family(
        ("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "hunyuan", "solar-open", "grok-2"),
        (r.QWEN2,),
        clean_spaces=False,
        nfc=True,
    ),
    Family(("stablelm2", "megrez"), (r.QWEN2,)),
    Family(("qwen35",), (r.QWEN35,), clean_spaces=False, nfc=True),
    Family(("ufakzeka",), (r.UFAKZEKA,), clean_spaces=False),
    Family(("minicpm5",), (r.THREE_DIGITS, r.MINICPM5), ignore_merges=True),
    Family(("seed-coder",), (r.SEED_CODER,), clean_spaces=False),
    Family(("bailingmoe", "bailingmoe2", "llada-moe"), (r.BAILING,), clean_spaces=False),
    Family(("exaone-moe",), (r.EXAONE_MOE,)),
    Family(("jais-2",), (r.JAIS2,)),
    Family(("laguna",), (r.LINES, r.QWEN2), clean_spaces=False),
    Family(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), (r.GPT4O,), clean_spaces=False),
    Family(("granite-embed-multi-97m",), (r.GPT4O,), clean_spaces=False, ignore_merges=True),
    Family(("tiny_aya", "cohere2moe"), (r.THOUSANDS, r.GPT4O), clean_spaces=False),
    Family(("tekken",), (r.TEKKEN,), clean_spaces=False, ignore_merges=True, add_bos=True),
    Family(("youtu",), (r.YOUTU_SCRIPTS, r.YOUTU), clean_spaces=False, ignore_merges=True),
    Family(("deepseek-llm",), (*r.DEEPSEEK_LLM, r.DIGITS), clean_spaces=False),
    Family(("deepseek-llm",), (*r.DEEPSEEK_LLM, r.DIGIT), clean_spaces=False),  # as published; no merge joins digits
    Family(
        ("deepseek-coder",),
        (r.NEWLINE, r.CODER_WORD, r.CODER_PUNCTUATION, r.CJK, r.DIGIT),
        clean_spaces=False,
    ),
    Family(
        ("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"),
        (r.THREE_DIGITS, r.CJK_KANA, r.DEEPSEEK3),
        clean_spaces=False,
    ),
    Family(("spark2_5",), (r.THREE_DIGITS, r.CJK_KANA, r.SPARK, r.DIGIT), clean_spaces=False),
    Family(("falcon",), (r.PUNCTUATION, r.GPT2, r.THREE_ASCII_DIGITS)),
    Family(("bloom", "gpt3-finnish"), (r.BLOOM,)),
    Family(("poro-chat",), (r.BLOOM,), clean_spaces=False),
    Family(("viking",), (r.BLOOM, r.DIGIT), clean_spaces=False),
    Family(("superbpe",), (r.DIGITS, r.EVERY_THIRD), clean_spaces=False),
    Family(("kimi-k2",), (r.KIMI,), clean_spaces=False),
    Family(("default",), (r"[\p{P}$+<=>^~|]+", r.GPT2, r.DIGITS, r.THREE_ASCII_DIGITS)),
)

UNSPLIT = ("chameleon", "afmoe", "gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace")
"""Names the runtime knows whose split is not a row of patterns: they can be forced, and not recognised or undone."""

WORDPIECE = ("jina-v2-en", "bert-bge", "bert-bge-large")
"""What WordPiece files carry; the runtime splits all of them alike. Upstream's hash gives BERT's English vocabulary
the first of these, since it knows jina's by the same ids."""

BY_NAME = {name: family for family in FAMILIES for name in family.names}

NAMES = sorted({*BY_NAME, *UNSPLIT, *WORDPIECE})
"""Every name that can be forced."""
