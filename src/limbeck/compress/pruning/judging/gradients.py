"""Scores from the gradients of weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from limbeck import scores
from limbeck.batches import batch_size
from limbeck.compress.pruning.feeding import losses_of, one_sample
from limbeck.compress.pruning.groups import Group
from limbeck.compress.pruning.judging.inputs import Found
from limbeck.compress.pruning.members import entries, filters_of, first_norm, producing, summed
from limbeck.compress.pruning.sampling import weight_of
from limbeck.models.swap import copied
from limbeck.phase import Batch
from limbeck.randomness import own_random_numbers

SAMPLES = 256  # at most so many samples where each has a backward pass of its own


def gates(model: nn.Module, groups: Sequence[Group], batches: Sequence[Batch]) -> Found:
    """``taylor_gate``: by the weights of BatchNorm and their gradients."""
    norms = {g.name: first_norm(model, g, "taylor_gate") for g in groups}
    wanted = list(dict.fromkeys(p for norm, _ in norms.values() for p in (norm.weight, norm.bias)))
    total: Found = {}
    with torch.enable_grad():
        for slope in _slopes(model, wanted, batches):
            for name, (norm, member) in norms.items():
                gate = scores.taylor_gate(norm.weight, slope[id(norm.weight)], norm.bias, slope[id(norm.bias)])
                total[name] = total.get(name, 0.0) + entries(gate, member) / len(batches)
    return total


def weights(model: nn.Module, groups: Sequence[Group], batches: Sequence[Batch]) -> Found:
    """``taylor_weight``: by the filters and their gradients."""
    layers = {g.name: producing(model, g) for g in groups}
    wanted = list(dict.fromkeys(weight_of(layer) for found in layers.values() for layer, _ in found))
    total: Found = {}
    with torch.enable_grad():
        for slope in _slopes(model, wanted, batches):
            for name, found in layers.items():
                parts = [(weight_of(layer), layer, member) for layer, member in found]
                score = summed(
                    scores.taylor_weight(filters_of(w.detach(), layer, m), filters_of(slope[id(w)], layer, m)).double()
                    for w, layer, m in parts
                )
                total[name] = total.get(name, 0.0) + score / len(batches)
    return total


def obd(model: nn.Module, groups: Sequence[Group], batches: Sequence[Batch]) -> Found:
    """By the filters and the diagonal of the Fisher information at them."""
    layers = {g.name: producing(model, g) for g in groups}
    wanted = list(dict.fromkeys(weight_of(layer) for found in layers.values() for layer, _ in found))
    h = _fisher(model, wanted, batches)
    found: Found = {}
    for name, producers_here in layers.items():
        parts = [(weight_of(layer), layer, member) for layer, member in producers_here]
        found[name] = summed(
            scores.obd(filters_of(h[id(w)], layer, m), filters_of(w.detach(), layer, m)).double().sum(1)
            for w, layer, m in parts
        )
    return found


def far(model: nn.Module, batches: Sequence[Batch]) -> str:
    """A sentence about the term that OBD leaves out, which is zero at a minimum of the loss only."""
    work = copied(model).eval()
    wanted = [p.requires_grad_() for p in work.parameters() if p.is_floating_point()]
    slopes = [torch.zeros_like(p) for p in wanted]
    loss = 0.0
    with own_random_numbers(), torch.enable_grad():
        for batch in batches:
            mean = losses_of(work, batch).mean()
            loss += mean.item() / len(batches)
            for slope, g in zip(slopes, _gradients(mean, wanted).values(), strict=True):
                slope += g / len(batches)
    norm = sum(float(s.double().square().sum()) for s in slopes) ** 0.5
    return (
        f"obd takes the network to be at a minimum of the loss, where the gradient is zero: on the calibration batches its norm is {norm:.3g}, at "
        f"a loss of {loss:.3g}; where a network was hardly trained, taylor_weight looks at the gradient itself"
    )


def _slopes(model: nn.Module, wanted: Sequence[nn.Parameter], batches: Sequence[Batch]) -> Iterator[dict[int, Tensor]]:
    """The gradients of each batch's mean loss, by the parameter's id."""
    for batch in batches:
        yield _gradients(losses_of(model, batch).mean(), wanted)


def _gradients(loss: Tensor, wanted: Sequence[Tensor]) -> dict[int, Tensor]:
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return {id(p): torch.zeros_like(p) if g is None else g.detach() for p, g in zip(wanted, found, strict=True)}


def _fisher(model: nn.Module, wanted: Sequence[nn.Parameter], batches: Sequence[Batch]) -> dict[int, Tensor]:
    """The mean squared gradient of single samples: added up over samples, never of a batch's mean gradient."""
    squares = {id(p): torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in wanted}
    samples = islice((one_sample(batch, row) for batch in batches for row in range(batch_size(batch.inputs))), SAMPLES)
    count = 0
    with torch.enable_grad():
        for one in samples:
            for key, g in _gradients(losses_of(model, one).sum(), wanted).items():
                squares[key] += g.to(squares[key].dtype).square()
            count += 1
    return {key: value.detach() / count for key, value in squares.items()}
