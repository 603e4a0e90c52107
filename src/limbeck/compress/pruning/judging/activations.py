"""Scores from what goes into the layers behind the channels: how often it is zero, how large it is, how the loss follows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor, nn

from limbeck import scores
from limbeck.compress.pruning.feeding import losses_of
from limbeck.compress.pruning.groups import Group
from limbeck.compress.pruning.judging.inputs import Found, Reasons, inputs_of, unseen
from limbeck.compress.pruning.judging.replay import replayed
from limbeck.compress.pruning.members import by_channel, first_consumer
from limbeck.compress.pruning.sampling import can_sample, weight_of
from limbeck.phase import Batch
from limbeck.taps import call


def averaged(model: nn.Module, by: str, groups: Sequence[Group], batches: Sequence[Batch]) -> tuple[Found, Reasons]:
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
    why = unseen(by, groups, consumers, total)
    means = {name: score / count[name] for name, score in total.items()}
    if by != "apoz":
        return means, why
    never = [name for name, zeros in means.items() if not bool(zeros.any())]
    why |= {
        name: f"apoz counts activations that are exactly zero, and in what goes into {consumers[name][1].module!r} there is none: "
        "no ReLU is in between (GELU, SiLU, sigmoid and tanh are never quite zero), or a mean over positions is"
        for name in never
    }
    return {name: 1.0 - zeros for name, zeros in means.items() if name not in never}, why


def taylor(model: nn.Module, groups: Sequence[Group], batches: Sequence[Batch]) -> tuple[Found, Reasons]:
    """By activations and the gradients at them."""
    consumers = {g.name: first_consumer(model, g, "taylor") for g in groups}
    total: Found = {}
    count = dict.fromkeys(consumers, 0)
    held: dict[str, list[Tensor]] = {}
    seen: set[str] = set()

    def see(name: str, x: Tensor) -> None:
        seen.add(name)
        if x.requires_grad:
            held.setdefault(name, []).append(x)

    with inputs_of({name: layer for name, (layer, _) in consumers.items()}, see), torch.enable_grad():
        for batch in batches:
            held.clear()
            # The sum of the losses: the gradient at a sample's activation is that of its own loss.
            loss = losses_of(model, batch).sum()
            inputs = [x for xs in held.values() for x in xs]
            gradients = iter(torch.autograd.grad(loss, inputs, allow_unused=True) if inputs else ())
            for name, xs in held.items():
                layer, member = consumers[name]
                # A channel's worth is its worth in all calls together: one may take back what the other gives.
                z = _beside(by_channel(layer, x.detach(), member) for x in xs)
                slopes = ((x, next(gradients)) for x in xs)
                slope = _beside(by_channel(layer, torch.zeros_like(x) if g is None else g, member) for x, g in slopes)
                total[name] = total.get(name, 0.0) + len(z) * scores.taylor(z, slope).double()
                count[name] += len(z)
    found = {name: scores.unit_norm(score / count[name]) for name, score in total.items()}
    why = unseen("taylor", groups, consumers, seen)
    why |= {
        name: f"taylor follows the gradient at what goes into {member.module!r}, and there is none (torch.no_grad, or detach, in front of it)"
        for name, (_, member) in consumers.items()
        if name in seen and name not in found
    }
    return found, why


def _beside(calls: Iterable[Tensor]) -> Tensor:
    """What went into a layer in all its calls, positions side by side; of calls on other numbers of samples, these after each other."""
    parts = list(calls)
    if len({len(part) for part in parts}) == 1:
        return torch.cat(parts, 2)
    return torch.cat(parts) if len({part.shape[2] for part in parts}) == 1 else parts[-1]


def oracle(model: nn.Module, groups: Sequence[Group], batches: Sequence[Batch]) -> tuple[Found, Reasons]:
    """Measured: the loss without each channel in turn, which is zero for every layer that reads it."""
    for group in groups:
        first_consumer(model, group, "oracle")
    modules = dict(model.named_modules())
    paths = dict.fromkeys(m.module for g in groups for m in g.of("in"))
    readers = {path: modules[path] for path in paths if can_sample(modules.get(path, nn.Identity()))}
    ran: set[str] = set()
    found: Found = {}
    with torch.no_grad():
        with inputs_of(readers, lambda path, x: ran.add(path)):
            whole = _losses(model, batches)
        never = {path: layer for path, layer in readers.items() if path not in ran}
        idle = _unused(model, never, batches[0]) if never else set[str]()
        why = {
            g.name: f"the oracle makes a channel zero in every layer that reads it, and {m.module!r} never ran as a convolution or "
            "linear layer of its own"
            for g in groups
            for m in g.of("in")
            if m.module not in ran and (m.module not in idle or all(n.module in idle for n in g.of("in")))
        }
        rated = [g for g in groups if g.name not in why]
        less: dict[str, list[Tensor]] = {g.name: [] for g in rated}
        for batch in batches:
            for name, losses in _each_without(model, rated, readers, batch):
                less[name].append(losses)
        for name, parts in less.items():
            found[name] = torch.stack([scores.oracle(whole, losses) for losses in torch.cat(parts, 1)])
    return found, why


def _unused(model: nn.Module, layers: Mapping[str, nn.Module], batch: Batch) -> set[str]:
    """Those of these layers that have no part in the loss, as heads that run in training alone; not even by their weights."""
    weights = {path: weight_of(layer).requires_grad_() for path, layer in layers.items()}
    with torch.enable_grad():
        loss = losses_of(model, batch).sum()
    wanted = list(weights.values())
    slopes = torch.autograd.grad(loss, wanted, allow_unused=True) if loss.requires_grad else [None] * len(wanted)
    for weight in wanted:
        weight.requires_grad_(False)
    return {path for path, slope in zip(weights, slopes, strict=True) if slope is None}


def _losses(model: nn.Module, batches: Sequence[Batch]) -> Tensor:
    return torch.cat([losses_of(model, batch).double() for batch in batches])


def _each_without(
    model: nn.Module, groups: Sequence[Group], readers: Mapping[str, nn.Module], batch: Batch
) -> Iterator[tuple[str, Tensor]]:
    """By group, the losses where nobody reads a channel: ``[size, samples]``.  What comes before its readers is not computed again."""
    first: dict[str, int] = {}  # how many calls of layers come before a reader's first

    def see(path: str, x: Tensor) -> None:
        first.setdefault(path, replay.calls)

    forward = partial(losses_of, model, batch)
    with replayed(model) as replay:
        with inputs_of(readers, see):
            replay(forward)
        everything = replay.calls
        for group in groups:
            until = min((first[m.module] for m in group.of("in") if m.module in first), default=everything)
            losses = []
            for channel in range(group.size):
                with _silent(group, channel, readers):
                    losses.append(replay(forward, until=until).double())
            yield group.name, torch.stack(losses)


def _silent(group: Group, channel: int, readers: Mapping[str, nn.Module]) -> AbstractContextManager[None]:
    """Nobody reads this channel."""
    reads: dict[str, list[int]] = {}
    for member in group.of("in"):
        reads.setdefault(member.module, []).extend(member.index[channel])

    def silence(path: str, x: Tensor) -> Tensor:
        x = x.clone()
        x.movedim(-1 if isinstance(readers[path], nn.Linear) else 1, 0)[reads[path]] = 0
        return x

    return inputs_of({path: readers[path] for path in reads}, silence)
