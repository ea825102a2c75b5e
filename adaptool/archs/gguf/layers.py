"""Settings that differ from layer to layer: which ones attend to a window only."""

from __future__ import annotations

from collections.abc import Callable

from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.spec import derived
from adaptool.tensors.ggml.values import Value, ValueType, array


def sliding_layers(hp: Hparams) -> list[bool] | None:
    """For each layer whether it attends to a window; None where no layer does by the config.

    ``layer_types`` says it, or ``sliding_window_pattern``: all but every n-th layer, or letters such as "LLLG".
    """
    if hp.find("sliding_window", default=None) is None:
        return None
    if kinds := hp.find("layer_types", default=None):
        return [kind == "sliding_attention" for kind in kinds]
    pattern = hp.find("sliding_window_pattern", default=None)
    if isinstance(pattern, str) and pattern:
        return [pattern[layer % len(pattern)] == "L" for layer in range(hp.layers)]
    if isinstance(pattern, int) and pattern:
        return [(layer + 1) % pattern != 0 for layer in range(hp.layers)]
    return None


def unusual_layers(period: int) -> Callable[[Hparams], list[bool] | None]:
    """``sliding_layers`` where they are not what the runtime assumes: all but every ``period``-th."""

    def layers(hp: Hparams) -> list[bool] | None:
        usual = [(layer + 1) % period != 0 for layer in range(hp.layers)]
        return None if (found := sliding_layers(hp)) == usual else found

    return layers


def flags(each: list[bool]) -> Value:
    """One boolean a layer."""
    return array(ValueType.BOOL, each)


SLIDING_PATTERN = derived("attention.sliding_window_pattern", flags, sliding_layers, "layer_types")
