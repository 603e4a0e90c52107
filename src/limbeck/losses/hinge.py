"""The squared hinge: a margin between the right class and the others, for networks whose scores are no probabilities."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import ShapeError, TargetError
from limbeck.losses._checks import Real, can_look, ensure_finite, exact, require_features, require_real, shape
from limbeck.losses.logits import _given, _is_integer


def squared_hinge(s: Tensor, targets: Tensor | None, *, margin: Real = 1.0) -> Float[Tensor, " batch"]:
    """Mean over the classes of ``max(0, margin - y * s)^2``, with ``y = +1`` for the right class and -1 for the others.

    Every class is a question of its own, answered by the sign of its score.

    Args:
        s: logits ``[batch, classes]``.
        targets: class ids ``[batch]``, any integer type, in ``[0, classes)``.
        margin: more than zero; a score beyond it costs nothing more.

    Returns:
        ``[batch]``.

    Raises:
        TargetError: targets are missing, not integers, or (looked for on a CPU only) outside the classes.
        HyperParameterError: the margin is not a finite number above zero.
        ShapeError: logits that are not ``[batch, classes]``, or another number of targets.
        TensorTypeError: logits that are not floating-point.
        NonFiniteError: NaN or infinity (looked for on a CPU only).

    Source:
        Tang: Deep Learning using Linear Support Vector Machines (arXiv 1306.0239), one class against the
        rest; Courbariaux et al.: Binarized Neural Networks (arXiv 1602.02830) train with it.

    >>> squared_hinge(torch.tensor([[2.0, 0.0, -0.5]]), torch.tensor([0]))
    tensor([0.4167])
    """
    require_real("margin", margin, 0)
    require_features("squared_hinge", "student", s)
    s = exact(s)
    if s.ndim != 2:
        raise ShapeError(f"squared_hinge: logits are [batch, classes]; these are {shape(s)}")
    y, classes = _given("squared_hinge", targets), s.shape[1]
    if not _is_integer(y):
        raise TargetError(f"squared_hinge: targets are {str(y.dtype).removeprefix('torch.')}; class ids are integers")
    if y.shape != s.shape[:1]:
        raise ShapeError(f"squared_hinge: one class id per sample: logits are {shape(s)}, targets {shape(y)}")
    y = y.long()
    if can_look(y) and bool(((y < 0) | (y >= classes)).any()):
        raise TargetError(
            f"squared_hinge: targets from {int(y.min())} to {int(y.max())}; with {classes} classes they must be in [0, {classes})"
        )
    right = y.unsqueeze(1) == torch.arange(classes, device=y.device)
    missing = (margin - torch.where(right, s, -s)).clamp_min(0)
    # What is infinitely far on its own side costs nothing, and must be found all the same: 0 times infinity is NaN.
    value = missing.square().mean(1) + (0.0 * s).sum(1)
    return ensure_finite("squared_hinge", value, student=s)
