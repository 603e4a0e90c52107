"""How well the student's features tell the teacher's, as a likelihood."""

from __future__ import annotations

from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import HyperParameterError, ShapeError
from limbeck.losses._checks import FORMS, can_look, ensure_finite, pair, require_one_of, shape


def vid_nll(s: Tensor, t: Tensor, *, variance: Tensor, form: str = "paper") -> Float[Tensor, " batch"]:
    """Variational information: the negative log likelihood of the teacher's map under a Gaussian around a guess.

    ``1/2 * ((s - t)^2 / variance + log variance)`` per element, without the constant ``1/2 log(2 pi)``; it bounds the
    mutual information of the two layers.  It may be negative: it is least, ``1/2 log variance``, where the guess is right.

    ``form="paper"``: the sum over all elements of a sample.
    ``form="benchmark"``: their mean; the paper's form is ``elements`` times that.

    Args:
        s: the guess that was made from the student's features ``[batch, channels, ...]``.
        t: teacher features, same shape; no gradient reaches it.
        variance: ``[channels]``, more than zero; its gradient flows, since it is learnt.
        form: "paper" or "benchmark".

    Returns:
        ``[batch]``.

    Raises:
        ShapeError: the shapes differ, there are no channels, or not one variance for each.
        HyperParameterError: no such form, or (looked for on a CPU only) a variance that is not above zero.
        TensorTypeError: features that are not floating-point.
        NonFiniteError: NaN or infinity (looked for on a CPU only).

    Source:
        Ahn, Hu, Damianou, Lawrence, Dai: Variational Information Distillation for Knowledge Transfer (CVPR 2019),
        section 2.

    >>> s, t = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    >>> vid_nll(s, t, variance=torch.tensor([1.0, 4.0]))
    tensor([1.1931])
    """
    require_one_of("form", form, FORMS, "vid_nll")
    s, t = pair("vid_nll", s, t)
    if s.shape != t.shape:
        raise ShapeError(
            f"vid_nll: the shapes differ: student {shape(s)}, teacher {shape(t)}; "
            "a regressor has to bring the student's features to the teacher's shape"
        )
    if s.ndim < 2 or variance.shape != s.shape[1:2]:
        raise ShapeError(
            f"vid_nll: features are [batch, channels, ...] with one variance for each channel; "
            f"these are {shape(s)} and {shape(variance)}"
        )
    if can_look(variance) and not bool((variance > 0).all()):
        raise HyperParameterError(f"variance: more than zero; the smallest is {float(variance.detach().min()):g}")
    v, places = variance.to(s.dtype), prod(s.shape[2:])
    square = (s - t).square()
    if s.ndim > 2:
        square = square.flatten(2).sum(2)  # first, so that the variances meet one number per channel and no map
    value = 0.5 * (square / v + places * torch.log(v)).sum(1)
    return ensure_finite(
        "vid_nll", value if form == "paper" else value / (len(v) * places), student=s, teacher=t, variance=v
    )
