"""Losses on hidden layers: hints, attention maps, neuron selectivity.

Student first, teacher second; one value per sample.  ``form="paper"`` is what the paper writes;
``form="benchmark"`` is what the code computes with which everybody compares, where that differs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import ShapeError
from limbeck.losses._checks import (
    FORMS,
    Real,
    ensure_finite,
    exact,
    full_precision,
    pair,
    require_features,
    require_one_of,
    require_real,
    shape,
)

MODES = ("softmax", "sigmoid")
KINDS = ("sum", "sum_pow", "max_pow")
KERNELS = ("linear", "poly", "gaussian")
RESIZES = ("pool", "interpolate")

_TINY = 1e-12  # smallest norm that is divided by
_NARROW = 1e-6  # smallest sigma^2: below it a float32 distance of unit vectors is rounding error


def hint_l2(s: Tensor, t: Tensor, *, form: str = "paper") -> Float[Tensor, " batch"]:
    """Hint: how far the student's (regressed) features are from the teacher's.

    ``form="paper"``: ``1/2 * sum (s - t)^2`` over all units of a sample.
    ``form="benchmark"``: the mean of ``(s - t)^2`` over all units; the paper's form is ``units / 2`` times that.

    Args:
        s: student features ``[batch, ...]``, after the regressor.
        t: teacher features, same shape; no gradient reaches it.
        form: "paper" or "benchmark".

    Returns:
        ``[batch]``.

    Raises:
        ShapeError: the shapes differ, or there is no dimension but the batch.
        TensorTypeError: features that are not floating-point.
        HyperParameterError: no such form.
        NonFiniteError: NaN or infinity (looked for on a CPU only).

    Source:
        Romero et al.: FitNets: Hints for Thin Deep Nets (ICLR 2015), equation 3.

    >>> hint_l2(torch.tensor([[2.0, 4.0, 6.0, 8.0]]), torch.tensor([[2.0, 2.0, 6.0, 10.0]]))
    tensor([4.])
    """
    require_one_of("form", form, FORMS, "hint_l2")
    s, t = _hints("hint_l2", s, t)
    units = tuple(range(1, s.ndim))
    square = (s - t).square()
    value = 0.5 * square.sum(units) if form == "paper" else square.mean(units)
    return ensure_finite("hint_l2", value, student=s, teacher=t)


def hint_ce(s: Tensor, t: Tensor, *, mode: str = "softmax", temperature: Real = 1.0) -> Float[Tensor, " batch"]:
    """Hint by cross-entropy: how far the student's (regressed) features are from the teacher's, as probabilities.

    ``mode="softmax"``: all units of a sample, flattened, are the scores of one distribution; the value is
    ``KL(p || q)`` with ``p = softmax(t / T)`` and ``q = softmax(s / T)``.  A constant added to all units is nothing.
    ``mode="sigmoid"``: every unit is a yes or no of its own, brought to (0, 1) by ``sigmoid(. / T)``; the value is
    the sum over the units of the KL of the two.

    Both are the cross-entropy minus the entropy of its target, the *excess*: the gradient of the cross-entropy, but
    zero where the features are equal.  There is no factor ``T^2``.  The gradient of every unit stays between
    ``-1 / T`` and ``1 / T``, however far off it is; that of `hint_l2` grows with the distance.

    Args:
        s: student features ``[batch, ...]``, after the regressor.
        t: teacher features, same shape; no gradient reaches it.
        mode: "softmax" or "sigmoid".
        temperature: ``T > 0``.

    Returns:
        ``[batch]``, in nats.

    Raises:
        ShapeError: the shapes differ, there is no dimension but the batch, or (mode "softmax") only one unit.
        HyperParameterError: no such mode, or T is not a finite number above zero.
        TensorTypeError, NonFiniteError: as for `hint_l2`.

    Source:
        Wang, Deng, Wang: Accelerating Convolutional Neural Networks with Dominant Convolutional Kernel and
        Knowledge Pre-regression (ECCV 2016), which has the idea; how features become probabilities is ours.

    >>> t = torch.tensor([[0.0, 1.0, 3.0]])
    >>> hint_ce(t + 5.0, t), hint_ce(t, t, mode="sigmoid")
    (tensor([0.]), tensor([0.]))
    """
    require_one_of("mode", mode, MODES, "hint_ce")
    require_real("temperature", temperature, 0)
    s, t = _hints("hint_ce", s, t)
    if mode == "softmax" and s[0].numel() == 1:
        raise ShapeError(f"hint_ce: softmax over a single unit, {shape(s)}, is always 1; use mode 'sigmoid'")
    a, b = t.flatten(1) / temperature, s.flatten(1) / temperature
    if mode == "softmax":
        log_p, log_q = F.log_softmax(a, dim=1), F.log_softmax(b, dim=1)
        excess = log_p.exp() * (log_p - log_q)
    else:
        yes = torch.sigmoid(a) * (F.logsigmoid(a) - F.logsigmoid(b))
        no = torch.sigmoid(-a) * (F.logsigmoid(-a) - F.logsigmoid(-b))
        excess = yes + no
    return ensure_finite("hint_ce", excess.sum(1), student=s, teacher=t)


def attention_map(x: Tensor, *, kind: str = "sum_pow", p: Real = 2) -> Float[Tensor, "batch height width"]:
    """Where a layer is active: one map per sample, whatever the number of channels.

    ``"sum"``: ``sum_c |x_c|``; ``"sum_pow"``: ``sum_c |x_c|^p``; ``"max_pow"``: ``max_c |x_c|^p``.
    A larger p gives the strongest positions more weight.

    Args:
        x: features ``[batch, channels, height, width]``.
        kind: one of the three.
        p: power, any real number of at least 1; not used by "sum".

    Returns:
        ``[batch, height, width]``, zero or more, not normalised; differentiable.

    Raises:
        ShapeError: not four dimensions.
        HyperParameterError: no such kind, or p below 1.
        TensorTypeError, NonFiniteError: as for `hint_l2`.

    Source:
        Zagoruyko, Komodakis: Paying More Attention to Attention (ICLR 2017), section 3.1.

    >>> attention_map(torch.tensor([[[[1.0, -2.0]], [[3.0, 0.0]]]]))
    tensor([[[10.,  4.]]])
    """
    _require_kind("attention_map", kind, p)
    require_features("attention_map", "input", x)
    x = exact(x)
    _require_images("attention_map", "input", x)
    return ensure_finite("attention_map", _attention(x, kind, p), input=x)


def attention_l2(
    s: Tensor, t: Tensor, *, kind: str = "sum_pow", p: Real = 2, form: str = "paper"
) -> Float[Tensor, " batch"]:
    """Attention transfer: the distance of the two attention maps, each flattened and brought to length 1.

    ``form="paper"``: the L2 norm of the difference (not squared).
    ``form="benchmark"``: the mean over the positions of the squared difference, which is
    ``paper^2 / (height * width)``: at the same weight smaller by orders of magnitude.

    Where height or width differ, the larger *features* are average-pooled to the smaller first, as the
    benchmark does.  A map that is zero everywhere stays zero, with a gradient of zero.

    Args:
        s: student features ``[batch, channels, height, width]``.
        t: teacher features; channels, height and width may differ; no gradient reaches it.
        kind: see `attention_map`.
        p: see `attention_map`.
        form: "paper" or "benchmark".

    Returns:
        ``[batch]``; in the paper's form between 0 and sqrt(2), since maps have no negative values.

    Raises:
        ShapeError: not four dimensions, or different batch sizes.
        HyperParameterError: no such kind or form, or p below 1.
        TensorTypeError, NonFiniteError: as for `hint_l2`.

    Source:
        Zagoruyko, Komodakis: Paying More Attention to Attention (ICLR 2017), equation 2 (without beta / 2).

    >>> s = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]], [[0.0, 1.0], [1.0, 0.0]]]])
    >>> t = torch.tensor([[[[2.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]])
    >>> round(attention_l2(s, t).item(), 4)
    1.0132
    """
    _require_kind("attention_l2", kind, p)
    require_one_of("form", form, FORMS, "attention_l2")
    s, t = _images("attention_l2", s, t)
    small_s, small_t = _pool_to_smaller(s, t)
    q_s = _unit(_attention(small_s, kind, p).flatten(1))
    q_t = _unit(_attention(small_t, kind, p).flatten(1))
    difference = q_s - q_t
    value = torch.linalg.vector_norm(difference, dim=1) if form == "paper" else difference.square().mean(1)
    return ensure_finite("attention_l2", value, student=s, teacher=t)


def nst_mmd(s: Tensor, t: Tensor, *, kernel: str = "poly", resize: str = "pool") -> Float[Tensor, " batch"]:
    """Neuron selectivity transfer: the squared MMD between the sets of the student's and the teacher's channels.

    Each channel, flattened over the positions and brought to length 1, is one point: ``q_j`` of the
    student, ``p_i`` of the teacher.  The value is
    ``mean k(p_i, p_i') + mean k(q_j, q_j') - 2 mean k(p_i, q_j)``, with all pairs in each mean.  It is
    zero when the sets are equal, and never negative (in float32 up to about 1e-7).  The numbers of channels may differ.

    Kernels: ``"linear"`` ``x.y``; ``"poly"`` ``(x.y)^2``; ``"gaussian"`` ``exp(-|x - y|^2 / (2 sigma^2))``
    with ``sigma^2`` the mean squared distance of the sample's student-teacher pairs (a constant for the
    gradient, at least 1e-6).  The published benchmark computes the "poly" value, averaged over the batch.

    No array of ``channels x channels x positions`` is made: "poly" goes through matrices over the
    positions, or over the channels, whichever is the smaller work.

    Args:
        s: student features ``[batch, channels, height, width]``.
        t: teacher features; channels may differ; no gradient reaches it (its own term stays in the value).
        kernel: "linear", "poly" or "gaussian".
        resize: where sizes differ, "pool" average-pools the larger to the smaller, "interpolate" brings
            the student to the teacher's size (bilinear).

    Returns:
        ``[batch]``.  The paper multiplies it by lambda / 2.

    Raises:
        ShapeError: not four dimensions, or different batch sizes.
        HyperParameterError: no such kernel or resize.
        TensorTypeError, NonFiniteError: as for `hint_l2`.

    Source:
        Huang, Wang: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer
        (arXiv 1707.01219), section 4.

    >>> s = torch.tensor([[[[3.0, 4.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]]])
    >>> t = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]]])
    >>> round(nst_mmd(s, t, kernel="poly").item(), 4)
    0.5
    """
    require_one_of("kernel", kernel, KERNELS, "nst_mmd")
    require_one_of("resize", resize, RESIZES, "nst_mmd")
    s, t = _images("nst_mmd", s, t)
    same_s, same_t = _pool_to_smaller(s, t) if resize == "pool" else (_interpolate(s, t), t)
    q, p = _unit(same_s.flatten(2)), _unit(same_t.flatten(2))
    with full_precision(q):
        value = {"linear": _mmd_linear, "poly": _mmd_poly, "gaussian": _mmd_gaussian}[kernel](q, p)
    return ensure_finite("nst_mmd", value, student=s, teacher=t)


def _attention(x: Tensor, kind: str, p: Real) -> Tensor:
    if kind == "sum":
        return x.abs().sum(1)
    if kind == "max_pow":
        return x.abs().amax(1).pow(p)  # |.|^p keeps the order, so it may come after the maximum
    return x.square().sum(1) if p == 2 else x.abs().pow(p).sum(1)


def _unit(x: Tensor) -> Tensor:
    """``x / max(|x|, 1e-12)`` over the last dimension; an exact zero stays zero and gets no gradient.

    Without the exception, 1 / 1e-12 would be the gradient of every dead channel.  Where the squares of finite values
    overflow, the result is NaN, which the checks find: dividing by infinity would pass as a map of zeros.
    """
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scale = torch.where(length == 0, 0.0, 1.0 / length.clamp_min(_TINY))
    return x * torch.where(torch.isinf(length), torch.nan, scale)


def _mmd_linear(q: Tensor, p: Tensor) -> Tensor:
    """With ``k = x.y``: the squared distance of the two mean points."""
    return (q.mean(1) - p.mean(1)).square().sum(1)


def _mmd_poly(q: Tensor, p: Tensor) -> Tensor:
    """With ``k = (x.y)^2``, by the cheaper of two routes to the same value."""
    n_s, n_t, positions = q.shape[1], p.shape[1], q.shape[2]
    by_positions = positions * (n_s + n_t) <= n_s**2 + n_t**2 + n_s * n_t
    return _poly_by_positions(q, p) if by_positions else _poly_by_channels(q, p)


def _poly_by_positions(q: Tensor, p: Tensor) -> Tensor:
    """``|G_s - G_t|^2`` with the Gram matrices over the positions, ``G = X^T X / channels``."""
    gram_s, gram_t = (x.transpose(1, 2) @ x / x.shape[1] for x in (q, p))
    return (gram_s - gram_t).square().sum((1, 2))


def _poly_by_channels(q: Tensor, p: Tensor) -> Tensor:
    """The three means of squared products, as the definition has them."""
    return _mean_square_product(p, p) + _mean_square_product(q, q) - 2 * _mean_square_product(q, p)


def _mean_square_product(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.transpose(1, 2)).square().mean((1, 2))


def _mmd_gaussian(q: Tensor, p: Tensor) -> Tensor:
    """With ``k = exp(-|x - y|^2 / (2 sigma^2))``."""
    cross = _square_distances(q, p)
    width = 2 * cross.detach().mean((1, 2), keepdim=True).clamp_min(_NARROW)
    k_tt, k_ss, k_st = (
        (-d / width).exp().mean((1, 2)) for d in (_square_distances(p, p), _square_distances(q, q), cross)
    )
    return k_tt + k_ss - 2 * k_st


def _square_distances(x: Tensor, y: Tensor) -> Tensor:
    """``|x_i - y_j|^2`` for all pairs, from the products; lengths are at most 1, so rounding stays near 1e-7."""
    lengths = x.square().sum(2).unsqueeze(2) + y.square().sum(2).unsqueeze(1)
    return (lengths - 2 * x @ y.transpose(1, 2)).clamp_min(0)


def _require_kind(loss: str, kind: str, p: Real) -> None:
    require_one_of("kind", kind, KINDS, loss)
    require_real("p", p, 1, inclusive=True)


def _hints(loss: str, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Features of one shape, whichever it is."""
    s, t = pair(loss, s, t)
    if s.shape != t.shape:
        raise ShapeError(
            f"{loss}: the shapes differ: student {shape(s)}, teacher {shape(t)}; "
            "a regressor has to bring the student's features to the teacher's shape"
        )
    if s.ndim < 2:
        raise ShapeError(f"{loss}: features are [batch, ...]; these are {shape(s)}")
    return s, t


def _require_images(loss: str, who: str, x: Tensor) -> None:
    if x.ndim != 4:
        raise ShapeError(f"{loss}: features are [batch, channels, height, width]; the {who} is {shape(x)}")


def _images(loss: str, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    s, t = pair(loss, s, t)
    _require_images(loss, "student", s)
    _require_images(loss, "teacher", t)
    return s, t


def _pool_to_smaller(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Both at the smaller height and the smaller width."""
    size = (min(s.shape[2], t.shape[2]), min(s.shape[3], t.shape[3]))
    return _pool(s, size), _pool(t, size)


def _pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[2:] == size:
        return x
    if x.shape[2] % size[0] == 0 and x.shape[3] % size[1] == 0:
        # The same average, but this one has a deterministic gradient on a GPU.
        return F.avg_pool2d(x, (x.shape[2] // size[0], x.shape[3] // size[1]))
    return F.adaptive_avg_pool2d(x, size)


def _interpolate(s: Tensor, t: Tensor) -> Tensor:
    if s.shape[2:] == t.shape[2:]:
        return s
    return F.interpolate(s, size=t.shape[2:], mode="bilinear", align_corners=False)
