"""BAS020–BAS029: embeddings and heads against the base's: another vocabulary, tied weights, labels of a task."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adaptool.adapters.base import EMBEDDINGS, HEADS
from adaptool.adapters.names import projection_of
from adaptool.adapters.tuners.embeddings import token_indices
from adaptool.rules.draft import PREFIX, RANK, VOCABULARY, WIDTH, Draft, extra, fields, together
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.rules.weights.laid import keys_of, laid
from adaptool.rules.weights.leftovers import first_of

TOKENS = "token_adapter.trainable_tokens_delta"
EMBED = f"{PREFIX}model.embed_tokens"
HEAD = f"{PREFIX}lm_head"
LABELLED = re.compile(r"(?:.*\.)?(?:classifier|score|classifier\.out_proj)\.weight")
LABELLING = {"SEQ_CLS", "TOKEN_CLS"}


def _on_embedding(rows: int) -> list[tuple[str, int, int]]:
    return [(f"{EMBED}.lora_embedding_A", RANK, rows), (f"{EMBED}.lora_embedding_B", WIDTH, RANK)]


@rule("BAS020", "error", "update of another vocabulary", needs=("adapter", "base"),
      breaks=together(*(extra(*tensor) for tensor in _on_embedding(VOCABULARY + 8))))  # fmt: skip
def another_vocabulary(subject: Subject) -> Iterator[Problem]:
    """LoRA on an embedding has a column for each token: with another vocabulary it fits no row, and loading fails.

    Where the vocabulary was resized for training, PEFT saves the resized embedding along; here it is missing.

    Fix: resize the base's embedding to the same vocabulary first, or save again with save_embedding_layers=True.
    """
    found = laid(subject)
    for module in found.failing("vocabulary"):
        tensor = found.base.find(f"{module}.weight")
        key = subject.adapter.modules[module]["lora_embedding_A"]
        if tensor is not None:
            yield Problem(
                f"{module} was trained with {subject.store[key].shape[1]} tokens, and the base has "
                f"{found.base.store[tensor].shape[0]}", subject.weights_name, tensors=keys_of(subject, (module,)),
            )  # fmt: skip


@rule("BAS021", "error", "trained tokens beyond the base's vocabulary", needs=("adapter", "base"),
      breaks=together(fields(trainable_token_indices=[1, VOCABULARY]), extra(f"{EMBED}.{TOKENS}", 2, WIDTH)),
)  # fmt: skip
def tokens_beyond(subject: Subject) -> Iterator[Problem]:
    """A trained row replaces that of its token, and the base has no such token: it was added before the training.

    Fix: resize the base's embedding (model.resize_token_embeddings(len(tokenizer))) before loading the adapter.
    """
    found = laid(subject)
    for module in found.failing("tokens"):
        tensor, indices = found.base.find(f"{module}.weight"), token_indices(subject.config, module)
        if tensor is None or not indices or f"{module}.weight" in subject.adapter.full_tensors:
            continue
        rows = found.base.store[tensor].shape[0]
        beyond = [index for index in indices if index >= rows]
        if beyond:
            yield Problem(
                f"{len(beyond)} of {len(indices)} trained tokens are not in {module} of {rows} rows, "
                f"such as {beyond[0]}", subject.weights_name, "trainable_token_indices",
                (subject.adapter.modules[module][TOKENS],),
            )  # fmt: skip


@rule("BAS022", "error", "only embedding or head was resized", needs=("adapter", "base"),
      breaks=extra(f"{EMBED}.weight", VOCABULARY + 8, WIDTH))  # fmt: skip
def lost_rows(subject: Subject) -> Iterator[Problem]:
    """A resized vocabulary changes embedding and head alike; of one of them the new rows were not saved, and are lost.

    Fix: save it again with save_embedding_layers=True, so that both are in the adapter.
    """
    found = laid(subject)
    if found.problem is not None and found.problem.defect == "lost-rows":
        owners = (*EMBEDDINGS, *HEADS)
        names = [key.text for key in subject.adapter.keys if any(f".{owner}." in key.text for owner in owners)]
        yield Problem(found.problem.message, subject.weights_name, tensors=tuple(names))


@rule("BAS023", "info", "a resized vocabulary", needs=("adapter", "base"),
      breaks=together(*(extra(f"{name}.weight", VOCABULARY + 8, WIDTH) for name in (EMBED, HEAD))))  # fmt: skip
def resized(subject: Subject) -> Iterator[Problem]:
    """The adapter brings an embedding with another number of tokens: it needs its own tokenizer; some runtimes refuse.

    Fix: ship the tokenizer it was trained with beside it.
    """
    found = laid(subject)
    if found.plan is None or found.problem is not None:
        return
    changed = {}
    for name, source in found.plan.replaced.items():
        old, new = found.base.store[name].shape, source.store[source.key].shape
        if name in (found.base.embedding, found.base.head) and old != new and new:
            changed[source.key] = f"{name} has {new[0]} rows, and the base's {old[0]}"
    if changed:
        yield Problem(next(iter(changed.values())), subject.weights_name, tensors=tuple(changed))


def _on_tied_head(draft: Draft) -> None:
    draft.base_config["tie_word_embeddings"] = True
    del draft.base_tensors["lm_head.weight"]
    extra(f"{HEAD}.lora_A.weight", RANK, WIDTH)(draft)
    extra(f"{HEAD}.lora_B.weight", VOCABULARY, RANK)(draft)


@rule("BAS024", "info", "head or embedding changed, and the two are tied", needs=("adapter", "base"),
      breaks=_on_tied_head)  # fmt: skip
def tied(subject: Subject) -> Iterator[Problem]:
    """The base's output head is its embedding. In training the adapter changed one of them alone.

    PEFT's own merge adds to the shared tensor, and so to both; runtimes differ. adaptool merge gives the head a tensor
    of its own, as training saw it.

    Fix: merge it with adaptool, or train with ensure_weight_tying=True.
    """
    plan = laid(subject).plan
    if plan is not None and plan.unties:
        names = [*EMBEDDINGS, *HEADS]
        owners = tuple(name for name in subject.adapter.modules if projection_of(name) in names)
        keys = keys_of(subject, owners) or tuple(t.key.text for t in subject.saved if t.role == "copy")
        what = f"updates {first_of(owners)}" if owners else "brings a head or an embedding of its own"
        yield Problem(
            f"the adapter {what}, and the base ties its output head to its embedding", subject.weights_name,
            tensors=keys,
        )  # fmt: skip


@rule("BAS025", "info", "another number of labels", needs=("adapter", "base"),
      breaks=together(fields(task_type="SEQ_CLS", modules_to_save=["score"]), extra(f"{PREFIX}score.weight", 5, WIDTH)),
)  # fmt: skip
def labels(subject: Subject) -> Iterator[Problem]:
    """A classifier is loaded with as many labels as the base's config has (2 where it has none), else loading fails.

    Fix: load the base with num_labels set to the adapter's.
    """
    config = subject.model.config
    if config is None or subject.fields.get("task_type") not in LABELLING:
        return
    named = config.get("id2label")
    count = len(named) if isinstance(named, dict) else config.get("num_labels", 2)
    for tensor in subject.saved:
        rows = tensor.info.shape[:1]
        if tensor.role == "copy" and LABELLED.fullmatch(tensor.key.module) and rows and rows[0] != count:
            yield Problem(
                f"{tensor.key.module} has {rows[0]} labels, and the base's config {count}", subject.weights_name,
                tensors=(tensor.key.text,), fix=f"load the base with num_labels={rows[0]}",
            )  # fmt: skip
