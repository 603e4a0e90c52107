"""Which split each layer should get, by the target: a list of splits per layer, the first one to be tried first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.compress.lowrank.look import Layer
from limbeck.compress.lowrank.options import (
    Frontier,
    Split,
    by_rank,
    by_vbmf,
    dense_macs,
    frontier,
    full_ranks,
    has_window,
    kinds_of,
)
from limbeck.errors import HyperParameterError

if TYPE_CHECKING:
    from limbeck.compress.factorize import Factorize

Wishes = dict[str, list[Split]]


def wishes(how: Factorize, layers: Sequence[Layer], others: int) -> tuple[Wishes, list[str], dict[str, Any]]:
    """The splits to try for each layer, cheapest first, with notes and details about how they were chosen.

    A list may be empty (no split is cheaper than the layer) or hold what is no cheaper (with ranks that were given).

    Args:
        how: the target, and the kinds that are allowed.
        layers: to choose for.
        others: multiply-accumulates of the whole network apart from these layers, of the whole batch.
    """
    if how.rank is not None:
        ranked = {layer.name: by_rank(layer, _kind(layer, how), how.rank) for layer in layers}
        above = [
            f"{layer.name} ({', '.join(map(str, full_ranks(layer.module, ranked[layer.name][0].kind)))})"
            for layer in layers
            if ranked[layer.name][1]
        ]
        note = f"rank = {how.rank} is more than these layers can have (the most, in brackets, was taken): "
        return {name: [split] for name, (split, _) in ranked.items()}, [note + ", ".join(above)] if above else [], {}
    if how.vbmf:
        found = {layer.name: by_vbmf(layer, _kind(layer, how), how.weaken) for layer in layers}
        noise = [
            layer.name
            for layer in layers
            if set(found[layer.name].ranks) == {1} and max(full_ranks(layer.module, found[layer.name].kind)) > 1
        ]
        note = (
            "vbmf found a rank of 1, the least, where weights look like noise, as those that were hardly trained do: "
        )
        return {name: [split] for name, split in found.items()}, [note + ", ".join(noise)] if noise else [], {}
    frontiers = {layer.name: [frontier(layer, kind) for kind in kinds_of(layer.module, how.kind)] for layer in layers}
    if how.energy is not None:
        return {name: cheapest(found, how.energy) for name, found in frontiers.items()}, [], {"energy": how.energy}
    assert how.macs is not None
    dense = {layer.name: dense_macs(layer) for layer in layers}
    energy = common_energy(frontiers, dense, others, how.macs)
    return {name: cheapest(found, energy) for name, found in frontiers.items()}, [], {"energy": energy}


def cheapest(frontiers: Sequence[Frontier], energy: float) -> list[Split]:
    """The cheapest split of each kind that keeps so much, cheapest kind first."""
    found = [split for kind in frontiers if (split := kind.cheapest(energy)) is not None]
    return sorted(found, key=lambda split: split.macs)


def common_energy(
    frontiers: Mapping[str, Sequence[Frontier]], dense: Mapping[str, int], others: int, part: float
) -> float:
    """The largest energy, the same for all layers, with which no more than this part of the arithmetic is left.

    Raises:
        HyperParameterError: even with the smallest ranks there is more.
    """
    whole = others + sum(dense.values())

    def left(energy: float) -> int:
        splits = {name: cheapest(found, energy) for name, found in frontiers.items()}
        return others + sum(splits[name][0].macs if splits[name] else dense[name] for name in dense)

    if left(0.0) > part * whole:
        raise HyperParameterError(
            f"macs = {part!r}: with the smallest ranks {left(0.0) / whole:.3g} of the arithmetic is left; "
            "give at least that, or leave fewer layers out"
        )
    if left(1.0) <= part * whole:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if left(middle) <= part * whole else (low, middle)
    return low


def _kind(layer: Layer, how: Factorize) -> str:
    """Where a rank is given, no kinds can be compared: "auto" is Tucker-2 for what has a window."""
    return "tucker" if how.kind == "auto" and has_window(layer.module) else kinds_of(layer.module, how.kind)[0]
