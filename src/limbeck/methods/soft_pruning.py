"""Soft filter pruning: the least of the filters are zeroed after every epoch, and may come back in the next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from limbeck.errors import LimbeckError
from limbeck.methods.terms import cross_entropy, require_targets
from limbeck.methods.weights_of import prunable
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Update
from limbeck.settings import Presets, Weight, finite, names_of, require, require_choice, require_weights, require_whole

if TYPE_CHECKING:
    from torch import Tensor, nn

_SCORES = ("l1", "l2", "fpgm")


@dataclass(frozen=True, kw_only=True)
class SoftFilterPruning:
    """Labels; after each epoch the least of every convolution's filters are set to zero, and training goes on with all.

    ``L = hard * CE``, and after each epoch ``F_j = 0`` for the ``floor((1 - keep) * filters)`` filters with the lowest score.
    He, Kang, Dong, Fu, Yang (IJCAI 2018); with ``by="fpgm"`` the redundant filters of He, Liu, Wang, Hu, Yang (CVPR 2019).
    The network ends with the zeros of its last epoch, and keeps its shape: ``Prune(by="l2")`` then finds these filters.
    Weights alone are zeroed, as in the paper; what a bias or a batch normalisation adds stays until the removal.
    Beside a teacher: ``Sum(KD(), SoftFilterPruning(hard=0.0))``.

    Attributes:
        keep: the part of the filters of each convolution that stays, in (0, 1).  Default 0.7 (both papers: 30 % and
            40 % are removed on CIFAR-10).  At least one filter stays.
        by: "l1", "l2" (the norms), or "fpgm" (the distance to all other filters).  Default "l2" (IJCAI 2018).
        mix: with "fpgm": this part of all filters goes by norm, and only the rest by distances among those that are
            left; in [0, 1 - keep].  Default 0.  The mixed rows of CVPR 2019 have 0.1.
        every: epochs between two zeroings; the last epoch always ends with one.  Default 1 (both papers).
        skip: paths of convolutions to leave whole; ``*`` stands for anything.  Default none.  Depthwise and other grouped
            convolutions, and one that gives the scores, are left whole anyway.
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1.  0 makes sense in a sum alone.

    Raises:
        HyperParameterError: a setting is outside its range.
        NameUnknown: an entry of ``skip`` fits no layer.
        LimbeckError: the network has no convolution to prune.
        TargetError: ``hard`` is on, and a batch has no labels.

    >>> SoftFilterPruning(keep=0.6, by="fpgm").every
    1
    """

    keep: float = 0.7
    by: Literal["l1", "l2", "fpgm"] = "l2"
    mix: float = 0.0
    every: int = 1
    skip: tuple[str, ...] = ()
    hard: Weight = 1.0

    presets: ClassVar[Presets] = {
        "paper": {"keep": 0.7, "by": "l2", "every": 1},  # He et al. (IJCAI 2018), section 4: ResNet on CIFAR-10, 30 %
        "benchmark": {"keep": 0.6, "by": "fpgm", "every": 1},  # He et al. (CVPR 2019): ResNet-56, 40 %
        "mixed": {"keep": 0.6, "by": "fpgm", "mix": 0.1, "every": 1},  # the same, "FPGM-mix"
    }

    def __post_init__(self) -> None:
        object.__setattr__(self, "skip", names_of("skip", self.skip))
        require(finite(self.keep) and 0 < self.keep < 1, "keep", self.keep, "a part of the filters, in (0, 1)")
        require_choice("by", self.by, _SCORES)
        most = round(1 - self.keep, 12)
        require(
            finite(self.mix) and 0 <= self.mix <= most, "mix", self.mix, f"in [0, 1 - keep], which is [0, {most:g}]"
        )
        require(self.mix == 0 or self.by == "fpgm", "mix", self.mix, "0, unless by = 'fpgm'")
        require_whole(every=self.every)
        require(self.every >= 1, "every", self.every, "at least 1 epoch")
        require_weights(some=False, hard=self.hard)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "train", with the term "ce"."""
        modules = cast.pick("student")
        require_targets(cast.example, self.hard)
        layers = _convolutions(modules["student"], self.skip)

        def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
            logits = models["student"](batch.inputs).logits
            yield Update("student", cross_entropy(logits, batch, moment, weight=self.hard))
            # After the update, not before the next forward: the epoch's measures and its checkpoint see the zeros.
            if self._due(moment):
                from limbeck import connectors

                for layer in layers.values():
                    weight: Tensor = layer.weight  # type: ignore[assignment]
                    connectors.silence(weight, least_filters(weight, self.keep, by=self.by, mix=self.mix))

        gone = {path: _count(len(layer.weight), self.keep) for path, layer in layers.items()}  # type: ignore[arg-type]
        note = f"{sum(gone.values())} filters in {len(gone)} convolutions are zeroed after each pruning, by {self.by}"
        return (
            Phase(
                name="train",
                modules=modules,
                trains={"student": ("student",)},
                taps={"student": ()},
                step=step,
                notes=(note,),
            ),
        )

    def _due(self, moment: Moment) -> bool:
        """Whether this was the last update of an epoch that ends with zeros.

        Where nobody knows how many updates an epoch has, every update of the phase's last epoch counts as one.
        """
        last = moment.epoch >= moment.epochs - 1
        if moment.steps is None:
            return last
        done = moment.step + 1
        return done % moment.steps == 0 and (last or (done // moment.steps) % self.every == 0)


def least_filters(weight: Tensor, keep: float, *, by: str = "l2", mix: float = 0.0) -> Tensor:
    """Which filters of a layer go: ``floor((1 - keep) * filters)`` of them, and never all.

    Args:
        weight: ``[filters, ...]``.
        keep: the part that stays, in (0, 1).
        by: "l1", "l2" or "fpgm".
        mix: with "fpgm", the part of all filters that goes by its norm first.

    Returns:
        int64, the indices; among equals the lower goes first.

    >>> import torch
    >>> least_filters(torch.tensor([[3.0], [0.1], [2.0], [1.0]]), 0.5)
    tensor([1, 3])
    """
    from limbeck import scores

    plain = weight.detach()
    count = _count(len(plain), keep)
    score = {"l1": scores.l1, "l2": scores.l2, "fpgm": scores.fpgm}[by]
    if by != "fpgm" or not mix:
        return scores.lowest(score(plain), count)
    small = scores.lowest(scores.l2(plain), min(count, _whole(mix * len(plain))))
    gone = set(small.tolist())
    left = [i for i in range(len(plain)) if i not in gone]
    near = scores.lowest(scores.fpgm(plain[left]), count - len(small))
    return small.new_tensor([*small.tolist(), *(left[i] for i in near.tolist())])


def _count(filters: int, keep: float) -> int:
    return min(filters - 1, _whole((1 - keep) * filters))


def _whole(number: float) -> int:
    """Rounded down; 0.3 of 10 are 3, whatever binary fractions make of it."""
    return math.floor(number + 1e-9)


def _convolutions(student: nn.Module, skip: Sequence[str]) -> dict[str, nn.Module]:
    """The convolutions whose filters may go."""
    from torch import nn

    layers = prunable(student, skip)
    *_, last = prunable(student, ())  # the layer that gives the scores, by order of definition
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    found: dict[str, nn.Module] = {
        path: layer
        for path, layer in layers.items()
        if isinstance(layer, kinds) and layer.groups == 1 and layer.out_channels > 1 and path != last
    }
    if not found:
        from limbeck.taps import title

        raise LimbeckError(
            f"soft filter pruning zeroes filters of convolutions, and {title(student)} has none to prune (grouped ones, "
            "one that gives the scores, and those in skip are left whole); for single weights take gradual_magnitude"
        )
    return found
