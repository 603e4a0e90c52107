"""Losses on what samples are to each other: distances, angles, similarities within a batch.

Student first, teacher second; one number for the whole batch, since no sample has a value of its own.
Features of any shape ``[batch, ...]`` are flattened per sample; the two networks' sizes need not agree.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from limbeck.errors import ShapeError
from limbeck.losses._checks import (
    FORMS,
    Real,
    ensure_finite,
    full_precision,
    pair,
    require_one_of,
    require_real,
    shape,
)
from limbeck.settings import require

_TINY = 1e-12  # smallest norm that is divided by
_SAME = 1e-7  # of the largest distance: samples nearer than that are one point, and have no direction
_EPS = 1e-7  # PKT: keeps logarithms and quotients finite
_IN_CACHE, _ON_DEVICE = 2**18, 2**22  # numbers per array of the angles' chunks: fast on a CPU, few kernels elsewhere


def rkd_distance(s: Tensor, t: Tensor) -> Float[Tensor, ""]:
    """Relational KD, distances: how far apart two samples are, relative to the other pairs of the batch.

    ``mean over all i, j of huber(|s_i - s_j| / mu_s - |t_i - t_j| / mu_t)``, with ``mu`` the mean of each network's own
    distances above zero, and ``huber(x) = x^2 / 2`` up to 1, ``|x| - 1/2`` beyond.  The mean is over all ``batch^2``
    pairs, the zeros of the diagonal included, as in the authors' code and the benchmark; the paper writes a sum, which
    is ``batch^2`` times this.

    It does not change when the student is rotated, moved or scaled as a whole.  Samples closer to each other than 1e-7
    of the largest distance count as one point: their distance is 0, outside mu, and without gradient.  Where a
    network gives the same for *all* samples, there is no mu, and the loss is 0 with a gradient of zero.

    With 2 samples there is one distance, and divided by itself it is 1 in both networks: the loss is always 0, with a
    gradient of zero.  3 is the smallest batch from which anything is learnt.

    Args:
        s: student features ``[batch, ...]``, at least 2 samples.
        t: teacher features ``[batch, ...]``; the rest of the shape may differ; no gradient reaches it.

    Returns:
        A single number.

    Raises:
        ShapeError: different batch sizes, fewer than 2 samples, or no dimension but the batch.
        TensorTypeError: features that are not floating-point.
        NonFiniteError: NaN or infinity (looked for on a CPU only).

    Source:
        Park, Kim, Lu, Cho: Relational Knowledge Distillation (CVPR 2019), section 3.2.

    >>> s = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> t = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    >>> round(rkd_distance(s, t).item(), 6)
    0.003481
    """
    s, t = _samples("rkd_distance", s, t, 2)
    square_s, square_t = _square_distances(s), _square_distances(t)
    known = (square_s != 0).any() & (square_t != 0).any()
    value = F.smooth_l1_loss(_relative(square_s), _relative(square_t))
    # Zero, but NaN where the other network's features are not finite.
    nothing = (0.0 * s.detach()).sum() + (0.0 * t).sum()
    value = torch.where(known, value, nothing.to(value.dtype)).to(s.dtype)
    return ensure_finite("rkd_distance", value, student=s, teacher=t)


def rkd_angle(s: Tensor, t: Tensor) -> Float[Tensor, ""]:
    """Relational KD, angles: the corners of all triangles of samples.

    ``mean over all i, j, k of huber(cos_s - cos_t)``, with ``cos`` that of the angle at sample j between the directions
    to i and to k.  The mean is over all ``batch^3`` triples, as in the authors' code and the benchmark; the paper
    writes a sum, which is ``batch^3`` times this.

    It does not change when the student is rotated, moved or scaled as a whole.  From a sample to itself, and between
    samples closer than 1e-7 of the largest distance, there is no direction: those cosines count as 0.  With all samples
    the same the gradient is zero.

    The work is of order ``batch^3``, the memory ``batch^2``: the cosines come from squared distances, in double
    precision (single on devices without it), a few corners at a time, and the gradient is made along with the value.
    It can be differentiated once.

    Args:
        s: student features ``[batch, ...]``, at least 3 samples: two have no angle.
        t: teacher features ``[batch, ...]``; the rest of the shape may differ; no gradient reaches it.

    Returns:
        A single number.

    Raises:
        ShapeError: different batch sizes, fewer than 3 samples, or no dimension but the batch.
        TensorTypeError, NonFiniteError: as for `rkd_distance`.

    Source:
        Park, Kim, Lu, Cho: Relational Knowledge Distillation (CVPR 2019), section 3.2.

    >>> s = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> t = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    >>> round(rkd_angle(s, t).item(), 6)
    0.000744
    """
    s, t = _samples("rkd_angle", s, t, 3)
    value = _Angles.apply(_square_distances(s), _square_distances(t)).to(s.dtype)
    return ensure_finite("rkd_angle", value, student=s, teacher=t)


def similarity(s: Tensor, t: Tensor) -> Float[Tensor, ""]:
    """Similarity-preserving KD: which samples of the batch excite a network alike.

    ``1 / batch^2 * || G_s - G_t ||_F^2``, with ``G`` the inner products of all pairs of flattened features, ``Q Q^T``,
    each *row* of it brought to length 1 (L2).  Paper and benchmark agree, so there is one form.  It is no cosine
    similarity: the lengths of the other samples still count in a row.

    It does not change when features are rotated, or scaled by one number for the whole batch.  A sample whose features
    are all zero keeps a row of zeros; what pulls on it are its products in the other rows.

    Args:
        s: student features ``[batch, ...]``, at least 2 samples.
        t: teacher features ``[batch, ...]``; the rest of the shape may differ; no gradient reaches it.

    Returns:
        A single number.

    Raises:
        ShapeError: different batch sizes, fewer than 2 samples, or no dimension but the batch.
        TensorTypeError, NonFiniteError: as for `rkd_distance`.

    Source:
        Tung, Mori: Similarity-Preserving Knowledge Distillation (ICCV 2019), section 3.

    >>> s = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> t = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    >>> round(similarity(s, t).item(), 6)
    0.263001
    """
    s, t = _samples("similarity", s, t, 2)
    with full_precision(s):
        value = (_unit(s @ s.T) - _unit(t @ t.T)).square().mean()
    return ensure_finite("similarity", value, student=s, teacher=t)


def pkt(s: Tensor, t: Tensor, *, form: str = "paper") -> Float[Tensor, ""]:
    """Probabilistic knowledge transfer: which samples are likely neighbours of which.

    The affinity of two samples is ``K = (1 + cos) / 2``, with the cosine of their features; divided by its sum over the
    neighbours of a sample it is a probability: ``p`` the teacher's, ``q`` the student's.

    ``form="paper"``: ``mean over i of sum over j != i of p(j | i) log(p(j | i) / q(j | i))``; a sample is no neighbour of
    its own.  K is at least 1e-7, so that opposite samples have a logarithm.  (The paper sums over i as well, which is
    ``batch`` times this.)
    ``form="benchmark"`` (the authors' code): ``mean over all i, j of p log((p + 1e-7) / (q + 1e-7))``, every sample its
    own nearest neighbour too.  No fixed factor leads from one to the other, but the paper's form is about ``batch`` times the
    benchmark's: 1.04 times that for random features after a ReLU and 32 samples, 1.01 for 128.

    It does not change under rotation, nor when single samples are scaled.  A sample whose features are all zero has
    the cosine 0 to all, with a gradient of zero.

    Args:
        s: student features ``[batch, ...]``, at least 3 samples in the paper's form (the only neighbour of one of two
            has the probability 1), 2 in the benchmark's.
        t: teacher features ``[batch, ...]``; the rest of the shape may differ; no gradient reaches it.
        form: "paper" or "benchmark".

    Returns:
        A single number.

    Raises:
        ShapeError: different batch sizes, too few samples, or no dimension but the batch.
        HyperParameterError: no such form.
        TensorTypeError, NonFiniteError: as for `rkd_distance`.

    Source:
        Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer (ECCV 2018).

    >>> s = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> t = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> round(pkt(s, t).item(), 4), round(pkt(s, t, form="benchmark").item(), 4)
    (0.1207, 0.0284)
    """
    require_one_of("form", form, FORMS, "pkt")
    s, t = _samples("pkt", s, t, 3 if form == "paper" else 2)
    with full_precision(s):
        if form == "paper":
            q, p = _neighbours(s), _neighbours(t)
            value = torch.xlogy(p, p / q).sum(1).mean()
        else:
            q, p = _affinities(s), _affinities(t)
            value = (p * ((p + _EPS) / (q + _EPS)).log()).mean()
    return ensure_finite("pkt", value, student=s, teacher=t)


def correlation(s: Tensor, t: Tensor, *, form: str = "paper", gamma: Real = 0.4, order: int = 2) -> Float[Tensor, ""]:
    """Correlation congruence: the kernel matrix of the batch (paper), or neighbouring errors (benchmark).

    ``form="paper"``: ``1 / batch^2 * || C_s - C_t ||_F^2``, with ``C`` the Gaussian kernel ``exp(-gamma |x - y|^2)`` of all
    pairs of unit vectors, by its Taylor series ``sum_{p <= order} exp(-2 gamma) (2 gamma)^p / p! (x . y)^p``.
    The sizes of the two networks' features may differ.
    ``form="benchmark"``: with ``d = |s - t|``, ``mean over i of sum over the features of d_i d_{i+1}``: consecutive samples,
    in the order in which they stand in the batch.  It needs equal sizes.

    The two have nothing in common but the name: no factor leads from one to the other.  The benchmark's form is the
    only loss here whose value depends on the order of the batch; the paper's does not, nor on rotations or the scale
    of single samples.  A sample of zeros keeps zero products, with a gradient of zero.

    Args:
        s: student features ``[batch, ...]``, at least 2 samples.
        t: teacher features ``[batch, ...]``; no gradient reaches it.
        form: "paper" or "benchmark".
        gamma: width of the kernel, more than zero; form "paper" only.
        order: where the series ends, at least 1; form "paper" only.

    Returns:
        A single number.

    Raises:
        ShapeError: different batch sizes, fewer than 2 samples, no dimension but the batch, or (benchmark) features
            of different size.
        HyperParameterError: no such form, or gamma or order outside its range.
        TensorTypeError, NonFiniteError: as for `rkd_distance`.

    Source:
        Peng et al.: Correlation Congruence for Knowledge Distillation (ICCV 2019); the benchmark's form is that of the
        code of Tian, Krishnan, Isola: Contrastive Representation Distillation (ICLR 2020).

    >>> s = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> t = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> round(correlation(s, t).item(), 4), correlation(s, t, form="benchmark").item()
    (0.1035, 0.5)
    """
    require_one_of("form", form, FORMS, "correlation")
    require_real("gamma", gamma, 0)
    require(isinstance(order, int) and order >= 1, "order", order, "a whole number, at least 1")
    s, t = _samples("correlation", s, t, 2)
    if form == "paper":
        with full_precision(s):
            value = (_kernel(s, gamma, order) - _kernel(t, gamma, order)).square().mean()
    else:
        if s.shape != t.shape:
            raise ShapeError(
                f"correlation: form 'benchmark' subtracts features of equal size; flattened, the student is {shape(s)} "
                f"and the teacher {shape(t)}. Bring both to one size with a linear layer, or use form 'paper'"
            )
        error = (s - t).abs()
        value = (error[:-1] * error[1:]).sum(1).mean()
    return ensure_finite("correlation", value, student=s, teacher=t)


def _samples(loss: str, s: Tensor, t: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Both as ``[batch, features]``, with as many samples as the loss needs."""
    s, t = pair(loss, s, t)
    for who, x in (("student", s), ("teacher", t)):
        if x.ndim < 2:
            raise ShapeError(f"{loss}: features are [batch, ...]; the {who} is {shape(x)}")
    if s.shape[0] < least:
        raise ShapeError(
            f"{loss} compares samples with each other and needs a batch of at least {least}; this one has {s.shape[0]}. "
            "Leave out a last, smaller batch (drop_last=True), or lower training.accumulate"
        )
    return s.flatten(1), t.flatten(1)


def _unit(x: Tensor) -> Tensor:
    """Rows of length 1; a row of zeros stays so and gets no gradient, and an infinite one becomes NaN, not zeros."""
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    scale = torch.where(length == 0, 0.0, 1.0 / length.clamp_min(_TINY))
    return x * torch.where(torch.isinf(length), torch.nan, scale)


# --- distances and angles


class _SquareDistances(torch.autograd.Function):
    """``|x_i - x_j|^2`` for all pairs, in the precision of x, from differences: equal samples are at exactly 0.

    The gradient is written out because torch's own makes an array of ``batch^2 x features`` on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        pull = grads[0] + grads[0].T
        return 2 * (pull.sum(1, keepdim=True) * x - pull @ x)


def _square_distances(x: Tensor) -> Tensor:
    """The squared distances in double precision; samples that all but coincide are at 0, with no gradient."""
    with full_precision(x):
        wide = x if x.device.type == "mps" else x.double()
        # Near the origin differences keep their digits.
        square = _SquareDistances.apply(wide - wide.detach().mean(0))
        assert isinstance(square, Tensor)
        return torch.where(square <= _SAME**2 * square.detach().amax(), torch.zeros_like(square), square)


def _relative(square: Tensor) -> Tensor:
    """Distances divided by their mean over those above zero; all zeros if there are none."""
    same = square == 0
    # Not sqrt(0), whose gradient is infinite; NaN is no zero, and stays.
    distance = torch.where(same, 0.0, torch.where(same, 1.0, square).sqrt())
    count = (~same).sum()
    mean = distance.sum() / count.clamp_min(1)
    return distance / torch.where(count == 0, 1.0, mean)


class _Angles(torch.autograd.Function):
    """The mean Huber distance of all cosines, from squared distances ``[batch, batch]``.

    At corner j: ``cos_ik = (q_ij + q_jk - q_ik) a_ij a_jk / 2`` with q the squared distance and ``a = 1 / sqrt(q)``, or 0 where
    q is 0.  The gradient with respect to q is a matrix like q, so it is summed up on the way, and the cosines
    themselves are never kept.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        n = student.shape[0]
        step = max(1, (_IN_CACHE if student.device.type == "cpu" else _ON_DEVICE) // n**2)
        inverse_s, inverse_t = _inverse(student), _inverse(teacher)
        total = student.new_zeros(())
        grad = torch.zeros_like(student) if ctx.needs_input_grad[0] else None
        for first in range(0, n, step):
            here = slice(first, first + step)
            ours = _cosines(student, inverse_s, here)
            apart = ours - _cosines(teacher, inverse_t, here)
            slope = apart.clamp(-1, 1)  # of the Huber function, whose value is slope * (apart - slope / 2)
            total += (slope * apart.sub_(slope, alpha=0.5)).sum()
            if grad is None:
                continue
            a = inverse_s[here]
            along = ours.mul_(slope).sum(2)
            slope.mul_(a[:, :, None]).mul_(a[:, None, :])
            grad[here] += slope.sum(2) - a.square() * along
            grad -= 0.5 * slope.sum(0)
        if grad is not None:
            ctx.save_for_backward(grad / n**3)
        return total / n**3

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = ctx.saved_tensors
        return grads[0] * grad, None


def _inverse(square: Tensor) -> Tensor:
    return torch.where(square == 0, 0.0, square.rsqrt())


def _cosines(square: Tensor, inverse: Tensor, corners: slice) -> Tensor:
    """``[corners, batch, batch]``: the cosines at these corners."""
    to, a = square[corners], inverse[corners]
    return ((to[:, :, None] + to[:, None, :]).sub_(square)).mul_(0.5 * a[:, :, None]).mul_(a[:, None, :])


# --- similarities


def _affinity(x: Tensor) -> Tensor:
    """``(1 + cos) / 2`` of unit rows."""
    return (1 + x @ x.T) / 2


def _neighbours(x: Tensor) -> Tensor:
    """``p(j | i)`` without j = i."""
    itself = torch.eye(x.shape[0], dtype=torch.bool, device=x.device)
    # 1 on the diagonal, not 0, keeps the logarithm of a quotient there at 0; it is no part of the sums.
    kernel = _affinity(_unit(x)).clamp_min(_EPS)
    others = kernel.masked_fill(itself, 0.0).sum(1, keepdim=True)
    return (kernel / others).masked_fill(itself, 1.0)


def _affinities(x: Tensor) -> Tensor:
    """``p(j | i)`` with j = i, and the small constants of the authors' code."""
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    rows = x * torch.where(torch.isinf(length), torch.nan, torch.where(length == 0, 0.0, 1.0 / (length + _EPS)))
    kernel = _affinity(rows)
    return kernel / kernel.sum(1, keepdim=True)


def _kernel(x: Tensor, gamma: Real, order: int) -> Tensor:
    """The Gaussian kernel of unit rows by its Taylor series, as one polynomial of their products."""
    rows = _unit(x)
    product = rows @ rows.T
    value = torch.zeros_like(product)
    for power in range(order, -1, -1):
        value = value * product + math.exp(-2 * gamma) * (2 * gamma) ** power / math.factorial(power)
    return value
