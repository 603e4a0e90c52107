"""Defensive distillation: a network taught at a high temperature, and used at 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from limbeck.course import Lesson
from limbeck.methods.response import KD, Supervised
from limbeck.settings import Presets, finite, require


@dataclass(frozen=True, kw_only=True)
class DefensiveDistillation:
    """Distillation against adversarial examples (Papernot et al., IEEE S&P 2016).

    First the network learns from labels, ``L = CE(softmax(z / T), y)``; then a fresh copy of it from what the first one
    says, ``L = KL(softmax(z_1 / T) || softmax(z_2 / T))``, with no labels and no ``T^2``.  It is used at temperature 1, where
    its scores, about T times as large, saturate the softmax: the gradients that an attack would follow vanish.  Each of
    the two trains for as long as the stage's ``training`` says; as the loss has no ``T^2``, gradients are about T times
    smaller than with `KD`.

    This hides gradients and no more (Carlini, Wagner, IEEE S&P 2017): `limbeck.attacks.unmask` divides the scores by T,
    and the attack is back.

    It stands in a stage of kind ``train``, since it makes its own teacher.  Results: "STAGE.teacher", and "STAGE".

    Attributes:
        temperature: T, 1 or more.  Default 20 (the paper's accuracy hardly changes there; its main results have 100).

    Raises:
        HyperParameterError: the setting is outside its range.

    >>> [lesson.name for lesson in DefensiveDistillation().lessons()]
    ['teacher', '']
    """

    temperature: float = 20.0

    presets: ClassVar[Presets] = {
        "paper": {"temperature": 100.0},  # the temperature of the headline numbers on both data sets (recalled)
        "benchmark": {"temperature": 20.0},  # no one has published one: this project's own pilot on digits
    }

    def __post_init__(self) -> None:
        ok = finite(self.temperature) and self.temperature >= 1
        require(ok, "temperature", self.temperature, "1 or more: below 1 the gradients would grow")

    def lessons(self) -> Sequence[Lesson]:
        """The teacher from labels, then the network from the teacher."""
        t = self.temperature
        return (
            Lesson(name="teacher", method=Supervised(temperature=t), teachers=()),
            # `KD` counts T^2 KL, and the paper KL.
            Lesson(method=KD(temperature=t, soft=1 / t**2, hard=0.0), teachers=(".teacher",), fresh=True),
        )
