"""What a recipe is made of: blueprints of networks, stages, and the machine.  Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from limbeck.methods.response import Supervised
from limbeck.settings import Training, require, require_whole


@dataclass(frozen=True, kw_only=True)
class Model:
    """A blueprint.

    Attributes:
        name: a network of the zoo ("resnet20", "wrn_16_2", see ``limbeck models``), or
            "torchvision:NAME", or "timm:NAME".
        weights: a safetensors file to start from, or None for fresh weights.
        options: further keyword arguments of the network's constructor.
    """

    name: str
    weights: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A student that is made out of another network, before the stage: "pruned from the teacher".

    A recipe writes the compressor's name as a key: ``student: {from: teacher, prune: {macs: 0.5}}``.

    Attributes:
        source: an earlier result, or a blueprint.
        how: a compressor that trains nothing.
    """

    source: str
    how: Any


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one network from labels.

    Attributes:
        name: of the stage and of its result on the shelf.
        model: what to train: a blueprint, or an earlier result to continue from.
        method: `Supervised`, with its label smoothing; or a course that trains its own teacher.
        training: how.
        rows: use only so many training rows (stratified, the same for a given run seed), or all.
        per_seed: train once for every seed of the recipe; False: once, with the first seed, shared by all.
        init: any text; a blueprint starts from other random weights for every text, and from the weights that it has
            in other stages where this is empty.
    """

    name: str
    model: str
    method: Any = field(default_factory=Supervised)
    training: Training = field(default_factory=Training)
    rows: int | None = None
    per_seed: bool = True
    init: str = ""

    def __post_init__(self) -> None:
        _require_rows(self.rows)


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Train a student from a teacher.

    Attributes:
        name: of the stage and of its result on the shelf.
        student: a blueprint, or an earlier result to continue from; or {from: NAME, prune: {...}}, a network that a
            compressor makes out of another one first.
        teacher: an earlier result, or a blueprint with weights; a list of them for methods with several teachers.
        method: any method of the catalogue, or a list of them to be summed.
        training, rows, per_seed, init: as in `Train`.
    """

    name: str
    student: str | Made
    teacher: str | tuple[str, ...]
    method: Any
    training: Training = field(default_factory=Training)
    rows: int | None = None
    per_seed: bool = True
    init: str = ""

    def __post_init__(self) -> None:
        _require_rows(self.rows)
        if not isinstance(self.teacher, str):
            object.__setattr__(self, "teacher", tuple(self.teacher))
            require(len(self.teacher) > 0, "teacher", self.teacher, "at least one")

    @property
    def teachers(self) -> tuple[str, ...]:
        """The teachers, be it one or several."""
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher


@dataclass(frozen=True, kw_only=True)
class Together:
    """Train several networks beside each other, from scratch and from each other.

    Attributes:
        name: of the stage, and of the first student on the shelf; the others are called "NAME.2", "NAME.3" ...
        students: two or more blueprints or earlier results.  A blueprint may be there several times; each time but the
            first it starts from other random weights.
        method: `MutualLearning` or `Cohort`.
        training, rows, per_seed, init: as in `Train`.
    """

    name: str
    students: tuple[str, ...]
    method: Any
    training: Training = field(default_factory=Training)
    rows: int | None = None
    per_seed: bool = True
    init: str = ""

    def __post_init__(self) -> None:
        _require_rows(self.rows)
        object.__setattr__(self, "students", tuple(self.students))
        require(len(self.students) >= 2, "students", self.students, "at least two networks")


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One of the further students of a `Together` stage.  Never written in a recipe: the plan has it.

    Attributes:
        name: "NAME.2" and so on.
        student: what it started from.
        of: the name of the stage that trains it.
        place: which of the students it is; the first one is 1.
        per_seed: as that stage's.
    """

    name: str
    student: str
    of: str
    place: int
    per_seed: bool = True


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """The average of several networks, as one network: measured, saved, and there to be a teacher.

    Attributes:
        name: of the stage and of its result on the shelf.
        members: earlier results, or blueprints with weights; two or more make sense.
        averaging: "arithmetic", the mean of the probabilities, or "geometric", the mean of the logits.
        per_seed: one for every seed of the recipe; False: one, of the first seed's members.
    """

    name: str
    members: tuple[str, ...]
    averaging: Literal["arithmetic", "geometric"] = "arithmetic"
    per_seed: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(self.members))
        require(len(self.members) > 0, "members", self.members, "at least one network")


@dataclass(frozen=True, kw_only=True)
class Compress:
    """Make a smaller network out of one: prune, factorize, quantize, binarize.

    Attributes:
        name: of the stage and of its result on the shelf.
        model: an earlier result, or a blueprint.  It stays on the shelf as it is.
        how: a compressor of the catalogue, such as {kind: prune, macs: 0.5}.
        calibration: how many training rows, without augmentation, a compressor may look at; 0: none.
        teacher: from whom the network learns where the compressor trains between its steps (iterative pruning,
            quantization-aware training, lottery tickets); None: from labels, or from whom the compressor itself says.
        method: how it learns there; None: KD from a teacher, and labels without one.
        training, rows: as in `Train`, for that training.
        per_seed: one for every seed of the recipe; False: one, with the first seed, shared by all.
        beside: further networks that the compressor looks at; few do.
    """

    name: str
    model: str
    how: Any
    calibration: int = 512
    teacher: str | None = None
    method: Any = None
    training: Training = field(default_factory=Training)
    rows: int | None = None
    per_seed: bool = True
    beside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_rows(self.rows)
        require_whole(calibration=self.calibration)
        require(self.calibration >= 0, "calibration", self.calibration, "a number of training rows, or 0")
        object.__setattr__(self, "beside", tuple(self.beside))


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure models on one part of the data.

    Attributes:
        name: of the stage.
        models: what to measure; empty: everything on the shelf that was trained or has weights.
        split: "test" or "validation".
    """

    name: str
    models: tuple[str, ...] = ()
    split: Literal["test", "validation"] = "test"


Fitted = Train | Distill | Together  # stages in which something is trained
Result = Fitted | Peer | Ensemble | Compress  # stages that leave a network on the shelf
Stage = Result | Evaluate


def student_of(stage: Fitted | Peer | Compress) -> str:
    """Which model a stage starts from; the first of several."""
    if isinstance(stage, (Train, Compress)):
        return stage.model
    if isinstance(stage, Together):
        return stage.students[0]
    return f"{stage.name}.student" if isinstance(stage.student, Made) else stage.student


def cast_of(stage: Fitted) -> dict[str, str]:
    """The models of a stage by the role that they have in its phases: see `limbeck.phase.Cast`.

    >>> cast_of(Distill(name="kd", student="small", teacher=("a", "b"), method=None))
    {'student': 'small', 'teacher1': 'a', 'teacher2': 'b'}
    """
    if isinstance(stage, Together):
        return {"student" if place == 1 else f"peer{place}": name for place, name in enumerate(stage.students, 1)}
    teachers = teachers_of(stage)
    roles = [f"teacher{place}" for place in range(1, len(teachers) + 1)] if len(teachers) > 1 else ["teacher"]
    return {"student": student_of(stage), **dict(zip(roles, teachers))}


def teachers_of(stage: Stage) -> tuple[str, ...]:
    """From whom a stage learns."""
    return stage.teachers if isinstance(stage, Distill) else ()


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a recipe runs; no part of what it means.

    Attributes:
        accelerator: "auto", "cpu", "cuda" or "mps".
        devices: how many processes, one device each.
        threads: CPU threads per process; None leaves torch's own choice.
    """

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        require(self.devices >= 1, "devices", self.devices, "at least 1")
        if self.threads is not None:
            require(self.threads >= 1, "threads", self.threads, "at least 1, or nothing at all")


def _require_rows(rows: int | None) -> None:
    if rows is not None:
        require(rows >= 1, "rows", rows, "at least 1, or nothing at all")
