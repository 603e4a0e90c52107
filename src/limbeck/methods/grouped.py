"""A teacher with finer classes than its student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from limbeck import losses
from limbeck.errors import HyperParameterError, ShapeError
from limbeck.methods.terms import cross_entropy, distill_logits, off, require_targets, require_temperature
from limbeck.phase import Batch, Cast, Moment, Phase, Term
from limbeck.settings import Presets, Weight, at, require_choice, require_weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GroupedKD:
    """KD from a teacher whose classes are finer: its probabilities are summed within groups.

    ``L = hard * CE(z_s, y) + soft * T^2 * KL(p || softmax(z_s / T))``, mean over the batch, where ``p_g`` is the sum of the
    teacher's ``softmax(z_t / T)`` over the classes in ``groups[g]``.  The loss is that of Hinton, Vinyals, Dean (arXiv
    1503.02531, section 2); the sums are ours.

    A head of two classes has little to learn from a teacher of two classes, which adds one number to each label.  Two ways
    bring more: this method, with a teacher of the finer classes; or plain `KD` into a student that keeps the finer
    classes, whose scores `limbeck.models.GroupedHead` sums when the training is over.

    Attributes:
        groups: the teacher's classes behind each class of the student, such as ``((0, 2, 4), (1, 3, 5))``; every
            class of the teacher in exactly one group.  Default None: each class alone, which is `KD`.
        labels: what class ids the batches have: "coarse", those of the student (the number of a group), or "fine", those
            of the teacher, which are looked up in ``groups``.  Default "coarse".  Whatever is measured is measured alike:
            a teacher beside coarse labels by its summed probabilities, a student beside fine labels by their groups.
        temperature: T, more than zero.  Default 4, as in `KD`.
        soft: weight of the teacher's part, zero or more, or a `Ramp`.  Default 0.9, as in `KD`.
        hard: weight of the labels' part, zero or more, or a `Ramp`.  Default 0.1, as in `KD`.
            With 0 the batches need no labels.

    Raises:
        HyperParameterError: a setting is outside its range, or the groups leave a class out or have one twice.
        TargetError: ``hard`` is on, and a batch has no labels, or one that is no class.
        ShapeError: the student does not have one class for each group, or the teacher not those of the groups.

    >>> GroupedKD(groups=[[0, 2], [1, 3]]).groups
    ((0, 2), (1, 3))
    """

    groups: tuple[tuple[int, ...], ...] | None = None
    labels: Literal["coarse", "fine"] = "coarse"
    temperature: float = 4.0
    soft: Weight = 0.9
    hard: Weight = 0.1

    presets: ClassVar[Presets] = {  # nobody has published one of the summed form: the numbers are those of "kd"
        "paper": {"temperature": 20.0, "soft": 1.0, "hard": 0.5},
        "benchmark": {"temperature": 4.0, "soft": 0.9, "hard": 0.1},
    }

    def __post_init__(self) -> None:
        if self.groups is not None:
            object.__setattr__(self, "groups", as_groups(self.groups))
        require_choice("labels", self.labels, ("coarse", "fine"))
        require_temperature(self.temperature)
        require_weights(soft=self.soft, hard=self.hard)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with the terms "ce" and "kd"."""
        require_targets(cast.example, self.hard)
        groups = self._settle(cast)

        def terms_of(student: Tensor, teacher: Tensor, batch: Batch, moment: Moment) -> dict[str, Term]:
            if self.labels == "fine" and not off(self.hard):
                from limbeck.grouping import coarse

                require_targets(batch, self.hard)
                batch = batch._replace(targets=coarse(batch.targets, groups))
            terms = cross_entropy(student, batch, moment, weight=self.hard)
            if not off(self.soft):
                value = losses.kd_grouped(student, teacher, groups=groups, temperature=self.temperature)
                terms["kd"] = Term(value, at(self.soft, moment))
            return terms

        sizes = ", ".join(str(len(group)) for group in groups)
        notes = () if self.groups is None else (f"{len(groups)} groups of the teacher's classes, of {sizes}",)
        return (distill_logits(cast, terms_of, notes=notes),)

    def _settle(self, cast: Cast) -> tuple[tuple[int, ...], ...]:
        """The groups, and a look whether both networks have their classes."""
        from limbeck import taps
        from limbeck.losses.mixture import require_partition

        pair = cast.pick("student", "teacher")
        looks = {role: taps.look(model, cast.example.inputs, ()).logits for role, model in pair.items()}
        ours, theirs = (look.shape[1] if look.ndim > 1 else 1 for look in looks.values())
        groups = tuple((c,) for c in range(theirs)) if self.groups is None else self.groups
        if len(groups) != ours:
            what = "each class alone (groups is not set)" if self.groups is None else f"{len(groups)} groups"
            raise ShapeError(
                f"N_t != N_s: {what} of the teacher's {theirs} classes, and a student that scores {ours}; it needs one class "
                f"for each group. Example: groups=((0, 2), (1, 3)) sums four classes of a teacher into two"
            )
        require_partition(groups, theirs)
        return groups


def as_groups(value: Any) -> tuple[tuple[int, ...], ...]:
    """The groups as a tuple of tuples, whatever they came in, checked as far as one can without a teacher.

    Raises:
        HyperParameterError: they are no lists of class ids, or do not have every class exactly once.
    """
    fault = HyperParameterError(
        f"groups = {value!r}: a list of lists of class ids (whole numbers, zero or more), such as ((0, 2, 4), (1, 3, 5))"
    )
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise fault
    if not all(isinstance(group, Sequence) and not isinstance(group, str) for group in value):
        raise fault
    groups = tuple(tuple(group) for group in value)
    if any(isinstance(c, bool) or not isinstance(c, int) or c < 0 for group in groups for c in group):
        raise fault
    empty = [i for i, group in enumerate(groups) if not group]
    named = sorted(c for group in groups for c in group)
    if len(groups) < 2 or empty:
        what = f"group {empty[0]} is empty" if empty else "two groups at least"
        raise HyperParameterError(f"groups = {groups!r}: {what}")
    twice = sorted({c for c in named if named.count(c) > 1})
    if twice:
        raise HyperParameterError(
            f"groups = {groups!r}: class {', '.join(map(str, twice))} is there twice; each belongs to exactly one group"
        )
    return groups


def partitions_of(method: object) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """The groups by which a method, or one within a sum, compares networks of different classes.

    >>> partitions_of(GroupedKD(groups=[[0, 2], [1, 3]]))
    (((0, 2), (1, 3)),)
    """
    parts = (method, *getattr(method, "methods", ()))
    return tuple(part.groups for part in parts if isinstance(part, GroupedKD) and part.groups is not None)


def labelled_by(method: object) -> tuple[list[tuple[tuple[int, ...], ...]], int] | None:
    """The groups of a method, and how many classes the labels of its batches have; None where it groups none."""
    parts = (method, *getattr(method, "methods", ()))
    for part in parts:
        if isinstance(part, GroupedKD) and part.groups is not None:
            return [part.groups], len(part.groups) if part.labels == "coarse" else sum(map(len, part.groups))
    return None
