"""Losses for several teachers at once, and for a teacher that knows finer classes than its student."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import HyperParameterError, ShapeError
from limbeck.losses._checks import Real, ensure_finite, pair, require_one_of, require_real, shape

AVERAGINGS = ("arithmetic", "geometric")
Groups = Sequence[Sequence[int]]


def kd_kl_mixture(
    s: Tensor,
    t: Tensor,
    *,
    temperature: Real,
    averaging: str = "arithmetic",
    weights: Sequence[Real] | None = None,
) -> Float[Tensor, " batch"]:
    """Knowledge distillation from several teachers: ``T^2 * KL(p || q)`` with ``p`` their average.

    ``averaging="arithmetic"``: ``p = sum_k w_k softmax(t_k / T)``, which is in the middle of the teachers in the sense
    that it minimises ``sum_k w_k KL(p_k || p)``.  ``"geometric"``: ``p`` is proportional to ``prod_k softmax(t_k / T)^w_k``,
    that is ``softmax(sum_k w_k t_k / T)``, the minimum of ``sum_k w_k KL(p || p_k)``: a class counts only where all
    teachers give it some probability.

    Up to what does not depend on the student, the arithmetic loss is the weighted mean of the teachers' own `kd_kl`.

    Args:
        s: student logits ``[batch, classes]``, at least two classes.
        t: logits of the teachers ``[batch, teachers, classes]``; no gradient reaches them.
        temperature: ``T > 0``.
        averaging: "arithmetic" or "geometric".
        weights: one for every teacher, zero or more, not all zero; they are divided by their sum.  None: all alike.

    Returns:
        ``[batch]``, in nats, summed over the classes.

    Raises:
        HyperParameterError: the temperature, the averaging or the weights are none.
        ShapeError: the shapes do not fit, or there is a single column.
        TensorTypeError, NonFiniteError: as for `kd_kl`.

    Source:
        Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (arXiv 1503.02531), section 1, for an
        arithmetic or geometric mean of the predictive distributions as soft targets.

    >>> teachers = torch.tensor([[[0.9, 0.1], [0.5, 0.5]]]).log()
    >>> arithmetic = torch.tensor([[0.7, 0.3]]).log()
    >>> abs(round(kd_kl_mixture(arithmetic, teachers, temperature=1).item(), 6))
    0.0
    """
    require_real("temperature", temperature, 0)
    require_one_of("averaging", averaging, AVERAGINGS, "kd_kl_mixture")
    s, t = pair("kd_kl_mixture", s, t)
    if s.ndim != 2 or t.ndim != 3 or s.shape[1] != t.shape[2]:
        raise ShapeError(
            f"kd_kl_mixture: the student's logits are [batch, classes], the teachers' [batch, teachers, classes] with the "
            f"same classes (N_t == N_s); these are {shape(s)} and {shape(t)}"
        )
    if s.shape[1] == 1:
        raise ShapeError(f"kd_kl_mixture: a single column of logits, {shape(s)}: softmax over one class is always 1")
    log_p = average(F.log_softmax(t / temperature, dim=2), averaging, weights)
    log_q = F.log_softmax(s / temperature, dim=1)
    value = temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1) + _nothing(t)
    return ensure_finite("kd_kl_mixture", value, student=s, teacher=t)


def kd_grouped(s: Tensor, t: Tensor, *, groups: Groups, temperature: Real) -> Float[Tensor, " batch"]:
    """Knowledge distillation from a teacher with finer classes: ``T^2 * KL(p || q)`` with ``p`` summed within groups.

    Class g of the student stands for the teacher's classes ``groups[g]``: ``p_g`` is the sum of their
    ``softmax(t / T)``, and ``q = softmax(s / T)``.  With every class in a group of its own, in order, this is `kd_kl`.

    Args:
        s: student logits ``[batch, groups]``, at least two.
        t: teacher logits ``[batch, classes]``; no gradient reaches it.
        groups: the teacher's classes behind each of the student's; every class in exactly one group.
        temperature: ``T > 0``.

    Returns:
        ``[batch]``, in nats, summed over the groups.

    Raises:
        HyperParameterError: the temperature is not above zero, or the groups leave a class out or have one twice.
        ShapeError: the student does not have one column per group.
        TensorTypeError, NonFiniteError: as for `kd_kl`.

    Source:
        The loss of Hinton, Vinyals, Dean (arXiv 1503.02531), section 2, on sums of the teacher's classes.

    >>> s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.2, 0.3, 0.4, 0.1]]).log()
    >>> abs(round(kd_grouped(s, t, groups=[(0, 1), (2, 3)], temperature=1).item(), 6))
    0.0
    """
    require_real("temperature", temperature, 0)
    s, t = pair("kd_grouped", s, t)
    if s.ndim != 2 or t.ndim != 2:
        raise ShapeError(f"kd_grouped: logits are [batch, classes]; the student's {shape(s)}, the teacher's {shape(t)}")
    require_partition(groups, t.shape[1])
    if s.shape[1] != len(groups):
        raise ShapeError(
            f"kd_grouped: {len(groups)} groups of the teacher's {t.shape[1]} classes, and a student with {s.shape[1]} "
            f"columns {shape(s)}; it needs one for each group"
        )
    log_p = sum_groups(F.log_softmax(t / temperature, dim=1), groups)
    log_q = F.log_softmax(s / temperature, dim=1)
    value = temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1) + _nothing(t)
    return ensure_finite("kd_grouped", value, student=s, teacher=t)


def _nothing(t: Tensor) -> Tensor:
    """Zero for every sample; NaN where an input is not finite, which a sum of probabilities would swallow."""
    return (0.0 * t).flatten(1).sum(1)


def average(log_p: Tensor, averaging: str, weights: Sequence[Real] | None = None) -> Tensor:
    """The logarithm of the average of distributions: ``[batch, members, classes]`` to ``[batch, classes]``.

    Arithmetic goes through log-sum-exp, so that a probability too small for the format still has its logarithm.
    """
    shares = normalized(weights, log_p.shape[1])
    if averaging == "geometric":
        share = torch.tensor(shares, dtype=log_p.dtype, device=log_p.device)
        return F.log_softmax((share[:, None] * log_p).sum(1), dim=1)
    # A member that does not count is left out: the logarithm of its weight would be -inf.
    on = [k for k, w in enumerate(shares) if w > 0]
    logs = torch.tensor([math.log(shares[k]) for k in on], dtype=log_p.dtype, device=log_p.device)
    return torch.logsumexp(log_p[:, on] + logs[:, None], dim=1)


def normalized(weights: Sequence[Real] | None, members: int) -> tuple[float, ...]:
    """The weights divided by their sum; all alike where there are none.

    Raises:
        HyperParameterError: there are not as many as members, one is negative or no number, or all are zero.
    """
    if weights is None:
        return (1.0 / members,) * members
    require_shares(weights)
    if len(weights) != members:
        raise HyperParameterError(f"weights = {tuple(weights)!r}: {len(weights)} for {members} teachers; one for each")
    total = math.fsum(weights)
    return tuple(w / total for w in weights)


def require_shares(weights: Sequence[Real]) -> None:
    """Check weights whose number is not yet known to be right."""
    if not all(0 <= w < math.inf for w in weights):
        raise HyperParameterError(f"weights = {tuple(weights)!r}: a weight is a finite number, zero or more")
    if not any(w > 0 for w in weights):
        raise HyperParameterError(f"weights = {tuple(weights)!r}: all are zero, so no teacher would count")


def sum_groups(log_p: Tensor, groups: Groups) -> Tensor:
    """``log sum exp`` within groups of columns: of log-probabilities, those of the groups; of logits, logits of them."""
    return torch.stack([torch.logsumexp(log_p[:, list(group)], dim=1) for group in groups], dim=1)


def require_partition(groups: Groups, classes: int | None = None) -> int:
    """Check that every class is in exactly one group, and return how many classes that are.

    Raises:
        HyperParameterError: it is not so, or there are fewer than two groups.
    """
    if len(groups) < 2:
        raise HyperParameterError(f"groups = {groups!r}: two groups at least, such as ((0, 2, 4), (1, 3, 5))")
    if not all(groups):
        raise HyperParameterError(f"groups = {groups!r}: group {[bool(g) for g in groups].index(False)} is empty")
    named = sorted(c for group in groups for c in group)
    count = len(named) if classes is None else classes
    if named == list(range(count)):
        return count
    twice = sorted({c for c in named if named.count(c) > 1})
    outside = sorted({c for c in named if not 0 <= c < count})
    missing = sorted(set(range(count)) - set(named))
    faults = [
        f"{what} {', '.join(map(str, found))}"
        for what, found in (("twice:", twice), ("no such class:", outside), ("left out:", missing))
        if found
    ]
    raise HyperParameterError(
        f"groups = {groups!r}: every class of 0 ... {count - 1} belongs to exactly one group; {'; '.join(faults)}"
    )
