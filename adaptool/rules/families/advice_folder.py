"""ADV050–ADV099: what practitioners would look at again in an adapter's folder. Off unless selected."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from adaptool.adapters.base import EMBEDDINGS, HEADS
from adaptool.adapters.names import projection_of
from adaptool.rules.draft import PREFIX, Draft, extra, fields, file, together
from adaptool.rules.files.listing import listing
from adaptool.rules.files.training import CARD_NAME, STATE_NAME, card_fields, training
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.tensors.store import TensorInfo

FEW_STEPS = 30
WEIGHTS_PER_EXAMPLE = 1_000_000
OVERFIT = 1.1
"""Between the last loss on held-out data and the best."""

LEFTOVERS = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "training_args.bin")
LEFT_FOLDERS = ("checkpoint-", "runs/", "global_step", "wandb/", ".ipynb_checkpoints/")


def _state(**changed: Any) -> bytes:
    state = {"global_step": 900, "epoch": 3.0, "train_batch_size": 8, "log_history": []}
    return json.dumps(state | changed).encode()


@rule("ADV050", "info", "no model card", default=False, breaks=lambda draft: draft.removed.add(CARD_NAME))
def no_card(subject: Subject) -> Iterator[Problem]:
    """On the hub the card is what makes an adapter found, and tells what it is for; save_pretrained writes a draft.

    Fix: add a README.md with base_model and license in its header.
    """
    if card_fields(subject) is None:
        yield Problem(f"there is no {CARD_NAME}", CARD_NAME)


@rule("ADV051", "info", "a card without base or licence", default=False,
      breaks=file(CARD_NAME, b"---\nlibrary_name: peft\n---\n# Untitled\n"))  # fmt: skip
def thin_card(subject: Subject) -> Iterator[Problem]:
    """The hub links an adapter to its base by base_model, and without a licence nobody may use it.

    Fix: add base_model and license to the header of README.md.
    """
    known = card_fields(subject)
    lacking = [name for name in ("base_model", "license") if known is not None and name not in known]
    if lacking:
        yield Problem(f"the header of {CARD_NAME} has no {' and no '.join(lacking)}", CARD_NAME)


def _rows(draft: Draft) -> None:
    extra(f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta", 2, 64)(draft)
    fields(trainable_token_indices={"embed_tokens": [38, 39]})(draft)


@rule("ADV052", "info", "new tokens without their tokenizer", needs=("adapter",), default=False, breaks=_rows)
def no_tokenizer(subject: Subject) -> Iterator[Problem]:
    """Whole embeddings or trained rows mean new tokens, which the base's tokenizer does not know by name.

    Fix: tokenizer.save_pretrained into the adapter's folder.
    """
    rows = [s.key.text for s in subject.saved if "trainable_tokens_delta" in s.key.part or _is_vocabulary(s.key.module)]
    beside = {entry.base for entry in listing(subject).files}
    if rows and not beside & {"tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json"}:
        yield Problem(f"{rows[0]} holds trained embeddings, and no tokenizer lies beside it", subject.weights_name,
                      tensors=tuple(rows))  # fmt: skip


def _is_vocabulary(parameter: str) -> bool:
    """Whether a full tensor is an embedding or an output head."""
    owner, _, leaf = parameter.rpartition(".")
    return leaf == "weight" and projection_of(owner) in (*EMBEDDINGS, *HEADS)


@rule(
    "ADV053", "info", "leftovers of training", default=False, breaks=file("checkpoint-10/rng_state.pth", b"\x80\x02.")
)
def leftovers(subject: Subject) -> Iterator[Problem]:
    """Optimizer states are twice the adapter's size and checkpoints repeat it; whoever downloads it gets them all.

    Fix: publish the adapter's own files, the tokenizer's and README.md.
    """
    found = [entry for entry in listing(subject).files if entry.base in LEFTOVERS or entry.name.startswith(LEFT_FOLDERS)
             or entry.base.startswith(("rng_state", "events.out.tfevents"))]  # fmt: skip
    if found:
        size = sum(max(entry.size, 0) for entry in found)
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        yield Problem(f"{found[0].shown}{more}, {size / 1e6:.1f} MB, are of the training", found[0].name)


@rule("ADV054", "info", "few training steps", default=False, breaks=file(STATE_NAME, _state(global_step=7)))
def few_steps(subject: Subject) -> Iterator[Problem]:
    """A learning rate that still warms up has taught little; runs cut short by a crash or a trial look like this.

    Fix: make sure it is the end of the training, and not its first checkpoint.
    """
    run = training(subject)
    if run is not None and run.steps < FEW_STEPS:
        yield Problem(f"the training took {run.steps} steps", STATE_NAME)


@rule("ADV055", "info", "more weights than the data can fill", needs=("tensors",), default=False, breaks=together(
    file(STATE_NAME, _state(global_step=40, train_batch_size=1, epoch=20.0)),
    extra(f"{PREFIX}model.layers.0.mlp.up_proj.lora_A.weight", 40_000, 64),
    extra(f"{PREFIX}model.layers.0.mlp.up_proj.lora_B.weight", 96, 40_000)))  # fmt: skip
def roomy(subject: Subject) -> Iterator[Problem]:
    """A LoRA holds about two bits per weight, and a training example is worth some hundred to a thousand.

    Weights by the million for each example learn them by heart (LoRA Without Regret, Thinking Machines, 2025, sets
    the capacity against the data).

    Fix: a lower rank, or more data.
    """
    run = training(subject)
    if run is None:
        return
    weights = sum(_weights(subject.store[key]) for key in subject.store)
    different = max(1, round(run.examples / max(run.epochs, 1.0)))
    if weights > WEIGHTS_PER_EXAMPLE * different:
        yield Problem(f"{weights / 1e6:.1f} million weights were trained on about {different} examples", STATE_NAME)


def _weights(info: TensorInfo) -> int:
    return info.size if info.dtype.floating else 0


@rule("ADV056", "info", "a later checkpoint than the best", default=False, breaks=file(STATE_NAME, _state(
    log_history=[{"eval_loss": 1.2}, {"eval_loss": 0.8}, {"eval_loss": 1.1}])))  # fmt: skip
def overfitted(subject: Subject) -> Iterator[Problem]:
    """The loss on held-out data rose again towards the end: an earlier checkpoint answers better.

    Fix: take the checkpoint with the lowest eval_loss, or train fewer epochs (load_best_model_at_end).
    """
    run = training(subject)
    if run is not None and run.evaluated and run.evaluated[-1] > OVERFIT * min(run.evaluated):
        yield Problem(f"eval_loss ended at {run.evaluated[-1]:.3g}, and was {min(run.evaluated):.3g}", STATE_NAME)


@rule("ADV057", "info", "a training that learnt nothing", default=False, breaks=file(STATE_NAME, _state(
    log_history=[{"loss": 1.2}, {"loss": 0.0}, {"loss": 0.0}])))  # fmt: skip
def flat_training(subject: Subject) -> Iterator[Problem]:
    """A loss of NaN, or of exactly 0, which transformers logs for NaN and when every label is masked.

    Fix: look at the labels (all −100?) and at overflow in float16; train again.
    """
    run = training(subject)
    if run is not None and run.losses and not abs(run.losses[-1]) > 0:  # NaN is not > 0
        yield Problem(f"the last loss logged is {run.losses[-1]:g}", STATE_NAME)
