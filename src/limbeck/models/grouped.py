"""A network with fine classes that answers in coarse ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from limbeck.errors import ShapeError
from limbeck.losses.mixture import require_partition, sum_groups
from limbeck.phase import logits_of


class GroupedHead(nn.Module):
    """Sums a network's class probabilities within groups; its logits are ``log sum exp`` of those of each group.

    For a student that learns ten classes by `KD`, since a teacher of ten has more to say than one of two, and is then
    asked only for two: the softmax of the output is the sum of the softmax probabilities of each group.

    Args:
        model: gives logits ``[batch, classes]``, in any form that `limbeck.phase.logits_of` understands.
        groups: the model's classes behind each class of the output; every class in exactly one group.

    Raises:
        HyperParameterError: a class is in no group or in two, or there are fewer than two groups.
        ShapeError: (when called) the model does not have the classes of the groups.

    Example:
        >>> import torch
        >>> net = nn.Linear(4, 6)
        >>> x = torch.zeros(5, 4)
        >>> odd = GroupedHead(net, [(0, 2, 4), (1, 3, 5)])(x).softmax(1)[:, 1]
        >>> torch.allclose(odd, net(x).softmax(1)[:, 1::2].sum(1))
        True
    """

    def __init__(self, model: nn.Module, groups: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.model = model
        self.groups = tuple(tuple(group) for group in groups)
        self.classes = require_partition(self.groups)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Logits ``[batch, groups]``."""
        z = logits_of(self.model(*args, **kwargs))
        if z.ndim != 2 or z.shape[1] != self.classes:
            raise ShapeError(
                f"the groups {self.groups} are of {self.classes} classes, and the model gives logits {list(z.shape)}"
            )
        return sum_groups(z, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
