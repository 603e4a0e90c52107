"""Which weights a lottery ticket keeps, from their first and their last values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from limbeck.errors import NameUnknown, unknown
from limbeck.scores._checks import real, same_shape
from limbeck.settings import finite, require

_SIGNS = ("_same_sign", "_diff_sign")

# |w_i|, |w_f|, w_f - w_i, alpha -> score; high means "keep"
_RULES: Mapping[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "large_final": lambda first, last, moved, alpha: last,
    "small_final": lambda first, last, moved, alpha: -last,
    "large_init": lambda first, last, moved, alpha: first,
    "small_init": lambda first, last, moved, alpha: -first,
    "large_init_large_final": lambda first, last, moved, alpha: torch.minimum(alpha * last, first),
    "small_init_small_final": lambda first, last, moved, alpha: -torch.maximum(alpha * last, first),
    "magnitude_increase": lambda first, last, moved, alpha: last - first,
    "movement": lambda first, last, moved, alpha: moved.abs(),
}

CRITERIA: tuple[str, ...] = tuple(f"{rule}{sign}" for sign in ("", *_SIGNS) for rule in (*_RULES, "random"))


def ticket(by: str, initial: Tensor, final: Tensor, *, alpha: float = 1.0, seed: int = 0) -> Tensor:
    """The score of each weight by one of the mask criteria: low goes first, and minus infinity may never stay.

    ``large_final`` is |w_f|, ``small_final`` -|w_f|, ``large_init`` |w_i|, ``small_init`` -|w_i|, ``large_init_large_final``
    min(alpha |w_f|, |w_i|), ``small_init_small_final`` -max(alpha |w_f|, |w_i|), ``magnitude_increase`` |w_f| - |w_i|,
    ``movement`` |w_f - w_i|, ``random`` a number in [0, 1).  With ``_same_sign`` behind the name, weights whose sign changed
    may not stay; with ``_diff_sign``, those whose sign did not.

    Args:
        by: the criterion.
        initial: w_i, of any shape.
        final: w_f, of the same shape.
        alpha: of the two criteria that look at both values, more than zero.
        seed: of ``random``.

    Returns:
        In that shape, float32 at least.

    Raises:
        NameUnknown: no such criterion; the message has near names.
        HyperParameterError: alpha is outside its range.
        ShapeError: the shapes differ.
        TensorTypeError, NonFiniteError: as in `l1`.

    Source:
        Zhou, Lan, Liu, Yosinski: Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask (NeurIPS 2019),
        section 2.

    >>> import torch
    >>> w_i, w_f = torch.tensor([1.0, -2.0, 0.1]), torch.tensor([1.5, -1.0, -0.9])
    >>> ticket("magnitude_increase", w_i, w_f)
    tensor([ 0.5000, -1.0000,  0.8000])
    >>> ticket("large_final_same_sign", w_i, w_f)
    tensor([1.5000, 1.0000,   -inf])
    """
    if by not in CRITERIA:
        raise NameUnknown(unknown("criterion", by, CRITERIA))
    require(finite(alpha) and alpha > 0, "alpha", alpha, "more than zero")
    first, last = real(by, "initial weights", initial), real(by, "final weights", final)
    same_shape(by, initial=first, final=last)
    sign = next((sign for sign in _SIGNS if by.endswith(sign)), "")
    rule = by.removesuffix(sign)
    if rule == "random":
        generator = torch.Generator().manual_seed(seed)
        score = torch.rand(first.shape, generator=generator, dtype=first.dtype).to(first.device)
    else:
        score = _RULES[rule](first.abs(), last.abs(), last - first, alpha)
    if not sign:
        return score
    same = first.sign() == last.sign()
    return torch.where(same if sign == "_same_sign" else ~same, score, -torch.inf)
