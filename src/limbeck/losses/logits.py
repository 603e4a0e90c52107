"""Losses on a network's last layer: the scores before softmax or sigmoid.

Student first, teacher second; one value per sample, so that the mean over the batch is taken in one
place only.  Formulas run in float32 at least, whatever the networks run in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import ShapeError, TargetError
from limbeck.losses._checks import (
    Real,
    can_look,
    ensure_finite,
    exact,
    pair,
    require_features,
    require_real,
    shape,
)
from limbeck.settings import require


def kd_kl(s: Tensor, t: Tensor, *, temperature: Real) -> Float[Tensor, " batch"]:
    """Knowledge distillation: ``T^2 * KL(p || q)`` with ``p = softmax(t/T)`` and ``q = softmax(s/T)``.

    The factor ``T^2`` keeps the gradient's size when T changes; for large T the loss tends to
    ``|s - t|^2 / (2 classes)`` of row-centred logits, which is logit matching.  It is zero when the
    rows differ by a constant, and never negative (in float32 up to about ``1e-7 * T^2`` of rounding).

    Args:
        s: student logits ``[batch, classes]``, at least two classes.
        t: teacher logits, same shape; no gradient reaches it.
        temperature: ``T > 0``; 1 leaves the probabilities as they are, larger is softer.

    Returns:
        ``[batch]``, in nats, summed over the classes.

    Raises:
        HyperParameterError: the temperature is not a finite number above zero.
        ShapeError: the shapes differ, or there is a single column.
        TensorTypeError: logits that are not floating-point.
        NonFiniteError: NaN or infinity (looked for on a CPU only).

    Source:
        Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (arXiv 1503.02531), section 2.

    >>> s, t = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[3.0, 2.0, 1.0]])
    >>> round(kd_kl(s, t, temperature=4).item(), 4)
    1.3196
    """
    require_real("temperature", temperature, 0)
    s, t = _logits("kd_kl", s, t)
    if s.shape[1] == 1:
        raise ShapeError(
            f"kd_kl: a single column of logits, {shape(s)}: softmax over one class is always 1. "
            "For a binary head with one logit use the sigmoid mode, kd_sigmoid"
        )
    log_q = F.log_softmax(s / temperature, dim=1)
    log_p = F.log_softmax(t / temperature, dim=1)
    value = temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1)
    return ensure_finite("kd_kl", value, student=s, teacher=t)


def kd_sigmoid(s: Tensor, t: Tensor, *, temperature: Real) -> Float[Tensor, " batch"]:
    """Distillation for independent classes: ``T^2 * sum_classes KL(Bernoulli(p) || Bernoulli(q))``.

    Here ``p = sigmoid(t/T)`` and ``q = sigmoid(s/T)``, class by class: for several labels per sample,
    and for a binary head with one logit, where it equals `kd_kl` of the two-column logits ``[0, s]``.
    Finite for logits of any ordinary size (a thousand, say), since only log-sigmoids are taken.

    Args:
        s: student logits ``[batch, classes]``, or ``[batch]`` for one logit per sample.
        t: teacher logits, same shape; no gradient reaches it.
        temperature: ``T > 0``.

    Returns:
        ``[batch]``, in nats, summed over the classes.

    Raises:
        HyperParameterError, ShapeError, TensorTypeError, NonFiniteError: as for `kd_kl`.

    Source:
        The per-class form of Hinton, Vinyals, Dean (arXiv 1503.02531), section 2.

    >>> round(kd_sigmoid(torch.tensor([2.0]), torch.tensor([-1.0]), temperature=4).item(), 4)
    1.1163
    """
    require_real("temperature", temperature, 0)
    s, t = _logits("kd_sigmoid", s, t)
    a, b = t / temperature, s / temperature
    yes = torch.sigmoid(a) * (F.logsigmoid(a) - F.logsigmoid(b))
    no = torch.sigmoid(-a) * (F.logsigmoid(-a) - F.logsigmoid(-b))
    return ensure_finite("kd_sigmoid", temperature**2 * (yes + no).sum(1), student=s, teacher=t)


def logit_l2(s: Tensor, t: Tensor) -> Float[Tensor, " batch"]:
    """Logit matching: ``1/2 * sum_classes (s - t)^2``.

    Args:
        s: student logits ``[batch, classes]`` (or ``[batch]``).
        t: teacher logits, same shape; no gradient reaches it.

    Returns:
        ``[batch]``.  The plain mean over the classes is ``2 / classes`` times this.

    Raises:
        ShapeError, TensorTypeError, NonFiniteError: as for `kd_kl`.

    Source:
        Ba, Caruana: Do Deep Nets Really Need to be Deep? (NIPS 2014), equation 1.

    >>> logit_l2(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[3.0, 2.0, 1.0]]))
    tensor([4.])
    """
    s, t = _logits("logit_l2", s, t)
    return ensure_finite("logit_l2", 0.5 * (s - t).square().sum(1), student=s, teacher=t)


def cross_entropy(s: Tensor, targets: Tensor | None, *, label_smoothing: Real = 0.0) -> Float[Tensor, " batch"]:
    """Cross-entropy with class ids: ``-log softmax(s)[target]``.

    With smoothing ``e`` the target is ``1 - e`` on the class plus ``e / classes`` on every class.

    Args:
        s: logits ``[batch, classes]``, at least two classes.
        targets: class ids ``[batch]``, any integer type, in ``[0, classes)``.
        label_smoothing: ``e`` in [0, 1).

    Returns:
        ``[batch]``, in nats.

    Raises:
        TargetError: targets are missing, not integers, or (looked for on a CPU only) outside the classes.
        HyperParameterError: the smoothing is outside [0, 1).
        ShapeError, TensorTypeError, NonFiniteError: as for `kd_kl`.

    Source:
        Smoothing: Szegedy et al.: Rethinking the Inception Architecture (CVPR 2016), section 7.

    >>> round(cross_entropy(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([2])).item(), 4)
    0.4076
    """
    require(0 <= label_smoothing < 1, "label_smoothing", label_smoothing, "a number in [0, 1)")
    require_features("cross_entropy", "student", s)
    s = exact(s)
    if s.ndim != 2:
        raise ShapeError(f"cross_entropy: logits are [batch, classes]; these are {shape(s)}")
    classes = s.shape[1]
    if classes == 1:
        raise ShapeError(
            f"cross_entropy: a single column of logits, {shape(s)}: softmax over one class is always 1. "
            "For a binary head with one logit use the sigmoid mode, sigmoid_cross_entropy"
        )
    y = _given("cross_entropy", targets)
    if not _is_integer(y):
        raise TargetError(
            f"cross_entropy: targets are {str(y.dtype).removeprefix('torch.')}; class ids are integers "
            "(multi-hot labels belong in sigmoid_cross_entropy)"
        )
    if y.shape != s.shape[:1]:
        raise ShapeError(
            f"cross_entropy: one class id per sample: logits are {shape(s)}, targets {shape(y)}; "
            "for multi-hot labels there are sigmoid_cross_entropy, SigmoidKD and Supervised(sigmoid=True)"
        )
    y = y.long()
    if can_look(y) and bool(((y < 0) | (y >= classes)).any()):
        raise TargetError(
            f"cross_entropy: targets from {int(y.min())} to {int(y.max())}; with {classes} classes "
            f"they must be in [0, {classes})"
        )
    value = F.cross_entropy(s, y, reduction="none", label_smoothing=label_smoothing)
    return ensure_finite("cross_entropy", value, student=s)


def sigmoid_cross_entropy(s: Tensor, targets: Tensor | None) -> Float[Tensor, " batch"]:
    """Binary cross-entropy of every class, SUMMED over the classes (so that `kd_sigmoid` has the same scale).

    Args:
        s: logits ``[batch, classes]``, or ``[batch, 1]`` or ``[batch]`` for one logit per sample.
        targets: multi-hot ``[batch, classes]``; for one logit per sample ``[batch]`` or ``[batch, 1]``.
            Integer, bool, or floating-point in [0, 1].

    Returns:
        ``[batch]``, in nats.

    Raises:
        TargetError: targets are missing, or (looked for on a CPU only) outside [0, 1].
        ShapeError, TensorTypeError, NonFiniteError: as for `kd_kl`.

    >>> sigmoid_cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([[1, 0]]))
    tensor([1.3863])
    """
    require_features("sigmoid_cross_entropy", "student", s)
    s = _columns("sigmoid_cross_entropy", "student", exact(s))
    y = _given("sigmoid_cross_entropy", targets)
    if y.ndim == 1 and s.shape[1] == 1:
        y = y.unsqueeze(1)
    if y.shape != s.shape:
        raise ShapeError(
            f"sigmoid_cross_entropy: logits are {shape(s)}, targets {shape(y)}; every class of every sample "
            "needs its own 0 or 1 (class ids belong in cross_entropy)"
        )
    if can_look(y) and not bool(((y >= 0) & (y <= 1)).all()):
        raise TargetError(
            "sigmoid_cross_entropy: targets must lie in [0, 1] (0: absent, 1: present); "
            f"these go from {float(y.min()):g} to {float(y.max()):g}"
        )
    value = F.binary_cross_entropy_with_logits(s, y.to(s.dtype), reduction="none").sum(1)
    return ensure_finite("sigmoid_cross_entropy", value, student=s)


def _logits(loss: str, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """A pair of logits, both ``[batch, classes]`` with the same classes."""
    s, t = pair(loss, s, t)
    s, t = _columns(loss, "student", s), _columns(loss, "teacher", t)
    if s.shape[1] != t.shape[1]:
        raise ShapeError(
            f"{loss}: N_t != N_s: the teacher has {t.shape[1]} classes {shape(t)}, "
            f"the student {s.shape[1]} {shape(s)}; both need the same classes in the same order"
        )
    return s, t


def _columns(loss: str, who: str, x: Tensor) -> Tensor:
    """``[batch]`` as ``[batch, 1]``, so that no broadcast can pair samples with one another."""
    if x.ndim == 1:
        return x.unsqueeze(1)
    if x.ndim != 2:
        raise ShapeError(
            f"{loss}: logits are [batch, classes]; the {who} is {shape(x)} "
            "(where every position has its own scores, flatten the positions into the batch)"
        )
    return x


def _given(loss: str, targets: Tensor | None) -> Tensor:
    if not isinstance(targets, Tensor):
        raise TargetError(f"{loss}: targets are {type(targets).__name__}; this term needs labels, as a tensor")
    return targets


def _is_integer(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)
