"""Small modules between two networks: they train with the student, and are dropped when it is exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck.errors import HyperParameterError, ShapeError, unknown

Shape = tuple[int, ...]

_ACTIVATIONS: dict[str, type[nn.Module] | None] = {
    "none": None,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
_FORMS = ("paper", "benchmark")


def regressor(
    student_shape: Shape, teacher_shape: Shape, *, form: str = "paper", activation: str = "relu"
) -> nn.Module:
    """A map from the student's guided layer to the teacher's hint layer (FitNets, Romero et al., ICLR 2015, section 2.2).

    - Maps ``[channels, height, width]``, form "paper": one convolution without padding, whose kernel
      ``N_g - N_h + 1`` per axis makes the sizes equal.  Where the student's map is the smaller one, which the
      paper does not treat, the mirror image of it: a transposed convolution with kernel ``N_h - N_g + 1``.
    - Maps, form "benchmark" (the CRD code base, Tian et al., ICLR 2020): equal sizes 1x1; student twice as
      large 3x3 with stride 2, padding 1; student half as large a transposed 4x4 with stride 2, padding 1; else
      a kernel of ``1 + N_g - N_h``; then batch normalisation.
    - Vectors ``[features]``: one linear layer.
    - Tokens ``[tokens, features]``: one linear layer for every token, whose number must be equal.

    All end with ``activation``.

    Args:
        student_shape: of the guided layer, without the batch.
        teacher_shape: of the hint layer, without the batch.
        form: "paper" or "benchmark".
        activation: "relu", "tanh", "sigmoid" or "none": the one that the teacher's hint layer ends with.

    Raises:
        ShapeError: no such regressor fits these shapes.
        HyperParameterError: an unknown form or activation.

    Example:
        >>> net = regressor((32, 12, 12), (96, 8, 8))
        >>> net(torch.zeros(2, 32, 12, 12)).shape, net[0].weight.numel()
        (torch.Size([2, 96, 8, 8]), 76800)
    """
    if form not in _FORMS:
        raise HyperParameterError(unknown("form", form, _FORMS))
    if activation not in _ACTIVATIONS:
        raise HyperParameterError(unknown("activation", activation, _ACTIVATIONS))
    ours, theirs = list(student_shape), list(teacher_shape)
    rank = len(ours)
    if rank != len(theirs) or rank not in (1, 2, 3):
        raise ShapeError(
            f"no regressor from the student's {ours} to the teacher's {theirs} (per sample): both must be "
            "vectors [features], tokens [tokens, features] or maps [channels, height, width]; choose another pair"
        )
    if rank < 3:
        if ours[:-1] != theirs[:-1]:
            raise ShapeError(
                f"the student's layer has {ours[0]} tokens and the teacher's {theirs[0]}; a regressor maps token by "
                "token, so choose layers with the same number"
            )
        layers: list[nn.Module] = [nn.Linear(ours[-1], theirs[-1])]
    else:
        layers = _benchmark(ours, theirs) if form == "benchmark" else _paper(ours, theirs)
    last = _ACTIVATIONS[activation]
    return nn.Sequential(*layers, *([last()] if last else []))


def _paper(ours: list[int], theirs: list[int]) -> list[nn.Module]:
    (channels, *size), (wanted, *target) = ours, theirs
    if all(a >= b for a, b in zip(size, target, strict=True)):
        return [nn.Conv2d(channels, wanted, (size[0] - target[0] + 1, size[1] - target[1] + 1))]
    if all(a <= b for a, b in zip(size, target, strict=True)):
        return [nn.ConvTranspose2d(channels, wanted, (target[0] - size[0] + 1, target[1] - size[1] + 1))]
    raise ShapeError(
        f"the student's map is {size[0]}x{size[1]} and the teacher's {target[0]}x{target[1]}: larger along one axis and "
        "smaller along the other; choose layers whose maps have one aspect"
    )


def _benchmark(ours: list[int], theirs: list[int]) -> list[nn.Module]:
    (channels, *size), (wanted, *target) = ours, theirs
    if size == target:
        conv: nn.Module = nn.Conv2d(channels, wanted, 1)
    elif size == [2 * n for n in target]:
        conv = nn.Conv2d(channels, wanted, 3, stride=2, padding=1)
    elif [2 * n for n in size] == target:
        conv = nn.ConvTranspose2d(channels, wanted, 4, stride=2, padding=1)
    elif all(a >= b for a, b in zip(size, target, strict=True)):
        conv = nn.Conv2d(channels, wanted, (1 + size[0] - target[0], 1 + size[1] - target[1]))
    else:
        raise ShapeError(
            f"the student's map is {size[0]}x{size[1]} and the teacher's {target[0]}x{target[1]}: the benchmark's "
            "regressor enlarges by exactly 2 and no other factor; choose another pair, or regressor='paper'"
        )
    return [conv, nn.BatchNorm2d(wanted)]


def activation_of(values: Tensor) -> str:
    """The activation that a layer seems to end with: "relu" where all values are >= 0 and some exactly 0, else "none".

    >>> activation_of(torch.tensor([0.0, 1.5])), activation_of(torch.tensor([-1.0, 0.0]))
    ('relu', 'none')
    """
    return "relu" if bool((values >= 0).all()) and bool((values == 0).any()) else "none"


class Standardize(nn.Module):
    """Subtracts the mean and divides by the standard deviation of each column, as counted in train mode.

    In train mode ``forward`` counts the rows it is given and returns them unchanged; in eval mode it
    standardises them with what was counted, and gives NaN where nothing was.  A column that never varies
    (a spread below ``1e-6`` of its mean, or of 1) keeps its scale: it is centred, and divided by 1.

    The buffers hold sums, so that adding, or averaging, those of several processes gives the mean and
    variance of all their rows together.  ``count``, ``total`` and ``square`` are float64, since a variance
    is a small difference of large sums (float32 on devices of type "mps", which have no float64).

    Args:
        columns: how many logits a row has.
        device: where the buffers are.

    Example:
        >>> scaler = Standardize(1).train()
        >>> _ = scaler(torch.tensor([[1.0], [3.0]]))
        >>> scaler.eval()(torch.tensor([[5.0]]))
        tensor([[3.]])
    """

    count: Tensor
    total: Tensor
    square: Tensor

    def __init__(self, columns: int, *, device: torch.device | str = "cpu") -> None:
        super().__init__()
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self.register_buffer("count", torch.zeros((), dtype=dtype, device=device))
        self.register_buffer("total", torch.zeros(columns, dtype=dtype, device=device))
        self.register_buffer("square", torch.zeros(columns, dtype=dtype, device=device))

    def forward(self, rows: Tensor) -> Tensor:
        wide = rows.reshape(-1, self.total.numel())
        if self.training:
            seen = wide.detach().to(self.total.dtype)
            self.count += seen.shape[0]
            self.total += seen.sum(0)
            self.square += seen.square().sum(0)
            return rows
        # float32 at least: under autocast the logits come in bfloat16, with 8 bits of precision
        kind = torch.promote_types(rows.dtype, torch.float32)
        return ((wide.to(kind) - self.mean.to(kind)) / self.spread.to(kind)).reshape(rows.shape)

    @property
    def mean(self) -> Tensor:
        """The mean of each column."""
        return self.total / self.count

    @property
    def spread(self) -> Tensor:
        """The standard deviation of each column (of all rows, no Bessel correction), or 1 where it is constant."""
        mean = self.mean
        deviation = (self.square / self.count - mean.square()).clamp_min(0).sqrt()
        constant = deviation <= 1e-6 * mean.abs().clamp_min(1.0)
        return torch.where(constant, torch.ones_like(deviation), deviation)
