"""TEN010–TEN019: every saved tensor in one place, whatever the PEFT type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from adaptool.adapters.names import FULL
from adaptool.rules.draft import HIDDEN, RANK, VOCABULARY, WIDTH, Q, extra, renamed
from adaptool.rules.draft import PREFIX as ROOT
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.rules.weights.leftovers import Bucket, first_of, leftovers, tuner_of
from adaptool.summary.contents import NEEDED_FIELDS, Saved
from adaptool.summary.settings import title


def keys_in(subject: Subject, bucket: Bucket) -> tuple[str, ...]:
    return leftovers(subject).get(bucket, ())


def share_of(count: int, subject: Subject) -> str:
    """How many of all tensors: what lets one see whether it is a stray one, or the whole file."""
    return f"{count} of {len(subject.store)} tensors"


def _percent(nbytes: int, subject: Subject) -> str:
    return f"{100 * nbytes / max(1, subject.store.nbytes):.0f} %"


@rule("TEN010", "error", "tensors that nothing accounts for", needs=("adapter",), breaks=extra(f"{Q}.surprise", 4))
def unaccounted_for(subject: Subject) -> Iterator[Problem]:
    """A tensor that neither the PEFT type nor the config explains is dropped on loading without a word.

    What it did in training is missing afterwards; or it is there to hide something.

    Fix: find out what wrote it; remove it if nothing needs it, or correct the config if something does.
    """
    if keys := keys_in(subject, "nothing"):
        shown = first_of([key or "(an empty name)" for key in keys])
        yield Problem(f"nothing in the config accounts for {shown}", subject.weights_name, tensors=keys)


@rule("TEN011", "error", "tensors of another PEFT type", needs=("adapter",),
      breaks=renamed(lambda key: key.replace("lora_A.weight", "lokr_w1").replace("lora_B.weight", "lokr_w2")),
)  # fmt: skip
def other_type(subject: Subject) -> Iterator[Problem]:
    """The config decides which class PEFT builds, and that class passes over the tensors of every other one.

    Fix: set peft_type to what the tensors are, with that type's own fields, or put the right file beside the config.
    """
    if keys := keys_in(subject, "tuner"):
        types = dict.fromkeys(title(found) for key in keys if (found := tuner_of(key)))
        yield Problem(
            f"the config says {title(subject.peft_type)}, and {share_of(len(keys), subject)} are {', '.join(types)}'s: "
            f"{first_of(keys)}", subject.weights_name, "", keys,
        )  # fmt: skip


@rule(
    "TEN012",
    "error",
    "parts that LoRA does not have",
    needs=("adapter",),
    breaks=extra(f"{Q}.lora_C.weight", RANK, WIDTH),
)
def unknown_part(subject: Subject) -> Iterator[Problem]:
    """No LoRA up to PEFT 0.21 has such a part: it is dropped on loading, and what it did in training is lost.

    Fix: load it with the library that trained it; a newer PEFT may know the part.
    """
    if keys := keys_in(subject, "part"):
        parts = dict.fromkeys("lora_" + key.rpartition(".lora_")[2].partition(".")[0] for key in keys)
        yield Problem(
            f"{share_of(len(keys), subject)} are parts no LoRA has ({', '.join(parts)}): {first_of(keys)}",
            subject.weights_name, tensors=keys,
        )  # fmt: skip


@rule("TEN013", "error", "weights of the model hidden in the adapter", needs=("adapter",),
      breaks=extra(f"{ROOT}model.layers.0.mlp.up_proj.weight", HIDDEN, WIDTH))  # fmt: skip
def hidden_weights(subject: Subject) -> Iterator[Problem]:
    """PEFT loads a tensor that has the name of one of the base's over the base's own, and says nothing.

    Only modules_to_save, a trained bias and a resized vocabulary have such tensors; the config names none of them here.

    Fix: name the module in modules_to_save if it was trained whole; else remove the tensor.
    """
    if keys := keys_in(subject, "weight"):
        size = sum(subject.store[key].nbytes for key in keys)
        yield Problem(
            f"{share_of(len(keys), subject)} ({_percent(size, subject)} of the bytes) are weights of the model itself, "
            f"which the config does not name: {first_of(keys)}", subject.weights_name, tensors=keys,
        )  # fmt: skip


@rule("TEN014", "error", "a variant's tensors, and the config without it", needs=("adapter",),
      breaks=extra(f"{Q}.lora_magnitude_vector", WIDTH))  # fmt: skip
def switched_off(subject: Subject) -> Iterator[Problem]:
    """Magnitudes without use_dora, lora_B.bias without lora_bias: PEFT builds the plain LoRA and drops them.

    The result is silently another one than was trained.

    Fix: set the field as it was in training; the tensors say which.
    """
    groups: dict[str, list[Saved]] = {}
    off = set(keys_in(subject, "switch"))
    for tensor in subject.saved:
        if tensor.key.text in off:
            named = (name for part, name in NEEDED_FIELDS.items() if tensor.key.part.startswith(part))
            groups.setdefault(next(named, ""), []).append(tensor)
    for field, tensors in groups.items():
        keys = tuple(tensor.key.text for tensor in tensors)
        yield Problem(
            f"{share_of(len(keys), subject)} belong to {field or 'no field'}, which the config does not set: "
            f"{first_of(keys)}", subject.weights_name, tensors=keys, fix=_switch_on(field),
        )  # fmt: skip


def _switch_on(field: str) -> str:
    value: dict[str, Any] = {"use_dora": "true", "lora_bias": "true"}
    return f"set {field} to {value.get(field, 'what it was in training')} in adapter_config.json"


@rule("TEN015", "error", 'biases, and bias="none"', needs=("adapter",),
      breaks=extra(f"{ROOT}model.layers.0.self_attn.q_proj.base_layer.bias", WIDTH))  # fmt: skip
def undeclared_biases(subject: Subject) -> Iterator[Problem]:
    """Only bias="all" and "lora_only" train biases; runtimes go by that field, and some load these and some do not.

    Fix: set bias to "all" or "lora_only" as in training, or remove them.
    """
    if keys := keys_in(subject, "bias"):
        yield Problem(
            f'{share_of(len(keys), subject)} are biases of the model, against bias="none": {first_of(keys)}',
            subject.weights_name, tensors=keys,
        )  # fmt: skip


@rule("TEN016", "info", "a whole embedding or output head", needs=("adapter",),
      breaks=lambda draft: [extra(f"{ROOT}{name}.weight", VOCABULARY, WIDTH)(draft)
                            for name in ("model.embed_tokens", "lm_head")])  # fmt: skip
def whole_vocabulary(subject: Subject) -> Iterator[Problem]:
    """PEFT saves embedding and head whole where the vocabulary was resized, or where LoRA is on one of them.

    They replace the base's own and are often nearly all of the file. A head that comes alone, with nothing in the
    config to explain it, is not how PEFT saves: then somebody put it there.

    Fix: nothing, if the vocabulary was resized; else save again with save_embedding_layers=False.
    """
    said = {key for keys in leftovers(subject).values() for key in keys}
    carried = [t for t in subject.saved if t.role == "carried" and t.key.text not in said]
    whole = [t for t in carried if ".original_module." not in t.key.text and ".modules_to_save." not in t.key.text]
    if not whole:
        return
    keys = tuple(tensor.key.text for tensor in whole)
    share = _percent(sum(tensor.info.nbytes for tensor in whole), subject)
    first = whole[0].info
    alone = all(t.key.part == FULL and t.key.module.endswith(("lm_head.weight", "embed_out.weight")) for t in whole)
    embeds = any("embed" in key or ".wte." in key or ".shared." in key for key in subject.store if key not in keys)
    yield Problem(
        f"{first_of(keys)} ({first.dtype} {list(first.shape)}) replace the base's own: {share} of the bytes"
        + (", and nothing says why: PEFT saves a head only with its embedding" if alone and not embeds else ""),
        subject.weights_name, tensors=keys, severity="warning" if alone and not embeds else None,
    )  # fmt: skip
