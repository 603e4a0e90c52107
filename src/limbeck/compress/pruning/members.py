"""The layers of a group: who produces its channels, which normalisation is behind them, who takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from limbeck.compress.pruning.groups import Group, Member
from limbeck.compress.pruning.sampling import can_sample, weight_of
from limbeck.errors import LimbeckError, ShapeError

Norm = nn.modules.batchnorm._BatchNorm


def filters_of(weight: Tensor, layer: nn.Module, member: Member) -> Tensor:
    """What a producer spends on each channel of the group: ``[size, weights]``."""
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        # [in, out of a group, ...]: the outputs of a group come from this group's inputs alone
        parts = weight.chunk(layer.groups, 0)
        weight = torch.cat([part.transpose(0, 1).flatten(1) for part in parts])
    flat = weight.flatten(1)
    widths = {len(index) for index in member.index}
    if len(widths) > 1:
        raise ShapeError(
            f"{member.module}: the channels of this group take {' and '.join(map(str, sorted(widths)))} outputs each; "
            "filters of different sizes cannot be compared"
        )
    return torch.stack([flat[list(index)].flatten() for index in member.index])


def producing(model: nn.Module, group: Group) -> list[tuple[nn.Module, Member]]:
    """The layers that produce the group's channels: the leader, and what is added to it."""
    modules = dict(model.named_modules())
    found = []
    for place, member in enumerate(group.of("out")):
        layer = modules.get(member.module)
        if layer is None or not isinstance(getattr(layer, "weight", None), Tensor):
            continue  # a bare parameter
        depthwise = getattr(layer, "groups", 1) > 1 and getattr(layer, "groups", 1) == getattr(layer, "in_channels", 0)
        if place == 0 or not depthwise:
            found.append((layer, member))
    if not found:
        raise LimbeckError(
            f"group {group.name!r}: no layer with weights produces its channels; take a score that looks at what "
            "they say (apoz, mean_activation, taylor, oracle) or at nothing (random)"
        )
    return found


def producers(model: nn.Module, group: Group) -> Iterator[Tensor]:
    """The filters of each layer that produces the channels, ``[size, weights]`` in float64 on the CPU.

    Where no layer does, those of the bare parameters that do: weights which a forward multiplies with by itself.
    """
    named = dict(model.named_parameters())
    bare = [(named[m.module], m) for m in group.of("out") if m.module in named and named[m.module].ndim > 1]
    if len(bare) == len(group.of("out")):
        for weight, member in bare:
            rows = weight.detach().movedim(member.dim, 0).flatten(1)
            yield torch.stack([rows[list(index)].flatten() for index in member.index]).double().cpu()
        return
    for layer, member in producing(model, group):
        yield filters_of(weight_of(layer).detach(), layer, member).double().cpu()


def first_norm(model: nn.Module, group: Group, by: str) -> tuple[Norm, Member]:
    """The group's first batch normalisation with scales."""
    modules = dict(model.named_modules())
    for member in group.of("norm"):
        norm = modules.get(member.module)
        if isinstance(norm, Norm) and norm.affine:
            return norm, member
    raise LimbeckError(
        f"{by} needs a batch normalisation with scales behind each layer, and {group.name!r} has none; leave this layer "
        "out, or take another score, such as l1 or fpgm"
    )


def first_consumer(model: nn.Module, group: Group, by: str) -> tuple[nn.Module, Member]:
    """The first layer that the channels go into."""
    modules = dict(model.named_modules())
    for member in group.of("in"):
        if can_sample(modules.get(member.module, nn.Identity())):
            return modules[member.module], member
    raise LimbeckError(
        f"group {group.name!r}: {by} looks at what goes into the next convolution or linear layer, and nothing of that kind "
        "takes these channels; leave this layer out, or take a score that looks at weights, such as l1 or fpgm"
    )


def entries(vector: Tensor, member: Member) -> Tensor:
    """The entries of a vector that belong to each channel, added up: ``[size]`` in float64 on the CPU."""
    whole = vector.detach().double().cpu()
    return torch.stack([whole[list(index)].abs().sum() for index in member.index])


def by_channel(layer: nn.Module, inputs: Tensor, member: Member) -> Tensor:
    """A layer's input by channels of the group: ``[samples, size, positions]``."""
    x = inputs.movedim(-1, 1) if isinstance(layer, nn.Linear) else inputs
    flat = x.reshape(len(x), x.shape[1], -1)
    return torch.stack([flat[:, list(index)].flatten(1) for index in member.index], 1)


def summed(parts: Iterable[Tensor]) -> Tensor:
    total, *others = list(parts)
    for part in others:
        total = total + part
    return total
