"""Factor transfer's two small networks: the paraphraser of a teacher's map, and the translator of a student's."""

from __future__ import annotations

import math

from torch import Tensor, nn

from limbeck.errors import HyperParameterError, unknown

_FORMS = ("paper", "benchmark")
_SLOPE = 0.1  # of the leaky ReLU; Kim, Park, Kwak (NeurIPS 2018)


class Paraphraser(nn.Module):
    """An autoencoder of feature maps: ``encoder`` gives the factor, ``decoder`` the map back; `forward` is both.

    Attributes:
        encoder: ``[batch, channels, height, width]`` to ``[batch, factors, height, width]``.
        decoder: the way back.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, maps: Tensor) -> Tensor:
        return self.decoder(self.encoder(maps))


def factor_channels(channels: int, rate: float) -> int:
    """How many channels a factor has: ``int(rate * channels)``.

    Raises:
        HyperParameterError: the rate is not a finite number above zero, or leaves no channel.

    >>> factor_channels(64, 0.5)
    32
    """
    if not (0 < rate < math.inf):
        raise HyperParameterError(f"rate = {rate!r}: a paraphrase rate is a finite number, more than zero")
    factors = int(rate * channels)
    if factors < 1:
        raise HyperParameterError(
            f"rate = {rate!r}: of the {channels} channels of the teacher's map it would leave none; "
            f"at least {1 / channels:.3g}"
        )
    return factors


def paraphraser(channels: int, rate: float = 0.5, *, form: str = "paper") -> Paraphraser:
    """An autoencoder of the teacher's maps (Kim, Park, Kwak, NeurIPS 2018).

    Encoder: three 3x3 convolutions, ``channels -> channels``, ``-> k``, ``k -> k`` with ``k = int(rate * channels)``;
    decoder: three transposed 3x3 convolutions, ``k -> k``, ``-> channels``, ``channels -> channels``.  Sizes stay; a
    leaky ReLU (slope 0.1) stands after every layer.

    Args:
        channels: of the teacher's map.
        rate: the paraphrase rate, more than zero; above 1 the factor is wider than the map.
        form: "paper" and "benchmark" are the same here, without batch normalisation, as in the authors' code.

    Raises:
        HyperParameterError: the rate leaves no channel, or there is no such form.

    Example:
        >>> import torch
        >>> net = paraphraser(6, 0.5)
        >>> x = torch.zeros(2, 6, 8, 8)
        >>> net.encoder(x).shape, net(x).shape
        (torch.Size([2, 3, 8, 8]), torch.Size([2, 6, 8, 8]))
    """
    _known(form)
    factors = factor_channels(channels, rate)
    there = ((channels, channels), (channels, factors), (factors, factors))
    return Paraphraser(_stack(nn.Conv2d, there), _stack(nn.ConvTranspose2d, [(b, a) for a, b in reversed(there)]))


def translator(student_channels: int, factor_channels: int, *, form: str = "paper") -> nn.Module:
    """From a student's map to a factor (Kim, Park, Kwak, NeurIPS 2018): three 3x3 convolutions with leaky ReLU.

    Args:
        student_channels: of the student's map.
        factor_channels: of the factor that it learns to give.
        form: "paper" (authors' code), or "benchmark" (CRD code base, Tian et al., ICLR 2020), with batch
            normalisation after every convolution.

    Raises:
        HyperParameterError: there is no such form.

    Example:
        >>> import torch
        >>> translator(4, 3)(torch.zeros(2, 4, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """
    _known(form)
    ways = ((student_channels, student_channels), (student_channels, factor_channels), (factor_channels,) * 2)
    return _stack(nn.Conv2d, ways, norm=form == "benchmark")


def _known(form: str) -> None:
    if form not in _FORMS:
        raise HyperParameterError(unknown("form", form, _FORMS))


def _stack(kind: type[nn.Module], ways, *, norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in ways:
        layers += [kind(a, b, 3, padding=1), *([nn.BatchNorm2d(b)] if norm else []), nn.LeakyReLU(_SLOPE)]
    return nn.Sequential(*layers)
