"""Network slimming: the scales of batch normalisation are pushed towards zero, and show which channels can go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from limbeck.errors import LimbeckError
from limbeck.methods.terms import cross_entropy, require_targets
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Term, Update
from limbeck.settings import Presets, Weight, at, require, require_weights

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Slimming:
    """Labels, and a price on every scale of batch normalisation (Liu, Li, Shen, Huang, Yan, Zhang, ICCV 2017, equation 1).

    ``L = hard * CE + weight * sum |gamma|`` over all scales of all batch normalisations.  The scales of channels that
    are not needed end near zero; ``Prune(by="slimming")`` removes them afterwards.  Beside a teacher:
    ``Sum(KD(), Slimming(hard=0.0))``.

    Attributes:
        weight: lambda, the price of the scales, zero or more, or a `Ramp`.  Default 1e-4 (the paper, VGG); preset
            "resnet" has the paper's 1e-5.
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1 (the paper).  With 0 the batches need no labels.
        label_smoothing: of the labels' part; in [0, 1).  Default 0.

    Raises:
        HyperParameterError: a setting is outside its range, or both weights are zero.
        LimbeckError: the network has no batch normalisation with scales that are trained.
        TargetError: ``hard`` is on, and a batch has no labels.

    >>> Slimming(weight=1e-5).hard
    1.0
    """

    weight: Weight = 1e-4
    hard: Weight = 1.0
    label_smoothing: float = 0.0

    presets: ClassVar[Presets] = {
        "paper": {"weight": 1e-4, "hard": 1.0},  # Liu et al., section 4: lambda for VGGNet
        "resnet": {"weight": 1e-5, "hard": 1.0},  # the same section: ResNet-164 and DenseNet-40
        "benchmark": {"weight": 1e-4, "hard": 1.0},  # the authors' PyTorch code, VGG
    }

    def __post_init__(self) -> None:
        require_weights(weight=self.weight, hard=self.hard)
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "train", with the terms "ce" and "slimming"."""
        modules = cast.pick("student")
        require_targets(cast.example, self.hard)
        scales = [gamma for gamma in _scales(modules["student"]).values() if gamma.requires_grad]
        if not scales:
            from limbeck.taps import title

            raise LimbeckError(
                f"slimming puts a price on the scales of batch normalisation, and {title(modules['student'])} has none that "
                "are trained; take a network with BatchNorm (limbeck models), or prune by filters: l1, l2, fpgm"
            )

        def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
            logits = models["student"](batch.inputs).logits
            terms = cross_entropy(logits, batch, moment, weight=self.hard, label_smoothing=self.label_smoothing)
            price = sum((gamma.float().abs().sum() for gamma in scales[1:]), scales[0].float().abs().sum())
            yield Update("student", {**terms, "slimming": Term(price, at(self.weight, moment))})

        return (
            Phase(name="train", modules=modules, trains={"student": ("student",)}, taps={"student": ()}, step=step),
        )


def _scales(model: nn.Module) -> dict[str, Tensor]:
    """The scales of the batch normalisations that have any, by path."""
    from torch import nn

    from limbeck.taps import original

    kind = nn.modules.batchnorm._BatchNorm
    return {
        path: m.weight for path, m in original(model).named_modules() if isinstance(m, kind) and m.weight is not None
    }


def gammas(model: nn.Module) -> dict[str, list[float]]:
    """The absolute scales of every batch normalisation, for a histogram: the larger lambda was, the more are near zero.

    Args:
        model: any network.

    Returns:
        By the path of the layer; empty for a network without.

    >>> from torch import nn
    >>> gammas(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)))
    {'1': [1.0, 1.0]}
    """
    return {path: gamma.detach().abs().cpu().tolist() for path, gamma in _scales(model).items()}
