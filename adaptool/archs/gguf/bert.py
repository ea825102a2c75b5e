"""BERT and its kin: encoders that llama.cpp runs for embeddings, and for ranking where there is a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from adaptool.archs.gguf.decoders import HEAD_LENGTHS, divided
from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.keys import (
    BLOCKS,
    COMMON,
    CONTEXT,
    EMBEDDING,
    FEED_FORWARD,
    HEADS,
    NORM_EPS,
    POOLING,
    ROPE_BASE,
)
from adaptool.archs.gguf.limits import gelu_only
from adaptool.archs.gguf.placed import Placed
from adaptool.archs.gguf.spec import ArchSpec, Key, Tensor, derived
from adaptool.tensors.ggml.values import Value, ValueType, array, boolean, f32, u32

LOOKS_BOTH_WAYS = derived("attention.causal", boolean, lambda hp: False)


def _is_classifier(hp: Hparams) -> bool:
    return hp.architecture.endswith("ForSequenceClassification")


def _labels(hp: Hparams) -> list[str] | None:
    """What a classifier tells apart; None where the config has but the two that every class is born with."""
    given = hp.find("id2label", default=None)
    if isinstance(given, dict) and given:
        labels = [str(label) for _, label in sorted(given.items(), key=lambda pair: int(pair[0]))]
    else:
        labels = [f"LABEL_{number}" for number in range(int(hp.find("num_labels", default=2)))]
    unnamed = len(labels) == 2 and labels[0] == "LABEL_0"
    return None if unnamed and not _is_classifier(hp) else labels


def _texts(labels: list[str]) -> Value:
    return array(ValueType.STRING, labels)


LABELS = derived("classifier.output_labels", _texts, _labels)


def _pooler(tensor: Tensor, hp: Hparams) -> Sequence[Placed]:
    """A layer of tanh over the first token, which only a classifier after it needs."""
    if not _is_classifier(hp):
        return []
    return [Placed(tensor.name.replace("pooler.dense", "classifier.dense"), tensor.shape, (tensor.source,))]


def _classifier(tensor: Tensor, hp: Hparams) -> Sequence[Placed]:
    return [Placed(tensor.name.replace("classifier.", "classifier.out_proj."), tensor.shape, (tensor.source,))]


def _no_encoder(hp: Hparams) -> str | None:
    if hp.find("position_embedding_type", default="absolute") != "absolute":
        return f"position_embedding_type is {hp.find('position_embedding_type')!r}: llama.cpp has absolute ones only"
    if hp.find("is_decoder", default=False):
        return "is_decoder is true, and llama.cpp's BERT looks both ways"
    return gelu_only("hidden_act", "activation")(hp)


ENCODER: tuple[Key, ...] = (*COMMON, LOOKS_BOTH_WAYS, POOLING, LABELS)

BERT = ArchSpec(
    name="bert",
    architectures=("BertModel", "BertForMaskedLM", "BertForSequenceClassification", "BertForPreTraining"),
    keys=ENCODER,
    tokenizer="wpm",
    rules={r"pooler\.dense\.(?:weight|bias)": _pooler, r"classifier\.(?:weight|bias)": _classifier},
    renames={r"^bert\.": "", r"\.gamma$": ".weight", r"\.beta$": ".bias"},
    dropped=(r"^embeddings\.position_ids$", r"^cls\.(?:predictions|seq_relationship)\."),
    defaults={"max_position_embeddings": 512, "layer_norm_eps": 1e-12},
    limits=_no_encoder,
)

DISTILBERT = replace(
    BERT,
    architectures=("DistilBertModel", "DistilBertForMaskedLM"),
    keys=(derived(NORM_EPS.name, f32, lambda hp: 1e-12), *(key for key in ENCODER if key is not NORM_EPS)),
    rules={},
    renames={r"^distilbert\.": ""},
    dropped=(r"^embeddings\.position_ids$", r"^vocab_(?:transform|layer_norm|projector)\."),
    defaults={"max_position_embeddings": 512},
    model_type="distilbert",
    lacks="token_types.weight",
)
"""Its classifier is none of llama.cpp's: between its two layers is a ReLU, not tanh."""


def _first_position(hp: Hparams) -> int:
    """Positions are counted from behind the padding token's id."""
    pad = hp.find("pad_token_id", default=None)
    return 0 if pad is None else int(pad) + 1


def _positions(tensor: Tensor, hp: Hparams) -> Sequence[Placed]:
    rows, columns = tensor.shape
    first = _first_position(hp)
    return [Placed(tensor.name, (rows - first, columns), (tensor.source,), np.arange(first, rows), unread=first)]


ROBERTA = replace(
    BERT,
    architectures=("RobertaModel", "RobertaForMaskedLM", "RobertaForSequenceClassification"),
    keys=(
        BLOCKS,
        derived(CONTEXT.name, u32, lambda hp: hp.count("max_position_embeddings") - _first_position(hp)),
        *(key for key in ENCODER if key not in (BLOCKS, CONTEXT)),
    ),
    tokenizer="roberta",
    rules={r"embeddings\.position_embeddings\.weight": _positions},
    renames={**BERT.renames, r"^roberta\.": ""},
    dropped=(r"^embeddings\.position_ids$", r"^pooler\.dense\.", r"^lm_head\."),
    defaults={**BERT.defaults, "pad_token_id": 1},
    model_type="roberta",
    vocabulary="gpt2",
)

XLM_ROBERTA = replace(
    ROBERTA,
    architectures=("XLMRobertaModel", "XLMRobertaForMaskedLM", "XLMRobertaForSequenceClassification"),
    tokenizer="unigram",
    model_type="xlm-roberta",
    vocabulary="t5",
)

NOMIC_TRAINED = 2048
"""Positions Nomic's text encoders were trained with, whatever their config says they can be stretched to."""


def _nomic_context(hp: Hparams) -> int:
    stretched = hp.find("n_positions", default=None)
    if stretched is None:
        return hp.count("max_position_embeddings")
    return min(int(stretched), hp.count("max_trained_positions"))


NOMIC_BERT = ArchSpec(
    name="nomic-bert",
    architectures=("NomicBertModel",),
    keys=(
        BLOCKS,
        derived(CONTEXT.name, u32, _nomic_context, "max_position_embeddings"),
        EMBEDDING, FEED_FORWARD, HEADS, ROPE_BASE, NORM_EPS, *HEAD_LENGTHS, LOOKS_BOTH_WAYS, POOLING, LABELS,
    ),
    tokenizer="nomic",
    dropped=(r"^pooler\.dense\.", r"^cls\.predictions\."),
    defaults={
        "head_dim": divided,
        "rotary_emb_base": 1000.0,
        "layer_norm_eps": 1e-12,
        "max_trained_positions": NOMIC_TRAINED,
        "max_position_embeddings": 2048,
    },
    model_type="nomic_bert",
    config={
        "activation_function": "swiglu",
        "causal": False,
        "hidden_act": "silu",
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
        "prenorm": False,
        "qkv_proj_bias": False,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
    },
)  # fmt: skip
"""v1 and v1.5; v2's experts are another architecture (nomic-bert-moe)."""

TABLES = (BERT, DISTILBERT, ROBERTA, XLM_ROBERTA, NOMIC_BERT)
