"""Contrast: which of many samples of the other network is the same sample.

A *score* is the product of two embeddings of length 1, divided by a temperature.  `contrast_scores` makes them,
`crd_nce` judges them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import ShapeError
from limbeck.losses._checks import (
    Real,
    can_look,
    ensure_finite,
    full_precision,
    require_features,
    require_real,
    shape,
)
from limbeck.settings import require

# Gathering copies `dimension` numbers for every drawn row, and multiplying by the whole memory one pass over it:
# on a CPU (64 anchors, 16384 rows of 50000, one thread) the product took 0.14 s and gathering 3.5 s.
_PRODUCT_UP_TO = 32
# Numbers in the largest copy that gathering makes at a time (64 MiB of float32).
_CHUNK = 2**24


def contrast_scores(s: Tensor, t: Tensor, *, index: Tensor, tau: Real) -> Float[Tensor, "batch drawn"]:
    """The scores of each anchor against some rows of a memory: ``s_b . (t_i / |t_i|) / tau``.

    Computed as one product with the whole memory, of which the wanted scores are picked, or by gathering rows a
    few anchors at a time, whichever is less.  ``[batch, drawn, dimension]`` is never held, not even for the gradient.

    Args:
        s: anchors ``[batch, dimension]``, embeddings of either network (already of length 1).
        t: the other network's memory ``[rows, dimension]``; each row is brought to length 1; no gradient reaches it.
        index: int64 ``[batch, drawn]``: which rows each anchor is compared with.
        tau: temperature, more than zero.

    Returns:
        ``[batch, drawn]``.

    Raises:
        HyperParameterError: the temperature is not a finite number above zero.
        ShapeError: the dimensions or the batch sizes differ, or (looked for on a CPU only) a row is not there.
        TensorTypeError: embeddings that are not floating-point.
        NonFiniteError: NaN or infinity (looked for on a CPU only).

    Source:
        Tian, Krishnan, Isola: Contrastive Representation Distillation (ICLR 2020), section 3.

    >>> s, memory = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    >>> contrast_scores(s, memory, index=torch.tensor([[0, 2, 1]]), tau=0.5)
    tensor([[2.0000, 1.2000, 0.0000]])
    """
    require_real("tau", tau, 0)
    require_features("contrast_scores", "student", s)
    require_features("contrast_scores", "teacher", t)
    if s.ndim != 2 or t.ndim != 2 or s.shape[1] != t.shape[1]:
        raise ShapeError(
            f"contrast_scores: anchors are [batch, dimension] and the memory [rows, dimension], with one dimension; "
            f"these are {shape(s)} and {shape(t)}"
        )
    if index.ndim != 2 or len(index) != len(s) or index.dtype != torch.int64:
        raise ShapeError(
            f"contrast_scores: index is int64 [batch, drawn]; this is {str(index.dtype).removeprefix('torch.')} "
            f"{shape(index)} for {len(s)} anchors"
        )
    if can_look(index) and bool(((index < 0) | (index >= len(t))).any()):
        raise ShapeError(
            f"contrast_scores: rows from {int(index.min())} to {int(index.max())}; the memory has rows 0 to {len(t) - 1}"
        )
    wide = torch.promote_types(torch.promote_types(s.dtype, t.dtype), torch.float32)
    s, t = s.to(wide), t.detach().to(wide)
    with full_precision(s):
        if len(t) <= _PRODUCT_UP_TO * index.shape[1]:
            lengths = torch.linalg.vector_norm(t, dim=1).clamp_min(torch.finfo(wide).tiny)
            value = (s @ t.T / lengths).gather(1, index)
        else:
            value = _Gathered.apply(s, t, index)
        value = value / tau
    return ensure_finite("contrast_scores", value, student=s, teacher=t)


class _Gathered(torch.autograd.Function):
    """``s_b . unit(t_i)``, a few anchors at a time; the rows are gathered again for the gradient, not kept."""

    @staticmethod
    def forward(ctx, s: Tensor, t: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(s, t, index)
        parts = [torch.einsum("bd,bkd->bk", s[a:b], _rows(t, index[a:b])) for a, b in _chunks(s, index)]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None, None]:
        s, t, index = ctx.saved_tensors
        parts = [torch.einsum("bk,bkd->bd", grads[0][a:b], _rows(t, index[a:b])) for a, b in _chunks(s, index)]
        return torch.cat(parts), None, None


def _rows(t: Tensor, index: Tensor) -> Tensor:
    rows = t[index]
    return rows / torch.linalg.vector_norm(rows, dim=2, keepdim=True).clamp_min(torch.finfo(t.dtype).tiny)


def _chunks(s: Tensor, index: Tensor) -> list[tuple[int, int]]:
    each = max(1, _CHUNK // max(1, index.shape[1] * s.shape[1]))
    return [(a, min(a + each, len(s))) for a in range(0, len(s), each)]


def crd_nce(positive: Tensor, negatives: Tensor, *, rows: int, log_z: Real | Tensor = 0.0) -> Float[Tensor, " batch"]:
    """Noise-contrastive estimation: ``-log h(positive) - sum_k log(1 - h(negative_k))``.

    ``h(x) = (e^x / Z) / (e^x / Z + K / M)`` is the belief that a pair with the score x is one sample, not two, when K
    pairs of two are seen for each pair of one; M is the number of rows that the negatives come from.  Only
    log-sigmoids are taken, of ``x - log Z - log(K / M)``, so that no score overflows.

    With ``Z = M * mean(e^x)``, as the published code estimates it, M cancels.  The paper's equation has ``Z = 1``.

    Args:
        positive: scores ``[batch]`` of the pairs that are one sample (of either network's anchors: gradients flow
            to both arguments, and the memory behind the scores is cut off by `contrast_scores`).
        negatives: scores ``[batch, K]`` of the pairs that are two.
        rows: M, at least 1.
        log_z: logarithm of the constant Z: a number, or a tensor of one (taken as a constant).

    Returns:
        ``[batch]``, in nats; summed over the negatives.

    Raises:
        HyperParameterError: M is below 1, or M or log Z is not finite.
        ShapeError: the shapes do not fit, or there are no negatives.
        TensorTypeError: scores that are not floating-point.
        NonFiniteError: NaN or infinity (looked for on a CPU only).

    Source:
        Tian, Krishnan, Isola: Contrastive Representation Distillation (ICLR 2020), section 3.2.

    >>> round(crd_nce(torch.tensor([2.0]), torch.tensor([[0.0, -1.0]]), rows=2).item(), 4)
    1.1333
    """
    require(1 <= rows < math.inf, "rows", rows, "the number of rows that negatives come from, at least 1")
    if not isinstance(log_z, Tensor):
        require(-math.inf < log_z < math.inf, "log_z", log_z, "the logarithm of a number above zero")
    require_features("crd_nce", "positive scores", positive)
    require_features("crd_nce", "negative scores", negatives)
    if positive.ndim != 1 or negatives.ndim != 2 or len(negatives) != len(positive):
        raise ShapeError(
            f"crd_nce: scores are [batch] of the positives and [batch, negatives]; these are {shape(positive)} and "
            f"{shape(negatives)}"
        )
    wide = torch.promote_types(torch.promote_types(positive.dtype, negatives.dtype), torch.float32)
    x, y = positive.to(wide), negatives.to(wide)
    noise = math.log(y.shape[1] / rows)
    constant = {"log_z": log_z.detach().to(wide)} if isinstance(log_z, Tensor) else {}
    shift = noise + constant.get("log_z", log_z)
    value = -F.logsigmoid(x - shift) - F.logsigmoid(shift - y).sum(1)
    # A pair that is certain costs nothing, an infinite score among them: zero times it is NaN, and says so.
    value = value + 0.0 * x + (0.0 * y).sum(1)
    return ensure_finite("crd_nce", value, positives=x, negatives=y, **constant)
