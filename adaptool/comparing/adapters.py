"""Two adapters compared: config, every ΔW in factor space, every other tensor, the verdict and what a version owes."""

from __future__ import annotations

from dataclasses import replace

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.config import CONFIG_NAME
from adaptool.comparing.base_names import bases_changed
from adaptool.comparing.beside import manifest_of, notes_on, version_in
from adaptool.comparing.configs import compare_configs
from adaptool.comparing.contents import contents_of
from adaptool.comparing.file_bytes import same_bytes
from adaptool.comparing.groups import by_layer, by_projection, distance, layers_of, total
from adaptool.comparing.level import level_of
from adaptool.comparing.remainder import compare_tensors, other_tensors
from adaptool.comparing.result import Comparison, Side
from adaptool.comparing.updates import Modules, modules_of, paired_updates
from adaptool.comparing.verdict import Evidence, judge
from adaptool.tensors.compute import single_threaded_blas

BESIDE = ("tokenizer.json", "tokenizer.model", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja")
"""A tokenizer decides what a model reads as much as its weights do."""


def compare_adapters(before: Adapter, after: Adapter, given: tuple[str, str] | None = None) -> Comparison:
    """Compare two adapters; ``given`` is what the user called them. Raises AdaptoolError where one cannot be read.

    A ΔW is never formed: the work is a few products of (m + n, 2r) matrices a module.
    """
    config, lora = compare_configs(before, after), (modules_of(before), modules_of(after))
    with single_threaded_blas():  # the products are too small to share, and threads that wait burn the time
        pairs = tuple(paired_updates(*lora))
    modules = tuple(pair.change for pair in pairs)
    others = other_tensors(before, lora[0]), other_tensors(after, lora[1])
    tensors = tuple(compare_tensors(*others))
    whole, layers = total(modules), layers_of((*modules, *tensors))
    names = given or (str(before.path), str(after.path))
    sides = side_of(before, names[0], lora[0]), side_of(after, names[1], lora[1])
    base, _ = bases_changed(*((side.base_model, side.revision) for side in sides))
    evidence = Evidence(before, after, sides, _same_files(before, after), base, config, pairs, tensors, others, whole)
    verdict, because, equal = judge(evidence)
    same_updates = equal or (evidence.same_updates and not evidence.beyond_weights)
    old, new = (
        replace(contents_of(one), revision=side.revision) for one, side in zip((before, after), sides, strict=True)
    )
    level, reasons = level_of(old, new, equal=same_updates)
    return Comparison(
        before=sides[0], after=sides[1], verdict=verdict, because=because,
        equal=equal, level=level, reasons=reasons, norm_before=whole.norm_before, norm_after=whole.norm_after,
        distance=distance(modules), relative=whole.relative, cosine=whole.cosine, config=config, modules=modules,
        tensors=tensors, tensors_same=sum(name in others[1] for name in others[0])
        - sum(tensor.state == "changed" for tensor in tensors),
        projections=by_projection(modules, layers), layers=layers, by_layer=by_layer(modules, layers),
        notes=tuple(notes_on(BESIDE, before.folder, after.folder)),
    )  # fmt: skip


def side_of(adapter: Adapter, given: str, modules: Modules) -> Side:
    """An adapter as one of the two; a revision that only its manifest pins is the base's too."""
    config, manifest = adapter.config, manifest_of(adapter.folder)
    base = manifest.get("base")
    pinned = base.get("revision") if isinstance(base, dict) and base.get("name") == config.base_model else None
    ranks = {module.rank for module in modules.values()}
    return Side(
        given, "adapter", adapter.name, config.peft_type, config.base_model,
        config.revision or (pinned if isinstance(pinned, str) else None), adapter.store.nbytes,
        len(adapter.store), tuple(sorted({info.dtype.name for info in adapter.store.infos.values()})),
        f"{min(ranks)}-{max(ranks)}" if len(ranks) > 1 else "".join(map(str, ranks)),
        version_in(manifest),
    )  # fmt: skip


def _same_files(before: Adapter, after: Adapter) -> bool:
    """Whether config and weights are the same files, byte for byte."""
    old, new = ([a.folder / CONFIG_NAME, *sorted(a.store.files)] for a in (before, after))
    return [p.name for p in old] == [p.name for p in new] and all(map(same_bytes, old, new))
