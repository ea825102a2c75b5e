"""TEN001–TEN009: how saved keys are spelt, whatever the PEFT type."""

from __future__ import annotations

from collections.abc import Iterator

from adaptool.adapters.names import PREFIX
from adaptool.rules.draft import PREFIX as ROOT
from adaptool.rules.draft import RANK, WIDTH, Draft, Q, extra, renamed
from adaptool.rules.families.tensors import keys_in, share_of
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.rules.weights.leftovers import adapter_names, first_of, format_of, leftovers

SAVE_AGAIN = "save it again with PEFT's save_pretrained, from the unwrapped model"


@rule("TEN001", "error", "keys without PEFT's prefix", needs=("adapter",),
      breaks=renamed(lambda key: key.removeprefix(ROOT)))  # fmt: skip
def without_prefix(subject: Subject) -> Iterator[Problem]:
    """PEFT looks for base_model.model. before every key and passes over the others: the base answers, unadapted.

    Fix: save it again with PEFT's save_pretrained, or put base_model.model. before each key.
    """
    if keys := keys_in(subject, "prefix"):
        yield Problem(
            f"{share_of(len(keys), subject)} lack PEFT's prefix {PREFIX}: {first_of(keys)}", subject.weights_name,
            tensors=keys, fix=f"{SAVE_AGAIN}, or put {PREFIX} before each key",
        )  # fmt: skip


@rule("TEN002", "error", "the adapter's own name in its keys", needs=("adapter",),
      breaks=renamed(lambda key: key.replace(".weight", ".default.weight")))  # fmt: skip
def named_keys(subject: Subject) -> Iterator[Problem]:
    """In memory a key ends in lora_A.default.weight; PEFT saves it without the name, and with it does not load it.

    Fix: save it with save_pretrained instead of state_dict(), or take the name out of each key.
    """
    names = _names(subject)
    if len(names) == 1:
        keys = keys_in(subject, "named")
        yield Problem(
            f"{share_of(len(keys), subject)} have the adapter's own name {names[0]!r} in their keys: {first_of(keys)}",
            subject.weights_name, tensors=keys, fix=f"take .{names[0]} out of each key, or {SAVE_AGAIN}",
        )  # fmt: skip


def _names(subject: Subject) -> tuple[str, ...]:
    """The adapters in the file by the names in its keys; "" stands for factors without one beside factors with."""
    names = adapter_names(keys_in(subject, "named"))
    bare = any(t.role == "trained" and ".lora_" in f".{t.key.part}" for t in subject.saved)
    return (*names, "") if names and bare and not leftovers(subject).keys() - {"named"} and len(names) == 1 else names


@rule("TEN003", "error", "a training wrapper's name in the keys", needs=("adapter",),
      breaks=renamed(lambda key: key.replace("base_model.model.", "base_model.model._orig_mod.")))  # fmt: skip
def wrapped_keys(subject: Subject) -> Iterator[Problem]:
    """torch.compile, FSDP, DDP and DeepSpeed wrap modules; saved from inside, their names are in the keys.

    A plain model has no such modules, so nothing of the adapter is applied to it.

    Fix: save the unwrapped model (accelerator.unwrap_model, model._orig_mod), or take the wrapper's name out of them.
    """
    if keys := keys_in(subject, "wrapper"):
        yield Problem(
            f"{share_of(len(keys), subject)} carry the name of a wrapper, which the plain model does not have: "
            f"{first_of(keys)}", subject.weights_name, tensors=keys,
        )  # fmt: skip


@rule("TEN004", "error", "keys as another tool spells them", needs=("adapter",),
      breaks=renamed(lambda key: key.removeprefix(ROOT).replace("lora_A.weight", "lora_a")
                     .replace("lora_B.weight", "lora_b")))  # fmt: skip
def foreign_keys(subject: Subject) -> Iterator[Problem]:
    """kohya, diffusers, ComfyUI, MLX and others keep the same factors under other names, some transposed or scaled.

    PEFT knows none of these names and passes over them.

    Fix: load it with the tool that wrote it, or have that tool export a PEFT adapter.
    """
    keys = keys_in(subject, "format")
    by_tool: dict[str, list[str]] = {}
    for key in keys:
        if found := format_of(key):
            by_tool.setdefault(found.tool, []).append(key)
    for found_keys in by_tool.values():
        spelling = format_of(found_keys[0])
        assert spelling is not None
        yield Problem(
            f"{share_of(len(found_keys), subject)} are spelt as {spelling.tool} does, not PEFT: {first_of(found_keys)}",
            subject.weights_name, tensors=tuple(found_keys), fix=spelling.fix,
        )  # fmt: skip


@rule("TEN005", "error", "PEFT's prefix twice", needs=("adapter",), breaks=renamed(lambda key: ROOT + key))
def doubled_prefix(subject: Subject) -> Iterator[Problem]:
    """A PeftModel wrapped in another PeftModel saves base_model.model. twice; it loads onto no plain model.

    Fix: wrap the base once (get_peft_model on the base, not on a PeftModel), or take one prefix off each key.
    """
    if keys := keys_in(subject, "doubled"):
        yield Problem(
            f"{share_of(len(keys), subject)} have PEFT's prefix {PREFIX} twice: {first_of(keys)}",
            subject.weights_name, tensors=keys,
        )  # fmt: skip


@rule("TEN006", "error", "keys that differ in case only", needs=("adapter",),
      breaks=extra(f"{Q}.lora_A.weight".replace("q_proj", "Q_proj"), RANK, WIDTH))  # fmt: skip
def case_twins(subject: Subject) -> Iterator[Problem]:
    """A model has no two modules that differ in case alone: one of the two keys is applied, the other is passed over.

    Fix: find out which of them was trained, and take the other out.
    """
    twins: dict[str, list[str]] = {}
    for key in subject.store:
        twins.setdefault(key.lower(), []).append(key)
    doubled = [keys for keys in twins.values() if len(keys) > 1]
    if doubled:
        yield Problem(
            f"{len(doubled)} keys are there twice but for their case: {' and '.join(doubled[0])}", subject.weights_name,
            tensors=tuple(key for keys in doubled for key in keys),
        )  # fmt: skip


def _second_adapter(draft: Draft) -> None:
    for key, array in list(draft.tensors.items()):
        for name in ("first", "second"):
            draft.tensors[key.replace(".weight", f".{name}.weight")] = array
        del draft.tensors[key]


@rule("TEN007", "error", "two adapters in one file", needs=("adapter",), breaks=_second_adapter)
def two_adapters(subject: Subject) -> Iterator[Problem]:
    """A folder holds one adapter: PEFT keeps several in folders of their own, and reads none of these keys.

    Fix: split the file by the names in its keys, one adapter to a folder.
    """
    names = _names(subject)
    if len(names) > 1:
        keys = keys_in(subject, "named")
        listed = ", ".join(repr(name) if name else "one without a name" for name in names[:4])
        yield Problem(
            f"{len(names)} adapters in one file, by the names in its keys: {listed}", subject.weights_name, tensors=keys
        )
