"""Gradual magnitude pruning: fewer and fewer weights, while the rest of them is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from limbeck.methods.terms import cross_entropy, require_targets
from limbeck.methods.weights_of import prunable
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Update
from limbeck.settings import Presets, Weight, finite, names_of, require, require_choice, require_weights, require_whole


@dataclass(frozen=True, kw_only=True)
class GradualMagnitude:
    """Labels, while the smallest weights go one after the other (Zhu, Gupta, arXiv 1710.01878, section 3).

    ``L = hard * CE`` over the weights that are left.  The sparsity rises as ``s_t = s_f + (s_i - s_f) * (1 - x)^3``, where x goes from 0 at ``begin`` to 1 at ``end``: fast at
    first, while there is much to spare.  After every update the weights that are gone are exactly zero, whatever momentum
    or weight decay did to them; once gone, a weight stays gone.  Biases and normalisations are left alone.
    Zeros save no time on dense kernels.  Beside a teacher: ``Sum(KD(), GradualMagnitude(hard=0.0))``.

    Attributes:
        density: the part of the weights that is left at the end, in (0, 1).  Default 0.1.
        initial: the part that is left at ``begin``, in (0, 1] and no less than ``density``.  Default 1 (the paper).
        begin: when pruning begins, a part of the phase in [0, 1).  Default 0.
        end: when the last weights go, in (begin, 1].  Default 0.75: ours; the rest of the phase is for recovering.
        every: updates between two choices of weights, at least 1.  Default 10: ours; the paper has 100 to 1000, in
            trainings of many thousands.
        scope: "layer": every layer keeps the same part (the paper); "global": the largest weights of all layers stay, at
            least one of each.  Default "layer".
        skip: paths of layers to leave dense; ``*`` stands for anything.  Default none.
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1.  0 makes sense in a sum alone.

    Raises:
        HyperParameterError: a setting is outside its range.
        NameUnknown: an entry of ``skip`` fits no layer.
        LimbeckError: the network has no layer to prune.
        TargetError: ``hard`` is on, and a batch has no labels.

    >>> schedule = GradualMagnitude(density=0.1, end=1.0)
    >>> [round(schedule.density_at(part), 4) for part in (0.0, 0.5, 1.0)]
    [1.0, 0.2125, 0.1]
    """

    density: float = 0.1
    initial: float = 1.0
    begin: float = 0.0
    end: float = 0.75
    every: int = 10
    scope: Literal["layer", "global"] = "layer"
    skip: tuple[str, ...] = ()
    hard: Weight = 1.0

    presets: ClassVar[Presets] = {
        # Zhu, Gupta, section 3: initial sparsity 0, every 100 to 1000 steps; 87.5 % is the sparsest of their first table
        "paper": {"density": 0.125, "initial": 1.0, "every": 100, "scope": "layer"},
        # 90 %, in the middle of what Gale, Elsen, Hooker (The State of Sparsity, arXiv 1902.09574) compare
        "benchmark": {"density": 0.1, "initial": 1.0, "every": 100, "scope": "layer"},
    }

    def __post_init__(self) -> None:
        object.__setattr__(self, "skip", names_of("skip", self.skip))
        require(
            finite(self.density) and 0 < self.density < 1, "density", self.density, "a part of the weights, in (0, 1)"
        )
        ok = finite(self.initial) and self.density <= self.initial <= 1
        require(ok, "initial", self.initial, f"between the density at the end ({self.density:g}) and 1")
        require(finite(self.begin) and 0 <= self.begin < 1, "begin", self.begin, "a part of the phase, in [0, 1)")
        rule = f"a part of the phase, after begin ({self.begin:g}) and at most 1"
        require(finite(self.end) and self.begin < self.end <= 1, "end", self.end, rule)
        require_whole(every=self.every)
        require(self.every >= 1, "every", self.every, "at least 1 update")
        require_choice("scope", self.scope, ("layer", "global"))
        require_weights(some=False, hard=self.hard)

    def density_at(self, progress: float) -> float:
        """The part of the weights that is left when ``progress`` (in [0, 1]) of the phase is over; 1 before ``begin``."""
        if progress < self.begin:
            return 1.0
        x = min(1.0, (progress - self.begin) / (self.end - self.begin))
        return self.density + (self.initial - self.density) * (1.0 - x) ** 3

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "train", with the term "ce"; its module "masks" says which weights stay."""
        from limbeck import connectors

        modules = cast.pick("student")
        require_targets(cast.example, self.hard)
        layers = prunable(modules["student"], self.skip)
        weights = [layer.weight for layer in layers.values()]
        masks = connectors.Masks(weights, scope=self.scope)  # type: ignore[arg-type]

        def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
            logits = models["student"](batch.inputs).logits
            yield Update("student", cross_entropy(logits, batch, moment, weight=self.hard))
            over = _over(moment)
            due = (moment.step + 1) % self.every == 0 or over >= self.end
            models["masks"](weights, self.density_at(over) if due and over >= self.begin else None)

        count = sum(weight.numel() for weight in weights)  # type: ignore[operator]
        note = f"of {count:,} weights in {len(weights)} layers, {self.density:.4g} of {'each' if self.scope == 'layer' else 'all'} stay"
        return (
            Phase(
                name="train",
                modules={**modules, "masks": masks},
                trains={"student": ("student", "masks")},
                taps={"student": ()},
                step=step,
                notes=(note,),
            ),
        )


def _over(moment: Moment) -> float:
    """The part of the phase that is over when this update is done; by whole epochs where nobody knows their length."""
    done = moment.epoch + (1.0 / moment.steps if moment.steps else 1.0)
    return min(1.0, (done + 1e-9) / moment.epochs) if moment.epochs else 1.0
