"""Removing channels for good, and the same in thought: setting them to zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compress.pruning.groups import Group, Side
from limbeck.compress.pruning.judging.inputs import first_input
from limbeck.compress.pruning.labels import whole_groups
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown, unknown
from limbeck.hooks import hooked
from limbeck.models.macs import as_found
from limbeck.models.swap import copied
from limbeck.randomness import own_random_numbers
from limbeck.taps import call

Gone = Mapping[str, Iterable[int]]
_Cuts = dict[str, dict[tuple[Side, int], set[int]]]


def removed(model: nn.Module, groups: Sequence[Group], gone: Gone) -> nn.Module:
    """A copy without these channels: filters, biases, BatchNorm entries and the input slices of what reads them.

    The parameters that lose something are new tensors: an optimizer that holds the old ones must be made anew.

    Args:
        model: stays as it is.
        groups: of this model, see `limbeck.compress.pruning.graph.groups`.
        gone: name of a group -> which of its channels go; groups that are not named stay whole.

    Raises:
        NameUnknown: there is no such group.
        HyperParameterError: a channel that does not exist, or all channels of a group.

    >>> from limbeck.compress.pruning.graph import groups
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))  # (4 + 2) * 3 weights
    >>> less = removed(net, groups(net, torch.zeros(2, 4)), {"0": [1]})
    >>> [tuple(p.shape) for p in less.parameters()]
    [(2, 4), (2,), (2, 2), (2,)]
    """
    cuts = _cuts(groups, gone)
    new = copied(model)
    modules = dict(new.named_modules())
    for path, sides in cuts.items():
        if path in modules:
            _cut(path, modules[path], {side: indices for (side, _), indices in sides.items()})
        else:
            for (_, dim), indices in sides.items():
                _cut_tensor(*_home(modules, path), dim, indices)
    for path, module in modules.items():
        _settle_heads(module, cuts.get(f"{path}.qkv" if path else "qkv", {}))
    return new


def tell_norms(model: nn.Module, inputs: Any) -> None:
    """Normalisations that hold no tensors say how many channels they get; the model runs once, in place."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    empty = [m for m in norms if not any(t is not None for t in (*m._parameters.values(), *m._buffers.values()))]

    def note(module: Any, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        x = first_input(args, kwargs)
        alone = isinstance(module, nn.modules.instancenorm._InstanceNorm) and x.ndim == module._get_no_batch_dim()
        module.num_features = x.shape[0 if alone else 1]

    if empty:
        handles = [m.register_forward_pre_hook(note, with_kwargs=True) for m in empty]
        with hooked(handles), as_found(model), own_random_numbers(), torch.no_grad():
            call(model.eval(), inputs)


def masked(
    model: nn.Module, groups: Sequence[Group], gone: Gone, *, sides: Sequence[Side] = ("out", "norm", "in")
) -> nn.Module:
    """A copy of the same shape in which all slices of these channels are zero, so that they say nothing to anyone.

    Args:
        model: stays as it is.
        groups, gone: as for `removed`.
        sides: of which members.  ("out",) alone is soft pruning: the filters are zero, but the layers that read them
            keep their weights, so that gradients can bring them back.

    >>> from limbeck.compress.pruning.graph import groups
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> int((masked(net, groups(net, torch.zeros(2, 4)), {"0": [1]})[0].weight == 0).all(1).sum())
    1
    """
    cuts = _cuts(groups, gone)
    new = copied(model)
    modules = dict(new.named_modules())
    with torch.no_grad():
        for path, by_side in cuts.items():
            for (side, dim), indices in by_side.items():
                if side not in sides:
                    continue
                where = torch.tensor(sorted(indices))
                if path not in modules:
                    home, name = _home(modules, path)
                    tensor = getattr(home, name)
                    tensor.index_fill_(dim, where.to(tensor.device), 0.0)
                else:
                    _zero(modules[path], side, where)
    return new


def _cuts(groups: Sequence[Group], gone: Gone) -> _Cuts:
    """Path -> (side, dimension) -> which indices go."""
    named = {group.name: group for group in groups}
    cuts: _Cuts = {}
    for name, channels in gone.items():
        if name not in named:
            raise NameUnknown(unknown("group of channels", name, named))
        group, going = named[name], sorted(set(channels))
        if not all(0 <= c < group.size for c in going):
            raise HyperParameterError(f"{name}: channels {going}, and there are 0 to {group.size - 1}")
        if len(going) == group.size:
            raise HyperParameterError(f"{name}: all its {group.size} channels would go, and a layer must keep one")
        for member in group.members if going else ():
            held = cuts.setdefault(member.module, {}).setdefault((member.side, member.dim), set())
            held.update(i for c in going for i in member.index[c])
    return cuts


def _home(modules: Mapping[str, nn.Module], path: str) -> tuple[nn.Module, str]:
    """The module that holds a parameter, and its name there."""
    home, _, name = path.rpartition(".")
    return modules[home], name


def _rest(size: int, gone: Iterable[int]) -> Tensor:
    stay = torch.ones(size, dtype=torch.bool)
    stay[list(gone)] = False
    return stay.nonzero().flatten()


def _cut_tensor(home: nn.Module, name: str, dim: int, gone: Iterable[int]) -> None:
    """Replace a parameter or buffer by one without these indices."""
    tensor = getattr(home, name)
    if tensor is None:
        return
    less = _less(tensor, dim, gone)
    if name in home._parameters:
        home._parameters[name] = nn.Parameter(less, requires_grad=tensor.requires_grad)
    else:
        home._buffers[name] = less
    if isinstance(home, nn.PReLU):
        home.num_parameters = len(less)


def _less(tensor: Tensor, dim: int, gone: Iterable[int]) -> Tensor:
    stay = _rest(tensor.shape[dim], gone).to(tensor.device)
    return _laid_out(tensor.detach().index_select(dim, stay), tensor)


def _laid_out(new: Tensor, like: Tensor) -> Tensor:
    last = like.ndim == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last)
    return new.contiguous(memory_format=torch.channels_last) if last else new.contiguous()


def _cut(path: str, module: Any, sides: Mapping[Side, set[int]]) -> None:
    outs, ins = sides.get("out", set()), sides.get("in", set())
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        gone = sides.get("norm", set())
        for name in ("weight", "bias", "running_mean", "running_var"):
            _cut_tensor(module, name, 0, gone)
        module.num_features -= len(gone)
    elif isinstance(module, nn.Linear):
        _cut_tensor(module, "weight", 0, outs)
        _cut_tensor(module, "weight", 1, ins)
        _cut_tensor(module, "bias", 0, outs)
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd):
        _cut_conv(path, module, outs, ins)
    else:
        raise LimbeckError(f"{path} is a {type(module).__name__}, from which no channels can be cut")


def _cut_conv(path: str, conv: Any, outs: set[int], ins: set[int]) -> None:
    out_dim, in_dim = (1, 0) if conv.transposed else (0, 1)
    if conv.groups == 1:
        _cut_tensor(conv, "weight", out_dim, outs)
        _cut_tensor(conv, "weight", in_dim, ins)
        conv.in_channels, conv.out_channels = conv.weight.shape[in_dim], conv.weight.shape[out_dim]
    else:
        _cut_grouped(path, conv, outs, ins)
    _cut_tensor(conv, "bias", 0, outs)


def _cut_grouped(path: str, conv: Any, outs: set[int], ins: set[int]) -> None:
    """By whole groups, or equally many channels from each."""
    count, inside, outside = conv.groups, conv.in_channels, conv.out_channels
    whole = whole_groups(conv)
    if whole:
        per = outside // count
        going = {i // per for i in outs}
        ins = {g * (inside // count) + i for g in going for i in range(inside // count)}
        if len(outs) != per * len(going):
            raise LimbeckError(f"{path}: channels of a grouped convolution go by whole groups")
    blocks = conv.weight.detach().unflatten(0, (count, -1))  # a group's first dimension, second, window
    ours, theirs = (ins, outs) if conv.transposed else (outs, ins)
    wide = (inside if conv.transposed else outside) // count
    deep = (outside if conv.transposed else inside) // count
    left: list[Tensor] = []
    for g in range(count):
        first = {i - g * wide for i in ours if g * wide <= i < (g + 1) * wide}
        second = {i - g * deep for i in theirs if g * deep <= i < (g + 1) * deep}
        if whole and len(first) == wide:
            continue
        left.append(_less(_less(blocks[g], 0, first), 1, second))
    if len({block.shape for block in left}) != 1:
        raise LimbeckError(f"{path}: equally many channels must go from each group of a grouped convolution")
    weight = _laid_out(torch.cat(left), conv.weight)
    conv.weight = nn.Parameter(weight, requires_grad=conv.weight.requires_grad)
    conv.groups, conv.by_whole_groups = len(left), whole
    conv.in_channels, conv.out_channels = inside - len(ins), outside - len(outs)


def _settle_heads(module: Any, cut: Mapping[Any, set[int]]) -> None:
    """An attention that lost heads has fewer."""
    if cut and all(type(getattr(module, name, None)) is int for name in ("num_heads", "head_dim", "attn_dim")):
        module.attn_dim = module.qkv.out_features // 3
        module.num_heads = module.attn_dim // module.head_dim


def _zero(module: Any, side: Side, where: Tensor) -> None:
    where = where.to(getattr(module.weight, "device", where.device))
    if side == "norm":
        for tensor in (module.weight, module.bias):
            if tensor is not None:
                tensor.index_fill_(0, where, 0.0)
        return
    turned, groups = getattr(module, "transposed", False), getattr(module, "groups", 1)
    if side == "out" and module.bias is not None:
        module.bias.index_fill_(0, where, 0.0)
    split_side = "out" if turned else "in"  # the side whose dimension of the weight counts within a group
    if groups == 1 or side != split_side:
        module.weight.index_fill_(int(side == split_side), where, 0.0)
        return
    per = module.weight.shape[1]
    blocks = module.weight.unflatten(0, (groups, -1))
    for i in where.tolist():
        blocks[i // per, :, i % per] = 0.0
