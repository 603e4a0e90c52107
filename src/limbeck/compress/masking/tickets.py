"""From a trained network and its first weights to a lottery ticket, and to the controls beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.compress.masking import choose
from limbeck.compress.masking.layers import Layers, find, mask_of
from limbeck.compress.masking.parts import Masked
from limbeck.compress.masking.plant import no_output, plant, scores_of, told, weights_before
from limbeck.compress.masking.state import masked_layers, settle
from limbeck.compressor import silent
from limbeck.errors import HyperParameterError, LimbeckError
from limbeck.phase import seed_for
from limbeck.randomness import base_seed

if TYPE_CHECKING:
    from limbeck.compress.lottery import Replant, Ticket


def ticket(how: Ticket, model: nn.Module, example: Any, beside: Sequence[nn.Module]) -> nn.Module:
    """What `Ticket` does when it is called."""
    layers = find(model, example, skip=how.skip)
    before, after, alive = weights_before(beside, layers, "a lottery ticket"), layers.weights, layers.alive
    rates = dict.fromkeys(alive, how.rate)
    output = None if how.own_output_rate is None else layers.output
    if output is not None and how.own_output_rate is not None:
        rates[output] = how.own_output_rate
    notes = no_output(layers, "output_rate") if how.output_rate is not None else []
    _require_rounds(how, alive, rates, output)
    scores = scores_of(how.criterion, before, after, base_seed(how.seed), how.alpha)
    counts = {path: choose.portion(rates[path], int(mask.sum())) for path, mask in alive.items()}
    own = set(alive) if how.scope == "layer" else {output} - {None}
    masks = choose.remove_within(
        {path: scores[path] for path in alive if path in own},
        {path: mask for path, mask in alive.items() if path in own},
        counts,
    )
    pooled = {path: mask for path, mask in alive.items() if path not in own}
    if pooled:
        count = choose.portion(how.rate, sum(int(mask.sum()) for mask in pooled.values()))
        masks |= choose.remove_among({path: scores[path] for path in pooled}, pooled, count)
    rests = {path: _rest(how.masked, layers.modules[path], before[path], after[path], alive[path]) for path in masks}
    return _planted(model, beside[-1], layers, masks, rests, how.keep, how.sign, base_seed(how.seed), notes)


def replant(how: Replant, model: nn.Module, example: Any, beside: Sequence[nn.Module]) -> nn.Module:
    """What `Replant` does when it is called."""
    layers = find(model, example, skip=how.skip)
    before = weights_before(beside, layers, "a control of a lottery ticket")
    seed = base_seed(how.seed)
    masks: dict[str, Tensor] = {}
    rests: dict[str, Tensor | None] = {}
    for path, layer in layers.modules.items():
        part = mask_of(layer)
        if part is None:
            raise LimbeckError(f"layer {path!r} has no mask: a control takes that of a ticket")
        masks[path] = choose.shuffled(part.mask, seed_for(seed, "places", path)) if how.shuffle else part.mask.clone()
        # A shuffled mask leaves other weights out; those rest where a ticket's would, had they not moved.
        rests[path] = None if part.rest is None else before[path] if how.shuffle else part.rest.clone()
    return _planted(model, beside[-1], layers, masks, rests, how.keep, how.sign, seed)


def values(keep: str, sign: bool, before: Tensor, mask: Tensor, seed: int) -> Tensor:
    """Where the weights that stay begin again.

    Args:
        keep, sign: as in `limbeck.compress.lottery.LotteryTicket`.
        before: the first weights of the layer.
        mask: bool, in its shape.
        seed: of what is drawn.

    Returns:
        In that shape; what is outside the mask is of no importance.

    >>> w = torch.tensor([3.0, -3.0, 1.0, -1.0])
    >>> values("constant", True, w, w > 0, 0).tolist()
    [2.2360680103302, -2.2360680103302, 2.2360680103302, -2.2360680103302]
    """
    if keep == "rewind" and sign:
        return before.clone()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, 2, before.shape, generator=generator).to(before.device, before.dtype) * 2 - 1
    if keep == "rewind":
        new = before.abs() * drawn
    elif keep == "constant":
        new = torch.full_like(before, float(before.double().std(correction=0))) * drawn
    elif keep == "reinit":
        # A permutation of all the layer's first weights: drawn from what it was initialised with, whatever that was.
        order = torch.randperm(before.numel(), generator=generator).to(before.device)
        new = before.flatten()[order].reshape(before.shape)
    else:
        new = before.clone()
        survivors = before[mask]
        new[mask] = survivors[torch.randperm(len(survivors), generator=generator).to(before.device)]
    return new.abs() * before.sign() if sign else new


def _rest(masked: str, layer: nn.Module, before: Tensor, after: Tensor, alive: Tensor) -> Tensor | None:
    """Where the weights outside the new mask rest; those that went in an earlier round stay where they are."""
    if masked == "zero":
        return None
    now = before if masked == "freeze" else torch.where(after.abs() < before.abs(), torch.zeros_like(before), before)
    part = mask_of(layer)
    return now if part is None or part.rest is None else torch.where(alive, now, part.rest)


def _planted(
    model: nn.Module,
    origin: nn.Module,
    layers: Layers,
    masks: Mapping[str, Tensor],
    rests: Mapping[str, Tensor | None],
    keep: str,
    sign: bool,
    seed: int,
    notes: Sequence[str] = (),
) -> nn.Module:
    """The network to go back to, under these masks: its biases, normalisation and buffers are its own, copied."""
    new = settle(origin)
    silent(new)
    _take_flags(new, model)
    for path, mask in masks.items():
        layer: Any = new.get_submodule(path)
        with torch.no_grad():
            begin = values(keep, sign, layer.weight.detach(), mask.to(layer.weight.device), seed_for(seed, keep, path))
            layer.weight.copy_(begin)
        plant(layer, mask, rests[path])
    for path, part in _left_alone(model, origin, masks).items():
        plant(new.get_submodule(path), part.mask, part.rest)
    told(new, layers, *notes, begins=keep, sign=sign)
    return new


def _left_alone(model: nn.Module, origin: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Masked]:
    """The masks of layers that get no new one, skipped ones say: those that they have by now, which no course removes."""
    have = {path: part for one in (origin, model) for path, _, part in masked_layers(one)}
    return {path: part for path, part in have.items() if path not in masks}


def _take_flags(new: nn.Module, model: nn.Module) -> None:
    """Modes and what may be trained, as in the trained network."""
    new.train(model.training)
    modes = {path: module.training for path, module in model.named_modules()}
    for path, module in new.named_modules():
        module.training = modes.get(path, module.training)
    wanted = {name.replace(".original", "").replace("parametrizations.", ""): p for name, p in model.named_parameters()}
    for name, p in new.named_parameters():
        if name in wanted:
            p.requires_grad_(wanted[name].requires_grad)


def _require_rounds(how: Ticket, alive: Mapping[str, Tensor], rates: Mapping[str, float], own: str | None) -> None:
    """Refuse more rounds than leave one weight per layer, before the first training is spent on them."""
    sizes = {path: int(mask.sum()) for path, mask in alive.items()}
    pooled = [path for path in sizes if path != own] if how.scope == "global" else []
    for path, size in sizes.items():
        if path not in pooled:
            _require_left(f"layer {path!r}", size, 1, rates[path], how.rounds)
    if pooled:
        whole = sum(sizes[path] for path in pooled)
        _require_left(f"all layers with {len(pooled)} to fill", whole, len(pooled), how.rate, how.rounds)


def _require_left(who: str, size: int, least: int, rate: float, rounds: int) -> None:
    if rate > 0 and size * (1 - rate) ** rounds < least:
        most = math.floor(math.log(least / size) / math.log(1 - rate) + 1e-9) if size >= least else 0
        raise HyperParameterError(
            f"rounds: {rounds} more at a rate of {rate:g} leave less than {'one weight' if least == 1 else f'{least} weights'} "
            f"of {who}, which has {size}; at most {most} more, or a lower rate, or leave the layer out with skip"
        )
