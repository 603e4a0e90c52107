"""Compressing from Python: any module, any chain of compressors and trainings, and a ledger of what each cost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from limbeck import catalog
from limbeck import record as files
from limbeck.api import identity
from limbeck.api.accounts import entry, timed
from limbeck.api.fitting import hang, perform
from limbeck.api.ledger import Entry, Ledger
from limbeck.api.setting import Setting, prepared
from limbeck.compress import results
from limbeck.compress.finished import require_unfinished
from limbeck.compress.structure import no_longer_of_the_zoo
from limbeck.compressor import Compressor, findings, is_compressor, silent, tell
from limbeck.course import STUDENT, TEACHER, Gathering, Operation, is_course, is_taught, lessons_of, references
from limbeck.engine.progress import waiting
from limbeck.errors import DataError, HyperParameterError, LimbeckError
from limbeck.methods.response import KD, Supervised
from limbeck.models.swap import copied
from limbeck.phase import Method, seed_for
from limbeck.randomness import own_random_numbers, seed_everything
from limbeck.settings import Training, require, require_whole
from limbeck.taps import original

ORIGINAL = "original"
_TOLD = "told.json"  # in the folder of a step without training: what it had to say, its details, and its time


@dataclass(frozen=True, kw_only=True)
class Tune:
    """A step of a chain: train the network as it is by then.

    Attributes:
        epochs: how many; None: what ``training`` says.
        teacher: from whom: "original", the network that the chain began with; another module; or None: from labels.
        method: any method; None: `KD` with a teacher, `Supervised` without.
        training: everything else; None: that of the whole chain.
        student: another network to train instead of the one so far, such as a shallower one; None: the one so far.
    """

    epochs: int | None = None
    teacher: Any = ORIGINAL
    method: Method | None = None
    training: Training | None = None
    student: nn.Module | None = None

    def __post_init__(self) -> None:
        if self.epochs is not None:
            require_whole(epochs=self.epochs)
            require(self.epochs >= 1, "epochs", self.epochs, "1 or more, or nothing at all")
        if self.method is not None and (isinstance(self.method, type) or not isinstance(self.method, Method)):
            raise HyperParameterError(
                f"method = {self.method!r}: an instance with phases(cast), such as limbeck.KD(temperature=4); "
                "a course of several trainings is for limbeck.distill, or for a recipe"
            )
        if self.training is not None and not isinstance(self.training, Training):
            raise HyperParameterError(f"training = {self.training!r}: a limbeck.Training, or nothing at all")
        if self.teacher is not None and self.teacher != ORIGINAL and not isinstance(self.teacher, nn.Module):
            raise HyperParameterError(f'teacher = {self.teacher!r}: "original", a module, or None for labels alone')


@dataclass
class _State:
    """Where a chain is: the network so far, and what has been said of it."""

    model: nn.Module
    entries: list[Entry] = field(default_factory=list)


def compress(
    model: nn.Module,
    steps: Sequence[Any] | Any,
    batches: Iterable[Any] | None = None,
    *,
    evaluate: Iterable[Any] | None = None,
    validation: Iterable[Any] | None = None,
    calibration: Iterable[Any] | int = 512,
    example: Any = None,
    teacher: nn.Module | None = None,
    training: Training | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    latency: bool = True,
    quiet: bool = False,
) -> nn.Module:
    """Make a smaller network by a chain of steps, and say what each of them cost.

    The model that is given is not changed.  What comes back is a new one, with ``.ledger`` (the `Ledger`) and
    ``.summary()``, its table: size, arithmetic, measured time and accuracy after every step.

    Args:
        model: a trained network; any module.
        steps: compressors (`Prune`, `Factorize`, `Quantize`, `Binarize`, ...) and trainings (`Tune`), in order; or one.
        batches: training batches, as for `limbeck.distill`; needed by steps that train or look at data.
        evaluate: batches to measure on after every step.  Never looked at for a choice.
        validation: batches measured after every epoch of training.
        calibration: how many samples from the beginning of ``batches`` a compressor may look at; or batches of their own.
        example: a batch as the model takes it; None: the first of ``batches``.
        teacher: from whom a compressor that trains between its steps learns; None: from labels, or as it says itself.
        training: how `Tune` and such compressors train; None: AdamW with a rate of 1e-3, and 5 epochs.
        seed: of everything random here.
        device: "auto", "cpu", "cuda", "mps".
        out: a folder for every step's result; an interrupted call goes on where it stopped when it is made again.  One
            with another model, teacher or calibration, or other steps, is refused there.
        latency: measure the time of a forward with one sample and with 32, every network in turn with the original.
        quiet: print nothing.

    Raises:
        LimbeckError: with what was given, what exists, and what to try.  ``model`` is as before.

    Example:
        >>> import torch, limbeck as lk
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
        >>> data = [(torch.randn(16, 8), torch.randint(0, 3, (16,))) for _ in range(4)]
        >>> small = lk.compress(net, [lk.Prune(keep=0.5, multiple=1), lk.Tune(epochs=1)], data, latency=False, quiet=True)
        >>> [row.name for row in small.ledger.rows], small[0].out_features
        (['original', '1 prune', '2 tune'], 16)
    """
    chain = list(steps) if isinstance(steps, (list, tuple)) else [steps]
    _require_steps(model, chain)
    _require_pupil(teacher, chain)
    setting = prepared(
        model, batches, evaluate, validation, calibration, example, teacher, training, seed, device, out, quiet
    )
    if setting.job.folder is not None:
        identity.require_same(setting, chain)
    with own_random_numbers():
        state = _State(setting.begun)
        state.entries.append(entry(setting, ORIGINAL, setting.begun, 0.0))
        for place, step in enumerate(chain, 1):
            _step(setting, state, place, step)
        rows = timed(setting, state.entries) if latency else state.entries
    ledger = Ledger(rows=[replace(entry, model=None) for entry in rows])
    if setting.job.folder is not None:
        files.write_json(setting.job.folder / "ledger.json", {"rows": ledger.plain()})
    new = state.model
    hang(new, ledger=ledger, summary=ledger.summary)
    return new


def _require_steps(model: object, chain: Sequence[Any]) -> None:
    if not isinstance(model, nn.Module):
        raise HyperParameterError(f"{model!r} is a {type(model).__name__}; networks are torch modules (nn.Module)")
    if not chain:
        raise HyperParameterError("steps is empty: give at least one, such as limbeck.Prune(keep=0.5)")
    for place, step in enumerate(chain, 1):
        if not isinstance(step, Tune) and not is_compressor(step):
            raise HyperParameterError(
                f"step {place} is {step!r}: a chain is made of compressors ({', '.join(e.attribute for e in catalog.COMPRESSORS)}) "
                "and limbeck.Tune"
            )
    for place, step in enumerate(chain, 1):
        if not isinstance(step, Tune):
            _require_possible(place, step)


def _require_possible(place: int, step: Any) -> None:
    """Refuse what only a run can do, before anything is trained for it."""
    title = f"step {place}, {type(step).__name__},"
    parts = lessons_of(step) if is_course(step) else (Operation(name="", how=step),)
    for part in parts:
        if isinstance(part, Gathering):
            raise LimbeckError(f"{title} averages networks, which a chain cannot hold; use a recipe")
        if isinstance(part, Operation) and getattr(part.how, "needs_before", False) and not part.beside:
            raise HyperParameterError(
                f"{title} looks at the weights from before training, which a chain does not have: use a recipe, where a "
                "compress stage names them (beside), or a criterion that looks at the weights as they are"
            )
        for reference in references(part):
            name, _, snapshot = reference.partition("@")
            if snapshot:
                raise LimbeckError(
                    f"{title} asks for the weights of a training after {snapshot} steps, which only a run keeps: "
                    "use a recipe with a compress stage"
                )
            if name not in (STUDENT, TEACHER) and not name.startswith("."):
                raise LimbeckError(f"{title} asks for a network called {name!r}, and only a recipe has names: use one")


def _require_pupil(teacher: object, chain: Sequence[Any]) -> None:
    """Refuse a teacher that nobody would learn from."""
    if not isinstance(teacher, nn.Module):
        if teacher is not None:
            raise HyperParameterError(f"teacher = {teacher!r}: a module, or None (for Tune, its own teacher= says who)")
    elif not any(is_course(step) and is_taught(step) for step in chain):
        raise HyperParameterError(
            "teacher: no step of this chain learns from it; compressors that train between their steps do, such as "
            "limbeck.Prune(keep=0.5, steps=3), and for limbeck.Tune its own teacher= says who"
        )


# -- steps -----------------------------------------------------------------------------------------


def _step(setting: Setting, state: _State, place: int, step: Any) -> None:
    """One step of the chain; the state has its result and its line of the ledger then."""
    if not isinstance(step, Tune) or step.student is None:
        require_unfinished(state.model, type(step).__name__)
    if isinstance(step, Tune):
        kind = "tune"
        model, seconds = _tuned(setting, state.model, place, step)
    else:
        kind = catalog.name_of(step)
        if is_course(step):
            model, seconds = _course(setting, state, place, kind, step)
        else:
            model, seconds = _operation(setting, f"{place}-{kind}", state.model, step, ())
    state.entries.append(entry(setting, f"{place} {kind}", model, seconds))
    state.model = model


def _tuned(setting: Setting, model: nn.Module, place: int, step: Tune) -> tuple[nn.Module, float]:
    student = copied(model if step.student is None else original(step.student))
    silent(student)  # what a compressor said stands in its own line
    teacher = setting.begun if step.teacher == ORIGINAL else step.teacher
    training = step.training or setting.job.training
    if step.epochs is not None:
        training = replace(training, epochs=step.epochs)
    cast = {"student": student} if teacher is None else {"student": student, "teacher": teacher}
    method = step.method or (Supervised() if teacher is None else KD())
    return student, _train(setting, f"{place}-tune", method, cast, training)


def _train(setting: Setting, name: str, method: Method, cast: Mapping[str, nn.Module], training: Training) -> float:
    """Train the student of the cast in place; how many seconds that takes, or took when it was done before."""
    if next(iter(setting.job.loader.epoch(0)), None) is None:
        raise DataError(f"{name}: this step trains, and there are no batches to train on")
    job = replace(setting.job.lesson(name), training=training)
    if job.folder is not None:
        identity.require_made_of(job.folder, {"network": cast["student"]})
    return perform(job, method, cast).seconds


def _operation(
    setting: Setting, name: str, model: nn.Module, how: Compressor, beside: tuple[nn.Module, ...]
) -> tuple[nn.Module, float]:
    """What a compressor makes, and how many seconds that takes, or took when it was done before."""
    folder, begun = None if setting.job.folder is None else setting.job.folder / name, time.perf_counter()
    if folder is not None:
        identity.require_made_of(
            folder, {"network": model, **{f"network {k} beside it": one for k, one in enumerate(beside, 1)}}
        )
    if folder is not None and (folder / results.WEIGHTS).exists():
        made = results.load(model, folder, setting.example).to(setting.job.team.device)
        told = files.read_json(folder / _TOLD) or {}  # older versions kept none
        silent(made)  # of what the network before had to say
        tell(made, *told.get("notes", ()), **told.get("details", {}))
        return made, told.get("seconds", time.perf_counter() - begun)
    seed_everything(seed_for(setting.job.seed, "compress", name))
    further = {"beside": beside} if beside else {}
    with waiting(setting.console, name, setting.job.quiet):
        made = how(model, example=setting.example, calibration=setting.calibration, **further)
    no_longer_of_the_zoo(made)
    seconds = round(time.perf_counter() - begun, 2)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        # Before the weights, whose presence means that all is there.
        notes, details = findings(made).notes, findings(made).details
        kept = {"seconds": seconds, "notes": [str(note) for note in notes], "details": _written(details)}
        files.write_json(folder / _TOLD, kept)
        results.save(model, made, folder)
    if not setting.job.quiet:
        for note in findings(made).notes:
            setting.console.print(f"{name}: {note}", highlight=False, markup=False, soft_wrap=True)
    return made, seconds


def _written(details: Mapping[str, Any]) -> dict[str, Any]:
    """The details that a file can hold; those of a compressor of one's own may be anything."""
    found = {}
    for name, value in details.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            continue
        found[name] = value
    return found


def _course(setting: Setting, state: _State, place: int, kind: str, step: Any) -> tuple[nn.Module, float]:
    """The steps of a compressor that trains in between; each of them has its own folder and line.

    Returns:
        The network of the last, and the seconds of all.
    """
    before, whole = state.model, 0.0
    shelf: dict[str, nn.Module] = {}

    def named(reference: str) -> nn.Module:
        return before if reference == STUDENT else shelf[reference[1:]]

    for part in lessons_of(step):
        assert not isinstance(part, Gathering)  # `_require_possible` has seen to it
        title = f"{place}-{kind}" + (f".{part.name}" if part.name else "")
        if isinstance(part, Operation):
            beside = tuple(named(name) for name in part.beside)
            made, seconds = _operation(setting, title, named(part.student), part.how, beside)
        else:
            made = copied(named(part.student))
            silent(made)
            own = [setting.teacher] if setting.teacher is not None else []
            teachers = [t for name in part.teachers for t in (own if name == TEACHER else [named(name)])]
            roles = ["teacher"] if len(teachers) == 1 else [f"teacher{k}" for k in range(1, len(teachers) + 1)]
            training = replace(setting.job.training, **part.training)
            method = part.method or (KD() if teachers else Supervised())
            cast = {"student": made, **dict(zip(roles, teachers, strict=True))}
            seconds = _train(setting, title, method, cast, training)
        shelf[part.name], whole = made, whole + seconds
        if part.name:
            state.entries.append(entry(setting, f"{place} {kind}.{part.name}", made, seconds))
    return shelf[""], whole
