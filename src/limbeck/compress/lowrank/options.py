"""What a layer may become: each kind of split with the ranks that are worth having, what it costs and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.compress.lowrank.look import Call, Layer
from limbeck.compress.lowrank.matrices import double, squares
from limbeck.compress.lowrank.spatial import as_matrix
from limbeck.compress.lowrank.svd import ROUNDING, kept_parts
from limbeck.compress.lowrank.tucker import bases
from limbeck.compress.lowrank.vbmf import evbmf, weakened
from limbeck.models.dominant_kernels import kernel_rank, kernel_spectrum


@dataclass(frozen=True)
class Split:
    """A kind of split with its ranks (for "tucker" of inputs and of outputs), and the MACs of all uses of the layer."""

    kind: str
    ranks: tuple[int, ...]
    macs: int


def has_window(module: nn.Module) -> bool:
    """Whether a layer is a convolution that looks at more than one place."""
    return isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1


def kinds_of(module: nn.Module, wanted: str) -> tuple[str, ...]:
    """The kinds of split that a layer may get: what a window has to do with is for windows, the rest is "svd"."""
    if not has_window(module):
        return () if wanted == "dominant" else ("svd",)
    return ("tucker", "svd", "spatial", "dominant") if wanted == "auto" else (wanted,)


def full_ranks(module: Any, kind: str) -> tuple[int, ...]:
    """The ranks with which a split is exact; per group."""
    if isinstance(module, nn.Linear):
        return (min(module.weight.shape),)
    outside, inside, height, width = module.weight.shape
    outside //= module.groups
    return {
        "svd": (min(outside, inside * height * width),),
        "tucker": (inside, outside),
        "spatial": (min(inside * height, outside * width),),
        "dominant": (kernel_rank(module),),
    }[kind]


def dense_macs(layer: Layer) -> int:
    """Multiply-accumulates of all uses of a layer as it is."""
    per_output = layer.module.weight[0].numel()
    return sum(prod(use.outside) * per_output for use in layer.calls)


def split_macs(layer: Layer, kind: str, *ranks: Any) -> Any:
    """The same for a split; with arrays of ranks, an array."""
    weights = split_weights(layer.module, kind, *ranks)
    return sum(w * n for use in layer.calls for w, n in zip(weights, _places(layer.module, use, kind), strict=True))


def split_weights(module: Any, kind: str, *ranks: Any) -> tuple[Any, ...]:
    """How many weights each part of a split has, in the order in which they run; with arrays of ranks, arrays."""
    if isinstance(module, nn.Linear):
        return ranks[0] * module.in_features, ranks[0] * module.out_features
    outside, inside, height, width = module.weight.shape
    window, inside = height * width, module.groups * inside
    if kind == "svd":
        return ranks[0] * inside * window, ranks[0] * outside
    if kind == "tucker":
        r_in, r_out = ranks
        return inside * r_in, module.groups * r_in * r_out * window, r_out * outside
    if kind == "spatial":
        return ranks[0] * inside * height, ranks[0] * outside * width
    return ranks[0] * inside * window, ranks[0] * inside * outside // module.groups


def _places(module: Any, use: Call, kind: str) -> tuple[int, ...]:
    """In how many places of all samples each part of a split stands: so often each of its weights is multiplied."""
    if isinstance(module, nn.Linear):
        return (prod(use.outside[:-1]),) * 2
    samples = prod(use.outside) // prod(use.outside[-3:])
    before, after = samples * prod(use.inside[-2:]), samples * prod(use.outside[-2:])
    if kind == "tucker":
        return before, after, after
    if kind == "spatial":
        return samples * use.outside[-2] * use.inside[-1], after  # as high as the output, as wide as the input
    return after, after


@dataclass(frozen=True)
class Frontier:
    """The splits of one kind that are cheaper than the layer, and than any that keeps as much; cheapest first."""

    kind: str
    ranks: np.ndarray  # [n, 1 or 2]
    macs: np.ndarray  # [n], ascending
    kept: np.ndarray  # [n], ascending: the part of the sum of squares of the weights

    def cheapest(self, energy: float) -> Split | None:
        """The cheapest that keeps so much; None if only the layer itself does."""
        at = int((self.kept < energy - ROUNDING).sum())
        if at == len(self.kept):
            return None
        return Split(self.kind, tuple(int(r) for r in self.ranks[at]), int(self.macs[at]))


def frontier(layer: Layer, kind: str) -> Frontier:
    """All that a kind of split can do for a layer."""
    kept = _kept(layer.module, kind).cpu().numpy()
    ranks = np.indices(kept.shape).reshape(kept.ndim, -1) + 1
    macs = np.asarray(split_macs(layer, kind, *ranks))
    kept = kept.reshape(-1)
    order = np.lexsort((-kept, macs))
    best = np.maximum.accumulate(kept[order])
    better = np.concatenate([[True], best[1:] > best[:-1]]) & (macs[order] < dense_macs(layer))
    order = order[better]
    return Frontier(kind, ranks.T[order], macs[order], kept[order])


def _kept(module: Any, kind: str) -> Tensor:
    """Which part of the sum of squares each rank (or pair of ranks) keeps; over all groups."""
    if isinstance(module, nn.Linear):
        return kept_parts(squares(double(module.weight, 2)))
    if kind == "dominant":
        return kept_parts(kernel_spectrum(module).square().sum(0))
    kernels = _groups(module)
    if kind == "svd":
        return kept_parts(squares(kernels.flatten(2)).sum(0))
    if kind == "spatial":
        return kept_parts(squares(as_matrix(kernels)).sum(0))
    table = torch.stack([_core(kernel) for kernel in kernels]).sum(0)
    total = table.sum()
    return torch.ones_like(table) if total == 0 else table.cumsum(0).cumsum(1) / total


def _core(kernel: Tensor) -> Tensor:
    """The energies ``[I, O]`` of the core before anything is cut off: what HOSVD keeps is a corner of it."""
    left, right = bases(kernel)
    return torch.einsum("oihw,op,iq->qphw", kernel, left, right).square().sum((2, 3))


def _groups(conv: nn.Conv2d) -> Tensor:
    return double(conv.weight, 4).unflatten(0, (conv.groups, -1))


def by_rank(layer: Layer, kind: str, rank: int | float) -> tuple[Split, bool]:
    """A split with a given rank, or with a given part of the full one, and whether that is more than there is."""
    full = full_ranks(layer.module, kind)
    wanted = [rank if isinstance(rank, int) else max(1, round(rank * most)) for most in full]
    ranks = tuple(min(r, most) for r, most in zip(wanted, full, strict=True))
    return Split(kind, ranks, int(split_macs(layer, kind, *ranks))), ranks != tuple(wanted)


def by_vbmf(layer: Layer, kind: str, weaken: float) -> Split:
    """A split with the ranks that `evbmf` finds, of the group that needs the most, moved towards the full ones."""
    full = full_ranks(layer.module, kind)
    if isinstance(layer.module, nn.Linear):
        found = [(evbmf(layer.module.weight),)]
    else:
        found = [tuple(evbmf(matrix) for matrix in _matrices(kernel, kind)) for kernel in _groups(layer.module)]
    most = [max(ranks) for ranks in zip(*found, strict=True)]
    ranks = tuple(weakened(r, whole, weaken) for r, whole in zip(most, full, strict=True))
    return Split(kind, ranks, int(split_macs(layer, kind, *ranks)))


def _matrices(kernel: Tensor, kind: str) -> tuple[Tensor, ...]:
    """The matrices whose ranks a split has, in the order of the ranks."""
    if kind == "tucker":
        return kernel.transpose(0, 1).flatten(1), kernel.flatten(1)
    return (as_matrix(kernel) if kind == "spatial" else kernel.flatten(1),)
