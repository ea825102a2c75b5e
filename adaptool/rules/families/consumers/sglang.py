"""SGL001–SGL099: what SGLang makes of an adapter. Read from SGLang 0.5.23 (sglang/srt/lora)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from adaptool.adapters.names import projection_of
from adaptool.errors import AdaptoolError
from adaptool.rules.draft import VOCABULARY, WIDTH, Draft, fields, file
from adaptool.rules.families.consumers.facts import (
    Wrapped,
    about,
    and_more,
    beside_factors,
    changed_base,
    in_tower,
    is_lora,
    left_out,
    other_type,
    rank_above,
    variants,
    wrapped,
    wrong_scale,
)
from adaptool.rules.families.consumers.mutations import adapting, renamed, uneven_layers, with_tensor
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.tensors.files import open_file

CONFIG = "adapter_config.json"
TOKENS_NAME = "added_tokens.json"
TOKENS_LIMIT = 4 << 20

KNOWN = re.compile(
    r"(?:[qkvo]|qkv|gate|up|gate_up|down|out|q_a|q_b|kv_b|in)_proj|kv_a_proj_with_mqa|in_proj_[qkvz]+|w[123]|experts"
    r"|embed_tokens|word_embeddings|embeddings|vocab_emb|lm_head|output|unembed_tokens|fc[12]_latent_proj|x_proj"
    r"|wq_b|wk|weights_proj|w[qkvr]_d[uv]|base_layer"
)
"""The last names that SGLang has a size for, or lays into a module that has one."""

WHOLE_MODEL = ("all", "all-linear")
"""What target_modules may be as a string."""


def ranked_high(draft: Draft) -> None:
    """A server started for less than the adapter's rank."""
    draft.max_rank = 4


@rule("SGL001", "error", "SGLang loads LORA only", needs=("config",), consumer="sglang", breaks=fields(peft_type="IA3"))
def only_lora(subject: Subject) -> Iterator[Problem]:
    """SGLang asserts peft_type "lora" (in any case) before it reads a tensor.

    Read from SGLang 0.5.23: srt/lora/lora.py.

    Fix: merge the adapter into its base, and serve that.
    """
    yield from other_type(subject, "sglang")


@rule("SGL002", "error", "DoRA, which SGLang does not have", needs=("config",), consumer="sglang",
      breaks=fields(use_dora=True))  # fmt: skip
def dora(subject: Subject) -> Iterator[Problem]:
    """SGLang only adds B·A; it refuses an adapter that says use_dora.

    Read from SGLang 0.5.23: LoRAManager.validate_new_adapter.

    Fix: merge the adapter (adaptool merge) and serve the result.
    """
    if is_lora(subject) and subject.fields.get("use_dora"):
        yield Problem("use_dora is set, and SGLang refuses DoRA", CONFIG, "use_dora")


@rule("SGL003", "error", "another scale in SGLang", needs=("adapter",), consumer="sglang",
      breaks=fields(use_rslora=True))  # fmt: skip
def scale(subject: Subject) -> Iterator[Problem]:
    """SGLang multiplies every module by lora_alpha / r: it reads neither use_rslora nor alpha_pattern nor rank_pattern.

    The adapter loads, and acts too weakly or too strongly.
    Read from SGLang 0.5.23: LoRAAdapter.__init__ (scaling); sglang issue 40835.

    Fix: adaptool validate ADAPTER --for sglang --fix --out FIXED multiplies each scale into lora_B, exactly.
    """
    yield from wrong_scale(subject, "sglang", lambda one: subject.config.alpha / subject.config.rank)


@rule("SGL004", "error", "a rank other than r", needs=("adapter",), consumer="sglang",
      breaks=uneven_layers)  # fmt: skip
def uneven_rank(subject: Subject) -> Iterator[Problem]:
    """SGLang's buffers are cut to r for every module, and an assertion fails on the first request where one differs.

    Read from SGLang 0.5.23: srt/lora/mem_pool.py load_lora_weight_to_buffer.

    Fix: adaptool validate ADAPTER --for sglang --fix --out FIXED pads the smaller factors with zeros.
    """
    if not is_lora(subject):
        return
    rank = subject.config.rank
    off = [one for one in wrapped(subject) if one.name == one.module and one.rows not in (0, rank)]
    if off:
        message = f"{off[0].name} has rank {off[0].rows}{and_more(off)}, and SGLang makes room for r = {rank}"
        yield about(subject, off, message)


@rule("SGL005", "error", "target_modules that SGLang does not read", needs=("config",), consumer="sglang",
      breaks=fields(target_modules=r".*\.(q|v)_proj"))  # fmt: skip
def targets(subject: Subject) -> Iterator[Problem]:
    """target_modules must be a list of names, or "all-linear": a regular expression or null fails while loading.

    --lora-target-modules does not help in 0.5.23: the adapter's own field is read for every tensor.
    Read from SGLang 0.5.23: srt/lora/utils.py get_normalized_target_modules.

    Fix: write the targeted modules' last names as a list into target_modules; the saved keys have them.
    """
    value = subject.fields.get("target_modules")
    if is_lora(subject) and not (isinstance(value, list) or value in WHOLE_MODEL):
        what = f"the pattern {value[:60]!r}" if isinstance(value, str) else "missing" if value is None else repr(value)
        yield Problem(f"target_modules is {what}, and SGLang needs a list of names", CONFIG, "target_modules")


@rule("SGL006", "error", "tokens added to the vocabulary", needs=("config", "base"), consumer="sglang",
      breaks=file(TOKENS_NAME, json.dumps({"<new>": VOCABULARY}).encode()))  # fmt: skip
def added_tokens(subject: Subject) -> Iterator[Problem]:
    """An added_tokens.json with ids beyond the base's vocabulary makes SGLang refuse the adapter.

    Read from SGLang 0.5.23: srt/lora/lora_config.py, LoRAManager.validate_new_adapter.

    Fix: remove added_tokens.json if the tokens are not used, or merge the adapter and serve the result.
    """
    size = subject.model.text_config.get("vocab_size")
    added = _added_tokens(subject)
    if type(size) is not int:
        return
    beyond = [token for token, number in added.items() if type(number) is int and number >= size]
    if beyond:
        message = f"{beyond[0]!r}{and_more(beyond, 'tokens')} lies beyond the base's {size} tokens"
        yield Problem(message, TOKENS_NAME)


def _added_tokens(subject: Subject) -> Mapping[str, object]:
    path = subject.folder / TOKENS_NAME
    if not path.is_file():
        return {}
    try:
        found = json.loads(open_file(path).read_all(TOKENS_LIMIT))
    except (ValueError, RecursionError, AdaptoolError):
        return {}
    return found if isinstance(found, dict) else {}


def _attention(subject: Subject) -> Mapping[str, dict[str, Wrapped]]:
    """By attention block: which of q, k and v are wrapped; by MLP: which of gate and up."""
    blocks: dict[str, dict[str, Wrapped]] = {}
    for one in wrapped(subject):
        if projection_of(one.module) in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
            blocks.setdefault(one.module.rpartition(".")[0], {})[projection_of(one.module)] = one
    return blocks


@rule("SGL007", "error", "q_proj without v_proj", needs=("adapter",), consumer="sglang", breaks=adapting("q_proj"))
def query_alone(subject: Subject) -> Iterator[Problem]:
    """SGLang stacks q, k and v: where q is there v must be (k may be missing everywhere), or loading fails.

    Read from SGLang 0.5.23: LoRAAdapter.normalize_qkv_proj.

    Fix: train v_proj too, add zero factors for it, or merge the adapter and serve the result.
    """
    alone = [parts["q_proj"] for parts in _attention(subject).values() if "q_proj" in parts and "v_proj" not in parts]
    if alone:
        message = f"{alone[0].name}{and_more(alone)} has a LoRA, and v_proj beside it has none: SGLang fails to load it"
        yield about(subject, alone, message)


@rule("SGL008", "error", "projections that SGLang drops", needs=("adapter",), consumer="sglang",
      breaks=adapting("v_proj", "o_proj"))  # fmt: skip
def dropped(subject: Subject) -> Iterator[Problem]:
    """k_proj or v_proj without q_proj, and up_proj without gate_proj, are not stacked, so no layer takes them.

    A line in the log says "skipped"; --lora-strict-loading makes it an error.
    Read from SGLang 0.5.23: normalize_qkv_proj, normalize_gate_up_proj, mem_pool.py.

    Fix: add zero factors for q_proj (or gate_proj), or merge the adapter and serve the result.
    """
    lost = [
        one
        for parts in _attention(subject).values()
        for name, one in parts.items()
        if (name in ("k_proj", "v_proj") and "q_proj" not in parts) or (name == "up_proj" and "gate_proj" not in parts)
    ]
    if lost:
        first = "gate_proj" if projection_of(lost[0].module) == "up_proj" else "q_proj"
        message = f"{lost[0].name}{and_more(lost)} has no {first} beside it, and is left out without an error"
        yield about(subject, lost, message)


@rule("SGL009", "error", "tensors that SGLang drops or misreads", needs=("adapter",), consumer="sglang",
      breaks=with_tensor("lm_head.weight", VOCABULARY, WIDTH))  # fmt: skip
def beside(subject: Subject) -> Iterator[Problem]:
    """Heads, embeddings and token rows trained whole are skipped; a bias inside a layer is taken for a lora_B.

    Read from SGLang 0.5.23: LoRAAdapter._process_weight, mem_pool.py.

    Fix: merge the adapter (adaptool merge) and serve the result.
    """
    yield from left_out(
        subject, "sglang", beside_factors(subject), "takes factors only, and drops or misreads this tensor"
    )


@rule("SGL010", "error", "factors for a changed base", needs=("config",), consumer="sglang",
      breaks=fields(init_lora_weights="pissa"))  # fmt: skip
def initialisation(subject: Subject) -> Iterator[Problem]:
    """PiSSA and its kin take part of the base into the factors; SGLang adds them to the whole base.

    Read from SGLang 0.5.23: init_lora_weights is not read.

    Fix: convert it where it was trained: save_pretrained(…, path_initial_model_for_weight_conversion=…).
    """
    yield from changed_base(subject, "sglang")


@rule("SGL011", "error", "a variant of LoRA that SGLang does not have", needs=("config",), consumer="sglang",
      breaks=fields(alora_invocation_tokens=[1, 2]))  # fmt: skip
def variant(subject: Subject) -> Iterator[Problem]:
    """SGLang reads r, lora_alpha and target_modules; an aLoRA would act on every token, a router on none.

    Read from SGLang 0.5.23: srt/lora/lora_config.py.

    Fix: merge it where the variant can be merged, or train a plain LoRA.
    """
    names = ("alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora", "arrow_config", "kasa_config")
    yield from variants(subject, "sglang", names)


@rule("SGL012", "error", "a rank above --max-lora-rank", needs=("adapter",), consumer="sglang", breaks=ranked_high)
def rank(subject: Subject) -> Iterator[Problem]:
    """A server started with --max-lora-rank refuses larger adapters; without it, it is what --lora-paths need.

    Read from SGLang 0.5.23: LoRAMemoryPool.can_support.

    Fix: start SGLang with --max-lora-rank as large as the adapter's rank.
    """
    yield from rank_above(subject, "sglang")


@rule("SGL013", "error", "a LoRA on a vision tower", needs=("adapter",), consumer="sglang",
      breaks=renamed("model.layers.1", "model.vision_tower.layers.1"))  # fmt: skip
def tower(subject: Subject) -> Iterator[Problem]:
    """SGLang files a tensor by the first "layers.N" in its name: a tower's factors land in the language model's layers.

    Read from SGLang 0.5.23: LoRAAdapter._process_weight, get_layer_id.

    Fix: merge the adapter (adaptool merge) and serve the result.
    """
    found = in_tower(subject)
    if found:
        message = f"{found[0].name}{and_more(found)} is no part of the language model, and SGLang takes it for one"
        yield about(subject, found, message)


@rule("SGL014", "warning", "modules of no known name", needs=("adapter",), consumer="sglang",
      breaks=renamed("self_attn.q_proj", "self_attn.query"))  # fmt: skip
def unknown_names(subject: Subject) -> Iterator[Problem]:
    """SGLang sizes its buffers by a module's last name, and raises at one it has no size for.

    A model class may know more names; most do not.
    Read from SGLang 0.5.23: srt/lora/utils.py get_default_hidden_dim, get_normalized_target_modules.

    Fix: start SGLang once with the adapter and see; where it raises, merge the adapter and serve the result.
    """
    found = [one for one in wrapped(subject) if not KNOWN.fullmatch(projection_of(one.module))]
    if found:
        yield about(subject, found, f"{found[0].name}{and_more(found)} has a name that SGLang knows no size for")
