"""Whether a program takes any number of rows."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from limbeck.errors import LimbeckError

_TRACED = 2  # rows of the example: torch notes no lower end below that
_MANY = 2**31 - 1  # an end up here is that of torch's kernels


def require_any_rows(program: torch.export.ExportedProgram) -> None:
    """Refuse a program that holds for some numbers of rows only, because the forward asked how many there are.

    What is compiled or converted from it would forget the condition, and answer wrongly for other batches.

    Raises:
        LimbeckError: the message has the numbers for which it holds.

    >>> from torch import nn
    >>> class Careful(nn.Module):
    ...     def forward(self, x):
    ...         return x if x.shape[0] <= 100 else x / 2
    >>> require_any_rows(torch.export.export(Careful(), (torch.zeros(2, 3),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)))
    Traceback (most recent call last):
    limbeck.errors.LimbeckError: the forward decides by the number of rows: what is written would hold for 1 to 100 rows only...
    """
    inputs = [node.meta.get("val") for node in program.graph.find_nodes(op="placeholder")]
    counts = [cast(Any, value.shape[0]) for value in inputs if isinstance(value, Tensor) and value.ndim]
    rows = {symbol for n in counts if isinstance(n, torch.SymInt) for symbol in n.node.expr.free_symbols}
    for value in (ends for symbol, ends in program.range_constraints.items() if symbol in rows):
        least = int(value.lower)
        most = None if value.upper > _MANY else int(value.upper)
        if least > _TRACED or most is not None:
            least = 1 if least <= _TRACED else least
            words = f"{least} rows or more" if most is None else f"{least} to {most} rows"
            raise LimbeckError(
                f"the forward decides by the number of rows: what is written would hold for {words} only, and forget that. Let the "
                "forward do the same for any number (a chunk at a time, say, is up to whoever calls it)"
            )
