"""From scores to an order, an order without any score, and how alike two orders are."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.errors import ShapeError
from limbeck.scores._checks import real, same_shape
from limbeck.settings import require, require_whole


def lowest(scores: Tensor, count: int) -> Tensor:
    """The indices of the ``count`` lowest scores, ascending; among equals the lower index goes first.

    Args:
        scores: ``[n]``; minus infinity is allowed, NaN is not.
        count: in [0, n].

    Returns:
        int64 ``[count]``, lowest score first.

    Raises:
        HyperParameterError: the count is outside its range.
        ShapeError: the scores are not ``[n]``.
        NonFiniteError: one of them is NaN.

    >>> import torch
    >>> lowest(torch.tensor([0.5, 0.1, 0.1, 0.9]), 3)
    tensor([1, 2, 0])
    """
    if scores.ndim != 1:
        raise ShapeError(f"lowest: the scores have the shape {list(scores.shape)}; one score each, [n], is needed")
    require_whole(count=count)
    require(0 <= count <= len(scores), "count", count, f"between 0 and the {len(scores)} there are")
    real("lowest", "scores", torch.nan_to_num(scores, nan=torch.nan, posinf=0.0, neginf=0.0))
    return torch.argsort(scores, stable=True)[:count]


def random(n: int, seed: int) -> Tensor:
    """Scores drawn evenly from [0, 1): the yardstick that every other score has to beat.

    Args:
        n: how many, one or more.
        seed: the same seed gives the same scores; the global random numbers stay where they are.

    Returns:
        float64 ``[n]`` on the CPU.

    Raises:
        HyperParameterError: n is below one.

    >>> bool((random(3, seed=1) == random(3, seed=1)).all())
    True
    """
    require_whole(n=n)
    require(n >= 1, "n", n, "at least 1")
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation: whether two scores put the same things in the same order.

    Args:
        a: ``[n]``, at least two different values.
        b: ``[n]``, likewise.

    Returns:
        In [-1, 1]; equal values share their mean rank.

    Raises:
        ShapeError: the shapes differ, there are fewer than two values, or all of one are equal.
        TensorTypeError, NonFiniteError: as in `l1`.

    >>> import torch
    >>> round(spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 30.0, 20.0])), 6)
    0.5
    """
    from scipy.stats import spearmanr

    x, y = real("spearman", "first scores", a), real("spearman", "second scores", b)
    same_shape("spearman", first=x, second=y)
    if x.ndim != 1 or len(x) < 2:
        raise ShapeError(f"spearman: the scores have the shape {list(x.shape)}; [n] with at least two values is needed")
    for which, values in (("first", x), ("second", y)):
        if bool((values == values[0]).all()):
            raise ShapeError(f"spearman: the {which} scores are all {float(values[0]):.4g}; equal scores have no order")
    rho, _ = spearmanr(x.double().cpu().numpy(), y.double().cpu().numpy())
    return float(rho)  # pyright: ignore[reportArgumentType]  (scipy's stubs know no tuple here)
