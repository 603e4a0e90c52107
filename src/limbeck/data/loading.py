"""Batches of decoded images: order, cutting among processes, and views.

Order and views depend on (seed, epoch) and (seed, row, epoch) alone, so an epoch can be entered in
its middle, and any number of processes sees the same global batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from limbeck.data import keys, views
from limbeck.data.images import Images
from limbeck.data.spec import Augment
from limbeck.errors import DataError
from limbeck.phase import Batch, seed_for


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """How many training batches an epoch has: the last incomplete one is dropped, unless it is the only one.

    Raises:
        DataError: there is no row.

    >>> steps_per_epoch(1000, 128), steps_per_epoch(100, 128)
    (7, 1)
    """
    if rows < 1:
        raise DataError("an epoch over no rows at all: the training part is empty")
    return max(1, rows // batch_size)


def epoch_order(rows: int, seed: int, epoch: int) -> Tensor:
    """``[rows]`` positions in the order of this epoch."""
    return keys.permutation(rows, seed_for(seed, "order", epoch))


def batches(
    images: Images,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    augment: Augment,
    mean: Sequence[float],
    std: Sequence[float],
    rank: int = 0,
    world: int = 1,
    train: bool = True,
    channels_last: bool = False,
    device: torch.device | str | None = None,
    skip: int = 0,
) -> Iterator[Batch]:
    """The batches of one epoch for one of ``world`` processes.

    Training shuffles, varies, and drops the last incomplete batch (a set smaller than a batch is one
    batch of everything).  Evaluation keeps the order and every row, and varies nothing.  Process
    ``rank`` gets the samples ``rank, rank + world, ...`` of each global batch.

    Args:
        images: the rows.
        batch_size: of a global batch, over all processes.
        seed: of order and views.
        epoch: counted from 0; it is also the view.
        augment: what to vary in training.
        mean: per channel, on the scale 0..1.
        std: per channel, on the scale 0..1.
        rank: which process this is.
        world: how many processes there are.
        train: False for evaluation.
        channels_last: give inputs in that memory layout.
        device: where the batches go; None: where the images are.
        skip: leave out so many batches at the front, without computing them.

    Yields:
        `Batch`: inputs float32 ``[batch, channels, height, width]``, targets, rows, and views (None in evaluation).

    Raises:
        DataError: there are no rows, or fewer in a training batch than processes.
    """
    if not 0 <= rank < world:
        raise DataError(f"rank {rank} of {world} processes; it is in 0..{world - 1}")
    if batch_size < 1:
        raise DataError(f"batch_size = {batch_size}: at least 1")
    count = len(images)
    if train:
        steps = steps_per_epoch(count, batch_size)
        if min(count, batch_size) < world:
            raise DataError(f"a batch of {min(count, batch_size)} rows cannot be cut among {world} processes")
        order = epoch_order(count, seed, epoch)
    else:
        steps = -(-count // batch_size)
        order = torch.arange(count)
    for step in range(skip, steps):
        index = order[step * batch_size : (step + 1) * batch_size][rank::world]
        if len(index):  # the last batch of an evaluation may be too small for every process
            yield _batch(images, index, seed, epoch if train else None, augment, mean, std, channels_last, device)


def _batch(
    images: Images,
    index: Tensor,
    seed: int,
    view: int | None,
    augment: Augment,
    mean: Sequence[float],
    std: Sequence[float],
    channels_last: bool,
    device: torch.device | str | None,
) -> Batch:
    taken = images.take(index)
    if device is not None:
        taken = taken.to(device)  # as uint8: a quarter of the bytes, and the views are computed over there
    if view is None:
        seen = None
        inputs = views.normalise(taken.pixels, mean=mean, std=std, scale=images.scale)
    else:
        seen = torch.full_like(taken.rows, view)
        inputs = views.augment(
            taken.pixels, taken.rows, seen, seed=seed, augment=augment, mean=mean, std=std, scale=images.scale
        )
    if channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    return Batch(inputs, taken.labels, taken.rows, seen)


@dataclass(frozen=True, kw_only=True, eq=False)
class Loader:
    """Images with everything that turns them into batches but the epoch.

    Attributes:
        images: the rows.
        batch_size: of a global batch, over all processes.
        mean, std: per channel, on the scale 0..1.
        seed: of order and views.
        augment: what to vary in training.
        channels_last: memory layout of the inputs.
        device: where the batches go; None: where the images are.
    """

    images: Images
    batch_size: int
    mean: Sequence[float]
    std: Sequence[float]
    seed: int = 0
    augment: Augment = field(default_factory=Augment)
    channels_last: bool = False
    device: torch.device | str | None = None

    def __len__(self) -> int:
        """Training batches per epoch."""
        return steps_per_epoch(len(self.images), self.batch_size)

    @property
    def rows(self) -> int:
        """Every row number in a batch is below this: how many places a memory over the rows needs."""
        return int(self.images.rows.max()) + 1 if len(self.images) else 0

    @property
    def steps(self) -> int:
        """The same, as the engine asks for it."""
        return len(self)

    def epoch(self, epoch: int, rank: int = 0, world: int = 1, skip: int = 0) -> Iterator[Batch]:
        """The training batches of this epoch, from batch ``skip`` on; see `batches`."""
        return self._batches(epoch, rank, world, skip, train=True)

    def evaluation(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Every row once, in order and without variation."""
        return self._batches(0, rank, world, 0, train=False)

    def _batches(self, epoch: int, rank: int, world: int, skip: int, *, train: bool) -> Iterator[Batch]:
        return batches(
            self.images,
            batch_size=self.batch_size,
            seed=self.seed,
            epoch=epoch,
            augment=self.augment,
            mean=self.mean,
            std=self.std,
            rank=rank,
            world=world,
            train=train,
            channels_last=self.channels_last,
            device=self.device,
            skip=skip,
        )
