"""Which split each layer should get, by the target: a list of splits per layer, the first one to be tried first."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
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
    split_weights,
)
from limbeck.errors import HyperParameterError

if TYPE_CHECKING:
    from limbeck.compress.factorize import Factorize

Wishes = dict[str, list[Split]]
LEAST = 0.2  # of what the average layer has: what a split has to save, of arithmetic or of weights


def wishes(
    how: Factorize, layers: Sequence[Layer], others: int, named: Container[str] = ()
) -> tuple[Wishes, set[str], list[str], dict[str, Any]]:
    """The splits to try for each layer, cheapest first; layers with little to save; notes and details on the choice.

    A list may be empty (no split is cheaper than the layer) or hold what is no cheaper (with ranks that were given).
    Where the ranks are found here, a split has to save something worth the accuracy: at least `LEAST` of what the
    average of these layers has, in arithmetic or in weights.  A classifier of few classes, and a first layer that sees
    three colours, hold next to nothing, and what they lose is lost for all.  Layers that are `named` are not held to it.

    Args:
        how: the target, and the kinds that are allowed.
        layers: to choose for.
        others: multiply-accumulates of the whole network apart from these layers, of the whole batch.
        named: names of layers that were asked for one by one.
    """
    if how.rank is not None:
        ranked = {layer.name: by_rank(layer, _kind(layer, how), how.rank) for layer in layers}
        above = [
            f"{layer.name} ({', '.join(map(str, full_ranks(layer.module, ranked[layer.name][0].kind)))})"
            for layer in layers
            if ranked[layer.name][1]
        ]
        note = f"rank = {how.rank} is more than these layers can have (the most, in brackets, was taken): "
        return (
            {name: [split] for name, (split, _) in ranked.items()},
            set(),
            [note + ", ".join(above)] if above else [],
            {},
        )
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
        return {name: [split] for name, split in found.items()}, set(), [note + ", ".join(noise)] if noise else [], {}
    choices = {layer.name: Choice.of(layer, how.kind, layers, every=layer.name in named) for layer in layers}
    energy = how.energy
    if energy is None:
        assert how.macs is not None
        energy = common_energy(choices, others, how.macs)
    wanted = {name: choice.cheapest(energy) for name, choice in choices.items()}
    little = {name for name, choice in choices.items() if not wanted[name] and choice.cheapest(energy, least=False)}
    return wanted, little, [], {"energy": energy}


@dataclass(frozen=True)
class Choice:
    """What a layer may become, and what of that is worth having.

    Attributes:
        layer: the layer.
        kinds: what each kind of split can do for it.
        least: multiply-accumulates, of all uses, and weights of which a split has to save one or the other.
    """

    layer: Layer
    kinds: Sequence[Frontier]
    least: tuple[float, float]

    @classmethod
    def of(cls, layer: Layer, kind: str, layers: Sequence[Layer], *, every: bool = False) -> Choice:
        """That of a layer among these; ``every``: any saving is worth having."""
        macs, weights = sum(map(dense_macs, layers)), sum(one.module.weight.numel() for one in layers)
        kinds = [frontier(layer, kind) for kind in kinds_of(layer.module, kind)]
        least = 0.0 if every else LEAST / len(layers)
        return cls(layer, kinds, (least * macs, least * weights))

    def cheapest(self, energy: float, *, least: bool = True) -> list[Split]:
        """The cheapest split of each kind that keeps so much, cheapest kind first; ``least``: those that pay alone."""
        found = [split for kind in self.kinds if (split := kind.cheapest(energy)) is not None]
        return sorted((split for split in found if not least or self._pays(split)), key=lambda split: split.macs)

    def _pays(self, split: Split) -> bool:
        macs = dense_macs(self.layer) - split.macs
        weights = self.layer.module.weight.numel() - sum(split_weights(self.layer.module, split.kind, *split.ranks))
        return macs >= self.least[0] or weights >= self.least[1]


def common_energy(choices: Mapping[str, Choice], others: int, part: float) -> float:
    """The largest energy, the same for all layers, with which no more than this part of the arithmetic is left.

    Raises:
        HyperParameterError: even with the smallest ranks there is more.
    """
    dense = {name: dense_macs(choice.layer) for name, choice in choices.items()}
    whole = others + sum(dense.values())

    def left(energy: float) -> int:
        splits = {name: choice.cheapest(energy) for name, choice in choices.items()}
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
