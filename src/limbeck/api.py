"""Distilling from Python: any two modules, any iterable of batches."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from limbeck import record as files
from limbeck.compress import cost as costs
from limbeck.data.iterables import to_batch
from limbeck.engine.evaluate import agreement, metrics, predictions
from limbeck.engine.loop import fit, identity
from limbeck.engine.progress import watch_for
from limbeck.engine.randomness import own_random_numbers, seed_everything
from limbeck.engine.roles import Fit, Stop
from limbeck.engine.team import Team, alone
from limbeck.errors import DataError, HyperParameterError, LimbeckError, RunFolderError
from limbeck.methods.response import KD, Supervised
from limbeck.models.weights import load_weights, save_weights
from limbeck.phase import Batch, Method, seed_for
from limbeck.settings import Optimizer, Training
from limbeck.taps import original

DEFAULT_OPTIMIZER = Optimizer(kind="adamw", lr=1e-3, weight_decay=0.01)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a training came to.  In a notebook it shows itself as a table.

    Attributes:
        method: its text, with all hyper-parameters.
        seed, epochs, seconds: of the training.
        phases: name, epochs and notes (chosen layer pairs, say) of each phase.
        cost: per role ("student", "teacher"): parameters, macs, bytes.
        before, after: per role: accuracy, loss, ece on the ``evaluate`` batches; empty without them.
        agreement: part of those samples (with several labels each: of the labels) on which student and teacher
            choose the same class, or None.
        best: the best epoch on the ``validation`` batches, or None.
        history: what was measured at the end of each epoch.
        versions, device: where the numbers come from.
    """

    method: str
    seed: int
    epochs: int
    seconds: float
    phases: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, dict[str, Any]] = field(default_factory=dict)
    before: dict[str, dict[str, float]] = field(default_factory=dict)
    after: dict[str, dict[str, float]] = field(default_factory=dict)
    agreement: float | None = None
    best: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=files.versions)
    device: str = "cpu"

    def rows(self) -> list[tuple[str, ...]]:
        """The table of `summary`: a head, then a line per network."""
        head = ("network", "parameters", "MACs", "bytes", "accuracy before", "accuracy after", "loss", "ECE")
        lines: list[tuple[str, ...]] = [head]
        for role, cost in self.cost.items():
            before, after = self.before.get(role), self.after.get(role)
            lines.append(
                (
                    role,
                    f"{cost['parameters']:,}",
                    f"{cost['macs']:,}" if cost.get("macs") is not None else "-",
                    f"{cost['bytes']:,}",
                    f"{100 * before['accuracy']:.2f} %" if before else "-",
                    f"{100 * after['accuracy']:.2f} %" if after else "-",
                    f"{after['loss']:.4f}" if after else "-",
                    f"{after['ece']:.4f}" if after else "-",
                )
            )
        return lines

    def footnote(self) -> str:
        """What stands below the table."""
        n = next((int(m["n"]) for m in self.after.values()), None)
        told = [
            f"{self.method}, {self.epochs} epochs, {self.seconds:.1f} s on {self.device}, seed {self.seed} (single run)"
        ]
        if n is not None:
            told.append(f"measured on {n:,} samples")
        if self.agreement is not None:
            told.append(f"student and teacher agree on {100 * self.agreement:.1f} %")
        return "; ".join(told)

    def summary(self) -> str:
        """The table as text."""
        rows = self.rows()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
                 for row in rows]  # fmt: skip
        return "\n".join([*lines, self.footnote()])

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        head, *body = self.rows()
        top = "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in head)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
        return f"<table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table><p>{html.escape(self.footnote())}</p>"


class Batches:
    """A user's iterable of batches, as the engine walks it: anew every epoch."""

    seeks = False  # to come to the middle of an epoch, its first half is walked again

    def __init__(self, batches: Iterable[Any], what: str = "the training batches") -> None:
        if isinstance(batches, Iterator):
            raise DataError(
                f"{what} are a {type(batches).__name__}, which can be walked only once; give something that can be "
                "walked every epoch: a list, a DataLoader, or an object whose __iter__ starts anew"
            )
        if not isinstance(batches, Iterable):
            raise DataError(
                f"{what} are a {type(batches).__name__}; an iterable of (inputs, targets) or of dicts is needed"
            )
        self.batches = batches

    @property
    def steps(self) -> int | None:
        try:
            return len(self.batches)  # type: ignore[arg-type]
        except TypeError:
            return None

    def epoch(self, epoch: int, rank: int = 0, world: int = 1, skip: int = 0) -> Iterator[Batch]:
        set_epoch = getattr(getattr(self.batches, "sampler", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
        for item in self.batches:
            yield to_batch(item)


def distill(
    teacher: nn.Module,
    student: nn.Module,
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
) -> nn.Module:
    """Train a student from a teacher, and return it with its record.

    Both may be any modules: their outputs may be tensors, tuples with the logits first, dicts or objects
    with ``logits``.  Nothing needs to be registered, subclassed, or told how many channels it has.

    The student is trained in place and returned; ``student.record`` is the `Record` (``print`` it).  The
    teacher ends bit-identical.  Both end on the device that was used.

    Args:
        teacher: a trained network.
        student: the network to train.
        batches: something that gives the batches anew at each epoch: ``(inputs, targets)``, dicts, or `Batch`.
        method: one of `limbeck.methods`; None: `KD`.
        epochs: how many; None: 10, or what ``training`` says.
        evaluate: batches to measure both networks on, before and after.  Never looked at for a choice.
        validation: batches measured after every epoch, for ``training.patience`` and the best epoch, whose
            weights are then kept: in ``student.best_state``, or with ``out`` in ``best.safetensors``.
        training: everything else about the training; its ``batch_size`` is not used, as batches come as they are.
        optimizer: instead of the one in ``training``; without both, AdamW with a rate of 1e-3.
        seed: of everything random here.  The caller's global random state is left as it was.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        out: a folder for weights, record, log and checkpoints.  With it, an interrupted call goes on where it
            stopped when it is made again; a finished one returns at once.
        quiet: print nothing.

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
    if original(teacher) is original(student):
        raise LimbeckError(
            "teacher and student are the same module; give the student a copy (copy.deepcopy) or a fresh network"
        )
    shared = {id(p) for p in teacher.parameters()} & {id(p) for p in student.parameters()}
    if shared:
        raise LimbeckError(
            f"teacher and student share {len(shared)} parameters; training the student would change the teacher"
        )
    models = {"student": student, "teacher": teacher}
    return _train(
        models, batches, method or KD(), epochs, evaluate, validation, training, optimizer, seed, device, out, quiet
    )


def train(
    model: nn.Module,
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
) -> nn.Module:
    """Train one network from labels alone: the yardstick for `distill`, with the same arguments and record.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> data = [(torch.randn(8, 4), torch.randint(0, 3, (8,))) for _ in range(4)]
        >>> train(nn.Linear(4, 3), data, epochs=1, quiet=True).record.epochs
        1
    """
    return _train(
        {"student": model}, batches, method or Supervised(), epochs, evaluate, validation, training, optimizer,
        seed, device, out, quiet,
    )  # fmt: skip


def _train(
    models: dict[str, nn.Module],
    batches: Iterable[Any],
    method: Method,
    epochs: int | None,
    evaluate: Iterable[Any] | None,
    validation: Iterable[Any] | None,
    training: Training | None,
    optimizer: Optimizer | None,
    seed: int,
    device: str,
    out: str | Path | None,
    quiet: bool,
) -> nn.Module:
    if isinstance(method, type) or not isinstance(method, Method):
        raise HyperParameterError(
            f"method = {method!r}: an instance with phases(cast), such as limbeck.KD(temperature=4) or limbeck.NST()"
        )
    training = _settings(training, optimizer, epochs)
    if training.patience is not None and validation is None:
        raise HyperParameterError(
            f"patience = {training.patience}: stopping early needs batches to measure on; give them as validation="
        )
    loader = Batches(batches)
    tests = None if evaluate is None else Batches(evaluate, "the evaluation batches")
    held = None if validation is None else Batches(validation, "the validation batches")
    team, student = alone(device), original(models["student"])
    folder = None if out is None else Path(out)
    with own_random_numbers(), nullcontext() if folder is None else files.locked(folder):
        seed_everything(seed_for(seed, "distill", "measure"))  # the loaders of the user draw from global numbers
        record = _fit(models, loader, method, training, seed, team, tests, held, folder, quiet)
    # On the module itself, not among its parts: neither state_dict nor parameters see it.
    object.__setattr__(student, "record", record)
    if student is not models["student"]:
        object.__setattr__(models["student"], "record", record)
    return models["student"]


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


def _fit(
    models: Mapping[str, nn.Module],
    loader: Batches,
    method: Method,
    training: Training,
    seed: int,
    team: Team,
    tests: Batches | None,
    held: Batches | None,
    folder: Path | None,
    quiet: bool,
) -> Record:
    student = original(models["student"])
    bare = {role: original(model).to(team.device) for role, model in models.items()}
    key = identity("distill", seed, method, training)
    if folder is not None and (done := _finished(folder, key, student)) is not None:
        return done

    def measure(model: nn.Module, batches: Batches) -> tuple[tuple[Any, Any], dict[str, float]]:
        layout = {"precision": training.precision, "channels_last": training.channels_last}
        logits, targets = predictions(model, batches.epoch(0), device=team.device, **layout)
        return (logits, targets), metrics(logits, targets)

    before = {role: measure(model, tests)[1] for role, model in bare.items()} if tests is not None else {}
    result = fit(
        method,
        models,
        loader,
        training=training,
        seed=seed,
        name="distill",
        team=team,
        folder=folder,
        validate=None if held is None else lambda model: measure(model, held)[1],
        watch=watch_for(Console(), type(method).__name__, quiet),
        stop=Stop(),
    )
    after, same = {}, None
    if tests is not None:
        seen = {role: measure(model, tests) for role, model in bare.items()}
        after = {role: found for role, (_, found) in seen.items()}
        if "teacher" in seen:
            ours, targets = seen["student"][0]
            theirs = seen["teacher"][0][0]
            if ours.shape == theirs.shape and ours.ndim <= 2:
                same = agreement(ours, theirs, independent=targets.ndim == 2)
    if result.best_state is not None:
        object.__setattr__(student, "best_state", result.best_state)
    record = _record(method, seed, result, _costs(bare, loader, team), before, after, same, team)
    if folder is not None:
        save_weights(student, folder / "last.safetensors")
        files.write_json(folder / "record.json", {"identity": key, **asdict(record)})
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return record


def _finished(folder: Path, key: str, student: nn.Module) -> Record | None:
    kept = files.read_json(folder / "record.json")
    if kept is None:
        return None
    if kept.pop("identity", None) != key:
        raise RunFolderError(f"{folder} holds a training with another method, settings or seed; choose another out")
    load_weights(student, folder / "last.safetensors")
    return Record(**kept)


def _costs(models: Mapping[str, nn.Module], loader: Batches, team: Team) -> dict[str, dict[str, Any]]:
    first = next(iter(loader.epoch(0)))
    found = {}
    for role, model in models.items():
        inputs = first.inputs
        one = (
            {k: v[:1].to(team.device) for k, v in inputs.items()}
            if isinstance(inputs, Mapping)
            else inputs[:1].to(team.device)
        )
        found[role] = asdict(costs.cost(model, one))
    return found


def _record(
    method: Method,
    seed: int,
    result: Fit,
    cost: dict[str, dict[str, Any]],
    before: dict[str, dict[str, float]],
    after: dict[str, dict[str, float]],
    same: float | None,
    team: Team,
) -> Record:
    return Record(
        method=repr(method),
        seed=seed,
        epochs=result.epochs,
        seconds=round(result.seconds, 3),
        phases=result.phases,
        cost=cost,
        before=before,
        after=after,
        agreement=same,
        best=result.best,
        history=[line for line in result.history if line["phase"] != "before"],
        device=torch.cuda.get_device_name(team.device) if team.device.type == "cuda" else team.device.type,
    )
