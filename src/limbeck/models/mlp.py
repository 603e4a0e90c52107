"""Fully connected layers on the flattened input, as deep and as thin as asked for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from limbeck.models.parts import row
from limbeck.settings import require


def build(
    name: str, classes: int, channels: int, size: int, *, hidden: Sequence[int] = (64, 64), dropout: float = 0.0
) -> nn.Module:
    """``mlp`` and ``digits_mlp``.  For a table of n columns: ``in_channels=n, size=1``.

    Hidden layers start as He has it, N(0, 2 / inputs), biases 0, so that deep and thin ones can be trained; the last
    layer starts as torch starts it.

    Taps: ``flat``, ``layer1`` ... (each after its ReLU), ``fc``.

    Args:
        hidden: widths of the hidden layers, maybe none: ``[12] * 14`` is deep and thin.
        dropout: probability after each hidden layer, in [0, 1).
    """
    del name
    widths = tuple(hidden) if isinstance(hidden, Sequence) and not isinstance(hidden, str) else (0,)
    fine = all(isinstance(w, int) and not isinstance(w, bool) and w >= 1 for w in widths)
    require(fine, "hidden", hidden, "a list of widths, each a whole number of 1 or more")
    require(0 <= dropout < 1, "dropout", dropout, "a probability from 0 to below 1")
    inside = channels * size * size
    parts: dict[str, nn.Module] = {"flat": nn.Flatten(1)}
    for k, width in enumerate(widths, 1):
        linear = nn.Linear(inside, width)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        parts[f"layer{k}"] = nn.Sequential(linear, nn.ReLU())
        if dropout:
            parts[f"drop{k}"] = nn.Dropout(dropout)
        inside = width
    return row(**parts, fc=nn.Linear(inside, classes))
