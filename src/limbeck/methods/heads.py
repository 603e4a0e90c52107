"""The top hidden layer of a network: what goes into its classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from limbeck.errors import TapError

if TYPE_CHECKING:
    from torch import Tensor, nn


def last_linear(model: nn.Module, inputs: Any) -> str | None:
    """The path of the linear layer whose output are the scores, or None where something else gives them."""
    import torch

    from limbeck import taps
    from limbeck.hooks import hooked
    from limbeck.phase import logits_of

    model = taps.original(model)
    runs: list[tuple[str, Tensor]] = []

    def watch(name: str) -> Callable[..., None]:
        return lambda module, args, output: runs.append((name, output))

    linear = [(name, m) for name, m in model.named_modules() if name and isinstance(m, torch.nn.Linear)]
    handles = [m.register_forward_hook(watch(name)) for name, m in linear]
    with hooked(handles), taps.quiet(model), torch.compiler.set_stance("force_eager"):
        logits = logits_of(taps.call(model, inputs))
    for name, output in reversed(runs):
        # By its values: a flattening or a change of type may stand between the layer and the scores.
        same = output.numel() == logits.numel() and torch.equal(output.reshape(-1), logits.reshape(-1).to(output.dtype))
        if same and [other for other, _ in runs].count(name) == 1:
            return name
    return None


def before_the_classifier(model: nn.Module, inputs: Any) -> str | None:
    """The tap ":in" of `last_linear` where it maps vectors to scores; None where there is no such layer.

    A convolution that ends in scores (or a linear layer for every token) has no single vector before it.
    """
    from limbeck import taps

    name = last_linear(model, inputs)
    if name is None:
        return None
    tap = f"{name}:in"
    return tap if taps.look(taps.original(model), inputs, (tap,)).taps[tap].ndim == 2 else None


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
