"""Distillation in two parts: how likely the right class is, and how the other classes share the rest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import HyperParameterError, ShapeError, TargetError
from limbeck.losses._checks import Real, can_look, ensure_finite, require_real, shape
from limbeck.losses.logits import _given, _is_integer, _logits


def dkd(
    s: Tensor,
    t: Tensor,
    *,
    targets: Tensor | None,
    temperature: Real,
    alpha: Real | Tensor = 1.0,
    beta: Real | Tensor = 8.0,
) -> Float[Tensor, " batch"]:
    """Decoupled distillation: ``T^2 * (alpha * TCKD + beta * NCKD)``.

    With ``p = softmax(t/T)``, ``q = softmax(s/T)`` and y the target class:
    TCKD is ``KL((p_y, 1 - p_y) || (q_y, 1 - q_y))``, how sure the teacher is of the right class;
    NCKD is ``KL(p^ || q^)`` over the other classes alone, each softmax taken without the target's column.

    `kd_kl` is the same with ``alpha = 1`` and ``beta = 1 - p_y``: the surer the teacher, the less the other
    classes count there.  Here they count by ``beta``, whatever the teacher thinks of the target.

    Args:
        s: student logits ``[batch, classes]``, at least two classes (with two, NCKD is zero).
        t: teacher logits, same shape; no gradient reaches it.
        targets: class ids ``[batch]``, any integer type.
        temperature: ``T > 0``.
        alpha: weight of TCKD, zero or more; a number, or one per sample ``[batch]`` (taken as a constant).
        beta: weight of NCKD, in the same way.

    Returns:
        ``[batch]``, in nats.

    Raises:
        HyperParameterError: the temperature or a weight is outside its range.
        TargetError: targets are missing, not integers, or (looked for on a CPU only) outside the classes.
        ShapeError: the shapes differ, or there is a single column.
        TensorTypeError: logits that are not floating-point.
        NonFiniteError: NaN or infinity (looked for on a CPU only).

    Source:
        Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation (CVPR 2022), section 3.

    >>> s, t = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[3.0, 2.0, 1.0]])
    >>> round(dkd(s, t, targets=torch.tensor([0]), temperature=4, alpha=1, beta=8).item(), 2)
    5.01
    """
    require_real("temperature", temperature, 0)
    s, t = _logits("dkd", s, t)
    if s.shape[1] == 1:
        raise ShapeError(
            f"dkd: a single column of logits, {shape(s)}: there is no other class than the target; "
            "for a binary head with one logit there is kd_sigmoid"
        )
    y = _class_ids("dkd", s, targets)
    a, b = _weight("alpha", alpha, s), _weight("beta", beta, s)
    value = temperature**2 * (a * _target(s / temperature, t / temperature, y))
    value = value + temperature**2 * (b * _others(s / temperature, t / temperature, y))
    return ensure_finite("dkd", value, student=s, teacher=t)


def _target(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """``KL`` of the two events "the target" and "anything else"; only logarithms are subtracted."""
    log_q, log_p = _two(s, y), _two(t, y)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def _two(x: Tensor, y: Tensor) -> Tensor:
    """``[batch, 2]``: the log probabilities of the target and of everything else."""
    pair = torch.stack([x.gather(1, y.unsqueeze(1)).squeeze(1), _without(x, y).logsumexp(1)], 1)
    return F.log_softmax(pair, dim=1)


def _others(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
    log_q, log_p = (F.log_softmax(_without(x, y), dim=1) for x in (s, t))
    return (log_p.exp() * (log_p - log_q)).sum(1)


def _without(x: Tensor, y: Tensor) -> Tensor:
    """``[batch, classes - 1]``: the columns that are not the target's.  Nothing infinite is put in its place."""
    columns = torch.arange(x.shape[1] - 1, device=x.device).expand(len(x), -1)
    return x.gather(1, columns + (columns >= y.unsqueeze(1)))


def _weight(name: str, value: Real | Tensor, s: Tensor) -> Real | Tensor:
    if not isinstance(value, Tensor):
        require_real(name, value, 0, inclusive=True)
        return value
    if value.shape != s.shape[:1]:
        raise ShapeError(f"dkd: {name} is one number per sample: logits are {shape(s)}, {name} {shape(value)}")
    if can_look(value) and not bool((value >= 0).all()):
        raise HyperParameterError(f"{name} = {value.tolist()[:5]}: every weight is zero or more")
    return value.detach().to(s.dtype)


def _class_ids(loss: str, s: Tensor, targets: Tensor | None) -> Tensor:
    y = _given(loss, targets)
    if not _is_integer(y):
        raise TargetError(
            f"{loss}: targets are {str(y.dtype).removeprefix('torch.')}; class ids are integers "
            "(with several labels per sample there is no single target class to take apart)"
        )
    if y.shape != s.shape[:1]:
        raise ShapeError(f"{loss}: one class id per sample: logits are {shape(s)}, targets {shape(y)}")
    y = y.long()
    if can_look(y) and bool(((y < 0) | (y >= s.shape[1])).any()):
        raise TargetError(
            f"{loss}: targets from {int(y.min())} to {int(y.max())}; with {s.shape[1]} classes "
            f"they must be in [0, {s.shape[1]})"
        )
    return y
