"""A guess of the teacher's map from the student's, with how sure it is."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST = 1e-5


class Guess(nn.Module):
    """A Gaussian around a function of the student's map: its mean, and one variance for each of the teacher's channels.

    The mean is three 1x1 convolutions without bias, as wide as the teacher's map, with ReLU in between.  The variance
    does not depend on the input: ``softplus(a_c) + 1e-5`` with a learnt ``a_c``.  (The CRD code base; Tian et al., ICLR 2020.)

    Args:
        student: channels of the student's map.
        teacher: channels of the teacher's map.
        variance: of every channel at the start, more than 1e-5.

    Example:
        >>> guess = Guess(4, 6)
        >>> mean, variance = guess(torch.zeros(2, 4, 8, 8))
        >>> mean.shape, [round(v, 4) for v in variance.tolist()]
        (torch.Size([2, 6, 8, 8]), [5.0, 5.0, 5.0, 5.0, 5.0, 5.0])
    """

    def __init__(self, student: int, teacher: int, *, variance: float = 5.0) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(student, teacher, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher, teacher, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher, teacher, 1, bias=False),
        )
        # the inverse of softplus, in a form that does not overflow for large variances
        above = variance - _LEAST
        self.raw = nn.Parameter(torch.full((teacher,), above + math.log(-math.expm1(-above))))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x), F.softplus(self.raw.float()) + _LEAST
