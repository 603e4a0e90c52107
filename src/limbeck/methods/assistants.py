"""Teacher assistants: what a teacher says is passed on through networks of sizes in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from limbeck.course import STUDENT, TEACHER, Lesson
from limbeck.errors import HyperParameterError
from limbeck.methods.response import KD
from limbeck.methods.terms import require_temperature
from limbeck.settings import Presets, Weight, require_weights


@dataclass(frozen=True, kw_only=True)
class TeacherAssistant:
    """KD in hops, each from the one before and from nobody else (Mirzadeh et al., AAAI 2020).

    The first assistant learns from the stage's teacher, the next from the first, the student from the last, each by
    ``L = hard * CE(z_s, y) + soft * T^2 * KL(p_T || q_T)`` and for as long as the stage's ``training`` says.  An assistant
    is a network of a size between its teacher's and its student's; the paper finds that one half-way in accuracy serves
    best.

    Results: "STAGE.NAME" for every assistant, "STAGE" for the student.

    Attributes:
        assistants: their names among the recipe's models, the largest first.  Default none at all, which is `KD`.
        temperature: T, more than zero.  Default 4, as in `KD` (the paper searches for it, pair by pair).
        soft: weight of the teacher's part, zero or more, or a `Ramp`: the paper's lambda.  Default 0.9, as in `KD`.
        hard: weight of the labels' part, zero or more, or a `Ramp`: the paper's 1 - lambda.  Default 0.1, as in `KD`.

    Raises:
        HyperParameterError: a setting is outside its range, or an assistant is named twice or by a word that means
            something else here.

    >>> [lesson.teachers for lesson in TeacherAssistant(assistants=("large", "medium")).lessons()]
    [('teacher',), ('.large',), ('.medium',)]
    """

    assistants: tuple[str, ...] = ()
    temperature: float = 4.0
    soft: Weight = 0.9
    hard: Weight = 0.1

    presets: ClassVar[Presets] = {
        # the paper's search per pair of networks has no one answer; the weights of "kd" stand in for it
        "paper": {"temperature": 4.0, "soft": 0.9, "hard": 0.1},
        "benchmark": {"temperature": 4.0, "soft": 0.9, "hard": 0.1},
    }

    def __post_init__(self) -> None:
        if isinstance(self.assistants, str):
            raise HyperParameterError(f"assistants = {self.assistants!r}: a list of names, such as [{self.assistants}]")
        object.__setattr__(self, "assistants", tuple(self.assistants))
        for name in self.assistants:
            if not isinstance(name, str) or not name or name.startswith("."):
                raise HyperParameterError(f"assistants: {name!r} is no name of a model")
            if name in (STUDENT, TEACHER):
                raise HyperParameterError(
                    f"assistants: {name!r} always means the stage's own {name} here; give the model of the assistant another "
                    "name (two models may have the same network and weights)"
                )
            if self.assistants.count(name) > 1:
                raise HyperParameterError(
                    f"assistants: {name!r} is there {self.assistants.count(name)} times; once is enough"
                )
        require_temperature(self.temperature)
        require_weights(soft=self.soft, hard=self.hard)

    def lessons(self) -> Sequence[Lesson]:
        """One lesson per assistant, then the student's."""
        method = KD(temperature=self.temperature, soft=self.soft, hard=self.hard)
        teachers = [TEACHER, *(f".{name}" for name in self.assistants)]
        hops = [
            Lesson(name=name, method=method, student=name, teachers=(teacher,))
            for name, teacher in zip(self.assistants, teachers, strict=False)
        ]
        return [*hops, Lesson(method=method, teachers=(teachers[-1],))]
