"""Knowledge review's fusion: from the deepest of the student's layers to the first, each with what came before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import ShapeError

Size = tuple[int, int, int]

WIDEST = 512  # channels in which the layers meet, at most: the published code's


class Fusion(nn.Module):
    """One level, attention-based fusion: the student's map and what the deeper levels left, weighted per position.

    Args:
        ours: the student's ``(channels, height, width)``.
        theirs: the teacher's, which the output has.
        middle: channels in which the levels meet.
        deeper: whether there is a deeper level to fuse with.
    """

    def __init__(self, ours: Size, theirs: Size, middle: int, *, deeper: bool) -> None:
        super().__init__()
        self.size, self.target = tuple(ours[1:]), tuple(theirs[1:])
        enter = nn.Conv2d(ours[0], middle, 1, bias=False)
        leave = nn.Conv2d(middle, theirs[0], 3, padding=1, bias=False)
        for conv in (enter, leave):
            nn.init.kaiming_uniform_(conv.weight, a=1)  # the published code's start
        self.enter = nn.Sequential(enter, nn.BatchNorm2d(middle))
        self.leave = nn.Sequential(leave, nn.BatchNorm2d(theirs[0]))
        self.weigh = nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid()) if deeper else None

    def forward(self, maps: Tensor, deeper: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The map for the teacher, and what goes on to the next level."""
        x = self.enter(maps)
        if self.weigh is not None and deeper is not None:
            deeper = _resized(deeper, self.size)
            here, there = self.weigh(torch.cat([x, deeper], 1)).split(1, dim=1)
            x = x * here + deeper * there
        x = _resized(x, self.target)
        return self.leave(x), x


class Review(nn.Module):
    """All levels of knowledge review (Chen, Liu, Zhao, Jia, CVPR 2021, section 3.2).

    The deepest map goes through a 1x1 convolution to the common width (the deepest map's own, at most 512), and through
    a 3x3 one to the teacher's channels.  Every other level is first added to what the deeper one left, enlarged to its
    size, both weighted by an attention map of two channels (sigmoid).  Sizes change by nearest neighbours.

    Args:
        ours: ``(channels, height, width)`` of the student's layers, first to last.
        theirs: those of the teacher's, one for each.

    Raises:
        ShapeError: no layers, or not one of the teacher's for each of the student's.

    Example:
        >>> net = Review([(4, 8, 8), (6, 4, 4)], [(8, 8, 8), (16, 4, 4)])
        >>> [tuple(x.shape) for x in net([torch.zeros(2, 4, 8, 8), torch.zeros(2, 6, 4, 4)])]
        [(2, 8, 8, 8), (2, 16, 4, 4)]
    """

    def __init__(self, ours: Sequence[Size], theirs: Sequence[Size]) -> None:
        super().__init__()
        if not ours or len(ours) != len(theirs):
            raise ShapeError(f"a review needs a layer of the teacher for each of the student's: {ours} and {theirs}")
        middle, last = min(WIDEST, ours[-1][0]), len(ours) - 1
        self.levels = nn.ModuleList(
            Fusion(a, b, middle, deeper=i < last) for i, (a, b) in enumerate(zip(ours, theirs, strict=True))
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        if self.training and (small := [x for x in maps if x[:, 0].numel() < 2]):
            raise ShapeError(
                f"knowledge review normalises over a batch, and of one sample a map {list(small[0].shape[1:])} has one number in "
                "each channel: leave out a last, smaller batch (drop_last=True), or take layers with larger maps"
            )
        found, rest = [], None
        for level, x in zip(reversed(self.levels), reversed(maps), strict=True):
            out, rest = level(x, rest)
            found.append(out)
        return found[::-1]


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return x if tuple(x.shape[2:]) == size else F.interpolate(x, size=size, mode="nearest")
