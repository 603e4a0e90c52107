"""Dividing rows: held-out parts and small labelled subsets, stratified by class and seeded.

Everything here is the beginning of one ranking of the rows.  So a larger part contains the smaller
one of the same seed, and the shares of the classes grow monotonically with the size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.data import keys
from limbeck.data.images import Images
from limbeck.errors import DataError
from limbeck.phase import seed_for


def ranking(labels: Tensor, seed: int, *, each_first: bool = False) -> Tensor:
    """The rows in an order whose every beginning is stratified.

    Within its class, a row gets a random rank k = 0, 1, ...; rows are sorted by ``(k + 1/2) / n`` with n the
    size of the class (the divisor method of Webster and Sainte-Lague, which is monotone in the size; rounding by largest
    remainder is not), ties in random order.

    Args:
        labels: ``[rows]`` class ids.
        seed: of the random order.
        each_first: put one row of every class in front, so that no class is missing from a small beginning.

    Returns:
        ``[rows]`` positions.
    """
    shuffled = keys.permutation(len(labels), seed)
    classes = labels[shuffled]
    by_class = torch.argsort(classes, stable=True)
    sizes = torch.bincount(classes)
    first = torch.cumsum(sizes, 0) - sizes
    rank = torch.empty_like(shuffled)
    rank[by_class] = torch.arange(len(labels)) - first[classes[by_class]]
    share = (rank.double() + 0.5) / sizes[classes]
    if each_first:
        share = torch.where(rank == 0, 0.0, share)
    return shuffled[torch.argsort(share, stable=True)]  # stable: ties stay in their shuffled order


def hold_out(labels: Tensor, count: int, seed: int, what: str = "validation") -> tuple[Tensor, Tensor]:
    """Divide rows into those that stay and ``count`` that are held out; no class loses its last row.

    Args:
        labels: ``[rows]`` class ids.
        count: how many rows to hold out.
        seed: of the choice.
        what: the part's name, for the seed and for messages.

    Returns:
        Two tensors of positions, each ascending.

    Raises:
        DataError: so many rows cannot be spared.
    """
    present = int((torch.bincount(labels) > 0).sum()) if len(labels) else 0
    spare = len(labels) - present
    if not 0 < count <= spare:
        raise DataError(
            f"cannot hold {count} rows out of {len(labels)} for {what}: every one of the {present} classes keeps "
            f"a training row, so {spare} can be spared at most"
        )
    order = ranking(labels, seed_for(seed, what))
    last = torch.full((int(labels.max()) + 1,), -1)
    last.scatter_reduce_(0, labels[order], torch.arange(len(order)), reduce="amax")
    keep = torch.zeros(len(order), dtype=torch.bool)
    keep[last[last >= 0]] = True
    held = order[~keep][:count]
    stays = torch.ones(len(labels), dtype=torch.bool)
    stays[held] = False
    return stays.nonzero().flatten(), held.sort().values


def part_of(total: int, part: float) -> int:
    """How many rows ``part`` means: itself where it is 1 or more, else that part of the total (at least one).

    >>> part_of(50_000, 0.1), part_of(50_000, 5000), part_of(7, 0.01)
    (5000, 5000, 1)
    """
    return int(part) if part >= 1 else max(1, round(total * part))


def subset(images: Images, rows: int, seed: int) -> Images:
    """A few labelled rows, stratified: each class has its share, and at least one row.

    Nested: the subset of 200 rows contains that of 100 rows for the same seed.

    Args:
        images: what to choose from.
        rows: how many.
        seed: of the choice.

    Returns:
        The chosen images, in their old order.

    Raises:
        DataError: there are not so many rows, or fewer are asked for than there are classes.
    """
    require_subset(images, rows)
    chosen = ranking(images.labels.cpu(), seed_for(seed, "subset"), each_first=True)[:rows]
    return images.take(chosen.sort().values)


def require_subset(images: Images, rows: int) -> None:
    """Refuse what `subset` cannot give.

    Raises:
        DataError: there are not so many rows, or fewer are asked for than there are classes.
    """
    present = len(torch.unique(images.labels))
    if rows > len(images):
        raise DataError(f"a subset of {rows} rows: there are only {len(images)} training rows")
    if rows < present:
        raise DataError(f"a subset of {rows} rows: there are {present} classes, and each needs at least one row")
