"""Losses between what small networks make of two layers: factors, and maps that were put together from several.

Student first, teacher second; one value per sample.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import HyperParameterError, ShapeError
from limbeck.losses._checks import ensure_finite, pair, require_one_of, shape
from limbeck.losses.maps import _images, _pool, _pool_to_smaller, _unit

FACTOR_FORMS = ("paper", "mean", "benchmark")

_LEVELS = (4, 2, 1)  # the published code's; each level counts half of the one before


def factor_lp(s: Tensor, t: Tensor, *, p: int = 1, form: str = "paper") -> Float[Tensor, " batch"]:
    """Factor transfer: the distance of the two factors, each flattened and brought to length 1.

    ``form="paper"``: the p-norm of the difference over all units: for p = 1 the sum of the absolute
    differences, for p = 2 the Euclidean distance (not squared).
    ``form="mean"``: the mean over the units of the p-th power of the absolute difference; for p = 1 this is what
    the authors' code computes, and ``paper / units``.
    ``form="benchmark"``: both factors are first collapsed to one map, the mean over the channels of their
    squares; then as "mean".  This is another loss: it compares where factors are active, not what they are.

    Where height or width differ, the larger factor is average-pooled to the smaller.  A factor that is zero
    everywhere stays zero, with a gradient of zero.

    Args:
        s: the student's factor ``[batch, ...]``; in form "benchmark" ``[batch, channels, height, width]``.
        t: the teacher's factor, same shape (but for height and width; in form "benchmark" but for the channels,
            too); no gradient reaches it.
        p: 1 or 2.
        form: "paper", "mean" or "benchmark".

    Returns:
        ``[batch]``; the same for every positive multiple of a factor.

    Raises:
        ShapeError: the shapes differ, or there is no dimension but the batch.
        HyperParameterError: no such p or form.
        TensorTypeError, NonFiniteError: as for `hint_l2`.

    Source:
        Kim, Park, Kwak: Paraphrasing Complex Network: Network Compression via Factor Transfer (NeurIPS 2018),
        the loss L_FT.

    >>> s, t = torch.tensor([[1.0, 2.0, 2.0, 0.0]]), torch.tensor([[0.0, 0.0, 3.0, 4.0]])
    >>> [round(factor_lp(s, t, p=p, form=form).item(), 4) for p, form in ((1, "paper"), (1, "mean"), (2, "paper"))]
    [1.8667, 0.4667, 1.0954]
    """
    if p not in (1, 2):
        raise HyperParameterError(f"p = {p!r}: 1 or 2")
    require_one_of("form", form, FACTOR_FORMS, "factor_lp")
    s, t = pair("factor_lp", s, t)
    small_s, small_t = _sized(s, t, form)
    if form == "benchmark":
        small_s, small_t = small_s.square().mean(1), small_t.square().mean(1)
    difference = _unit(small_s.flatten(1)) - _unit(small_t.flatten(1))
    if form == "paper":
        value = torch.linalg.vector_norm(difference, ord=p, dim=1)
    else:
        value = (difference.abs() if p == 1 else difference.square()).mean(1)
    return ensure_finite("factor_lp", value, student=s, teacher=t)


def hcl(s: Tensor, t: Tensor) -> Float[Tensor, " batch"]:
    """Hierarchical context loss: the mean square of the difference of two maps, at several levels of detail.

    The maps as they are count 1; average-pooled to 4x4, 2x2 and 1x1, as far as these are smaller, they
    count 1/2, 1/4 and 1/8.  The value is the weighted mean of the levels.

    Args:
        s: the student's map ``[batch, channels, height, width]``, after fusion.
        t: the teacher's map, same shape; no gradient reaches it.

    Returns:
        ``[batch]``; for a map of 1x1 the plain mean square.

    Raises:
        ShapeError: the shapes differ, or are not four-dimensional.
        TensorTypeError, NonFiniteError: as for `hint_l2`.

    Source:
        Chen, Liu, Zhao, Jia: Distilling Knowledge via Knowledge Review (CVPR 2021), section 3.3; levels and
        weights as in the published code.

    >>> s, t = torch.tensor([[[[3.0, 0.0], [0.0, 1.0]]]]), torch.zeros(1, 1, 2, 2)
    >>> hcl(s, t)  # (10 / 4 + 1 / 2) / 1.5: of the levels 2x2 and 1x1
    tensor([2.])
    """
    s, t = _images("hcl", s, t)
    if s.shape != t.shape:
        raise ShapeError(
            f"hcl: the shapes differ: student {shape(s)}, teacher {shape(t)}; "
            "a fusion module has to bring the student's map to the teacher's shape"
        )
    total, whole = (s - t).square().mean((1, 2, 3)), 1.0
    counts = 1.0
    for level in (n for n in _LEVELS if n < min(s.shape[2:])):
        counts /= 2
        # pooling is linear: the difference of the pooled maps is the pooled difference
        total = total + counts * _pool(s - t, (level, level)).square().mean((1, 2, 3))
        whole += counts
    return ensure_finite("hcl", total / whole, student=s, teacher=t)


def _sized(s: Tensor, t: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """The two factors at one height and width, once their other dimensions are found to agree."""
    if form == "benchmark" and not s.ndim == t.ndim == 4:
        raise ShapeError(
            "factor_lp: form 'benchmark' compares factors [batch, channels, height, width]; "
            f"these are {shape(s)} and {shape(t)}"
        )
    if s.ndim < 2:
        raise ShapeError(f"factor_lp: factors are [batch, ...]; the student's is {shape(s)}")
    maps = s.ndim == t.ndim == 4
    if s.shape != t.shape and not (maps and (form == "benchmark" or s.shape[1] == t.shape[1])):
        raise ShapeError(
            f"factor_lp: the shapes differ: student {shape(s)}, teacher {shape(t)}; a translator has to bring the "
            "student's factor to the teacher's shape (height and width may differ)"
        )
    return _pool_to_smaller(s, t) if maps else (s, t)
