"""Forward parity: base + adapter through PEFT against the merged model, on prompts (extra ``[parity]``).

Both run in float32 on the CPU, so what differs is what merging did to the weights. How large a divergence is
tolerable depends on the adapter; what is measured beside it is how far the bare base is from the adapted model.
A merge that was not applied leaves the merged model as far away as the base.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptool.adapters.adapter import Adapter
from adaptool.errors import NotFoundError, UnsupportedError, UsageError

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "Once upon a time, in a village by the sea, there lived",
    "Question: What is 17 + 25?\nAnswer:",
    'Translate to German: "Where is the station?"',
)
MARGIN = 0.05
"""Positions where the reference's two best tokens are closer than this in probability say nothing about top-1."""

CLOSER = 0.1
"""The merged model's divergence may be this share of the base's: far above rounding, far below a wrong merge."""

NEGLIGIBLE = 1e-3
"""Nats (or squared relative distance): below this a divergence is rounding, whatever the base's is."""

TASK_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}


@dataclass(frozen=True)
class ForwardParity:
    """How the merged model's outputs compare with the adapted one's."""

    output: str
    """What was compared: logits, or last_hidden_state of a model without a head."""
    positions: int
    max_abs: float
    mean_divergence: float
    """KL(adapted ‖ merged) in nats per position; for hidden states the squared relative distance."""
    base_divergence: float
    """The same of the bare base: what the adapter does at all."""
    top1_agreement: float | None
    """Over positions with a clear best token; None without logits."""
    random_tokens: bool
    """No tokenizer was found, so random token ids stood in for prompts."""

    @property
    def agrees(self) -> bool:
        """Whether the merged model is the adapted one, up to rounding."""
        near = self.mean_divergence <= max(NEGLIGIBLE, CLOSER * self.base_divergence)
        return near and (self.top1_agreement is None or self.top1_agreement >= 0.97)


def forward_parity(
    base: Path, adapters: Sequence[tuple[Adapter, float]], merged: Path, prompts: Sequence[str] = ()
) -> ForwardParity:
    """Run base, base + adapters and merged on ``prompts`` (a few built-in ones if none) and compare the outputs.

    Holds two models in memory at once. Raises UsageError without the extra, UnsupportedError where transformers
    cannot load the model.
    """
    torch, transformers, peft = _libraries()
    model_class = _model_class(transformers, adapters, merged)
    inputs, random_tokens = _inputs(transformers, torch, merged, prompts or PROMPTS)
    with torch.no_grad():
        model = _load(torch, model_class, base, _shape_of(transformers, model_class, merged))
        plain = [_run(model, item) for item in inputs]
        adapted = [_run(_adapt(peft, model, adapters), item) for item in inputs]
        del model
        final = _load(torch, model_class, merged, {})
        ours = [_run(final, item) for item in inputs]
    name = adapted[0][0]
    truth, result, bare = (torch.cat([_rows(values) for _, values in runs]) for runs in (adapted, ours, plain))
    if truth.shape != result.shape:
        raise UnsupportedError(f"{merged}: outputs {list(result.shape)} where {list(truth.shape)} were expected")
    distance = _kl if name == "logits" else _relative
    return ForwardParity(
        name,
        truth.shape[0],
        float((truth - result).abs().max()),
        distance(torch, truth, result),
        distance(torch, truth, bare) if bare.shape == truth.shape else float("nan"),
        _top1(torch, truth, result) if name == "logits" else None,
        random_tokens,
    )


def _libraries() -> tuple[Any, Any, Any]:
    try:
        import peft
        import torch
        import transformers
    except ImportError as error:
        raise UsageError(
            f"--parity forward needs {error.name}", hint='install it with: pip install "adaptool[parity]"'
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="transformers|peft|torch")
    return torch, transformers, peft


def _model_class(transformers: Any, adapters: Sequence[tuple[Adapter, float]], merged: Path) -> Any:
    if not (merged / "config.json").is_file():
        raise NotFoundError(f"{merged}: no config.json, so transformers cannot run it", hint="use --verify instead")
    task = next((a.config.task_type for a, _ in adapters if a.config.task_type), None)
    if task in TASK_CLASSES:
        return getattr(transformers, TASK_CLASSES[task])
    names = transformers.AutoConfig.from_pretrained(merged).architectures or []
    found = next((getattr(transformers, name) for name in names if hasattr(transformers, name)), None)
    return found or transformers.AutoModel


def _shape_of(transformers: Any, model_class: Any, merged: Path) -> Mapping[str, int]:
    """What the base must be given to have the merged model's shape: its number of labels, its vocabulary."""
    config = transformers.AutoConfig.from_pretrained(merged)
    shape = (
        {"vocab_size": config.get_text_config().vocab_size} if hasattr(config.get_text_config(), "vocab_size") else {}
    )
    classifies = model_class.__name__.endswith("Classification")
    return {**shape, "num_labels": config.num_labels} if classifies else shape


def _load(torch: Any, model_class: Any, path: Path, shape: Mapping[str, int]) -> Any:
    labels = {key: value for key, value in shape.items() if key == "num_labels"}
    try:
        model = model_class.from_pretrained(path, dtype=torch.float32, local_files_only=True, **labels).eval()
        embedding = model.get_input_embeddings()
        if "vocab_size" in shape and embedding is not None and embedding.weight.shape[0] != shape["vocab_size"]:
            model.resize_token_embeddings(shape["vocab_size"], mean_resizing=False)
        return model
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise UnsupportedError(f"{path}: transformers cannot load it: {error}", hint="use --verify instead") from error


def _adapt(peft: Any, model: Any, adapters: Sequence[tuple[Adapter, float]]) -> Any:
    """The base with its adapters on, at their weights."""
    if isinstance(model, peft.PeftModel):
        return model
    if getattr(model, "adaptool_adapted", None) is not None:
        return model.adaptool_adapted
    names = [f"a{number}" for number in range(len(adapters))]
    wrapped = peft.PeftModel.from_pretrained(model, adapters[0][0].folder, adapter_name=names[0])
    for name, (adapter, _) in list(zip(names, adapters, strict=True))[1:]:
        wrapped.load_adapter(adapter.folder, adapter_name=name)
    if len(names) > 1:
        wrapped.base_model.set_adapter(names)
    for module in wrapped.modules():
        for name, (_, weight) in zip(names, adapters, strict=True):
            if weight != 1 and hasattr(module, "set_scale"):
                module.set_scale(name, weight)
    object.__setattr__(model, "adaptool_adapted", wrapped.eval())
    return wrapped


def _inputs(
    transformers: Any, torch: Any, folder: Path, prompts: Sequence[str]
) -> tuple[list[Mapping[str, Any]], bool]:
    """Each prompt as token ids; random ids of the model's vocabulary where the folder has no tokenizer."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return [tokenizer(prompt, return_tensors="pt") for prompt in prompts], False
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError):
        config = transformers.AutoConfig.from_pretrained(folder).get_text_config()
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, config.vocab_size, (len(prompts), 24), generator=generator)
        return [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in ids], True


def _run(model: Any, inputs: Mapping[str, Any]) -> tuple[str, Any]:
    inputs = {key: value for key, value in inputs.items() if key != "token_type_ids" or _takes_types(model)}
    if getattr(model.config, "is_encoder_decoder", False):
        inputs = {**inputs, "decoder_input_ids": inputs["input_ids"]}
    output = model(**inputs)
    for name in ("logits", "last_hidden_state"):
        if getattr(output, name, None) is not None:
            return name, getattr(output, name)
    raise UnsupportedError(
        f"{type(model).__name__} gives neither logits nor hidden states", hint="use --verify instead"
    )


def _takes_types(model: Any) -> bool:
    return bool(getattr(model.config, "type_vocab_size", 0))


def _rows(values: Any) -> Any:
    return values.float().reshape(-1, values.shape[-1])


def _kl(torch: Any, truth: Any, other: Any) -> float:
    p, q = torch.log_softmax(truth.double(), -1), torch.log_softmax(other.double(), -1)
    return float((p.exp() * (p - q)).sum(-1).mean().clamp_min(0))


def _relative(torch: Any, truth: Any, other: Any) -> float:
    return float(((truth - other).double() ** 2).sum() / (truth.double() ** 2).sum())


def _top1(torch: Any, truth: Any, other: Any) -> float:
    best = torch.softmax(truth.double(), -1).topk(2, dim=-1).values
    clear = (best[:, 0] - best[:, 1]) >= MARGIN
    if not bool(clear.any()):
        return 1.0
    return float((truth.argmax(-1) == other.argmax(-1))[clear].double().mean())
