"""Regressors: from a layer of the student to a layer of the teacher."""

from __future__ import annotations

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
        >>> import torch
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

    >>> import torch
    >>> activation_of(torch.tensor([0.0, 1.5])), activation_of(torch.tensor([-1.0, 0.0]))
    ('relu', 'none')
    """
    return "relu" if bool((values >= 0).all()) and bool((values == 0).any()) else "none"
