"""The parts of a loss that most methods share: the one from the labels and the one from the teacher's scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from limbeck import losses
from limbeck.errors import DataError, ShapeError, TargetError
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Seen, Term, Update
from limbeck.settings import Weight, at, finite, off, require

if TYPE_CHECKING:
    from torch import Tensor, device


def require_temperature(value: float) -> None:
    """Check a softmax temperature.

    Raises:
        HyperParameterError: it is not a finite number above zero.
    """
    require(finite(value) and value > 0, "temperature", value, "a temperature is more than zero")


def require_targets(batch: Batch, hard: Weight) -> None:
    """Check that a batch has labels where a term needs them.

    Raises:
        TargetError: it has none; the message says what to do.
    """
    if batch.targets is None and not off(hard):
        raise TargetError(
            f"hard = {hard!r} needs labels, and this batch has none (its targets are None): give batches with "
            "labels, or set hard=0 to learn from the teacher alone"
        )


def rows_of(batch: Batch, total: int, missing: str) -> Tensor:
    """Which rows of the data a batch holds, as int64.

    Args:
        total: how many rows the data has.
        missing: what to say where the batch does not tell its rows.

    Raises:
        DataError: it does not tell, or there are no such rows.
    """
    rows = batch.rows
    if rows is None:
        raise DataError(missing)
    # Where they are on a device, looking would make the host wait.
    if rows.device.type == "cpu" and len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < total:
        raise DataError(
            f"a batch holds rows {int(rows.min())} to {int(rows.max())} of data that has {total} rows: they count from 0 to "
            f"{total - 1}; let the attribute rows of what yields the batches say how many there are"
        )
    return rows.long()


def cross_entropy(
    logits: Tensor, batch: Batch, moment: Moment, *, weight: Weight, label_smoothing: float = 0.0
) -> dict[str, Term]:
    """The term "ce" from the labels, or nothing when its weight is zero."""
    if off(weight):
        return {}
    require_targets(batch, weight)
    value = losses.cross_entropy(logits, batch.targets, label_smoothing=label_smoothing)
    return {"ce": Term(value, at(weight, moment))}


def soft_targets(
    student: Seen, teacher: Seen, moment: Moment, *, weight: Weight, temperature: float
) -> dict[str, Term]:
    """The term "kd", ``T^2 KL``, from the teacher's logits, or nothing when its weight is zero.

    Without weight the teacher's output is not looked at: its forward may have stopped before the end.
    """
    if off(weight):
        return {}
    value = losses.kd_kl(student.logits, teacher.logits, temperature=temperature)
    return {"kd": Term(value, at(weight, moment))}


def distill_logits(
    cast: Cast, terms: Callable[[Tensor, Tensor, Batch, Moment], dict[str, Term]], *, notes: tuple[str, ...] = ()
) -> Phase:
    """The phase "distill" of a method that looks at nothing but both networks' logits.

    Args:
        cast: has a student, which is trained, and a teacher.
        terms: what the loss consists of, from the student's logits, the teacher's, the batch and the moment.
        notes: what the user should know of it.
    """

    def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
        teacher, student = models["teacher"](batch.inputs).logits, models["student"](batch.inputs).logits
        yield Update("student", terms(student, teacher, batch, moment))

    return Phase(
        name="distill",
        modules=cast.pick("student", "teacher"),
        trains={"student": ("student",)},
        taps={"student": (), "teacher": ()},
        step=step,
        notes=notes,
    )


def device_of(inputs: Any) -> device:
    """Where a batch's inputs are."""
    return next(iter(inputs.values())).device if isinstance(inputs, Mapping) else inputs.device


def check_logits(cast: Cast, *, columns: int = 1, instead: str = "") -> int:
    """Look at both networks' scores before any training, and return how many columns they have.

    A network that scores other classes than its teacher would otherwise be found out only when the
    first step compares them, which may be after a whole phase of hints.

    Args:
        cast: needs a student and a teacher.
        columns: the fewest columns that make sense for this loss.
        instead: what to use when there are fewer.

    Raises:
        ShapeError: the columns differ, or there are too few.
    """
    from limbeck import taps

    widths = {}
    for role, model in cast.pick("student", "teacher").items():
        shape = tuple(taps.look(model, cast.example.inputs, ()).logits.shape)
        widths[role] = shape[1] if len(shape) > 1 else 1
    if widths["teacher"] != widths["student"]:
        raise ShapeError(
            f"N_t != N_s: the teacher scores {widths['teacher']} classes and the student {widths['student']}; "
            "they must score the same ones"
        )
    if widths["student"] < columns:
        raise ShapeError(
            f"the networks give {widths['student']} logit per sample, and a softmax needs {columns} or more; {instead}"
        )
    return widths["student"]
