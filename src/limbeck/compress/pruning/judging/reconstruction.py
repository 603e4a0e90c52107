"""Scores from how badly the other channels make up for one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck import scores
from limbeck.compress.pruning.groups import Group, Member
from limbeck.compress.pruning.judging.inputs import Found, Reasons, inputs_of, unseen
from limbeck.compress.pruning.members import first_consumer
from limbeck.compress.pruning.sampling import dense, patches, places
from limbeck.phase import Batch, seed_for
from limbeck.taps import call

PLACES = 10  # positions of each sample whose patches LASSO and ThiNet look at (ThiNet: 10 for each image)
ROWS = 4096  # at most so many patches of a layer for ThiNet


def by_reconstruction(
    model: nn.Module, by: str, groups: Sequence[Group], batches: Sequence[Batch], seed: int
) -> tuple[Found, Reasons]:
    """``lasso`` and ``thinet``: how badly the other inputs of a layer make up for one, at drawn positions."""
    consumers = {g.name: first_consumer(model, g, by) for g in groups}
    generators = {name: torch.Generator().manual_seed(seed_for(seed, by, name)) for name in consumers}
    rows: dict[str, list[Tensor]] = {name: [] for name in consumers}
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    count = dict.fromkeys(consumers, 0)

    def see(name: str, x: Tensor) -> None:
        layer, member = consumers[name]
        generator = generators[name]
        weight = dense(layer)
        x = x.to(weight.dtype)
        patch = patches(layer, x, places(layer, x, PLACES, generator))
        if by == "thinet":  # one output channel for each position, drawn
            which = torch.randint(len(weight), (len(patch),), generator=generator).to(weight.device)
            per_input = (patch * weight[which]).sum(2)
            rows[name].append(_by_channel(per_input, member, 1))
            return
        step = max(1, 2**22 // (weight.shape[0] * weight.shape[1]))
        for part in patch.split(step):
            z = _by_channel(torch.einsum("sik,oik->soi", part, weight), member, 2)
            gram, moment = scores.moments(z.reshape(-1, z.shape[-1]))
            n = len(part)
            old = sums.get(name, (torch.zeros_like(gram), torch.zeros_like(moment)))
            sums[name] = (old[0] + n * gram, old[1] + n * moment)
            count[name] += n

    with torch.no_grad(), inputs_of({name: layer for name, (layer, _) in consumers.items()}, see):
        for batch in batches:
            call(model, batch.inputs)
    why = unseen(by, groups, consumers, sums if by == "lasso" else {name for name, x in rows.items() if x})
    found: Found = {}
    for group in groups:
        name = group.name
        if name in why:
            continue
        if by == "lasso":
            gram, moment = (part / count[name] for part in sums[name])
            order = scores.lasso_order(gram, moment)
            found[name] = order / order.max() if bool(order.max() > 0) else order
        else:
            order = scores.thinet(torch.cat(rows[name])[:ROWS])
            found[name] = torch.empty(group.size, dtype=torch.float64)
            found[name][order] = torch.arange(group.size, dtype=torch.float64) / group.size
    return found, why


def _by_channel(values: Tensor, member: Member, dim: int) -> Tensor:
    """The contributions of inputs, added up for each channel of the group."""
    return torch.stack(
        [values.index_select(dim, torch.tensor(i, device=values.device)).sum(dim) for i in member.index], dim
    )
