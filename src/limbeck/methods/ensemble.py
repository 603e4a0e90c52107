"""Several teachers: KD from the average of their predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from limbeck import losses
from limbeck.errors import HyperParameterError, NameUnknown, ShapeError, TeacherMissing
from limbeck.methods.terms import cross_entropy, off, require_targets, require_temperature
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Term, Update
from limbeck.settings import Presets, Weight, at, finite, require, require_choice, require_weights


@dataclass(frozen=True, kw_only=True)
class EnsembleKD:
    """Softened classes of several teachers at once (Hinton, Vinyals, Dean, arXiv 1503.02531, section 1).

    ``L = hard * CE(z_s, y) + soft * T^2 * KL(p || softmax(z_s / T))``, mean over the batch, with ``p`` the average of the
    teachers' ``p_k = softmax(z_k / T)``: "arithmetic", ``sum_k w_k p_k``, or "geometric", the softmax of the mean logits
    ``sum_k w_k z_k / T``.  With one teacher this is `KD`.  Every teacher runs once per batch.

    Attributes:
        averaging: "arithmetic" (of the probabilities) or "geometric" (of the logits).  Default "arithmetic"; the paper
            names both.
        weights: one for each teacher, in the order in which the stage names them; zero or more, not all zero; they are
            divided by their sum.  Default None: all alike.
        temperature: T, more than zero.  Default 4, as in `KD`.
        soft: weight of the teachers' part, zero or more, or a `Ramp`.  Default 0.9, as in `KD`.
        hard: weight of the labels' part, zero or more, or a `Ramp`.  Default 0.1, as in `KD`.
            With 0 the batches need no labels.

    Raises:
        HyperParameterError: a setting is outside its range, or there are not as many weights as teachers.
        TeacherMissing: there is no teacher.
        TargetError: ``hard`` is on, and a batch has no labels.
        ShapeError: the networks score different classes, or a single logit.

    >>> EnsembleKD(averaging="geometric", weights=(2, 1)).temperature
    4.0
    """

    averaging: Literal["arithmetic", "geometric"] = "arithmetic"
    weights: tuple[float, ...] | None = None
    temperature: float = 4.0
    soft: Weight = 0.9
    hard: Weight = 0.1

    presets: ClassVar[Presets] = {
        "paper": {
            "averaging": "arithmetic",  # section 1 names both means
            "temperature": 2.0,  # section 4 (an ensemble of 10 for speech): 1, 2, 5 and 10 were tried; 2 is recalled
            "soft": 1.0,
            "hard": 0.5,  # section 4: relative weight of the hard targets
        },
        "benchmark": {"averaging": "arithmetic", "temperature": 4.0, "soft": 0.9, "hard": 0.1},  # that of KD
    }

    def __post_init__(self) -> None:
        require_choice("averaging", self.averaging, ("arithmetic", "geometric"))
        if self.weights is not None:
            object.__setattr__(self, "weights", _as_weights(self.weights))
        require_temperature(self.temperature)
        require_weights(soft=self.soft, hard=self.hard)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with the terms "ce" and "kd"."""
        teachers = require_teachers(cast)
        modules = cast.pick("student") | {role: cast.models[role] for role in teachers}
        require_targets(cast.example, self.hard)
        _check_logits(cast, teachers)
        if self.weights is not None and len(self.weights) != len(teachers):
            raise HyperParameterError(
                f"weights = {self.weights!r}: {len(self.weights)} for {len(teachers)} "
                f"teacher{'s'[: len(teachers) > 1]} ({', '.join(teachers)}); give one for each, or none at all"
            )

        def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
            import torch

            student = models["student"](batch.inputs).logits
            terms = cross_entropy(student, batch, moment, weight=self.hard)
            if not off(self.soft):
                theirs = torch.stack([models[role](batch.inputs).logits for role in teachers], dim=1)
                value = losses.kd_kl_mixture(
                    student, theirs, temperature=self.temperature, averaging=self.averaging, weights=self.weights
                )
                terms["kd"] = Term(value, at(self.soft, moment))
            yield Update("student", terms)

        shares = "" if self.weights is None else ", weights " + " : ".join(f"{w:g}" for w in self.weights)
        return (
            Phase(
                name="distill",
                modules=modules,
                trains={"student": ("student",)},
                taps=dict.fromkeys(("student", *teachers), ()),
                step=step,
                notes=(f"{self.averaging} mean of {len(teachers)} teacher{'s'[: len(teachers) > 1]}{shares}",),
            ),
        )


def require_teachers(cast: Cast) -> tuple[str, ...]:
    """The roles of the teachers, of which there is at least one."""
    if not cast.teachers:
        try:
            cast.pick("teacher")
        except NameUnknown as error:  # an empty list of teachers is also a wrong value
            raise TeacherMissing(str(error)) from None
    return cast.teachers


def _as_weights(value: Sequence[float]) -> tuple[float, ...]:
    """The weights as a tuple, whatever they came in, each of them checked."""
    ok = not isinstance(value, str) and isinstance(value, Sequence) and len(value) > 0
    require(ok, "weights", value, "a list with one number for each teacher, or nothing at all")
    require(all(finite(w) and w >= 0 for w in value), "weights", tuple(value), "each zero or more, and finite")
    require(any(w > 0 for w in value), "weights", tuple(value), "not all zero: no teacher would count")
    return tuple(value)


def _check_logits(cast: Cast, teachers: Sequence[str]) -> None:
    """Every network scores the same classes, and at least two of them."""
    from limbeck import taps

    def width(role: str) -> int:
        shape = tuple(taps.look(cast.models[role], cast.example.inputs, ()).logits.shape)
        return shape[1] if len(shape) > 1 else 1

    widths = {role: width(role) for role in ("student", *teachers)}
    if len(set(widths.values())) > 1:
        said = ", ".join(f"{role} {n}" for role, n in widths.items())
        raise ShapeError(f"N_t != N_s: the networks must score the same classes, and they score: {said}")
    if widths["student"] < 2:
        raise ShapeError(
            "the networks give 1 logit per sample, and a softmax needs 2 or more; use sigmoid_kd (SigmoidKD) with one teacher"
        )
