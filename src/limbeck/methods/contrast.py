"""Contrastive representation distillation: whose embedding is this, among those of many other samples?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, cast

from limbeck import losses
from limbeck.errors import DataError, ShapeError, TargetError
from limbeck.methods.batchwise import choose
from limbeck.methods.pairs import Pair, as_pair
from limbeck.methods.terms import (
    check_logits,
    cross_entropy,
    off,
    require_targets,
    require_temperature,
    rows_of,
    soft_targets,
)
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Term, Update
from limbeck.settings import (
    Presets,
    Weight,
    at,
    finite,
    require,
    require_choice,
    require_weights,
    require_whole,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from limbeck.connectors import Memory

_NEGATIVES = ("classes", "rows", "batch")
_MOST = 16384  # the benchmark's number of negatives


@dataclass(frozen=True, kw_only=True)
class CRD:
    """Contrastive representation distillation (Tian, Krishnan, Isola, ICLR 2020, section 3).

    Both networks' features of one layer are mapped to points on a sphere, by linear maps that train with the student.
    A student's point is to be told from the teacher's points of other samples by the teacher's point of the same
    sample, and the other way round: ``L = hard * CE + weight * (NCE(student's anchor) + NCE(teacher's anchor))`` with
    ``NCE = -log h(same) - sum_k log(1 - h(other_k))`` and ``h = e^(a.b / tau) / (e^(a.b / tau) + K Z / M)``, for K negatives
    among M rows.  Z is the mean of ``e^(a.b / tau)`` times M over the first batch, for either side (the authors' code).

    The points of all rows are kept in a memory, which follows the networks with a momentum; "same" and "other" are taken
    from it.  So batches have to say which rows they hold.  The classes of the rows are counted first, in an epoch
    without training ("rows", outside the stage's budget).

    Attributes:
        pair: (student layer, teacher layer): vectors, tokens or maps (the latter two are averaged).  Default None: what
            goes into the last linear layer of each network (the benchmark); where there is none, the last maps.
        weight: of both sides together, zero or more, or a `Ramp`.  Default 0.8 (the paper, and the benchmark).
        dimension: of the space that both are mapped to, at least 1.  Default 128 (the benchmark).
        negatives: where the other samples come from: "classes", rows of another class than the anchor's (the
            benchmark; the paper's supervised policy); "rows", any other row (the paper's other policy; needs no labels);
            "batch", the other samples of the batch as they are now, with no memory and no row numbers (ours: far fewer
            negatives, and not what the published figures stand for).  Default "classes".
        count: how many negatives each anchor has, at least 1; with "batch" it is the batch size less one, and no
            setting.  Default None: 16384 (the benchmark), or the number of rows less one where that is smaller.
        tau: temperature of the scores, more than zero.  Default 0.07 (the benchmark; the paper has 0.1 for CIFAR-100).
        momentum: how much of its old place a row's point keeps, in [0, 1).  Default 0.5 (the benchmark).
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1 (the benchmark).
        soft: weight of a `KD` term beside it, zero or more, or a `Ramp`.  Default 0; the benchmark's CRD+KD has 1.
        temperature: of that term.  Default 4 (the benchmark).

    Raises:
        HyperParameterError: a setting is outside its range.
        TapError: a layer does not exist, or there is none to choose.
        DataError: nobody knows how many rows there are, or a batch does not say which rows it holds.
        TargetError: ``hard`` is on, or classes are asked for, and a batch has no class ids as labels.
        ShapeError: features that no embedding fits, or (with ``soft``) networks that score different classes.

    >>> CRD(soft=1.0).negatives
    'classes'
    """

    pair: tuple[str, str] | None = None
    weight: Weight = 0.8
    dimension: int = 128
    negatives: Literal["classes", "rows", "batch"] = "classes"
    count: int | None = None
    tau: float = 0.07
    momentum: float = 0.5
    hard: Weight = 1.0
    soft: Weight = 0.0
    temperature: float = 4.0

    presets: ClassVar[Presets] = {
        "paper": {  # recalled: beta = 0.8, 16384 negatives, and tau = 0.1 but for ImageNet, which has 0.07
            "weight": 0.8,
            "count": 16384,
            "tau": 0.1,
            "hard": 1.0,
        },
        "benchmark": {  # the authors' code: -r 1 -a 0 -b 0.8, feat_dim, nce_k, nce_t, nce_m
            "weight": 0.8,
            "dimension": 128,
            "negatives": "classes",
            "count": 16384,
            "tau": 0.07,
            "momentum": 0.5,
            "hard": 1.0,
        },
        "with_kd": {  # the same with -a 1: CRD+KD
            "weight": 0.8,
            "dimension": 128,
            "negatives": "classes",
            "count": 16384,
            "tau": 0.07,
            "momentum": 0.5,
            "hard": 1.0,
            "soft": 1.0,
            "temperature": 4.0,
        },
    }

    def __post_init__(self) -> None:
        if self.pair is not None:
            object.__setattr__(self, "pair", as_pair("pair", self.pair))
        require_choice("negatives", self.negatives, _NEGATIVES)
        require_whole(dimension=self.dimension)
        require(self.dimension >= 1, "dimension", self.dimension, "at least 1")
        if self.count is not None:
            require_whole(count=self.count)
            require(self.count >= 1, "count", self.count, "at least 1, or nothing at all")
            require(
                self.negatives != "batch", "count", self.count, "no setting with negatives='batch', which takes all"
            )
        require(finite(self.tau) and self.tau > 0, "tau", self.tau, "a temperature is more than zero")
        require(finite(self.momentum) and 0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        require_weights(weight=self.weight, hard=self.hard, soft=self.soft)
        require_temperature(self.temperature)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """ "rows", which counts, and "distill" with the terms "ce", "crd" and maybe "kd"; "distill" alone for "batch"."""
        modules = cast.pick("student", "teacher")
        require_targets(cast.example, self.hard)
        self._classes(cast.example)
        if not off(self.soft):
            check_logits(cast, columns=2, instead="set soft=0")
        chosen = self._settle(cast, modules)
        if self.negatives == "batch":
            from limbeck.batches import batch_size

            size = batch_size(cast.example.inputs)
            return (self._distill(modules, chosen, None, size - 1, size),)

        from limbeck import connectors

        if cast.rows is None or cast.example.rows is None:
            raise DataError(_no_rows("how many rows there are" if cast.rows is None else "which rows they hold"))
        memory = connectors.Memory(cast.rows, self.dimension)
        count = self.count or max(1, min(_MOST, cast.rows - 1))
        counting = Phase(
            name="rows",
            modules={"memory": memory},
            trains={"rows": ("memory",)},
            taps={},
            step=self._look,
            epochs=1,
        )
        return counting, self._distill(modules, chosen, memory, count, cast.rows)

    def _settle(self, cast: Cast, models: Mapping[str, nn.Module]) -> _Chosen:
        """The layers, and an embedding for each."""
        from limbeck import connectors, taps

        inputs, found = cast.example.inputs, choose(cast, self.pair, "vector")
        ours, theirs = (
            taps.shapes(models[role], inputs, (layer,))[layer][1:]
            for role, layer in zip(("student", "teacher"), found.pair, strict=True)
        )
        return _Chosen(
            found.pair,
            connectors.Embedding(ours, self.dimension),
            connectors.Embedding(theirs, self.dimension),
            found.note,
        )

    def _classes(self, batch: Batch) -> Tensor | None:
        """The class ids of a batch, where the negatives depend on them."""
        if self.negatives != "classes":
            return None
        from torch import Tensor

        y = batch.targets
        if not isinstance(y, Tensor) or y.ndim != 1 or y.is_floating_point():
            given = f"its targets are {str(y.dtype)[6:]} {list(y.shape)}" if isinstance(y, Tensor) else _kind(y)
            raise TargetError(
                f"negatives of other classes need labels, one class id per sample, and of this batch {given}; "
                "negatives='rows' takes any other row, and needs no labels"
            )
        return y.long()

    def _look(self, models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
        """Count which rows there are; there is nothing to optimize."""
        models["memory"](_rows(models, batch), self._classes(batch))
        yield from ()

    def _distill(
        self, models: Mapping[str, nn.Module], chosen: _Chosen, memory: Memory | None, count: int, places: int
    ) -> Phase:
        from limbeck import connectors

        ours, theirs = chosen.pair
        extra: dict[str, nn.Module] = {
            "embed_student": chosen.student,
            "embed_teacher": chosen.teacher,
            "constants": connectors.Constants(),
        }
        if memory is not None:
            extra["memory"] = memory

        def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
            teacher, student = models["teacher"](batch.inputs), models["student"](batch.inputs)
            s = models["embed_student"](student.taps[ours])
            t = models["embed_teacher"](teacher.taps[theirs])
            terms = cross_entropy(student.logits, batch, moment, weight=self.hard)
            value = self._contrast(models, batch, moment, s, t, count, places)
            terms["crd"] = Term(value, at(self.weight, moment))
            yield Update(
                "student",
                terms | soft_targets(student, teacher, moment, weight=self.soft, temperature=self.temperature),
            )
            # After the step: the parts of an accumulated batch then see one and the same memory.
            if memory is not None:
                _memory(models).keep(_rows(models, batch), s, t, self.momentum)
                # A row that the counting epoch did not meet (of a last batch that was dropped) counts from the next epoch on.
                models["memory"](_rows(models, batch), self._classes(batch))

        return Phase(
            name="distill",
            modules={**models, **extra},
            trains={"student": ("student", *extra)},
            taps={"student": (ours,), "teacher": (theirs,)},
            step=step,
            stops=frozenset({"teacher"}) if off(self.soft) else frozenset(),
            notes=(chosen.note, self._told(count, places)),
        )

    def _told(self, count: int, places: int) -> str:
        if self.negatives == "batch":
            return "negatives: the other samples of each batch (ours; the paper draws from a memory of all rows)"
        which = "of other classes" if self.negatives == "classes" else "of any other row"
        why = (
            f" (the benchmark's 16384 are more than the {places} row numbers)"
            if self.count is None and count < _MOST
            else ""
        )
        megabytes = 2 * places * self.dimension * 4 / 1e6
        return f"negatives: {count} {which} for each sample{why}; memory of {places} rows, {megabytes:.0f} MB"

    def _contrast(
        self, models: Models, batch: Batch, moment: Moment, s: Tensor, t: Tensor, count: int, places: int
    ) -> Tensor:
        """Both sides: the student's points among the teacher's, and the teacher's among the student's."""
        if self.negatives == "batch":
            index, banks = _everyone(s), (t, s)
        else:
            rows, classes, memory = _rows(models, batch), self._classes(batch), _memory(models)
            memory.enter_epoch(int(moment.epoch), classes=classes is not None)
            drawn = memory.draw(rows, classes, count, moment.generator)
            index, banks = _beside(rows, drawn), (memory.teacher, memory.student)
        sides = []
        for which, (anchors, bank) in enumerate(zip((s, t), banks, strict=True)):
            scores = losses.contrast_scores(anchors, bank, index=index, tau=self.tau)
            log_z = models["constants"](which, scores, places)
            sides.append(losses.crd_nce(scores[:, 0], scores[:, 1:], rows=places, log_z=log_z))
        return sides[0] + sides[1]


class _Chosen(NamedTuple):
    """Two layers, and what maps them to the common space."""

    pair: Pair
    student: nn.Module
    teacher: nn.Module
    note: str


def _memory(models: Models) -> Memory:
    return cast("Memory", models["memory"])


def _rows(models: Models, batch: Batch) -> Tensor:
    return rows_of(batch, len(_memory(models).seen), _no_rows("which rows they hold"))


def _no_rows(what: str) -> str:
    return (
        f"CRD keeps a memory with a place for every row of the data, and these batches do not say {what}: give "
        "limbeck.Batch(inputs, targets, rows) from an object that has an attribute rows (every row number is below "
        "it), or set negatives='batch', which takes the other samples of the batch and needs no memory"
    )


def _kind(y: object) -> str:
    return "it has none" if y is None else f"they are a {type(y).__name__}, not a tensor"


def _beside(rows: Tensor, drawn: Tensor) -> Tensor:
    import torch

    return torch.cat([rows.unsqueeze(1), drawn], 1)


def _everyone(points: Tensor) -> Tensor:
    """For each sample of the batch: itself, and then all others."""
    import torch

    n = len(points)
    if n < 2:
        raise ShapeError(f"negatives='batch' needs two samples in a batch, at least; this one has {n}")
    own = torch.arange(n, device=points.device).unsqueeze(1)
    others = torch.arange(n - 1, device=points.device).expand(n, -1)
    return torch.cat([own, others + (others >= own)], 1)
