"""CFG250–CFG299: what kind of adapter a config makes it: its initialisation, its variant, what can be done with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adaptool.adapters.config import CONFIG_NAME
from adaptool.adapters.tuners import tuner_for
from adaptool.adapters.tuners.lora import HARMLESS_INITS, MUTATING_INITS
from adaptool.errors import AdaptoolError
from adaptool.rules.draft import fields
from adaptool.rules.finding import Problem, Severity
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.tensors.jsons import shown

RELOADED: Mapping[str, tuple[Severity, str]] = {
    "pissa_niter": ("warning", "its random SVD comes out differently at every load, so even PEFT gets another model"),
    "pissa": ("info", "PEFT repeats its SVD on loading; any other runtime adds the factors to the wrong weights"),
    "olora": ("info", "PEFT repeats its QR on loading; any other runtime adds the factors to the wrong weights"),
    "loftq": ("info", "PEFT quantises the base again on loading; any other runtime adds the factors to other weights"),
    "lora_ga": ("warning", "PEFT does not repeat it on loading, so the factors are added to the wrong weights"),
    "corda": ("error", "PEFT refuses to load it without the statistics of its training"),
}
"""What PEFT 0.21 does with a saved adapter whose initialisation changed the base, the longest name first."""

VARIANTS = ("use_dora", "arrow_config", "use_bdlora", "alora_invocation_tokens", "velora_config", "monteclora_config",
            "kasa_config")  # fmt: skip
"""Fields that make PEFT's layers of another class, of which a layer has one."""

PARAMETERS = {"lora_dropout": "dropout", "use_dora": "DoRA", "lora_bias": "a bias", "fan_in_fan_out": "fan_in_fan_out",
              "velora_config": "VeLoRA", "kasa_config": "KaSA"}  # fmt: skip
"""What the wrapper of a parameter refuses."""

UNUSED = {"eva_config": "eva", "corda_config": "corda", "lora_ga_config": "lora_ga", "loftq_config": "loftq"}
"""Fields that count only with one initialisation."""


@rule("CFG250", "info", "factors that belong on a changed base", needs=("config",),
      breaks=fields(init_lora_weights="pissa"))  # fmt: skip
def changed_base(subject: Subject) -> Iterator[Problem]:
    """PiSSA, OLoRA, CorDA, LoRA-GA and LoftQ take part of the base's weights out before training.

    The saved factors belong on what was left, not on the original: added to that, they count their part twice. PEFT
    0.21 repeats PiSSA's and OLoRA's step when it loads them, exactly; no runtime, converter or merge elsewhere does.

    Fix: convert it where it was trained: save_pretrained(…, path_initial_model_for_weight_conversion=…).
    """
    init = subject.fields.get("init_lora_weights")
    if subject.peft_type not in ("LORA", "ADALORA") or not isinstance(init, str):
        return
    found = next((name for name in RELOADED if init.lower().startswith(name)), None)
    if found is not None:
        severity, why = RELOADED[found]
        title = next(title for name, title in MUTATING_INITS.items() if found.startswith(name))
        yield Problem(
            f"{title} changed the base's weights before training: {why}", CONFIG_NAME, "init_lora_weights",
            severity=severity,
        )  # fmt: skip


@rule("CFG251", "info", "it cannot be merged", needs=("config",), breaks=fields(layer_replication=[[0, 2], [1, 2]]))
def unmergeable(subject: Subject) -> Iterator[Problem]:
    """Some LoRAs are no single change of the base's weights: what they add depends on the input, or on other layers.

    Of other PEFT types ``inspect`` says which can be merged, and --base brings it up here too.

    Fix: serve it as an adapter, in a runtime that knows its kind.
    """
    if subject.peft_type != "LORA":
        return
    init = subject.fields.get("init_lora_weights", True)
    if isinstance(init, str) and init not in HARMLESS_INITS and not subject.fields.get("layer_replication"):
        return  # CFG250 says so
    try:
        refusal = tuner_for(subject.config).refusal(subject.config)
    except AdaptoolError:
        return
    if refusal is not None:
        yield Problem(refusal.reason, CONFIG_NAME, fix=f"{refusal.way_out[:1].upper()}{refusal.way_out[1:]}.")


@rule("CFG252", "error", "variants that PEFT's layers refuse", needs=("config",),
      breaks=fields(use_dora=True, kasa_config={}, monteclora_config={"num_samples": 4}))  # fmt: skip
def refused_variants(subject: Subject) -> Iterator[Problem]:
    """A layer is of one variant of LoRA; and PEFT wraps a parameter (target_parameters) without dropout or variants.

    PEFT raises on any other combination when it builds the layers.

    Fix: unset what the weights show no trace of.
    """
    if subject.peft_type != "LORA":
        return
    wanted = [name for name in VARIANTS if _is_on(subject.fields.get(name))]
    if subject.fields.get("init_lora_weights") == "mica":
        wanted.append('init_lora_weights "mica"')
    if len(wanted) > 1:
        yield Problem(f"{' and '.join(wanted)} are both set, and a layer has one", CONFIG_NAME, wanted[0])
    parameters = subject.fields.get("target_parameters")
    if isinstance(parameters, list) and parameters:
        refused = {name: word for name, word in PARAMETERS.items() if _is_on(subject.fields.get(name))}
        if refused:
            name, word = next(iter(refused.items()))
            yield Problem(
                f"target_parameters names {shown(parameters[0])}, and {name} is {shown(subject.fields[name])}: a "
                f"parameter is wrapped without {word}", CONFIG_NAME, name,
            )  # fmt: skip


def _is_on(value: object) -> bool:
    """An empty ``kasa_config: {}`` is on too."""
    return isinstance(value, dict) or bool(value)


@rule("CFG253", "info", "saved in the state of training", needs=("config",), breaks=fields(inference_mode=False))
def still_training(subject: Subject) -> Iterator[Problem]:
    """save_pretrained always writes inference_mode as true: this config was written by hand, or by another tool.

    Loaded through get_peft_model or add_adapter it comes trainable, with its dropout on.

    Fix: set inference_mode to true.
    """
    if subject.fields.get("inference_mode") is False:
        yield Problem("inference_mode is false, which save_pretrained never writes", CONFIG_NAME, "inference_mode")


@rule("CFG255", "info", "a setting without effect", needs=("config",), breaks=fields(
    eva_config={"rho": 2.0, "tau": 0.99}))  # fmt: skip
def idle_setting(subject: Subject) -> Iterator[Problem]:
    """PEFT reads some fields only beside others: the options of an initialisation that was not chosen, AdaLoRA's r.

    Fix: nothing is needed; if the setting was meant, the training did without it.
    """
    if subject.peft_type not in ("LORA", "ADALORA"):
        return
    init = subject.fields.get("init_lora_weights")
    idle = [name for name, wanted in UNUSED.items() if subject.fields.get(name) and init != wanted]
    if subject.peft_type == "ADALORA":
        idle += ["r"] if subject.fields.get("r", 8) != 8 else []
        idle += [name for name in ("alpha_pattern", "use_rslora") if subject.fields.get(name)]
    if idle:
        why = "AdaLoRA does not read it" if idle[0] in ("r", "alpha_pattern", "use_rslora") else (
            f"init_lora_weights is {shown(init)}")  # fmt: skip
        yield Problem(f"{' and '.join(idle)} has no effect: {why}", CONFIG_NAME, idle[0])
