"""Which neurons of a layer are worth learning from: those that tell classes apart, and not one like another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck.errors import DataError, HyperParameterError, ShapeError

_SAME = 1.0 - 1e-6  # from this correlation on, two neurons are one


def select_neurons(scores: Tensor, correlations: Tensor, k: int, mu: float) -> Tensor:
    """Choose neurons one by one: each time the one with the largest ``score_i - mu * max_{j chosen} |rho_ij|``.

    A score that is not finite marks a neuron that is never chosen (one that never varies, say).  With ``mu`` above
    zero, the second of two neurons that always agree (``|rho|`` of 1) is not chosen either.  So fewer than ``k`` may
    come back.  A correlation that is not a number counts as 0.

    Args:
        scores: ``[neurons]``, higher is better.
        correlations: ``[neurons, neurons]``, Pearson's.
        k: how many, in [1, neurons].
        mu: what likeness to a chosen neuron costs, zero or more.

    Returns:
        The chosen indices, in the order in which they were chosen, int64, on the device of the scores; among equals the
        lower index first.

    Raises:
        HyperParameterError: k or mu is outside its range.
        ShapeError: the correlations are not ``[neurons, neurons]``.

    Source:
        After Luo, Zhu, Liu, Wang, Tang: Face Model Compression by Distilling Knowledge from Neurons (AAAI 2016), which
        minimises an energy of the same two parts by mean field; the greedy rule is ours.

    >>> rho = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> select_neurons(torch.tensor([0.9, 0.8, 0.3]), rho, 2, mu=1.0)
    tensor([0, 2])
    """
    neurons = scores.numel()
    if not 1 <= k <= neurons:
        raise HyperParameterError(f"k = {k!r}: of {neurons} neurons one can select 1 to {neurons}")
    if not 0 <= mu < float("inf"):
        raise HyperParameterError(f"mu = {mu!r}: a finite number, zero or more")
    if tuple(correlations.shape) != (neurons, neurons):
        raise ShapeError(
            f"the correlations of {neurons} neurons are [{neurons}, {neurons}], not {list(correlations.shape)}"
        )
    likeness = correlations.nan_to_num(0.0).abs()
    left = torch.where(torch.isfinite(scores), scores, -torch.inf)
    nearest = torch.zeros_like(left)
    chosen: list[int] = []
    for _ in range(k):
        worth = left - mu * nearest
        best = int(worth.argmax())
        if not torch.isfinite(worth[best]):
            break
        chosen.append(best)
        left[best] = -torch.inf
        if mu > 0:
            left[likeness[best] >= _SAME] = -torch.inf
        nearest = torch.maximum(nearest, likeness[best])
    return torch.tensor(chosen, dtype=torch.int64, device=scores.device)


class NeuronStatistics(nn.Module):
    """Counts how a layer's neurons vary within and between classes and with each other, then gives the chosen ones.

    In train mode ``forward(features, targets)`` counts; in eval mode ``forward(features)`` returns the columns of
    the neurons that `select_neurons` chooses from what was counted.  The buffers hold sums, so that adding, or
    averaging, those of several processes gives the statistics of all their rows; they are float64 (float32 on devices
    of type "mps", which have none), since a variance is a small difference of large sums.

    Args:
        neurons: how many columns the features have.
        classes: how many classes the targets have.
        k: how many neurons to choose, in [1, neurons].
        mu: what likeness to a chosen neuron costs, zero or more.
        device: where the buffers are.

    Example:
        >>> counts = NeuronStatistics(3, 2, k=1, mu=0.5).train()
        >>> features = torch.tensor([[1.0, 0.0, 5.0], [3.0, 0.1, 5.0], [2.0, 1.0, 5.0], [2.0, 0.9, 5.0]])
        >>> counts(features, torch.tensor([0, 0, 1, 1]))
        >>> counts.eval()(features).flatten()  # the second tells the classes apart
        tensor([0.0000, 0.1000, 1.0000, 0.9000])
    """

    count: Tensor
    total: Tensor
    square: Tensor
    product: Tensor

    def __init__(self, neurons: int, classes: int, *, k: int, mu: float, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.k, self.mu = k, mu
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self.register_buffer("count", torch.zeros(classes, dtype=dtype, device=device))
        self.register_buffer("total", torch.zeros(classes, neurons, dtype=dtype, device=device))
        self.register_buffer("square", torch.zeros(neurons, dtype=dtype, device=device))
        self.register_buffer("product", torch.zeros(neurons, neurons, dtype=dtype, device=device))
        self._known: tuple[int, Tensor] | None = None

    def forward(self, features: Tensor, targets: Tensor | None = None) -> Tensor | None:
        if not self.training:
            return features[:, self.selected]
        assert targets is not None, "counting needs classes"
        seen = features.detach().to(self.total.dtype)
        # a product with the classes rather than index_add_, whose sums have no fixed order on a GPU
        of = nn.functional.one_hot(targets.long(), len(self.count)).to(seen.dtype)
        self.count += of.sum(0)
        self.total += of.T @ seen
        self.square += seen.square().sum(0)
        self.product += seen.T @ seen
        return None

    @property
    def selected(self) -> Tensor:
        """The chosen neurons; worked out once for what has been counted.

        Raises:
            DataError: fewer than two classes were counted, or no neuron varies.
        """
        version = self.product._version
        if self._known is None or self._known[0] != version or self._known[1].device != self.product.device:
            # on the CPU: every step of the choice would make the host wait for a device
            chosen = select_neurons(self.scores.cpu(), self.correlations.cpu(), self.k, self.mu)
            if not len(chosen):
                raise DataError(
                    f"none of the {len(self.square)} neurons of the teacher's layer varies over the rows that were counted, so "
                    "there is none to choose: has the teacher been trained, and is the layer alive? Name another with pair="
                )
            self._known = (version, chosen.to(self.product.device))
        return self._known[1]

    @property
    def scores(self) -> Tensor:
        """How well each neuron tells the classes apart: the part of its variance that lies between classes, in [0, 1].

        ``between / (between + within)``; it grows with Fisher's ratio ``between / within``.  A neuron that never varies
        has none (NaN).

        Raises:
            DataError: fewer than two classes were counted.
        """
        there = int((self.count > 0).sum())
        if there < 2:
            raise DataError(
                f"neurons are chosen by how well they tell classes apart, and two classes are needed for that; the rows "
                f"that were counted have {'only one' if there else 'none'}"
            )
        rows, mean, variance = self._moments()
        counted = self.count > 0
        means = self.total[counted] / self.count[counted, None]
        between = (self.count[counted, None] * (means - mean).square()).sum(0) / rows
        return (between / variance).clamp(0, 1)

    @property
    def correlations(self) -> Tensor:
        """Pearson's, ``[neurons, neurons]``; 0 where a neuron never varies."""
        rows, mean, variance = self._moments()
        deviation = variance.sqrt()
        rho = (self.product / rows - torch.outer(mean, mean)) / torch.outer(deviation, deviation)
        return rho.nan_to_num(0.0).clamp(-1, 1)

    def _moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, and mean and variance of each neuron; NaN for the variance of one that does not vary."""
        rows = self.count.sum()
        mean = self.total.sum(0) / rows
        variance = self.square / rows - mean.square()
        # what is left of a variance when rounding is all there is to it
        constant = variance <= 1e3 * torch.finfo(mean.dtype).eps * mean.square().clamp_min(1e-12)
        return rows, mean, torch.where(constant, torch.nan, variance)


class Selection(nn.Module):
    """Which neurons were chosen, so that they stand in a file: ``neurons`` is int64 ``[k]``, in the order of the choice.

    Where fewer than k were chosen, the rest is -1.

    Args:
        k: how many were asked for.

    Example:
        >>> selection = Selection(3)
        >>> selection(torch.tensor([7, 2]))
        >>> selection.neurons
        tensor([ 7,  2, -1])
    """

    neurons: Tensor

    def __init__(self, k: int) -> None:
        super().__init__()
        self.register_buffer("neurons", torch.full((k,), -1))

    def forward(self, chosen: Tensor) -> None:
        self.neurons[: len(chosen)] = chosen
