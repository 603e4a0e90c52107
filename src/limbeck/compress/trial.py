"""What a compressed network must still do, tried out before it is handed over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models.swap import copied
from limbeck.randomness import own_random_numbers
from limbeck.taps import title


def require_trainable(new: nn.Module, old: nn.Module, example: Any) -> None:
    """Refuse a network that no longer runs in train mode, where the one that it was made from does.

    Both run as copies; random numbers are the caller's afterwards.

    Args:
        new: the compressed network.
        old: the one that it was made from.
        example: a batch as they take it.

    Raises:
        LimbeckError: what runs only while training does not fit any more.
    """
    error = _fails(new, example)
    if error is not None and _fails(old, example) is None:
        raise LimbeckError(
            f"this {title(old)} cannot be compressed so: in train mode the smaller network fails with {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}. A part of its forward that runs only while training (if self.training) counts on the sizes or "
            "parameters of before; leave those layers out (ignore, keep or layers), or take that part out of the network"
        )


def _fails(model: nn.Module, example: Any) -> Exception | None:
    with own_random_numbers(), torch.no_grad():
        try:
            own = copied(model).train()
            own(**example) if isinstance(example, Mapping) else own(example)
        except Exception as error:  # whatever the forward of a user's network raises
            return error
    return None
