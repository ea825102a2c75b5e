"""What breaks the good adapter for a runtime: modules of other kinds, and other names."""

from __future__ import annotations

from collections.abc import Callable

from adaptool.rules.draft import LAYERS, MODULES, PREFIX, RANK, VOCABULARY, WIDTH, Draft, numbers


def adapting(*names: str, rank: int = RANK, layers: range = range(LAYERS)) -> Callable[[Draft], object]:
    """LoRA on these projections of the draft's base, and on nothing else."""

    def mutate(draft: Draft) -> None:
        draft.config.update(target_modules=sorted(names), r=rank)
        draft.tensors.clear()
        for layer in layers:
            for name, (rows, columns) in MODULES.items():
                if name.rpartition(".")[2] in names:
                    wrap(draft, f"model.layers.{layer}.{name}", rows, columns, rank)

    return mutate


def wrap(draft: Draft, module: str, rows: int, columns: int, rank: int = RANK) -> None:
    """Add a module's two factors."""
    seed = len(draft.tensors)
    draft.tensors[f"{PREFIX}{module}.lora_A.weight"] = numbers((rank, columns), seed)
    draft.tensors[f"{PREFIX}{module}.lora_B.weight"] = numbers((rows, rank), seed + 1)


def with_tensor(name: str, *shape: int) -> Callable[[Draft], object]:
    """Add a tensor that is no factor."""
    return lambda draft: draft.tensors.update({PREFIX + name: numbers(shape, 3)})


def without(ending: str) -> Callable[[Draft], object]:
    """Leave out the tensors whose keys end so."""
    return lambda draft: [draft.tensors.pop(key) for key in list(draft.tensors) if key.endswith(ending)]


def renamed(old: str, new: str) -> Callable[[Draft], object]:
    """Another name in every key."""

    def mutate(draft: Draft) -> None:
        draft.tensors = {key.replace(old, new): array for key, array in draft.tensors.items()}

    return mutate


def on_embedding(draft: Draft, tokens: int = VOCABULARY + 1) -> None:
    """LoRA on the embedding too, of one token more than the base has."""
    draft.config["target_modules"].append("embed_tokens")
    draft.tensors[f"{PREFIX}model.embed_tokens.lora_embedding_A"] = numbers((RANK, tokens), 1)
    draft.tensors[f"{PREFIX}model.embed_tokens.lora_embedding_B"] = numbers((WIDTH, RANK), 2)


def on_head(draft: Draft) -> None:
    """LoRA on the output head too."""
    draft.config["target_modules"].append("lm_head")
    wrap(draft, "lm_head", VOCABULARY, WIDTH)


def on_experts(draft: Draft) -> None:
    """LoRA on fused experts too, two to a layer, as target_parameters saves it."""
    draft.config["target_parameters"] = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    for layer in range(LAYERS):
        for depth in (".base_layer", ""):
            wrap(draft, f"model.layers.{layer}.mlp.experts{depth}", WIDTH, WIDTH, 2 * RANK)


def tied(draft: Draft) -> None:
    """A base whose output head is its embedding."""
    draft.base_config["tie_word_embeddings"] = True
    draft.base_tensors.pop("lm_head.weight")


def uneven_layers(draft: Draft) -> None:
    """Rank 16 in the second layer, as rank_pattern says."""
    adapting("q_proj", "v_proj", rank=2 * RANK, layers=range(1, 2))(draft)
    second = dict(draft.tensors)
    adapting("q_proj", "v_proj", layers=range(1))(draft)
    draft.tensors |= second
    draft.config["rank_pattern"] = {r"layers\.1\..*": 2 * RANK}
