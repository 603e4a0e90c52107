"""The top hidden layer of a network: what goes into its classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.errors import TapError

if TYPE_CHECKING:
    from torch import nn


def before_the_classifier(model: nn.Module, inputs: Any) -> str | None:
    """The tap ":in" of the last linear layer that gives the network's own scores; None where there is no such layer.

    A convolution that ends in scores (or a linear layer for every token) has no single vector before it.
    """
    import torch

    from limbeck import taps

    logits = taps.look(model, inputs, ()).logits
    if logits.ndim != 2:
        return None
    inner = taps.original(model)
    for name in reversed([n for n, m in inner.named_modules() if n and isinstance(m, torch.nn.Linear)]):
        try:
            seen = taps.look(inner, inputs, (name, f"{name}:in"))
        except TapError:  # it does not run, or more than once
            continue
        out, into = seen.taps[name], seen.taps[f"{name}:in"]
        if out.shape == logits.shape and into.ndim == 2 and torch.equal(out, logits):
            return f"{name}:in"
    return None


def top_layer(model: nn.Module, inputs: Any, role: str) -> str:
    """As `before_the_classifier`, for who cannot do without.

    Raises:
        TapError: there is none; the message says what to do.
    """
    from limbeck import taps

    found = before_the_classifier(model, inputs)
    if found is None:
        raise TapError(
            f"the {role} ({taps.title(model)}) does not end with a linear layer between vectors, so its top hidden layer "
            "cannot be found; name layers that give vectors: pair=(student layer, teacher layer)"
        )
    return found
