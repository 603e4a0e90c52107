"""Scores from what goes into the layers behind the channels: how often it is zero, how large it is, how the loss follows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import scores
from limbeck.compress.pruning.feeding import losses_of
from limbeck.compress.pruning.groups import Group
from limbeck.compress.pruning.judging.inputs import Found, inputs_of, require_seen
from limbeck.compress.pruning.members import by_channel, first_consumer
from limbeck.compress.pruning.sampling import can_sample
from limbeck.errors import LimbeckError
from limbeck.phase import Batch
from limbeck.taps import call


def averaged(model: nn.Module, by: str, groups: Sequence[Group], batches: Sequence[Batch]) -> Found:
    """Means over samples and positions: ``apoz`` and ``mean_activation``."""
    formula = scores.apoz if by == "apoz" else scores.mean_activation
    consumers = {g.name: first_consumer(model, g, by) for g in groups}
    total: Found = {}
    count = dict.fromkeys(consumers, 0)

    def see(name: str, x: Tensor) -> None:
        z = by_channel(consumers[name][0], x, consumers[name][1])
        total[name] = total.get(name, 0.0) + len(z) * formula(z).double()
        count[name] += len(z)

    with torch.no_grad(), inputs_of({name: layer for name, (layer, _) in consumers.items()}, see):
        for batch in batches:
            call(model, batch.inputs)
    require_seen(by, groups, consumers, set(total))
    means = {name: score / count[name] for name, score in total.items()}
    if by != "apoz":
        return means
    for name, zeros in means.items():
        if not bool(zeros.any()):
            raise LimbeckError(
                f"group {name!r}: apoz counts activations that are exactly zero, and in what goes into "
                f"{consumers[name][1].module!r} there is none; there is no ReLU in between (GELU, SiLU, sigmoid and tanh are "
                "never quite zero). Take another score, such as taylor or mean_activation"
            )
    return {name: 1.0 - zeros for name, zeros in means.items()}


def taylor(model: nn.Module, groups: Sequence[Group], batches: Sequence[Batch]) -> Found:
    """By activations and the gradients at them."""
    consumers = {g.name: first_consumer(model, g, "taylor") for g in groups}
    total: Found = {}
    count = dict.fromkeys(consumers, 0)
    held: dict[str, Tensor] = {}

    def see(name: str, x: Tensor) -> None:
        held[name] = x

    with inputs_of({name: layer for name, (layer, _) in consumers.items()}, see), torch.enable_grad():
        for batch in batches:
            held.clear()
            # The sum of the losses: the gradient at a sample's activation is that of its own loss.
            loss = losses_of(model, batch).sum()
            names = [name for name, x in held.items() if x.requires_grad]
            gradients = torch.autograd.grad(loss, [held[name] for name in names], allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                layer, member = consumers[name]
                slope = torch.zeros_like(held[name]) if gradient is None else gradient
                z = by_channel(layer, held[name].detach(), member)
                total[name] = (
                    total.get(name, 0.0) + len(z) * scores.taylor(z, by_channel(layer, slope, member)).double()
                )
                count[name] += len(z)
    require_seen("taylor", groups, consumers, set(total))
    return {name: scores.unit_norm(score / count[name]) for name, score in total.items()}


def oracle(model: nn.Module, groups: Sequence[Group], batches: Sequence[Batch]) -> Found:
    """Measured: the loss without each channel in turn."""
    modules = dict(model.named_modules())

    def measured() -> Tensor:
        return torch.cat([losses_of(model, batch).double() for batch in batches])

    found: Found = {}
    with torch.no_grad():
        whole = measured()
        for group in groups:
            first_consumer(model, group, "oracle")
            consumers = [
                (modules[m.module], m) for m in group.of("in") if can_sample(modules.get(m.module, nn.Identity()))
            ]
            changes = []
            for channel in range(group.size):

                def silence(layer: nn.Module, index: tuple[int, ...]) -> Callable[..., Any]:
                    def hook(module: nn.Module, args: tuple[Any, ...]) -> Any:
                        x = args[0].clone()
                        x.movedim(-1 if isinstance(layer, nn.Linear) else 1, 0)[list(index)] = 0
                        return (x, *args[1:])

                    return hook

                handles = [layer.register_forward_pre_hook(silence(layer, m.index[channel])) for layer, m in consumers]
                try:
                    changes.append(scores.oracle(whole, measured()))
                finally:
                    for handle in handles:
                        handle.remove()
            found[group.name] = torch.stack(changes)
    return found
