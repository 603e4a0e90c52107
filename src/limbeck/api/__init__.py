"""Distilling from Python: any modules, any iterable of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from limbeck.api.courses import perform_course
from limbeck.api.fitting import COURSE, Job, perform
from limbeck.api.outcome import Record
from limbeck.course import Course, is_course
from limbeck.data.iterables import Batches
from limbeck.engine.team import alone
from limbeck.errors import HyperParameterError, LimbeckError, RunFolderError
from limbeck.methods import MutualLearning
from limbeck.methods.response import KD, Supervised
from limbeck.phase import Method
from limbeck.settings import Optimizer, Training, require_whole
from limbeck.taps import original

__all__ = ["Batches", "Record", "distill", "train", "train_together"]

DEFAULT_OPTIMIZER = Optimizer(kind="adamw", lr=1e-3, weight_decay=0.01)


def distill(
    teacher: nn.Module | Sequence[nn.Module],
    student: nn.Module,
    batches: Iterable[Any],
    *,
    method: Method | Course | None = None,
    epochs: int | None = None,
    evaluate: Iterable[Any] | None = None,
    validation: Iterable[Any] | None = None,
    training: Training | None = None,
    optimizer: Optimizer | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    quiet: bool = False,
    models: Mapping[str, nn.Module] | None = None,
    fresh: Callable[[], nn.Module] | None = None,
) -> nn.Module:
    """Train a student from a teacher, and return it with its record.

    Both may be any modules: their outputs may be tensors, tuples with the logits first, dicts or objects
    with ``logits``.  Nothing needs to be registered, subclassed, or told how many channels it has.

    The student is trained in place and returned; ``student.record`` is the `Record` (``print`` it).  The
    teacher ends bit-identical.  Both end on the device that was used.

    Args:
        teacher: a trained network; or several, for methods that learn from several (`EnsembleKD`, `FEED`).
        student: the network to train.
        batches: something that gives the batches anew at each epoch: ``(inputs, targets)``, dicts, or `Batch`.
        method: one of `limbeck.methods`; None: `KD`.  A course, such as `BornAgain`, is several trainings of that many
            epochs each; the student is the network of the last, and ``student.lessons`` has the others by name.
        epochs: how many; None: 10, or what ``training`` says.
        evaluate: batches to measure both networks on, before and after.  Never looked at for a choice.
        validation: batches measured after every epoch, for ``training.patience`` and the best epoch, whose
            weights are then kept: in ``student.best_state``, or with ``out`` in ``best.safetensors``.
        training: everything else about the training; its ``batch_size`` is not used, as batches come as they are.
        optimizer: instead of the one in ``training``; without both, AdamW with a rate of 1e-3.
        seed: of everything random here.  The caller's global random state is left as it was.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        out: a folder for weights, record, log and checkpoints.  With it, an interrupted call goes on where it
            stopped when it is made again; a finished one returns at once.  One with another method, other settings or
            a teacher with other weights is refused there.
        quiet: print nothing.
        models: further networks that a course names, such as assistants.
        fresh: makes a network like the student, for a course whose lessons start from new weights; None: a network
            of the zoo is built again, and the parts of any other draw them with ``reset_parameters``.

    Raises:
        LimbeckError: with what was given, what exists, and what to try.

    Example:
        >>> import torch, limbeck as lk
        >>> from torch import nn
        >>> teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> data = [(torch.randn(8, 4), torch.randint(0, 3, (8,))) for _ in range(4)]
        >>> small = lk.distill(teacher, student, data, method=lk.KD(), epochs=2, quiet=True)
        >>> small is student, small.record.epochs
        (True, 2)
    """
    teachers = _as_modules(teacher)
    _require_modules(student, *teachers)
    _require_apart(teachers, student)
    job = _job(batches, epochs, evaluate, validation, training, optimizer, seed, device, out, quiet)
    roles = ["teacher"] if len(teachers) == 1 else [f"teacher{k}" for k in range(1, len(teachers) + 1)]
    cast = {"student": student, **dict(zip(roles, teachers, strict=True))}
    return _perform(job, KD() if method is None else method, cast, teachers, models or {}, fresh)


def train(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    method: Method | Course | None = None,
    epochs: int | None = None,
    evaluate: Iterable[Any] | None = None,
    validation: Iterable[Any] | None = None,
    training: Training | None = None,
    optimizer: Optimizer | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    quiet: bool = False,
    fresh: Callable[[], nn.Module] | None = None,
) -> nn.Module:
    """Train one network from labels alone: the yardstick for `distill`, with the same arguments and record.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> data = [(torch.randn(8, 4), torch.randint(0, 3, (8,))) for _ in range(4)]
        >>> train(nn.Linear(4, 3), data, epochs=1, quiet=True).record.epochs
        1
    """
    _require_modules(model)
    job = _job(batches, epochs, evaluate, validation, training, optimizer, seed, device, out, quiet)
    return _perform(job, Supervised() if method is None else method, {"student": model}, [], {}, fresh)


def train_together(
    students: Sequence[nn.Module],
    batches: Iterable[Any],
    *,
    method: Method | None = None,
    epochs: int | None = None,
    evaluate: Iterable[Any] | None = None,
    validation: Iterable[Any] | None = None,
    training: Training | None = None,
    optimizer: Optimizer | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    quiet: bool = False,
) -> list[nn.Module]:
    """Train several networks beside each other, each from the labels and from the others; returns them.

    Args:
        students: two or more networks, equal in kind or not, with different weights.
        batches, epochs, evaluate, training, optimizer, seed, device, out, quiet: as for `distill`.
        method: `MutualLearning` (the default) or `Cohort`.
        validation: as for `distill`; the first student is measured.

    Raises:
        LimbeckError: with what was given, what exists, and what to try.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> data = [(torch.randn(8, 4), torch.randint(0, 3, (8,))) for _ in range(4)]
        >>> both = train_together([nn.Linear(4, 3), nn.Linear(4, 3)], data, epochs=1, quiet=True)
        >>> both[0].record is both[1].record
        True
    """
    networks = list(students)
    if len(networks) < 2:
        raise HyperParameterError(f"students = {len(networks)} network(s): two or more learn from each other")
    _require_modules(*networks)
    for k, student in enumerate(networks):
        _require_apart(networks[:k], student, "students")
    cast = {"student" if k == 1 else f"peer{k}": network for k, network in enumerate(networks, 1)}
    job = _job(batches, epochs, evaluate, validation, training, optimizer, seed, device, out, quiet)
    _perform(job, MutualLearning() if method is None else method, cast, [], {}, None)
    return networks


def _as_modules(teacher: Any) -> list[Any]:
    """One teacher or several, as a list."""
    if isinstance(teacher, nn.Module) and not isinstance(teacher, nn.ModuleList):
        return [teacher]
    return list(teacher) if isinstance(teacher, Iterable) and not isinstance(teacher, (str, Mapping)) else [teacher]


def _require_modules(*models: Any) -> None:
    for model in models:
        if not isinstance(model, nn.Module):
            raise HyperParameterError(f"{model!r} is a {type(model).__name__}; networks are torch modules (nn.Module)")


def _require_apart(others: Sequence[nn.Module], student: nn.Module, who: str = "teacher and student") -> None:
    """No weight of the student is anybody else's."""
    for other in others:
        if original(other) is original(student):
            raise LimbeckError(f"{who} are the same module; give the student a copy (copy.deepcopy) or a fresh network")
        shared = {id(p) for p in other.parameters()} & {id(p) for p in student.parameters()}
        if shared:
            raise LimbeckError(f"{who} share {len(shared)} parameters; training one would change the other")


def _perform(
    job: Job,
    method: Method | Course,
    networks: Mapping[str, nn.Module],
    teachers: Sequence[nn.Module],
    others: Mapping[str, nn.Module],
    fresh: Callable[[], nn.Module] | None,
) -> nn.Module:
    student = networks["student"]
    if is_course(method):
        perform_course(job, cast(Course, method), student, teachers, others, fresh)
    elif isinstance(method, type) or not isinstance(method, Method):
        raise HyperParameterError(
            f"method = {method!r}: an instance with phases(cast), such as limbeck.KD(temperature=4) or limbeck.NST()"
        )
    else:
        if job.folder is not None and (job.folder / COURSE).exists():
            raise RunFolderError(f"{job.folder} holds a course; choose another out")
        perform(job, method, networks)
    return student


def _job(
    batches: Iterable[Any],
    epochs: int | None,
    evaluate: Iterable[Any] | None,
    validation: Iterable[Any] | None,
    training: Training | None,
    optimizer: Optimizer | None,
    seed: int,
    device: str,
    out: str | Path | None,
    quiet: bool,
) -> Job:
    require_whole(seed=seed)
    training = _settings(training, optimizer, epochs)
    if training.patience is not None and validation is None:
        raise HyperParameterError(
            f"patience = {training.patience}: stopping early needs batches to measure on; give them as validation="
        )
    return Job(
        loader=Batches(batches),
        tests=None if evaluate is None else Batches(evaluate, "the evaluation batches"),
        held=None if validation is None else Batches(validation, "the validation batches"),
        training=training,
        seed=seed,
        team=alone(device),
        folder=None if out is None else Path(out),
        quiet=quiet,
    )


def _settings(training: Training | None, optimizer: Optimizer | None, epochs: int | None) -> Training:
    changes: dict[str, Any] = {}
    if training is None:
        changes["optimizer"] = optimizer or DEFAULT_OPTIMIZER
        changes["epochs"] = 10 if epochs is None else epochs
        return Training(**changes)
    if optimizer is not None:
        changes["optimizer"] = optimizer
    if epochs is not None:
        changes["epochs"] = epochs
    return Training(**{**vars(training), **changes})
