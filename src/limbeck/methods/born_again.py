"""Born-again networks: a network teaches another like itself, and that one the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from limbeck.course import TEACHER, Gathering, Lesson
from limbeck.methods.controls import ConfidenceWeighted, DarkKnowledgePermuted
from limbeck.methods.response import KD
from limbeck.methods.terms import require_temperature
from limbeck.phase import Method
from limbeck.settings import Presets, Weight, require, require_weights, require_whole


@dataclass(frozen=True, kw_only=True)
class BornAgain:
    """Generations of one network, each taught by the one before (Furlanello et al., ICML 2018).

    Generation 1 learns from the stage's teacher, generation k from generation k - 1, each from new random weights and
    each for as long as the stage's ``training`` says.  ``L = hard * CE(z_s, y) + soft * T^2 * KL(p_T || q_T)``; at T = 1
    this has the gradient of the paper's cross-entropy with the teacher's probabilities.

    Results: "STAGE.1" ... for the generations before the last, "STAGE" for the last, and "STAGE.ensemble", the mean of
    the probabilities of all of them (from two generations on).

    A student that is the teacher's own network makes it born-again; nothing forbids another one.

    Attributes:
        generations: how many students in all, 1 or more.  Default 3 (the paper's tables; gains end about there).
        control: null; "cwtm", labels weighted by the teacher's confidence (`ConfidenceWeighted`); or "dkpp", the teacher's
            probabilities shuffled behind the first (`DarkKnowledgePermuted`).  Default None.
        temperature: T, more than zero.  Default 1 (the paper).
        soft: weight of the teacher's part, zero or more, or a `Ramp`.  Default 1.  With "cwtm" it must be 1.
        hard: weight of the labels' part, zero or more, or a `Ramp`.  Default 0 (the teacher alone; the paper has both,
            and 1 for "BAN + L").  With "cwtm" it must be 0.

    Raises:
        HyperParameterError: a setting is outside its range, or has no meaning with the control.

    >>> [lesson.name for lesson in BornAgain(generations=2).lessons()]
    ['1', '', 'ensemble']
    """

    generations: int = 3
    control: Literal["cwtm", "dkpp"] | None = None
    temperature: float = 1.0
    soft: Weight = 1.0
    hard: Weight = 0.0

    presets: ClassVar[Presets] = {
        "paper": {"generations": 3, "temperature": 1.0, "soft": 1.0, "hard": 0.0},  # BAN-1 to BAN-3, recalled
        "benchmark": {"generations": 1, "temperature": 1.0, "soft": 1.0, "hard": 1.0},  # one generation, with labels
    }

    def __post_init__(self) -> None:
        require_whole(generations=self.generations)
        require(self.generations >= 1, "generations", self.generations, "1 or more")
        require(self.control in (None, "cwtm", "dkpp"), "control", self.control, "'cwtm', 'dkpp', or nothing at all")
        require_temperature(self.temperature)
        require_weights(soft=self.soft, hard=self.hard)
        if self.control == "cwtm":
            require(self.soft == 1, "soft", self.soft, "1 with control = 'cwtm', whose one term is the weighted labels")
            require(self.hard == 0, "hard", self.hard, "0 with control = 'cwtm', whose one term is the weighted labels")

    def lessons(self) -> Sequence[Lesson | Gathering]:
        """One lesson per generation, then the average of all."""
        method = self._method()
        names = [*(str(k) for k in range(1, self.generations)), ""]
        teachers = [TEACHER, *(f".{name}" for name in names[:-1])]
        trained = [
            Lesson(name=name, method=method, teachers=(teacher,), fresh=True)
            for name, teacher in zip(names, teachers, strict=True)
        ]
        if len(names) == 1:  # the average of one network is that network
            return trained
        return [*trained, Gathering(name="ensemble", members=tuple(f".{name}" for name in names))]

    def _method(self) -> Method:
        if self.control == "cwtm":
            return ConfidenceWeighted(temperature=self.temperature)
        if self.control == "dkpp":
            return DarkKnowledgePermuted(temperature=self.temperature, soft=self.soft, hard=self.hard)
        return KD(temperature=self.temperature, soft=self.soft, hard=self.hard)
