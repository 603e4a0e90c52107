"""What is finished: a quantized program is the end of every chain."""

from __future__ import annotations

from torch import nn

from limbeck.compress.cost import is_program
from limbeck.errors import LimbeckError


def require_unfinished(model: nn.Module, what: str) -> None:
    """Refuse to change or train a quantized program, whose layers are one graph.

    Args:
        model: any network.
        what: who would change it, such as "Prune".

    Raises:
        LimbeckError: the network is a quantized program.

    >>> require_unfinished(nn.Linear(2, 2), "Prune")
    """
    if is_program(model):
        raise LimbeckError(
            f"{what} cannot change a network that Quantize made: it is a finished program, without layers to change and without "
            "weights to train. Quantize comes last: put what changes or trains the network before it"
        )
