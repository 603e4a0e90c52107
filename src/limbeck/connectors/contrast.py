"""What contrast needs beside the networks: a common space, a memory of every row in it, and two constants."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import DataError, ShapeError
from limbeck.losses._checks import full_precision

# How long the embeddings of the epochs before are, beside those of this epoch; a power of two rounds nothing.
_FAINT = 2.0**-20
_NOBODY = 2**31 - 1  # stands for the class of a row that was never seen; larger than any class id


class Embedding(nn.Module):
    """Features of one layer to a point on the unit sphere: one linear map, then length 1.

    Maps ``[batch, channels, height, width]`` are averaged over their positions first, tokens
    ``[batch, tokens, features]`` over the tokens.  The map runs in its own precision, under autocast too.

    Args:
        shape: of the features, without the batch.
        dimension: of the sphere's space.

    Raises:
        ShapeError: features with no dimension, or more than three.

    Example:
        >>> embed = Embedding((16, 4, 4), 8)
        >>> [round(length, 4) for length in embed(torch.ones(2, 16, 4, 4)).norm(dim=1).tolist()]
        [1.0, 1.0]
    """

    def __init__(self, shape: tuple[int, ...], dimension: int) -> None:
        super().__init__()
        if len(shape) not in (1, 2, 3):
            raise ShapeError(
                f"embeddings are made of vectors [features], tokens [tokens, features] or maps [channels, height, width]; "
                f"this layer gives {list(shape)} per sample; choose another one"
            )
        self.linear = nn.Linear(shape[-1] if len(shape) == 2 else shape[0], dimension)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.linear.weight.dtype)
        with full_precision(x):
            flat = x.mean(1) if x.ndim == 3 else x.flatten(2).mean(2) if x.ndim == 4 else x
            return F.normalize(self.linear(flat), dim=1)


class Constants(nn.Module):
    """The constants Z of student's and teacher's anchors, as logarithms: estimated once, at the first scores seen.

    ``Z = rows * mean(e^score)``, with all scores of the first batch, the positives' among them.  In several processes
    each estimates its own from its share of the first batch; from the second epoch on all have the mean of the logarithms.

    Example:
        >>> constants = Constants()
        >>> [round(constants(0, torch.full((2, 5), x), rows=10).exp().item(), 4) for x in (0.0, 1.0)]
        [10.0, 10.0]
    """

    log_z: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_z", torch.full((2,), math.nan))

    def forward(self, which: int, scores: Tensor, rows: int) -> Tensor:
        with torch.no_grad():
            # Not "if": looking at a value would make the host wait for the device in every step.
            now = scores.flatten().logsumexp(0) + math.log(rows / scores.numel())
            self.log_z[which] = torch.where(self.log_z[which].isnan(), now.to(self.log_z.dtype), self.log_z[which])
            return self.log_z[which].clone()


class Memory(nn.Module):
    """The embeddings of every row by both networks, and of which class each row is.

    ``student`` and ``teacher`` are ``[rows, dimension]``; only a row's direction means anything.  They start at random.
    Everything is a buffer, so that a checkpoint has it.

    In several processes each keeps the rows of its own share, and the engine replaces all floating-point buffers by
    their mean at the end of an epoch.  For this the embeddings of earlier epochs are made faint (length ``2^-20``) when
    an epoch begins, and those that are written get length 1: the mean then points where the one process that wrote
    the row left it, to one part in a million.  Until then a process sees what the others wrote in the epoch before.  Classes
    are kept as (share, share * class), whose quotient no mean changes.

    Args:
        rows: how many places; every row number is below it.
        dimension: of an embedding.

    Example:
        >>> memory = Memory(4, 2)
        >>> memory(torch.tensor([0, 2, 3]), torch.tensor([1, 0, 1]))
        >>> memory.begin_epoch(classes=True)
        >>> memory.draw(torch.tensor([0]), torch.tensor([1]), 3, torch.Generator())  # row 2 alone has another class
        tensor([[2, 2, 2]])
    """

    student: Tensor
    teacher: Tensor
    seen: Tensor
    order: Tensor
    labels: Tensor
    known: Tensor
    entered: Tensor

    def __init__(self, rows: int, dimension: int) -> None:
        super().__init__()
        for name in ("student", "teacher"):
            self.register_buffer(name, F.normalize(torch.randn(rows, dimension), dim=1))
        self.register_buffer("seen", torch.zeros(rows, 2))
        # The rows by class, those that were never seen at the end, as of the beginning of this epoch.
        self.register_buffer("order", torch.arange(rows))
        self.register_buffer("labels", torch.full((rows,), _NOBODY))
        self.register_buffer("known", torch.zeros((), dtype=torch.int64))
        # Which epoch was begun last: the fraction of an epoch cannot tell where nobody knows how long one is.
        self.register_buffer("entered", torch.full((), -1, dtype=torch.int64))
        self._read: tuple[Tensor, int, int] | None = None

    def forward(self, rows: Tensor, classes: Tensor | None) -> None:
        """Remember that these rows are there, and their classes (None: one class for all)."""
        share = torch.ones(len(rows), device=self.seen.device)
        self.seen[rows] = torch.stack([share, share * (0 if classes is None else classes)], 1)

    def enter_epoch(self, epoch: int, *, classes: bool) -> None:
        """`begin_epoch`, at the first step of each epoch and no other.

        Args:
            epoch: the number of the epoch that this step belongs to.
            classes: as for `begin_epoch`.

        Raises:
            DataError: as for `begin_epoch`.
        """
        # Read again only after it was written (by this, or from a checkpoint): reading makes the host wait for a device.
        read = self._read
        if read is None or read[0] is not self.entered or read[1] != self.entered._version:
            read = self._read = (self.entered, self.entered._version, int(self.entered))
        if read[2] != epoch:
            self.begin_epoch(classes=classes)
            self.entered.fill_(epoch)

    def begin_epoch(self, *, classes: bool) -> None:
        """Make the older embeddings faint, and order the rows that are known by now; in the middle of an epoch this would
        make those of the epoch itself faint, too.

        Args:
            classes: whether rows of different classes will be asked for.

        Raises:
            DataError: there is nothing to draw from.
        """
        for bank in (self.student, self.teacher):
            bank.copy_(F.normalize(bank, dim=1, eps=1e-30) * _FAINT)
        share, total = self.seen.unbind(1)
        label = torch.where(share > 0, (total / share.clamp_min(1e-30)).round(), float(_NOBODY)).long()
        ordered, order = label.clamp(max=_NOBODY).sort(stable=True)
        self.labels.copy_(ordered)
        self.order.copy_(order)
        self.known.copy_((share > 0).sum())
        known = int(self.known)  # once per epoch the host may wait
        if known < 2:
            raise DataError(f"{known} rows were seen in a whole epoch: contrast needs at least two")
        if classes and int(ordered[0]) == int(ordered[known - 1]):
            raise DataError(
                f"all {known} rows seen so far have the class {int(ordered[0])}: there are no negatives of another class; "
                "negatives='rows' takes any other row"
            )

    def draw(self, rows: Tensor, classes: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
        """Negatives for each anchor: int64 ``[batch, count]``, drawn evenly and with replacement.

        Args:
            rows: of the anchors.
            classes: of the anchors: negatives then have another class; None: any row but the anchor's own.
            count: how many for each.
            generator: random numbers.
        """
        # The rows that are left out stand side by side in the order: a draw among the rest jumps over them.
        if classes is None:
            place = torch.empty_like(self.order)
            place[self.order] = torch.arange(len(place), device=place.device)
            start = place[rows]
            width = (start < self.known).long()
        else:
            start = torch.searchsorted(self.labels, classes)
            width = torch.searchsorted(self.labels, classes, right=True) - start
        free = (self.known - width).clamp_min(1)
        # 2^53 over a few million rows: the remainder is even to one part in a billion
        drawn = torch.randint(2**53, (len(rows), count), generator=generator, device=self.order.device)
        drawn = drawn % free.unsqueeze(1)
        return self.order[drawn + width.unsqueeze(1) * (drawn >= start.unsqueeze(1))]

    def keep(self, rows: Tensor, student: Tensor, teacher: Tensor, momentum: float) -> None:
        """Move the embeddings of these rows: ``momentum * old + (1 - momentum) * new``, brought to length 1."""
        with torch.no_grad():
            for bank, new in ((self.student, student), (self.teacher, teacher)):
                old = F.normalize(bank[rows], dim=1, eps=1e-30)
                bank[rows] = F.normalize(momentum * old + (1.0 - momentum) * new.to(bank.dtype), dim=1)
