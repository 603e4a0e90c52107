"""Layers: their inputs are the channels that they read, their outputs new ones.

A rule takes (watch, func, args, kwargs, result): the operation as torch dispatched it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compress.pruning.labels.ledger import Key
from limbeck.compress.pruning.labels.watch import Watch, flat


def whole_groups(conv: nn.Module) -> bool:
    """Whether channels leave this grouped convolution by whole groups, as in a depthwise one, or some from each.

    The widths decide; one that has lost channels loses more in the same way, which surgery notes on it.
    """
    if not isinstance(conv, nn.modules.conv._ConvNd) or conv.groups == 1:
        return False
    return getattr(conv, "by_whole_groups", conv.groups >= conv.in_channels // conv.groups)


def _read(watch: Watch, labels: Tensor, key: Key, size: int) -> None:
    """A layer reads these channels: theirs and its own are one, but where there is no channel."""
    own, labels = watch.ledger.slot(key, size), labels.expand(size)
    watch.ledger.unite(own[labels != 0], labels[labels != 0])


def batch_norm(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    core, x = watch.of(args[0]), args[0]
    out = next(part for part in flat(result) if isinstance(part, Tensor))
    tensors = [t for t in args[1:5] if isinstance(t, Tensor)]
    homes = [watch.owner(t, nn.modules.batchnorm._BatchNorm) for t in tensors]
    home = homes[0] if homes else None
    if home is not None:
        watch.ran.add(home[0])
    if core is not None:
        core = watch.merged(core, (1,))
        if tensors and home is None:
            watch.ledger.fix(core, "a normalisation of another kind runs over it")
        elif home is not None:
            _read(watch, core.flatten(), (home[0], "norm", 0), x.shape[1])
    for part in flat(result):
        watch.put(part, core if part is out else None)


def _weight(watch: Watch, tensor: Any, kinds: type | tuple[type, ...], dims: tuple[int, int]) -> tuple[str, str] | None:
    """Path of the module, or else of the parameter, whose weight this is, its bias' path; None: not a weight as it is."""
    found = watch.param(tensor)
    if found is None or found.dims[:2] != dims:
        return None
    home, _, name = found.path.rpartition(".")
    module = watch.modules[home]
    if isinstance(module, kinds) and name == "weight":
        watch.ran.add(home)
        return home, f"{home}.bias" if home else "bias"
    return found.path, ""


def _unreadable(watch: Watch, weight: Any, what: str) -> str:
    """Why the channels before a layer stay whose weight `_weight` could not tell."""
    found = watch.param(weight)
    if found is None:
        homes = watch.homes.get(id(weight), [])
        if len(homes) > 1:
            return f"a {what} behind it computes with a tied weight: {', '.join(homes)} are one"
        return f"the weights of a {what} behind it are computed, not stored"
    return f"a {what} behind it computes with {found.path} in another way than the layer that holds it (a tied weight)"


def _bias(watch: Watch, tensor: Any, own: str, labels: Tensor) -> None:
    """A bias that is not the layer's own goes with the outputs, too."""
    if not isinstance(tensor, Tensor) or tensor.ndim != 1:
        return
    found = watch.param(tensor)
    if found is None:
        watch.ledger.fix(labels, "its bias is computed")
    elif found.path != own:
        watch.ledger.unite(watch.ledger.slot(watch.key(found, 0), len(tensor)), labels)


def convolution(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    x, weight, bias, transposed, groups = args[0], args[1], args[2], args[6], args[8]
    core = watch.of(x)
    home = _weight(watch, weight, nn.modules.conv._ConvNd, (0, 1))
    known = home is not None and (home[1] != "" or groups == 1)
    if known and home is not None and home[1]:  # a transposed convolution may borrow the weight of one that is not
        owner = watch.modules[home[0]]
        known = (owner.transposed, owner.groups) == (transposed, groups)
    if not known or home is None:
        watch.fix([x], _unreadable(watch, weight, "convolution"))
        return watch.put(result, None)
    path, own = home
    out_dim, in_dim = (1, 0) if transposed else (0, 1)
    loose = own == ""
    inside, outside = x.shape[1], result.shape[1]
    if core is not None:
        _read(watch, watch.merged(core, (1,)).flatten(), (path, "in", in_dim if loose else 0), inside)
    ins = watch.ledger.slot((path, "in", in_dim if loose else 0), inside)
    outs = watch.ledger.slot((path, "out", out_dim if loose else 0), outside)
    if groups > 1:
        if core is None:
            watch.ledger.fix(ins, "the input of the network must keep its channels")
        elif bool((lost := watch.merged(core, (1,)).flatten().expand(inside) == 0).any()):
            watch.ledger.fix(ins[lost], "the input of the network must keep its channels")
        if whole_groups(watch.modules[path]):
            blocks = torch.cat([ins.view(groups, -1), outs.view(groups, -1)], 1)
            watch.ledger.unite(blocks[:, :1].expand(blocks.shape), blocks)
        else:
            watch.ledger.evenly += [(ins, groups, False), (outs, groups, False)]
    _bias(watch, bias, own, outs)
    return watch.put(result, watch.ledger.roots(outs).view(1, -1, *[1] * (result.ndim - 2)))


def addmm(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    _product(watch, args[1], args[2], args[0], result)


def mm(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    _product(watch, args[0], args[1], None, result)


def linear(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    _product(watch, args[0], args[1], args[2] if len(args) > 2 else None, result, turned=False)


def _product(watch: Watch, x: Tensor, weight: Tensor, bias: Any, result: Tensor, *, turned: bool = True) -> None:
    """A matrix of rows times a stored matrix."""
    home = _weight(watch, weight, nn.Linear, (1, 0) if turned else (0, 1))
    if home is None:
        if watch.param(weight) is None and turned and bias is None:
            return _matrices(watch, x.unsqueeze(0), weight.unsqueeze(0), result, watch.of(x), watch.of(weight))
        watch.fix([x, weight, bias], _unreadable(watch, weight, "layer"))
        return watch.put(result, None)
    path, own = home
    loose = own == ""
    core = watch.of(x)
    ins = (path, "in", 1 if loose else 0)
    if core is not None:
        _read(watch, watch.merged(core, (x.ndim - 1,)).flatten(), ins, x.shape[-1])
    watch.ledger.slot(ins, x.shape[-1])
    outs = watch.ledger.slot((path, "out", 0), result.shape[-1])
    _bias(watch, bias, own, outs)
    return watch.put(result, watch.ledger.roots(outs))


def bmm(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    _matrices(watch, args[0], args[1], result, watch.of(args[0]), watch.of(args[1]))


def _matrices(watch: Watch, a: Tensor, b: Tensor, result: Tensor, left: Tensor | None, right: Tensor | None) -> None:
    """Products of two activations: what is summed over goes together; rows and columns go on."""
    none = torch.zeros(1, 1, 1, dtype=torch.int64)
    left, right = (none if core is None else core.view(-1, *core.shape[-2:]) for core in (left, right))
    rows, columns = left, right
    if left.shape[2] > 1 or right.shape[1] > 1:
        inner = watch.merged(left, (0, 2)), watch.merged(right, (0, 1)).transpose(1, 2)
        watch.ledger.unite(*torch.broadcast_tensors(*inner))
        rows = none if left.shape[2] > 1 else rows
        columns = none if right.shape[1] > 1 else columns
    shape = (max(rows.shape[0], columns.shape[0]), rows.shape[1], columns.shape[2])
    rows, columns = rows.expand(shape), columns.expand(shape)
    both = (rows != 0) & (columns != 0)
    watch.ledger.unite(rows[both], columns[both])
    merged = watch.ledger.roots(torch.maximum(rows, columns))
    watch.put(result, merged if result.ndim == 3 else merged[0])
