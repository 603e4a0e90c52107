"""Which rule is whose, and the mode that applies them while the network runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from limbeck.compress.pruning.labels import mixing, moving, reading
from limbeck.compress.pruning.labels.watch import Param, Watch, flat


class Watcher(TorchDispatchMode):
    """Runs every operation, and does to the labels what it does to the values."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        follow(self.watch, func, args, kwargs, result)
        return result


def follow(watch: Watch, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Labels of the result of one operation."""
    name = func.overloadpacket.__name__
    values = [v for v in flat((args, kwargs)) if isinstance(v, Tensor)]
    if len(values) == 1 and watch.param(values[0]) and _turned(watch, name, args, result):
        return
    rule = _RULES.get(name)
    if rule is None and any(word in name for word in ("pool", "upsample", "reflection_pad", "replication_pad")):
        rule = mixing.plane
    if rule is None and (torch.Tag.pointwise in func.tags or name in _POINTWISE):
        rule = mixing.pointwise
    if rule is None or (kwargs.get("out") is not None and rule is not mixing.pointwise):
        rule = moving.unknown
    rule(watch, func, args, kwargs, result)


def _turned(watch: Watch, name: str, args: tuple[Any, ...], result: Any) -> bool:
    """Follow a parameter through what only turns or stretches it."""
    source = watch.param(args[0]) if args and isinstance(args[0], Tensor) else None
    if source is None or not isinstance(result, Tensor):
        return False
    old, dims = args[0], source.dims
    if name == "t":
        new = dims[::-1]
    elif name == "transpose":
        turned = list(range(old.ndim))
        a, b = args[1] % old.ndim, args[2] % old.ndim
        turned[a], turned[b] = b, a
        new = tuple(dims[d] for d in turned)
    elif name == "permute":
        new = tuple(dims[d % old.ndim] for d in args[1])
    elif name in ("detach", "alias", "clone", "_to_copy", "contiguous"):
        new = dims
    elif name in ("view", "_unsafe_view", "unsqueeze", "squeeze", "reshape"):
        wide = [d for d, size in zip(dims, old.shape) if size > 1]
        if [s for s in old.shape if s > 1] != [s for s in result.shape if s > 1]:
            return False
        rest = iter(wide)
        new = tuple(next(rest) if size > 1 else -1 for size in result.shape)
    elif name == "expand":
        front = result.ndim - old.ndim
        new = (-1,) * front + tuple(d if old.shape[i] > 1 else -1 for i, d in enumerate(dims))
    else:
        return False
    watch.kept.append(result)
    watch.params[id(result)] = Param(source.path, new)
    return True


# Element by element, though torch does not say so of all of them.
_POINTWISE = {"_prelu_kernel", "prelu", "where", "native_dropout", "masked_fill", "bernoulli"}
_POINTWISE |= {
    name + end for name in ("hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu") for end in ("", "_")
}
_POINTWISE |= {name + end for name in ("softplus", "mish", "silu", "gelu", "relu6", "threshold") for end in ("", "_")}
_LIKE = ("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like")  # made as wide as their model
_NEW = ("new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided")
_RULES: dict[str, Any] = {
    **dict.fromkeys(_LIKE, moving.same),
    **dict.fromkeys(_NEW, moving.made_anew),
    **dict.fromkeys(("detach", "alias", "clone", "_to_copy", "contiguous", "lift_fresh", "bernoulli_"), moving.same),
    **dict.fromkeys(("transpose", "permute", "t", "expand", "unsqueeze", "squeeze", "movedim", "repeat"), moving.moved),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), moving.view),
    **dict.fromkeys(("split", "split_with_sizes"), moving.split),
    **dict.fromkeys(("select", "unbind", "index_select", "index", "roll", "flip"), moving.picked),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "min", "std", "var", "logsumexp", "prod"), mixing.reduce),
    **dict.fromkeys(("_softmax", "_safe_softmax", "_log_softmax"), mixing.softmax),
    **dict.fromkeys(
        (
            "native_batch_norm",
            "cudnn_batch_norm",
            "miopen_batch_norm",
            "_native_batch_norm_legit",
            "_native_batch_norm_legit_no_training",
            "_batch_norm_with_update",
            "_batch_norm_no_update",
        ),
        reading.batch_norm,
    ),
    **dict.fromkeys(("fill_", "zero_"), moving.filled),
    **dict.fromkeys(("as_strided", "as_strided_"), moving.strided),
    "slice": moving.sliced,
    "cat": moving.cat,
    "stack": moving.cat,
    "constant_pad_nd": moving.pad,
    "native_layer_norm": mixing.layer_norm,
    "native_group_norm": mixing.group_norm,
    "convolution": reading.convolution,
    "addmm": reading.addmm,
    "mm": reading.mm,
    "linear": reading.linear,
    "bmm": reading.bmm,
    "copy_": moving.copied_over,
}
