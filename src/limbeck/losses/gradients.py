"""Losses on gradients with respect to a network's input: which pixels matter for the loss."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import GradientError, ShapeError
from limbeck.losses._checks import ensure_finite, exact, full_precision, pair, require_one_of, shape

NORMS = ("squared", "plain")


def gradient_l2(s: Tensor, t: Tensor, *, norm: str = "squared") -> Float[Tensor, " batch"]:
    """Gradient attention: how far the gradients of two losses with respect to the same input are apart.

    ``norm="squared"``: ``1/2 * ||s - t||^2`` over everything in a sample.  ``norm="plain"``: ``1/2 * ||s - t||``, as the
    paper prints it; its gradient has a constant size, and is zero where both are equal.

    Args:
        s: gradients of the student's loss ``[batch, ...]``, one sample each (see `input_gradient`).
        t: those of the teacher's, same shape; no gradient reaches it.
        norm: "squared" or "plain".

    Returns:
        ``[batch]``.  The paper multiplies it by beta.

    Raises:
        ShapeError: the shapes differ, or there is no dimension but the batch.
        HyperParameterError: no such norm.
        TensorTypeError, NonFiniteError: as for `hint_l2`.

    Source:
        Zagoruyko, Komodakis: Paying More Attention to Attention (ICLR 2017), section 3.2.

    >>> round(gradient_l2(torch.tensor([[-0.11920292, 0.11920292]]), torch.zeros(1, 2)).item(), 6)
    0.014209
    """
    require_one_of("norm", norm, NORMS, "gradient_l2")
    s, t = pair("gradient_l2", s, t)
    if s.shape != t.shape:
        raise ShapeError(
            f"gradient_l2: the shapes differ: student {shape(s)}, teacher {shape(t)}; both networks must see one input"
        )
    if s.ndim < 2:
        raise ShapeError(f"gradient_l2: gradients are [batch, ...]; these are {shape(s)}")
    square = (s - t).flatten(1).square().sum(1)
    if norm == "plain":
        # The slope of a square root at zero is infinite; there is nothing to learn there.
        same = square == 0
        square = torch.where(same, 0.0, torch.where(same, 1.0, square).sqrt())
    return ensure_finite("gradient_l2", 0.5 * square, student=s, teacher=t)


def input_gradient(value: Tensor, x: Tensor, *, graph: bool) -> Tensor:
    """The gradient of ``value.sum()`` with respect to an input, sample by sample, in float32 at least.

    The *sum*, not the mean: then each sample's gradient is that of its own loss (unless a layer such as batch
    normalisation in training mode mixes samples).

    Args:
        value: losses ``[batch]``.
        x: the input, which the network ran on after ``requires_grad_()``.
        graph: whether the gradient is itself to be differentiated.

    Raises:
        GradientError: the value does not depend on the input in a way that torch can differentiate.
    """
    why = (
        "the loss does not depend on the network's input in a way that can be differentiated: the network may cut its "
        "graph (detach, no_grad, integer arithmetic), or all this may run in torch.inference_mode"
    )
    if not value.requires_grad:
        raise GradientError(why)
    with full_precision(x):  # autocast is for forwards
        (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=graph, allow_unused=True)
    if gradient is None:
        raise GradientError(why)
    return exact(gradient)
