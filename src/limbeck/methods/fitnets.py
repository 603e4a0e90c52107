"""FitNets: hints from a hidden layer of the teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from limbeck import losses
from limbeck.methods.hints import Compare, Hint, hint_phase, require_regressor, settle_hint
from limbeck.methods.pairs import as_pair
from limbeck.methods.terms import (
    check_logits,
    cross_entropy,
    off,
    require_targets,
    require_temperature,
    soft_targets,
)
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Seen, Term, Update
from limbeck.settings import Optimizer, Presets, Ramp, Weight, at, finite, require, require_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

_FALLING = Ramp(start=4.0, end=1.0)


@dataclass(frozen=True, kw_only=True)
class FitNets:
    """Hints first, then softened classes (Romero et al., ICLR 2015, equations 2 and 3).

    Two stages, as in the paper.  "hint" trains the student up to its *guided* layer, and a regressor r, on
    ``1/2 || u_h - r(v_g) ||^2`` alone.  "distill" trains the whole student on
    ``hard * CE(z_s, y) + soft * H(p_T, q_T)``; the hint is over, and the regressor gone.

    One stage (what later benchmarks run): ``hard * CE + hint_weight * hint + soft * H(p_T, q_T)``, all at once.

    Attributes:
        pair: (guided layer of the student, hint layer of the teacher).  None: the middle of both
            networks, as the paper recommends.
        stages: "two" or "one".  Default "two" (the paper).
        hint_share: part of the stage's epochs that go to the hints, in (0, 1); two stages only.  Default
            0.25: ours.  The paper trains both stages until they stop improving.
        temperature: T, more than zero.  Default 3 (the paper).
        soft: weight of the teacher's classes, zero or more, or a `Ramp`.  Default: from 4 to 1, linearly over
            the phase (the paper: over 500 epochs), so that easy examples are learnt first.
        tau_squared: whether the teacher's part is multiplied by ``T^2``, as in `KD`.  Default False: the paper's
            equation has no such factor.  The term "kd" shows ``T^2 KL`` either way; its weight says the rest.
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1 (the paper).
        hint_weight: weight of the hint loss, more than zero, or a `Ramp`.  Default None: one over the number of
            units in the hint layer (form "paper"), which makes the loss half the mean square and is stable at
            SGD's learning rates of 0.1, where the paper's plain sum needs its RMSProp at 0.005; or 1 (form
            "benchmark").  For two stages it only scales the learning rate of the hints; for one stage it is what
            the hint counts beside the labels (100 in the CRD benchmark).
        form: of the hint loss: "paper", half the sum of squares over all units of the layer, or "benchmark",
            their mean.  Ratio: units / 2.
        regressor: "paper" or "benchmark"; see `limbeck.connectors.regressor`.
        activation: what the regressor ends with: "relu", "tanh", "sigmoid", "none", or "auto": the teacher's own
            activation in form "paper", as far as its values tell (ReLU or none), and ReLU in form "benchmark".
        hint_optimizer: replaces the stage's optimizer for the hints; two stages only.  Default None: the
            stage's own.

    Raises:
        HyperParameterError: a setting is outside its range.
        TapError: a layer of ``pair`` does not exist.
        ShapeError: no regressor fits the two layers, or the networks score different classes.
        TargetError: ``hard`` is on, and a batch has no labels.

    >>> FitNets(pair=("layer2", "layer2")).soft
    Ramp(start=4.0, end=1.0, epochs=None)
    """

    pair: tuple[str, str] | None = None
    stages: Literal["two", "one"] = "two"
    hint_share: float = 0.25
    temperature: float = 3.0
    soft: Weight = _FALLING
    tau_squared: bool = False
    hard: Weight = 1.0
    hint_weight: Weight | None = None
    form: Literal["paper", "benchmark"] = "paper"
    regressor: Literal["paper", "benchmark"] = "paper"
    activation: Literal["auto", "relu", "tanh", "sigmoid", "none"] = "auto"
    hint_optimizer: Optimizer | None = None

    presets: ClassVar[Presets] = {
        "paper": {
            "stages": "two",
            "temperature": 3.0,  # Romero et al., section 3: tau
            "soft": Ramp(start=4.0, end=1.0, epochs=500),  # lambda, linear over 500 epochs
            "hard": 1.0,  # equation 2
            "tau_squared": False,  # equation 2 has no such factor
            "hint_weight": 1.0,  # equation 3: the plain half sum over all units ...
            "form": "paper",
            "regressor": "paper",  # section 2.2: convolution without padding
            "hint_optimizer": Optimizer(  # ... which the learning rate of this RMSProp goes with
                kind="rmsprop", lr=0.005, momentum=0.0, weight_decay=0.0
            ),
        },
        "benchmark": {
            "stages": "one",
            "soft": 0.0,
            "hard": 1.0,
            "hint_weight": 100.0,  # beta
            "form": "benchmark",  # mean over all elements
            "regressor": "benchmark",  # with batch normalisation and ReLU
        },
        "one_stage": {  # labels and hint in one go, with the paper's regressor
            "stages": "one",
            "soft": 0.0,
            "hard": 1.0,
            "form": "benchmark",
            "hint_weight": 10.0,  # ours: without batch normalisation in the regressor, 100 drowned the labels of digits
            "regressor": "paper",
        },
    }

    def __post_init__(self) -> None:
        if self.pair is not None:
            object.__setattr__(self, "pair", as_pair("pair", self.pair))
        require(self.stages in ("two", "one"), "stages", self.stages, "'two' or 'one'")
        share = self.hint_share
        require(finite(share) and 0 < share < 1, "hint_share", share, "a part of the epochs, in (0, 1)")
        require_temperature(self.temperature)
        require_weights(some=self.stages == "two", soft=self.soft, hard=self.hard)
        if self.hint_weight is not None:
            require_weights(hint_weight=self.hint_weight)
        require(self.form in ("paper", "benchmark"), "form", self.form, "'paper' or 'benchmark'")
        require_regressor(self.regressor, self.activation)
        if self.stages == "one":
            require(self.hint_optimizer is None, "hint_optimizer", self.hint_optimizer, "only with two stages")

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """ "hint" and "distill", or "distill" alone with the hint in it."""
        models = cast.pick("student", "teacher")
        require_targets(cast.example, self.hard)
        if not off(self.soft):
            check_logits(cast, columns=2, instead="set soft=0 to learn from hints and labels alone")
        hint = settle_hint(cast, self.pair, regressor=self.regressor, activation=self.activation)
        weight = self._weight(hint.units)

        def compare(ours: Tensor, theirs: Tensor, moment: Moment) -> Term:
            return Term(losses.hint_l2(ours, theirs, form=self.form), at(weight, moment))

        if self.stages == "one":
            return (self._joint(models, hint, compare),)
        first = hint_phase(models, hint, compare, share=self.hint_share, optimizer=self.hint_optimizer)
        return first, self._second(models)

    def _weight(self, units: int) -> Weight:
        if self.hint_weight is not None:
            return self.hint_weight
        return 1.0 / units if self.form == "paper" else 1.0

    def _class_terms(self, student: Seen, teacher: Seen, batch: Batch, moment: Moment) -> dict[str, Term]:
        """Labels and softened classes, for those of the two that are on."""
        terms = cross_entropy(student.logits, batch, moment, weight=self.hard)
        scale = 1.0 if self.tau_squared else self.temperature**-2
        soft = soft_targets(student, teacher, moment, weight=self.soft, temperature=self.temperature)
        return terms | {name: term._replace(weight=term.weight * scale) for name, term in soft.items()}

    def _second(self, models: Mapping[str, nn.Module]) -> Phase:
        def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
            teacher, student = models["teacher"](batch.inputs), models["student"](batch.inputs)
            yield Update("student", self._class_terms(student, teacher, batch, moment))

        rising = isinstance(self.soft, Ramp) and self.soft.start < self.soft.end
        return Phase(
            name="distill",
            modules=models,
            trains={"student": ("student",)},
            taps={"student": (), "teacher": ()},
            step=step,
            share=1.0 - self.hint_share,
            notes=("soft rises during training; the paper lets it fall",) if rising else (),
        )

    def _joint(self, models: Mapping[str, nn.Module], hint: Hint, compare: Compare) -> Phase:
        guided, target = hint.pair

        def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
            teacher, student = models["teacher"](batch.inputs), models["student"](batch.inputs)
            term = compare(models["regressor"](student.taps[guided]), teacher.taps[target], moment)
            yield Update("student", self._class_terms(student, teacher, batch, moment) | {"hint": term})

        return Phase(
            name="distill",
            modules={**models, "regressor": hint.regressor},
            trains={"student": ("student", "regressor")},
            taps={"student": (guided,), "teacher": (target,)},
            step=step,
            stops=frozenset({"teacher"}) if off(self.soft) else frozenset(),
            notes=hint.notes,
        )
