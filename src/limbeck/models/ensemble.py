"""Several networks as one: the average of their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import HyperParameterError, ShapeError
from limbeck.losses.mixture import AVERAGINGS, average, normalized
from limbeck.phase import logits_of
from limbeck.settings import require_choice


class Ensemble(nn.Module):
    """Networks that are asked together, and answer with one tensor of logits.

    - "arithmetic": the logarithm of the mean of their softmaxes, so that the softmax of the output is the mean
      probability.
    - "geometric": the mean of their logits, so that the softmax of the output is the normalised geometric mean.

    It is a network like any other: a teacher of any method that looks at outputs, evaluated, saved (the keys of its
    ``state_dict`` begin with "member0.", "member1.", ...) and exported.  Making one changes nothing in the members: their
    modes stay as they are until ``train()`` or ``eval()`` of the whole, which reach them as in every module.  A temperature
    afterwards divides the logits of the *average*; to average after dividing, name the networks as several teachers of
    `EnsembleKD` (for "geometric" it is the same).

    Args:
        members: one network or more, which score the same classes.  They may return whatever `limbeck.phase.logits_of`
            understands.
        averaging: "arithmetic" or "geometric".
        weights: one for each member, zero or more, not all zero; divided by their sum.  None: all alike.

    Raises:
        HyperParameterError: no members, an unknown averaging, or weights that do not fit.
        ShapeError: (when called) the members score different classes, or, for "arithmetic", a single logit.

    Example:
        >>> nets = [nn.Linear(4, 3), nn.Linear(4, 3)]
        >>> x = torch.zeros(5, 4)
        >>> mean = sum(net(x).softmax(1) for net in nets) / 2
        >>> torch.allclose(Ensemble(nets)(x).softmax(1), mean)
        True
    """

    def __init__(
        self, members: Sequence[nn.Module], averaging: str = "arithmetic", *, weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        found = list(members)
        if not found:
            raise HyperParameterError("members: an ensemble needs one network at least, and this list is empty")
        for i, member in enumerate(found):
            if not isinstance(member, nn.Module):
                raise HyperParameterError(f"members[{i}] is a {type(member).__name__}; a member is a torch.nn.Module")
        require_choice("averaging", averaging, AVERAGINGS)
        self.averaging = averaging
        self.weights = normalized(weights, len(found))
        self.count = len(found)
        for i, member in enumerate(found):
            self.add_module(f"member{i}", member)

    @property
    def members(self) -> tuple[nn.Module, ...]:
        """The networks, in order."""
        return tuple(self.get_submodule(f"member{i}") for i in range(self.count))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Logits ``[batch, classes]`` of the average, in float32 at least."""
        scores = [logits_of(member(*args, **kwargs)) for member in self.members]
        if any(z.shape != scores[0].shape for z in scores):
            said = ", ".join(f"member{i} {list(z.shape)}" for i, z in enumerate(scores))
            raise ShapeError(f"the members of an ensemble score the same classes; these give {said}")
        z = torch.stack([z.to(torch.promote_types(z.dtype, torch.float32)) for z in scores], dim=1)
        if self.averaging == "geometric":
            return sum(w * z[:, k] for k, w in enumerate(self.weights))  # pyright: ignore[reportReturnType]
        if z.ndim != 3 or z.shape[2] == 1:
            raise ShapeError(
                f"an arithmetic mean of softmaxes needs logits [batch, classes] of two classes or more; the members give "
                f'{list(scores[0].shape)}. averaging="geometric" takes the mean of the logits, whatever they are'
            )
        return average(F.log_softmax(z, dim=2), "arithmetic", self.weights)

    def extra_repr(self) -> str:
        return f"{self.averaging}, weights " + ", ".join(f"{w:.3g}" for w in self.weights)
