"""Channels by how well the others can make up for them: LASSO and ThiNet."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import HyperParameterError, ShapeError
from limbeck.scores._checks import real, shape
from limbeck.settings import finite, require, require_whole

_GRID = 40  # penalties between the largest and the smallest that are looked at
_SPAN = 1e-4  # the smallest, as a part of the largest


def moments(contributions: Tensor, target: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What LASSO has to know of the data: ``Z^T Z / N`` and ``Z^T y / N``.

    Sums over parts of the data, weighted by their size, are those of the whole.

    Args:
        contributions: Z, ``[N, channels]``: what each channel adds to each of N responses.
        target: y, ``[N]``: the responses.  Default None: the sums of the contributions.

    Returns:
        ``[channels, channels]`` and ``[channels]``, float64.

    Raises:
        ShapeError: the shapes do not fit.
        TensorTypeError, NonFiniteError: as in `l1`.

    >>> import torch
    >>> gram, moment = moments(torch.eye(2))
    >>> gram.tolist(), moment.tolist()
    ([[0.5, 0.0], [0.0, 0.5]], [0.5, 0.5])
    """
    z = real("moments", "contributions", contributions, dimensions=2)
    if z.ndim != 2:
        raise ShapeError(f"moments: the contributions have the shape {shape(z)}; [N, channels] is needed")
    z = z.double()
    y = z.sum(1) if target is None else real("moments", "target", target).double()
    if y.shape != z.shape[:1]:
        raise ShapeError(f"moments: the contributions are {shape(z)} and the target is {shape(y)}; one response a row")
    return z.T @ z / len(z), z.T @ y / len(z)


def lasso(gram: Tensor, moment: Tensor, penalty: float, *, start: Tensor | None = None) -> Tensor:
    """The weights of the channels that minimise ``1/(2N) |y - Z beta|^2 + penalty * |beta|_1``.

    Args:
        gram: ``Z^T Z / N``, ``[channels, channels]``; see `moments`.
        moment: ``Z^T y / N``, ``[channels]``.
        penalty: lambda, zero or more.  0 is plain least squares.
        start: where to begin, ``[channels]``.  Default None: zeros.

    Returns:
        beta, float64 ``[channels]``; what is out is exactly zero.

    Raises:
        HyperParameterError: the penalty is outside its range.
        ShapeError: the shapes do not fit.
        TensorTypeError, NonFiniteError: as in `l1`.

    Source:
        He, Zhang, Sun: Channel Pruning for Accelerating Very Deep Neural Networks (ICCV 2017), equation 2, the step for
        beta; solved by coordinate descent.

    >>> import torch
    >>> z = torch.tensor([[1.0, 1.0], [1.0, -1.0]])  # orthonormal: Z^T Z / N = 1
    >>> lasso(*moments(z), penalty=0.25).tolist()
    [0.75, 0.75]
    """
    require(finite(penalty) and penalty >= 0, "penalty", penalty, "zero or more")
    g, b = _fitting(gram, moment)
    beta = np.zeros(len(b)) if start is None else start.detach().double().cpu().numpy().copy()
    return torch.from_numpy(_descend(g, b, penalty, beta))


def lasso_channels(gram: Tensor, moment: Tensor, keep: int) -> Tensor:
    """The channels that LASSO keeps: lambda is raised until at most ``keep`` are left.

    Args:
        gram: ``[channels, channels]``; see `moments`.
        moment: ``[channels]``.
        keep: how many, in [1, channels].

    Returns:
        int64, ascending; exactly ``keep``: where a step of lambda takes out several, those that left last come back.

    Raises:
        HyperParameterError: ``keep`` is outside its range.
        ShapeError, TensorTypeError, NonFiniteError: as in `lasso`.

    Source:
        He, Zhang, Sun (ICCV 2017), section 3.1.

    >>> import torch
    >>> z = torch.tensor([[2.0, 1.0], [2.0, -1.0]])
    >>> lasso_channels(*moments(z), keep=1)
    tensor([0])
    """
    order = lasso_order(gram, moment)
    require_whole(keep=keep)
    require(1 <= keep <= len(order), "keep", keep, f"between 1 and the {len(order)} channels there are")
    return torch.argsort(order, descending=True, stable=True)[:keep].sort().values


def lasso_order(gram: Tensor, moment: Tensor) -> Tensor:
    """A score for each channel that needs no ``keep``: the largest lambda at which LASSO still has it.

    A grid of lambdas is walked down from the one at which nothing is left; channels that come in between the same two
    are told apart by how large their beta is.  Those that have not come in at the end of it are below all others, by
    how much they go along with the response; a dead channel scores zero.

    Args:
        gram: ``[channels, channels]``; see `moments`.
        moment: ``[channels]``.

    Returns:
        float64 ``[channels]``, zero or more.

    Raises:
        ShapeError, TensorTypeError, NonFiniteError: as in `lasso`.

    >>> import torch
    >>> scores = lasso_order(*moments(torch.tensor([[2.0, 1.0], [2.0, -1.0]])))
    >>> bool(scores[0] > scores[1])
    True
    """
    g, b = _fitting(gram, moment)
    top = float(np.abs(b).max())
    score, beta = np.zeros(len(b)), np.zeros(len(b))
    if top == 0:
        return torch.from_numpy(score)
    grid = top * np.geomspace(1.0, _SPAN, _GRID)
    for above, here in pairwise(grid.tolist()):
        beta = _descend(g, b, here, beta, tolerance=1e-3, rounds=2, sweeps=10)  # an order needs few digits
        new = (beta != 0) & (score == 0)
        if new.any():
            share = np.abs(beta[new]) / np.abs(beta).max()
            score[new] = here + (above - here) * 0.999 * share
        if (score > 0).all():
            break
    out = score == 0
    score[out] = 0.999 * grid[-1] * np.abs(b[out]) / top
    return torch.from_numpy(score)


def thinet(contributions: Tensor, remove: int | None = None) -> Tensor:
    """The channels in the order in which ThiNet removes them: each time the one whose going costs least.

    The cost of a removed set T is ``sum_j (sum_{c in T} x_jc)^2``.

    Args:
        contributions: x, ``[samples, channels]``: what each channel of a layer's input adds to sampled outputs.
        remove: how many, in [0, channels].  Default None: all, for the whole order.

    Returns:
        int64 ``[remove]``; among equals the lower index first.

    Raises:
        HyperParameterError: ``remove`` is outside its range.
        ShapeError, TensorTypeError, NonFiniteError: as in `moments`.

    Source:
        Luo, Wu, Lin: ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression (ICCV 2017), equation 6
        and algorithm 1.

    >>> import torch
    >>> x = torch.tensor([[1, 0.1, 2], [2, -0.1, 1], [-1, 0.2, 0.5], [0, 0.1, -1]])
    >>> thinet(x)
    tensor([1, 0, 2])
    """
    gram, _ = moments(contributions)
    channels = len(gram)
    count = channels if remove is None else remove
    require_whole(remove=count)
    require(0 <= count <= channels, "remove", remove, f"between 0 and the {channels} channels there are")
    g = gram.cpu().numpy()
    rise = np.diagonal(g).copy()  # what the cost rises by when this channel goes next
    order: list[int] = []
    for _ in range(count):
        goes = int(rise.argmin())
        order.append(goes)
        rise += 2 * g[goes]
        rise[order] = np.inf
    return torch.tensor(order, dtype=torch.int64)


def thinet_scales(contributions: Tensor, keep: Tensor) -> Tensor:
    """By what to multiply the kept channels, so that they come nearest to the sum of all (least squares).

    Args:
        contributions: x, ``[samples, channels]``.
        keep: the kept channels, int64 ``[kept]``, one or more.

    Returns:
        float64 ``[kept]``; the smallest scales where several are as good.

    Raises:
        HyperParameterError: nothing is kept.
        ShapeError, TensorTypeError, NonFiniteError: as in `moments`.

    Source:
        Luo, Wu, Lin (ICCV 2017), equation 7.

    >>> import torch
    >>> x = torch.tensor([[1, 0.1, 2], [2, -0.1, 1], [-1, 0.2, 0.5], [0, 0.1, -1]], dtype=torch.float64)
    >>> [round(scale, 8) for scale in thinet_scales(x, torch.tensor([0, 2])).tolist()]
    [0.91188119, 1.06534653]
    """
    x = real("thinet_scales", "contributions", contributions, dimensions=2).double().cpu()
    if keep.numel() == 0:
        raise HyperParameterError("thinet_scales: keep is empty; at least one channel has to stay")
    kept = x[:, keep.cpu()]
    return torch.linalg.lstsq(kept, x.sum(1, keepdim=True), driver="gelsd").solution[:, 0]


def _fitting(gram: Tensor, moment: Tensor) -> tuple[np.ndarray, np.ndarray]:
    g = real("lasso", "gram", gram, dimensions=2).double().cpu()
    b = real("lasso", "moment", moment).double().cpu()
    if b.ndim != 1 or g.shape != (len(b), len(b)):
        raise ShapeError(f"lasso: gram is {shape(g)} and moment {shape(b)}; [channels, channels] and [channels]")
    return g.numpy(), b.numpy()


def _descend(
    g: np.ndarray,
    b: np.ndarray,
    penalty: float,
    beta: np.ndarray,
    *,
    tolerance: float = 1e-10,
    rounds: int = 100,
    sweeps: int = 200,
) -> np.ndarray:
    """Coordinate descent: all channels, then those that are in until they rest, and so on until nothing moves."""
    beta = beta.copy()
    slope = b - g @ beta  # Z^T (y - Z beta) / N
    size = np.diagonal(g)
    rest = tolerance * max(1.0, float(np.abs(beta).max(initial=0.0)))
    alive = np.flatnonzero(size > 0)

    def sweep(which: np.ndarray) -> float:
        largest = 0.0
        for i in which:
            pull = slope[i] + size[i] * beta[i]
            new = np.sign(pull) * max(abs(pull) - penalty, 0.0) / size[i]
            step = new - beta[i]
            if step != 0.0:
                np.subtract(slope, step * g[i], out=slope)
                beta[i] = new
                largest = max(largest, float(abs(step)))
        return largest

    for _ in range(rounds):
        if sweep(alive) <= rest:
            break
        inside = np.flatnonzero(beta)
        for _ in range(sweeps):
            if sweep(inside) <= rest:
                break
    return beta
