"""What modules each model family is built of, as tables: kind, name, shape, conditions; here each gets its heads.

One row is one module (a ``raw`` row, one parameter). The shape is that of its weight, in the symbols
``sizes`` works out of a config (``Q H`` = query width × hidden size; ``3H`` = three times it). Linear
weights are (out, in); ``conv1d`` ones, transformers' GPT-2 layer, are (in, out).

    {L}         one module per layer: the number of them is the symbol L; a second symbol counts within a layer
    bias        the module also has a bias, as long as its output; ``bias?flag`` if the config's flag is set
    if:flag     the module is there if the flag is set (for a set of layers: in those layers); ``unless:`` the reverse

Body names lack the base model's prefix (``model.``, ``bert.``), head names are whole: a head is what a class
such as LlamaForSequenceClassification adds to the body.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adaptool.archs import decoders, decoders_more, encoders


@dataclass(frozen=True, slots=True)
class Layout:
    """A family's body, and its heads by the ending of the class in ``architectures`` ("" when none is given)."""

    prefix: str
    body: str
    heads: Mapping[str, str]


LM_HEAD = "linear lm_head V H unless:tie_word_embeddings"
# Tied or not, the bias is its own.
PHI_LM_HEAD = """
linear  lm_head                                      V H    bias unless:tie_word_embeddings
raw     lm_head.bias                                 V      if:tie_word_embeddings
"""
SCORE = "linear score Y H"
BIASED_SCORE = "linear score Y H bias"
CLASSIFIER = "linear classifier Y H bias"
BERT_POOLER = "linear bert.pooler.dense H H bias\n"
BERT_CLASSIFIER = BERT_POOLER + CLASSIFIER
BERT_PRETRAINING = f"{BERT_POOLER}{encoders.BERT_LM_HEAD}linear cls.seq_relationship 2 H bias"


def _decoder(body: str, *, prefix: str = "model", lm_head: str = LM_HEAD, tokens: str = BIASED_SCORE) -> Layout:
    heads = {"": lm_head, "ForCausalLM": lm_head, "LMHeadModel": lm_head, "Model": ""}
    return Layout(prefix, body, heads | {"ForSequenceClassification": SCORE, "ForTokenClassification": tokens})


def _encoder(prefix: str, lm_head: str, sequences: str, **more: str) -> Layout:
    heads = {"": lm_head, "ForCausalLM": lm_head, "ForMaskedLM": lm_head, "LMHeadModel": lm_head} | more
    heads |= {"ForSequenceClassification": sequences, "ForTokenClassification": CLASSIFIER}
    heads |= {"ForQuestionAnswering": "linear qa_outputs Y H bias", "Model": "linear pooler.dense H H bias"}
    return Layout(prefix, encoders.BERT, heads)


DISTILBERT_HEADS = {
    **dict.fromkeys(("", "ForMaskedLM"), encoders.DISTILBERT_LM_HEAD),
    "ForSequenceClassification": encoders.DISTILBERT_CLASSIFIER,
    "ForTokenClassification": CLASSIFIER,
    "ForQuestionAnswering": "linear qa_outputs Y H bias",
    "Model": "",
}
NOMIC_HEADS = {
    **dict.fromkeys(("", "ForMaskedLM"), encoders.NOMIC_LM_HEAD),
    "ForSequenceClassification": f"linear nomic_bert.pooler.dense H H bias\n{CLASSIFIER}",
    "ForTokenClassification": CLASSIFIER,
    "Model": "",
}
T5_LM_HEAD = encoders.T5_DECODER + LM_HEAD
T5_HEADS = {"": T5_LM_HEAD, "ForConditionalGeneration": T5_LM_HEAD, "EncoderModel": "", "Model": encoders.T5_DECODER}

LAYOUTS: Mapping[str, Layout] = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "gemma", "smollm3", "granite", "ministral3", "seed_oss"),
        _decoder(decoders.LLAMA),
    ),
    "arcee": _decoder(decoders_more.ARCEE),
    "qwen3": _decoder(decoders.LLAMA + decoders.HEAD_NORMS),
    "gemma2": _decoder(decoders.LLAMA + decoders.FEEDFORWARD_NORMS),
    "gemma3_text": _decoder(decoders.LLAMA + decoders.FEEDFORWARD_NORMS + decoders.HEAD_NORMS),
    "mixtral": _decoder(decoders.MIXTRAL),
    "qwen2_moe": _decoder(decoders.QWEN_MOE),
    "qwen3_moe": _decoder(decoders.QWEN_MOE),
    "granitemoe": _decoder(decoders_more.GRANITEMOE),
    "granitemoeshared": _decoder(decoders_more.GRANITEMOE),
    "olmo": _decoder(decoders_more.OLMO),
    **dict.fromkeys(("olmo2", "olmo3"), _decoder(decoders.OLMO2)),
    "olmoe": _decoder(decoders_more.OLMOE),
    "exaone4": _decoder(decoders_more.EXAONE4),
    **dict.fromkeys(("cohere", "cohere2"), _decoder(decoders.COHERE)),
    "stablelm": _decoder(decoders_more.STABLELM),
    "phi": _decoder(decoders.PHI, lm_head=PHI_LM_HEAD),
    "phi3": _decoder(decoders.PHI3),
    "starcoder2": _decoder(decoders.STARCODER2),
    "gpt2": _decoder(decoders.GPT2, prefix="transformer", tokens=CLASSIFIER),
    "gpt_neox": _decoder(decoders.GPT_NEOX, prefix="gpt_neox", tokens=CLASSIFIER),
    "falcon": _decoder(decoders.FALCON, prefix="transformer", tokens=CLASSIFIER),
    "bloom": _decoder(decoders_more.BLOOM, prefix="transformer", tokens=CLASSIFIER),
    "mpt": _decoder(decoders_more.MPT, prefix="transformer", tokens=CLASSIFIER),
    "opt": _decoder(decoders.OPT, lm_head="linear lm_head V W unless:tie_word_embeddings"),
    "bert": _encoder("bert", encoders.BERT_LM_HEAD, BERT_CLASSIFIER, ForPreTraining=BERT_PRETRAINING),
    **dict.fromkeys(
        ("roberta", "xlm-roberta"), _encoder("roberta", encoders.ROBERTA_LM_HEAD, encoders.ROBERTA_CLASSIFIER)
    ),
    "distilbert": Layout("distilbert", encoders.DISTILBERT, DISTILBERT_HEADS),
    "nomic_bert": Layout("nomic_bert", encoders.NOMIC_BERT, NOMIC_HEADS),
    "t5": Layout("", encoders.T5, T5_HEADS),
}
