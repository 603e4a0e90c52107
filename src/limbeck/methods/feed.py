"""FEED: factors of several teachers at once, or of one student after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from limbeck.course import STUDENT, TEACHER, Lesson
from limbeck.errors import HyperParameterError, ShapeError
from limbeck.methods.ensemble import require_teachers
from limbeck.methods.factor import FactorTransfer
from limbeck.methods.pairs import as_pair
from limbeck.methods.translation import Way, link, phases, require_one_size
from limbeck.phase import Cast, Phase
from limbeck.settings import Optimizer, Presets, Weight, require, require_whole


@dataclass(frozen=True, kw_only=True)
class FEED:
    """Parallel FEED: one translator for each of several teachers (Park, Kwak, ECAI 2020, arXiv 1909.10754).

    ``L = hard * CE + weight * sum_i || F_i / |F_i| - M_i(x_s) / |M_i(x_s)| ||_p``: x_s is the student's map, M_i the translator
    for the i-th teacher, and F_i that teacher's map, or its paraphrase as in `FactorTransfer`.  No translator shares anything
    with another.  With one teacher and ``paraphrase`` on, this is factor transfer.

    Attributes:
        pair: (student layer, layer of every teacher), both of maps.  None: the last maps.
        paraphrase: put a paraphraser behind each teacher's map, trained first.  Default False: the teachers' maps
            themselves, as in the paper's later version.
        same: refuse teachers whose architecture is not the student's, which the paper demands.  Default False.
        rate: of the paraphrasers, as in `FactorTransfer`.  Default 0.5.
        p: 1 or 2, of the norm.  Default 1 (the paper).
        weight: of every teacher's distance, zero or more, or a `Ramp`.  Default None: as in `FactorTransfer`.
        form: "paper", "mean" or "benchmark", as in `FactorTransfer`.  Default "paper".
        layers: of paraphrasers and translators, "paper" or "benchmark".  Default "paper".
        paraphrasers: files with the weights of trained paraphrasers, one per teacher, in their order; none: train
            them.  Only with ``paraphrase``.
        paraphrase_share: part of the stage's epochs that go to the paraphrasers, in (0, 1).  Default 0.1: ours.
        paraphrase_epochs: so many epochs for the paraphrasers instead, outside the stage's budget.  Default None.
        paraphrase_optimizer: replaces the stage's optimizer for the paraphrasers.  Default None: the stage's own.
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1 (the paper).
        soft: weight of a `KD` term beside it, the mean over the teachers; zero or more, or a `Ramp`.  Default 0.
        temperature: of that term.  Default 4, as in `KD`.

    Raises:
        HyperParameterError: a setting is outside its range, or there is not one file for each teacher.
        TeacherMissing: there is no teacher.
        TapError: a layer of ``pair`` does not exist.
        ShapeError: a layer gives no maps, the teachers' maps differ in size, ``same`` is on and a teacher is of another
            architecture, or (with ``soft``) a teacher scores other classes.
        TargetError: ``hard`` is on, and a batch has no labels.
        WeightsError: a file cannot be read, or does not fit its teacher.

    >>> FEED(paraphrase=True).rate
    0.5
    """

    pair: tuple[str, str] | None = None
    paraphrase: bool = False
    same: bool = False
    rate: float = 0.5
    p: int = 1
    weight: Weight | None = None
    form: Literal["paper", "mean", "benchmark"] = "paper"
    layers: Literal["paper", "benchmark"] = "paper"
    paraphrasers: tuple[str, ...] = ()
    paraphrase_share: float = 0.1
    paraphrase_epochs: int | None = None
    paraphrase_optimizer: Optimizer | None = None
    hard: Weight = 1.0
    soft: Weight = 0.0
    temperature: float = 4.0

    presets: ClassVar[Presets] = {
        # recalled, not verified: beta and p are those of factor transfer, and the architectures are the same
        "paper": {"same": True, "p": 1, "form": "mean", "weight": 500.0, "hard": 1.0},
        # nobody has published a benchmark of several teachers: the numbers are those of "factor_transfer"
        "benchmark": {"p": 1, "form": "benchmark", "weight": 200.0, "layers": "benchmark", "hard": 1.0},
    }

    def __post_init__(self) -> None:
        if self.pair is not None:
            object.__setattr__(self, "pair", as_pair("pair", self.pair))
        files = self.paraphrasers
        listed = not isinstance(files, str) and all(isinstance(file, str) and file for file in files)
        require(listed, "paraphrasers", files, "a list of safetensors files, one for each teacher")
        object.__setattr__(self, "paraphrasers", tuple(files))
        require(self.paraphrase or not files, "paraphrasers", files, "only with paraphrase=True")
        require_whole(p=self.p)
        Way.of(self)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """ "paraphrase" (if there are paraphrasers to train), then "distill", with "ce", "factor/..." and maybe "kd"."""
        way, files = Way.of(self), self.paraphrasers or (None,) * len(require_teachers(cast))
        if len(files) != len(cast.teachers):
            raise HyperParameterError(
                f"paraphrasers: {len(files)} file(s) for {len(cast.teachers)} teacher(s) ({', '.join(cast.teachers)}); "
                "give one for each, in this order, or none"
            )
        if self.same:
            _require_same(cast)
        links = [
            link(cast, teacher, self.pair, way, paraphrase=self.paraphrase, file=file, title="FEED")
            for teacher, file in zip(cast.teachers, files, strict=True)
        ]
        require_one_size(cast, links)
        return phases(cast, links, way)


@dataclass(frozen=True, kw_only=True)
class FEEDSequence:
    """Sequential FEED: factor transfer from student to student (Park, Kwak, ECAI 2020, arXiv 1909.10754).

    ``L = hard * CE + weight * || F_T / |F_T| - F_S / |F_S| ||_p`` in every round, as in `FactorTransfer`.

    Each round trains a network of the student's architecture by `FactorTransfer`: the first from the stage's teacher, every
    later one from the network of the round before.  With one round it is factor transfer.  The last starts from the
    stage's own student, so that comparisons stay paired; those before from fresh weights.

    Attributes:
        rounds: how many networks are trained in a row, at least 1; each takes the stage's epochs.  Default 5
            (recalled from the paper, not verified).
        transfer: the settings of every round, a `FactorTransfer`.  Default: its own.  A file for its paraphraser
            would fit the first teacher alone, so there can be none with more rounds.

    Raises:
        HyperParameterError: a setting is outside its range.

    >>> [(lesson.name, lesson.teachers) for lesson in FEEDSequence(rounds=2).lessons()]
    [('1', ('teacher',)), ('', ('.1',))]
    """

    rounds: int = 5
    transfer: FactorTransfer = field(default_factory=FactorTransfer)

    presets: ClassVar[Presets] = {
        "paper": {"rounds": 5, "transfer": FactorTransfer(form="mean", weight=500.0)},  # recalled, not verified
        "benchmark": {"rounds": 5, "transfer": FactorTransfer(**FactorTransfer.presets["benchmark"])},
    }

    def __post_init__(self) -> None:
        require_whole(rounds=self.rounds)
        require(self.rounds >= 1, "rounds", self.rounds, "at least 1")
        ok = isinstance(self.transfer, FactorTransfer)
        require(ok, "transfer", self.transfer, "the settings of a FactorTransfer")
        if self.rounds > 1:
            file = self.transfer.paraphraser
            require(file is None, "transfer.paraphraser", file, "it fits one teacher, and every round has another")

    def lessons(self) -> Sequence[Lesson]:
        """One for each round: "1", "2" ..., and the last without a name."""
        return tuple(
            Lesson(
                name="" if number == self.rounds else str(number),
                method=self.transfer,
                student=STUDENT,
                teachers=(TEACHER,) if number == 1 else (f".{number - 1}",),
                fresh=number < self.rounds,
            )
            for number in range(1, self.rounds + 1)
        )


def _require_same(cast: Cast) -> None:
    """Refuse a teacher whose weights have other names or shapes than the student's."""

    def plan(role: str) -> dict[str, tuple[int, ...]]:
        return {name: tuple(value.shape) for name, value in cast.models[role].state_dict().items()}

    other = [role for role in cast.teachers if plan(role) != plan("student")]
    if other:
        raise ShapeError(
            f"same = True: {', '.join(other)} {'is' if len(other) == 1 else 'are'} not of the student's architecture; "
            "set same=False to learn from other networks"
        )
