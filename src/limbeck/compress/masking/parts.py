"""What stands between a stored weight and the weight that a layer computes with.

These are parametrizations (``torch.nn.utils.parametrize``): a masked weight is masked in every forward pass, whatever an
optimizer did to the stored one.  Masking gradients alone would not do: momentum and weight decay bring weights back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Masked(nn.Module):
    """Weights outside the mask are zero, or what they rest at; gradients do not reach them.

    Args:
        shape: of the weight.
        rests: whether weights outside the mask rest at values of their own, kept in the buffer ``rest``, instead of at zero.
        dtype: of those values, by name.

    Attributes:
        mask: bool, in the weight's shape; True: this weight stays.  A buffer.
        rest: the values outside the mask, or None.  A buffer.

    >>> layer = Masked([3])
    >>> layer.mask[1] = False
    >>> layer(torch.tensor([1.0, 2.0, 3.0])).tolist()
    [1.0, 0.0, 3.0]
    """

    mask: Tensor
    rest: Tensor | None

    def __init__(self, shape: Sequence[int], rests: bool = False, dtype: str = "float32") -> None:
        super().__init__()
        self.made = {"shape": list(shape), "rests": rests, "dtype": dtype}
        self.register_buffer("mask", torch.ones(*shape, dtype=torch.bool))
        self.register_buffer("rest", torch.zeros(*shape, dtype=getattr(torch, dtype)) if rests else None)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with what the mask leaves of it."""
        # Not a product: that would turn a masked weight that is no number into one more of its kind, and zeros into -0.
        return torch.where(self.mask, weight, torch.zeros_like(weight) if self.rest is None else self.rest)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What is stored when somebody assigns the weight: all of it; the mask stays as it is."""
        return weight


class Learned(nn.Module):
    """A mask that is learned, over weights that are not: each weight stays with the probability ``sigmoid(score)``.

    In training a mask is drawn in every forward pass, and the gradient passes it straight through to the probabilities; in
    ``eval()`` every weight with a probability of at least 1/2 stays.

    Args:
        shape: of the weight.
        rescale: multiply by ``weights / weights that stay``, so that the layer's output keeps its size.

    Source:
        Zhou, Lan, Liu, Yosinski: Deconstructing Lottery Tickets (NeurIPS 2019), on supermasks.
    """

    scores: nn.Parameter

    def __init__(self, shape: Sequence[int], rescale: bool = True) -> None:
        super().__init__()
        self.made = {"shape": list(shape), "rescale": rescale}
        self.rescale = rescale
        self.scores = nn.Parameter(torch.zeros(*shape))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight under a mask; no gradient reaches the weight itself."""
        probability = torch.sigmoid(self.scores)
        drawn = torch.bernoulli(probability.detach()) if self.training else (probability.detach() >= 0.5).float()
        mask = drawn + probability - probability.detach()
        if self.rescale:
            mask = mask * (drawn.numel() / drawn.sum().clamp(min=1.0))
        return weight.detach() * mask.to(weight.dtype)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What is stored when somebody assigns the weight: all of it."""
        return weight


class Held(nn.Module):
    """A tensor that no training moves, whatever its flags say after a network was built anew."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[str, object] = {}

    def forward(self, value: Tensor) -> Tensor:
        """The value, cut off from its gradient."""
        return value.detach()

    def right_inverse(self, value: Tensor) -> Tensor:
        """What is stored when somebody assigns the tensor."""
        return value
