"""What a discriminator and a student play for: telling the teacher's channels from the student's."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.losses._checks import ensure_finite, pair, require_one_of
from limbeck.losses.maps import RESIZES, _images, _interpolate, _pool_to_smaller, _unit


def adversarial_value(s: Tensor, t: Tensor) -> Float[Tensor, " batch"]:
    """The value of the game: ``mean_i log D(p_i) + mean_j log(1 - D(q_j))``, with ``D`` the sigmoid of a score.

    The discriminator wants it high, the student low.  Where both sets are equal and the discriminator is the best
    there is, ``D = 1/2`` everywhere, and the value is ``-log 4 = -1.3863``.  The teacher's part is a constant for the
    student, and stays in the value so that this number means something.

    Args:
        s: the discriminator's scores (before the sigmoid) of the student's points, ``[batch, points]``.
        t: its scores of the teacher's points; their number may differ; no gradient reaches them.

    Returns:
        ``[batch]``, in nats; never above zero.

    Raises:
        ShapeError: different batch sizes, or empty.
        TensorTypeError: scores that are not floating-point.
        NonFiniteError: NaN or infinity (looked for on a CPU only).

    Source:
        Goodfellow et al.: Generative Adversarial Nets (NIPS 2014), equation 1; the points are those of Huang, Wang:
        Like What You Like (arXiv 1707.01219).

    >>> import torch
    >>> round(adversarial_value(torch.zeros(1, 5), torch.zeros(1, 3)).item(), 4)
    -1.3863
    """
    s, t = pair("adversarial_value", s, t)
    value = F.logsigmoid(t).flatten(1).mean(1) + F.logsigmoid(-s).flatten(1).mean(1)
    # What is certain is worth nothing, an infinite score among them: zero times it is NaN, and says so.
    value = value + (0.0 * s).flatten(1).sum(1) + (0.0 * t).flatten(1).sum(1)
    return ensure_finite("adversarial_value", value, student=s, teacher=t)


def channel_points(s: Tensor, t: Tensor, *, resize: str = "pool") -> tuple[Tensor, Tensor]:
    """Each channel of a map as one point of length 1 over the positions, as `nst_mmd` has them.

    Args:
        s: student features ``[batch, channels, height, width]``.
        t: teacher features; channels may differ; no gradient reaches it.
        resize: where sizes differ, "pool" average-pools the larger to the smaller, "interpolate" brings
            the student to the teacher's size (bilinear).

    Returns:
        Student ``[batch, channels, positions]`` and teacher ``[batch, channels, positions]``, in float32 at least.

    Raises:
        ShapeError, TensorTypeError, HyperParameterError: as for `nst_mmd`.
    """
    require_one_of("resize", resize, RESIZES, "channel_points")
    s, t = _images("channel_points", s, t)
    s, t = _pool_to_smaller(s, t) if resize == "pool" else (_interpolate(s, t), t)
    return _unit(s.flatten(2)), _unit(t.flatten(2))
