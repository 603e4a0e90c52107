"""What a channel still says whose BatchNorm scale is zero: its shift, a constant, which the layers behind can take over.

Liu et al. (ICCV 2017) remove channels with small scales and train on; a scale of zero leaves the constant f(beta), f being what
stands between normalisation and the next layer.  Added to the bias there, it makes the removal of such a channel exact, but for the
rim that a convolution pads with zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compress.pruning.groups import Group, Side
from limbeck.compress.pruning.judging.inputs import first_input
from limbeck.hooks import hooked
from limbeck.models.swap import copied
from limbeck.randomness import own_random_numbers
from limbeck.taps import call

_CONSTANT = 1e-5  # how far numbers of one channel may lie apart, relative to the largest
_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_Norm = nn.modules.batchnorm._BatchNorm


@dataclass
class _Heard:
    """What the layers of a network got in one forward, and whose answer goes straight into which normalisation."""

    inputs: dict[str, list[Tensor]] = field(default_factory=dict)
    answers: dict[int, tuple[str, Tensor]] = field(default_factory=dict)
    norms: dict[str, str] = field(default_factory=dict)


def take_over(
    model: nn.Module, new: nn.Module, groups: Sequence[Group], gone: Mapping[str, Sequence[int]], inputs: Any
) -> list[str]:
    """Add what closed channels say to the biases of the layers behind them; where there is none, to the running mean of the
    BatchNorm right behind.

    Args:
        model: the network from which channels went; stays as it is.
        new: the network that surgery made of it; biases and running means change, in place.
        groups: of `model`.
        gone: which channels went, by group.
        inputs: a batch as the model takes it.

    Returns:
        The layers that took something over.  Where a channel says no constant (what is added to it has no normalisation), and in
        layers that are no plain convolution or linear layer, nothing is done.

    >>> from limbeck.compress.pruning.graph import groups
    >>> from limbeck.compress.pruning.surgery import removed
    >>> net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()
    >>> with torch.no_grad():
    ...     net[1].weight[2], net[1].bias[2] = 0.0, 0.5
    >>> x = torch.randn(8, 4)
    >>> new = removed(net, groups(net, x), {"0": [2]})
    >>> take_over(net, new, groups(net, x), {"0": [2]}, x), torch.allclose(new(x), net(x), atol=1e-6)
    (['3'], True)
    """
    closed = copied(model).eval()
    modules, others = dict(closed.named_modules()), dict(new.named_modules())
    for group in groups:
        for member in group.of("norm"):
            norm = modules.get(member.module)
            if isinstance(norm, _Norm) and norm.affine:
                with torch.no_grad():
                    norm.weight[_at(member.index, gone.get(group.name, ()))] = 0.0
    lost, outs = _by_layer(groups, gone, "in"), _by_layer(groups, gone, "out")
    heard = _listened(closed, [path for path in lost if isinstance(modules.get(path), _PLAIN)], inputs)
    done: list[str] = []
    for path, got in heard.inputs.items():
        layer, less = modules[path], others[path]
        if getattr(layer, "groups", 1) != 1:
            continue
        says = _constants(layer, got, sorted(lost[path]))
        if not says.any():
            continue
        weight: Tensor = layer.weight  # type: ignore[assignment]
        more = weight.detach().flatten(2).sum(2) if weight.ndim > 2 else weight.detach()
        stay = [i for i in range(len(weight)) if i not in outs.get(path, ())]
        if _add(less, others.get(heard.norms.get(path, "")), (more[:, sorted(lost[path])] @ says)[stay]):
            done.append(path)
    return done


def _at(index: Sequence[Sequence[int]], channels: Sequence[int]) -> list[int]:
    return [i for c in channels for i in index[c]]


def _by_layer(groups: Sequence[Group], gone: Mapping[str, Sequence[int]], side: Side) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for group in groups:
        for member in group.of(side):
            if gone.get(group.name):
                found.setdefault(member.module, set()).update(_at(member.index, gone[group.name]))
    return found


def _listened(model: nn.Module, paths: Sequence[str], inputs: Any) -> _Heard:
    heard, modules = _Heard(), dict(model.named_modules())

    def listen(path: str) -> Any:
        def after(module: Any, args: Any, kwargs: Any, answer: Tensor) -> None:
            heard.inputs.setdefault(path, []).append(first_input(args, kwargs).detach())
            heard.answers[id(answer)] = (path, answer)

        return after

    def norm(path: str) -> Any:
        def before(module: Any, args: Any, kwargs: Any) -> None:
            x = first_input(args, kwargs)
            if id(x) in heard.answers:
                heard.norms[heard.answers[id(x)][0]] = path

        return before

    hooks = [modules[path].register_forward_hook(listen(path), with_kwargs=True) for path in paths]
    hooks += [
        m.register_forward_pre_hook(norm(p), with_kwargs=True) for p, m in modules.items() if isinstance(m, _Norm)
    ]
    with hooked(hooks), own_random_numbers(), torch.no_grad():
        call(model, inputs)
    return heard


def _constants(layer: nn.Module, got: Sequence[Tensor], channels: Sequence[int]) -> Tensor:
    """What each of these channels says to a layer, in all its calls; 0 where that is no constant."""
    last = isinstance(layer, nn.Linear)
    rows = torch.cat(
        [x[..., channels].flatten(0, -2).T if last else x[:, channels].transpose(0, 1).flatten(1) for x in got], 1
    )
    low, high = rows.amin(1), rows.amax(1)
    same = high - low <= _CONSTANT * torch.maximum(high.abs(), low.abs())
    return torch.where(same, (low + high) / 2, torch.zeros_like(low))


def _add(layer: nn.Module, norm: nn.Module | None, constant: Tensor) -> bool:
    bias, mean = getattr(layer, "bias", None), getattr(norm, "running_mean", None)
    with torch.no_grad():
        if isinstance(bias, Tensor):
            bias += constant.to(bias.dtype)
        elif isinstance(mean, Tensor):
            mean -= constant.to(mean.dtype)
        else:
            return False
    return True
