"""What every loss does before and after its formula: refuse bad input, choose the precision, cut the teacher off.

Shapes and types are checked always: they cost nothing and cannot stall a device.  Values are checked
only where looking at them is free, on a CPU outside ``torch.compile``; on an accelerator a look would
make the host wait in every step, so there the engine finds a bad value later, from its own record.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from limbeck.errors import HyperParameterError, NonFiniteError, ShapeError, TensorTypeError, unknown
from limbeck.settings import require

# Checked in tests by beartype, for which an int is no float.
Real = float | int

FORMS = ("paper", "benchmark")


def shape(x: Tensor) -> str:
    """A shape as people write it: ``[8, 64, 32, 32]``."""
    return str(list(x.shape))


def require_real(name: str, value: Real, low: Real, *, inclusive: bool = False) -> None:
    """Refuse a setting that is not an ordinary number above (or at) ``low``."""
    # Comparisons, not math.isfinite: NaN fails them too, and torch.compile can trace them when the setting varies.
    ok = (low <= value if inclusive else low < value) and value < math.inf
    require(ok, name, value, f"a finite number, {'at least' if inclusive else 'more than'} {low:g}")


def require_one_of(what: str, value: str, known: Iterable[str], where: str) -> None:
    """Refuse a choice that does not exist, with the near names."""
    names = tuple(known)
    if value not in names:
        raise HyperParameterError(unknown(what, value, names, where))


def require_features(loss: str, who: str, x: Tensor) -> None:
    """Refuse what is no batch of floating-point features."""
    if not isinstance(x, Tensor):
        raise TensorTypeError(f"{loss}: the {who} is a {type(x).__name__}; a floating-point tensor is needed")
    if not x.is_floating_point():
        raise TensorTypeError(
            f"{loss}: the {who} is {str(x.dtype).removeprefix('torch.')}; features and logits are floating-point "
            "(class ids belong in the targets of cross_entropy)"
        )
    if x.ndim == 0:
        raise ShapeError(f"{loss}: the {who} is a single number; the first dimension must be the batch")
    if x.shape[0] == 0:
        raise ShapeError(f"{loss}: empty batch: the {who} has the shape {shape(x)}")
    if 0 in x.shape:
        raise ShapeError(f"{loss}: the {who} is empty: it has the shape {shape(x)}")


# Asked once: the compiler of torch 2.11 cannot follow the question.
_WITH_AUTOCAST = frozenset(kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(kind))


def exact(x: Tensor) -> Tensor:
    """The same numbers in float32 at least: half precision is for networks, not for losses."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def pair(loss: str, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Student and teacher in one precision (float32 at least), the teacher cut off from its graph.

    Raises:
        TensorTypeError: one of them is not floating-point.
        ShapeError: one of them is empty, or their batch sizes differ.
    """
    require_features(loss, "student", s)
    require_features(loss, "teacher", t)
    if s.shape[0] != t.shape[0]:
        raise ShapeError(
            f"{loss}: the batch sizes differ: student {shape(s)}, teacher {shape(t)}; both must see the same samples"
        )
    wide = torch.promote_types(torch.promote_types(s.dtype, t.dtype), torch.float32)
    return s.to(wide), t.detach().to(wide)


def full_precision(x: Tensor) -> torch.autocast:
    """A region in which autocast does not turn matrix products back into half precision."""
    return torch.autocast(x.device.type if x.device.type in _WITH_AUTOCAST else "cpu", enabled=False)


def can_look(x: Tensor) -> bool:
    """Whether reading a value costs nothing: not while compiling, and not on an accelerator."""
    return not torch.compiler.is_compiling() and x.device.type == "cpu"


def ensure_finite(loss: str, value: Tensor, **inputs: Tensor) -> Tensor:
    """The value itself; where it is not finite (and looking is free), an error that says whose fault it is.

    Only the small result is looked at: NaN and infinity in an input reach it.
    """
    if not can_look(value) or bool(torch.isfinite(value).all()):
        return value
    bad = [text for who, x in inputs.items() if (text := _describe(who, x))]
    if not bad:
        sizes = ", ".join(f"{who} {float(x.detach().abs().max()):.3g}" for who, x in inputs.items())
        bad = [f"the inputs are finite, but too large for {str(value.dtype).removeprefix('torch.')} (largest: {sizes})"]
    if value.ndim == 0:
        raise NonFiniteError(f"{loss} is non-finite: {'; '.join(bad)}")
    rows = torch.nonzero(~torch.isfinite(value.detach()).reshape(value.shape[0], -1).all(1)).flatten().tolist()
    shown = ", ".join(map(str, rows[:5])) + (" ..." if len(rows) > 5 else "")
    raise NonFiniteError(
        f"{loss} is non-finite for {len(rows)} of {value.shape[0]} samples (rows {shown}): {'; '.join(bad)}"
    )


def _describe(who: str, x: Tensor) -> str:
    nan, inf = int(torch.isnan(x).sum()), int(torch.isinf(x).sum())
    return f"the {who} holds {nan} NaN and {inf} inf among {x.numel()} values" if nan or inf else ""
