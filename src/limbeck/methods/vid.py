"""Variational information distillation: the student's maps are to tell the teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

from limbeck import losses
from limbeck.methods.pairs import as_pairs, settle, term_names
from limbeck.methods.terms import (
    check_logits,
    cross_entropy,
    off,
    require_targets,
    require_temperature,
    soft_targets,
)
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Term, Update
from limbeck.settings import Presets, Weight, at, finite, require, require_choice, require_weights

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class VID:
    """Variational information distillation (Ahn, Hu, Damianou, Lawrence, Dai, CVPR 2019, section 2).

    ``L = hard * CE + weight * sum_pairs 1/2 * ((mu(s) - t)^2 / v + log v)``: the negative log likelihood of the teacher's map
    under a Gaussian around a guess mu from the student's, with one learnt variance v for each of the teacher's
    channels.  Channels that the student cannot tell get a large variance, and count little.  It bounds the mutual
    information between the layers from below.  The term may be negative.

    Attributes:
        pairs: (student layer, teacher layer) pairs; channels may differ.  Empty: the ends of the resolution stages,
            by relative depth (the benchmark).
        weight: of every pair, zero or more, or a `Ramp`.  Default None: 1 in form "benchmark" (the benchmark), and one
            over the number of elements of the teacher's layer in form "paper", whose plain sum would drown the labels
            (ours; it makes both forms equal).
        form: "benchmark", the mean over the elements of the map, or "paper", their sum, which is the likelihood itself.
            Default "benchmark".
        variance: of every channel at the start, more than 1e-5.  Default 5 (the benchmark).
        resize: how maps of different size are made equal: "pool" averages the larger one down, the student's before
            the guess, "interpolate" resamples the student's map bilinearly.  Default "pool" (the benchmark).
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1 (the benchmark).
        soft: weight of a `KD` term beside it, zero or more, or a `Ramp`.  Default 0; the paper's combination with KD
            has one.
        temperature: of that term.  Default 4 (the benchmark).

    Raises:
        HyperParameterError: a setting is outside its range, or a pair is malformed.
        TapError: a layer does not exist.
        ShapeError: a layer gives no maps, or (with ``soft``) the networks score different classes.
        TargetError: ``hard`` is on, and a batch has no labels.

    >>> VID(pairs=[("layer3", "layer3")]).variance
    5.0
    """

    pairs: tuple[tuple[str, str], ...] = ()
    weight: Weight | None = None
    form: Literal["paper", "benchmark"] = "benchmark"
    variance: float = 5.0
    resize: Literal["pool", "interpolate"] = "pool"
    hard: Weight = 1.0
    soft: Weight = 0.0
    temperature: float = 4.0

    presets: ClassVar[Presets] = {
        # the likelihood as the paper writes it; how its sum is weighted against the labels is ours (see ``weight``)
        "paper": {"form": "paper", "hard": 1.0},
        "benchmark": {"form": "benchmark", "weight": 1.0, "variance": 5.0, "hard": 1.0},  # -b 1, init_pred_var
    }

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", as_pairs(self.pairs))
        require_choice("form", self.form, ("paper", "benchmark"))
        require_choice("resize", self.resize, ("pool", "interpolate"))
        require(finite(self.variance) and self.variance > 1e-5, "variance", self.variance, "more than 1e-5")
        require_weights(hard=self.hard, soft=self.soft, some=False)
        if self.weight is not None:
            require_weights(weight=self.weight, hard=self.hard, soft=self.soft)
        require_temperature(self.temperature)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with the terms "ce", "vid/<student layer>" for each pair, and maybe "kd"."""
        from limbeck import connectors, taps

        modules = cast.pick("student", "teacher")
        require_targets(cast.example, self.hard)
        if not off(self.soft):
            check_logits(cast, columns=2, instead="set soft=0")
        settled = settle(cast, self.pairs, method="variational information distillation")
        ours = taps.shapes(modules["student"], cast.example.inputs, settled.students)
        theirs = taps.shapes(modules["teacher"], cast.example.inputs, settled.teachers)
        guesses: dict[str, nn.Module] = {
            f"guess{i + 1}": connectors.Guess(ours[s][1], theirs[t][1], variance=self.variance)
            for i, (s, t) in enumerate(settled.pairs)
        }
        names = term_names("vid", settled.pairs)

        def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
            teacher, student = models["teacher"](batch.inputs), models["student"](batch.inputs)
            terms = cross_entropy(student.logits, batch, moment, weight=self.hard)
            for role, name, (a, b) in zip(guesses, names, settled.pairs, strict=True):
                s, t = self._same_size(student.taps[a], teacher.taps[b])
                mean, variance = models[role](s)
                value = losses.vid_nll(mean, t, variance=variance, form=self.form)
                terms[name] = Term(value, self._weight(t, moment))
            yield Update(
                "student",
                terms | soft_targets(student, teacher, moment, weight=self.soft, temperature=self.temperature),
            )

        return (
            Phase(
                name="distill",
                modules={**modules, **guesses},
                trains={"student": ("student", *guesses)},
                taps={"student": settled.students, "teacher": settled.teachers},
                step=step,
                stops=frozenset({"teacher"}) if off(self.soft) else frozenset(),
                notes=(
                    settled.note,
                    f"guesses: {sum(p.numel() for g in guesses.values() for p in g.parameters()):,} weights",
                ),
            ),
        )

    def _weight(self, t: Tensor, moment: Moment) -> float:
        if self.weight is not None:
            return at(self.weight, moment)
        return 1.0 / prod(t.shape[1:]) if self.form == "paper" else 1.0

    def _same_size(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Before the guess, as in the benchmark: its convolutions are not linear, so the order matters."""
        from limbeck.losses import maps
        from limbeck.losses._checks import exact

        s, t = exact(s), exact(t)  # before the averages, which half precision would round
        return maps._pool_to_smaller(s, t) if self.resize == "pool" else (maps._interpolate(s, t), t)
