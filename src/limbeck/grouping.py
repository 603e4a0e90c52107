"""Networks and labels of finer and coarser classes, made comparable.

A *partition* lists, for each coarse class, the fine classes that belong to it: ``((0, 2), (1, 3))``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from limbeck.errors import TargetError
from limbeck.losses.mixture import sum_groups

Partition = Sequence[Sequence[int]]


def coarse(targets: Tensor, groups: Partition) -> Tensor:
    """The number of the group that each fine class id is in.

    Args:
        targets: fine class ids ``[batch]``, integers.
        groups: the fine classes of each coarse one; every fine class in exactly one group.

    Raises:
        TargetError: these are no class ids, or one is in no group.

    >>> coarse(torch.tensor([3, 0, 2]), ((0, 2), (1, 3)))
    tensor([1, 0, 0])
    """
    if targets.ndim != 1 or targets.is_floating_point() or targets.dtype == torch.bool:
        raise TargetError(
            f'labels="fine": class ids [batch] are integers; these are {str(targets.dtype).removeprefix("torch.")} '
            f"of the shape {list(targets.shape)}"
        )
    of = {c: g for g, group in enumerate(groups) for c in group}
    # On a CPU a look is free; elsewhere a wrong id stops the device by itself.
    if targets.device.type == "cpu" and not set(targets.tolist()) <= of.keys():
        raise TargetError(
            f'labels="fine": class ids from {int(targets.min())} to {int(targets.max())}; the groups have 0 ... {len(of) - 1}'
        )
    return torch.tensor([of[c] for c in range(len(of))], device=targets.device)[targets.long()]


def comparable(
    logits: Tensor, targets: Tensor | None, partitions: Iterable[Partition], classes: int
) -> tuple[Tensor, Tensor | None]:
    """Scores and labels of one kind of classes, where a network and the data have two kinds.

    A network of fine classes beside coarse labels has its probabilities summed; for one of coarse classes fine labels
    become coarse.  Everything else comes back as it is.

    Args:
        logits: of a network ``[rows, its classes]``.
        targets: class ids ``[rows]``, or None.
        partitions: those that are in use.
        classes: how many the labels have.

    >>> scores, ids = comparable(torch.zeros(2, 2), torch.tensor([2, 3]), [((0, 2), (1, 3))], classes=4)
    >>> ids
    tensor([0, 1])
    """
    columns = logits.shape[1] if logits.ndim == 2 else 1
    for groups in partitions if columns != classes else ():
        fine = sum(map(len, groups))
        if (columns, classes) == (fine, len(groups)):
            return sum_groups(logits, groups), targets
        if (columns, classes) == (len(groups), fine):
            return logits, None if targets is None else coarse(targets, groups)
    return logits, targets


def alike(ours: Tensor, theirs: Tensor, partitions: Iterable[Partition]) -> tuple[Tensor, Tensor] | None:
    """The scores of two networks as scores of the same classes, the coarser of the two; None where they cannot be.

    >>> a, b = alike(torch.zeros(1, 2), torch.zeros(1, 4), [((0, 2), (1, 3))])
    >>> a.shape == b.shape
    True
    """
    if ours.shape == theirs.shape:
        return ours, theirs
    if ours.ndim != 2 or theirs.ndim != 2:
        return None
    sizes = (ours.shape[1], theirs.shape[1])
    for groups in partitions:
        if set(sizes) == {sum(map(len, groups)), len(groups)}:
            summed = [sum_groups(z, groups) if z.shape[1] != len(groups) else z for z in (ours, theirs)]
            return summed[0], summed[1]
    return None
