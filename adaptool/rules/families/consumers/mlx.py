"""MLX001–MLX099: what MLX-LM makes of a PEFT adapter. Read from MLX-LM 0.32.2 (mlx_lm/tuner/utils.py, lora.py)."""

from __future__ import annotations

from collections.abc import Iterator

from adaptool.rules.draft import WIDTH, fields
from adaptool.rules.families.consumers.facts import (
    beside_factors,
    changed_base,
    left_out,
    other_type,
    variants,
    wrapped,
)
from adaptool.rules.families.consumers.mutations import uneven_layers, with_tensor
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject

CONFIG = "adapter_config.json"
OWN_NAME = "adapters.safetensors"
OWN_FIELDS = ("num_layers", "lora_parameters")


@rule("MLX001", "error", "PEFT's layout, which MLX-LM does not read", needs=("config",), consumer="mlx",
      breaks=fields(r=8))  # fmt: skip
def layout(subject: Subject) -> Iterator[Problem]:
    """MLX-LM reads adapters.safetensors with lora_a (in, r) and lora_b (r, out), and its own adapter_config.json.

    That names num_layers and lora_parameters (rank, scale, dropout, keys); a folder of PEFT's fails at num_layers.
    Read from MLX-LM 0.32.2: mlx_lm/tuner/utils.py load_adapters.

    Fix: convert the layout: transpose both factors, write scale = lora_alpha / r, or merge and convert the model.
    """
    missing = [name for name in OWN_FIELDS if name not in subject.fields]
    if missing or not (subject.folder / OWN_NAME).is_file():
        lacks = f"no {missing[0]} in adapter_config.json" if missing else f"no {OWN_NAME}"
        yield Problem(f"this is PEFT's layout, and MLX-LM reads its own: there is {lacks}", CONFIG)


@rule("MLX002", "error", "MLX-LM knows LORA only", needs=("config",), consumer="mlx", breaks=fields(peft_type="IA3"))
def only_lora(subject: Subject) -> Iterator[Problem]:
    """fine_tune_type is lora, dora or full; no other PEFT type has a form there.

    Read from MLX-LM 0.32.2: mlx_lm/tuner/utils.py load_adapters.

    Fix: merge the adapter into its base, and convert the model.
    """
    yield from other_type(subject, "mlx")


@rule("MLX003", "warning", "ranks or scales that differ", needs=("adapter",), consumer="mlx", breaks=uneven_layers)
def uneven(subject: Subject) -> Iterator[Problem]:
    """One rank and one scale stand for all modules in MLX-LM's config, so a conversion must pad and bake.

    Read from MLX-LM 0.32.2: mlx_lm/tuner/utils.py linear_to_lora_layers.

    Fix: multiply each module's scale into lora_B and pad the smaller factors with zeros before converting.
    """
    found = {(one.rank, round(one.scale, 6)): one for one in wrapped(subject)}
    if len(found) > 1:
        (first, one), (second, other) = list(found.items())[:2]
        yield Problem(
            f"{one.name} has rank {first[0]} and scale {first[1]:g}, {other.name} rank {second[0]} and scale "
            f"{second[1]:g}: MLX-LM has one of each for all",
            CONFIG, "rank_pattern" if first[0] != second[0] else "alpha_pattern",
        )  # fmt: skip


@rule("MLX004", "error", "tensors that MLX-LM has no place for", needs=("adapter",), consumer="mlx",
      breaks=with_tensor("model.norm.weight", WIDTH))  # fmt: skip
def beside(subject: Subject) -> Iterator[Problem]:
    """A LoRA there has lora_a, lora_b and DoRA's m; MLX-LM raises at any other tensor.

    Read from MLX-LM 0.32.2: mlx_lm/tuner/utils.py load_adapters ("not an adapter parameter in the model").

    Fix: merge the adapter (adaptool merge) and convert the model.
    """
    tensors = [saved for saved in beside_factors(subject) if saved.key.part != ""]
    yield from left_out(subject, "mlx", tensors, "takes no tensor but factors")


@rule("MLX005", "error", "factors for a changed base", needs=("config",), consumer="mlx",
      breaks=fields(init_lora_weights="pissa"))  # fmt: skip
def initialisation(subject: Subject) -> Iterator[Problem]:
    """PiSSA and its kin take part of the base into the factors; MLX-LM adds them to the whole base.

    Read from MLX-LM 0.32.2: nothing there knows of it.

    Fix: convert it where it was trained: save_pretrained(…, path_initial_model_for_weight_conversion=…).
    """
    yield from changed_base(subject, "mlx")


@rule("MLX006", "error", "a variant of LoRA that MLX-LM does not have", needs=("config",), consumer="mlx",
      breaks=fields(alora_invocation_tokens=[1, 2]))  # fmt: skip
def variant(subject: Subject) -> Iterator[Problem]:
    """MLX-LM has plain LoRA and DoRA: an aLoRA would act on every token, a router on none.

    Read from MLX-LM 0.32.2: mlx_lm/tuner.

    Fix: merge it where the variant can be merged, or train a plain LoRA.
    """
    names = ("alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora", "arrow_config", "kasa_config")
    yield from variants(subject, "mlx", names)
