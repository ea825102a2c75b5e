"""What llama.cpp takes for granted of a model, as reasons to refuse one that differs."""

from __future__ import annotations

from collections.abc import Callable

from adaptool.archs.gguf.hparams import Hparams


def gelu_only(*settings: str) -> Callable[[Hparams], str | None]:
    """Of the activation function (the first of ``settings`` that is there): any of GELU's approximations will do.

    llama.cpp has one of them, by tanh, and takes it for the exact one too: they differ by less than 5e-4.
    """

    def reason(hp: Hparams) -> str | None:
        given = hp.find(*settings, default="gelu")
        if isinstance(given, str) and given.startswith("gelu"):
            return None
        return f"{settings[0]} is {given!r}, and llama.cpp has GELU there"

    return reason
