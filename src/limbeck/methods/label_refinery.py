"""Label refinery: a network's own answers, for the very crop that is shown, are better labels than the given ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from limbeck import losses
from limbeck.course import TEACHER, Lesson
from limbeck.errors import DataError
from limbeck.methods.response import KD
from limbeck.methods.terms import (
    check_logits,
    cross_entropy,
    device_of,
    off,
    require_targets,
    require_temperature,
    rows_of,
)
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Term, Update
from limbeck.settings import Presets, Weight, at, require, require_choice, require_weights, require_whole


@dataclass(frozen=True, kw_only=True)
class LabelRefinery:
    """Rounds of training from what the network before says of the same crop (Bagherinezhad et al., arXiv 1805.02641).

    ``L = KL(softmax(z_t) || softmax(z_s))``, mean over the batch: no temperature, and no label from the data.  The first
    round learns from the stage's teacher (train it on labels), each next one from the round before, each from new random
    weights and each for as long as the stage's ``training`` says.  It needs crops that differ: see ``data.augment``.

    Results: "STAGE.1" ... for the rounds before the last, "STAGE" for the last.

    Attributes:
        rounds: how many networks are trained, 1 or more.  Default 3.
        labels: "dynamic", made for every crop anew (the paper); or "static", one label for each row, made once
            (`StaticLabels`; the paper's comparison).  Default "dynamic".

    Raises:
        HyperParameterError: a setting is outside its range.

    >>> [lesson.teachers for lesson in LabelRefinery(rounds=2).lessons()]
    [('teacher',), ('.1',)]
    """

    rounds: int = 3
    labels: Literal["dynamic", "static"] = "dynamic"

    presets: ClassVar[Presets] = {
        "paper": {"rounds": 4, "labels": "dynamic"},  # AlexNet on ImageNet: four rounds after the first network
        "benchmark": {"rounds": 1, "labels": "dynamic"},  # most of the paper's networks are refined once
    }

    def __post_init__(self) -> None:
        require_whole(rounds=self.rounds)
        require(self.rounds >= 1, "rounds", self.rounds, "1 or more")
        require_choice("labels", self.labels, ("dynamic", "static"))

    def lessons(self) -> Sequence[Lesson]:
        """One lesson per round."""
        method = KD(temperature=1.0, soft=1.0, hard=0.0) if self.labels == "dynamic" else StaticLabels()
        names = [*(str(k) for k in range(1, self.rounds)), ""]
        teachers = [TEACHER, *(f".{name}" for name in names[:-1])]
        return [
            Lesson(name=name, method=method, teachers=(teacher,), fresh=True)
            for name, teacher in zip(names, teachers, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class StaticLabels:
    """One softened label for each row of the data, kept from the teacher's first look at it.

    ``L = hard * CE(z_s, y) + soft * T^2 * KL(p_row || softmax(z_s / T))``, mean over the batch.  ``p_row`` is the
    teacher's ``softmax(z_t / T)`` for the first view of the row in this phase, whatever view the student sees later.
    This is `KD` with labels that know nothing of the crop: the comparison of the label refinery paper (Bagherinezhad et
    al., arXiv 1805.02641).  Where views do not vary, it is `KD`.

    Attributes:
        temperature: T, more than zero.  Default 1 (the paper).
        soft: weight of the kept labels, zero or more, or a `Ramp`.  Default 1 (the paper).
        hard: weight of the data's labels, zero or more, or a `Ramp`.  Default 0 (the paper).

    Raises:
        HyperParameterError: a setting is outside its range, or both weights are zero.
        DataError: the batches do not say which rows they hold, or nobody knows how many there are.
        TargetError: ``hard`` is on, and a batch has no labels.
        ShapeError: the networks score different classes, or a single logit.

    >>> StaticLabels(temperature=4.0).hard
    0.0
    """

    temperature: float = 1.0
    soft: Weight = 1.0
    hard: Weight = 0.0

    presets: ClassVar[Presets] = {
        "paper": {"temperature": 1.0, "soft": 1.0, "hard": 0.0},
        "benchmark": {"temperature": 4.0, "soft": 0.9, "hard": 0.1},  # no one has published any: that of "kd"
    }

    def __post_init__(self) -> None:
        require_temperature(self.temperature)
        require_weights(soft=self.soft, hard=self.hard)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with the terms "ce" and "kd"."""
        modules = cast.pick("student", "teacher")
        require_targets(cast.example, self.hard)
        columns = check_logits(cast, columns=2, instead="there is no such method for a single logit")
        if cast.example.rows is None:
            raise DataError(_NO_ROWS)
        if cast.rows is None:
            raise DataError(f"{_BY_ROW}, and this loader does not say how many there are: give it an attribute 'rows'")
        total = cast.rows

        from limbeck import connectors

        memory = connectors.Remember(total, columns, device=device_of(cast.example.inputs))

        def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
            teacher, student = models["teacher"](batch.inputs).logits, models["student"](batch.inputs).logits
            terms = cross_entropy(student, batch, moment, weight=self.hard)
            if not off(self.soft):
                # Logarithms of probabilities are logits of them, and T times these are logits at that temperature.
                said = (teacher.float() / self.temperature).log_softmax(1)
                kept = self.temperature * models["memory"](rows_of(batch, total, _NO_ROWS), said)
                value = losses.kd_kl(student, kept, temperature=self.temperature)
                terms["kd"] = Term(value, at(self.soft, moment))
            yield Update("student", terms)

        return (
            Phase(
                name="distill",
                modules={**modules, "memory": memory},
                trains={"student": ("student", "memory")},
                taps={"student": (), "teacher": ()},
                step=step,
            ),
        )


_BY_ROW = "static labels are kept for each row of the data"
_NO_ROWS = (
    f"{_BY_ROW}, and this batch does not say which rows it holds (its rows are None): the batches of a recipe do; "
    "in Python give limbeck.Batch(inputs, targets, rows)"
)
