"""Compressing from Python: any module, any chain of compressors and trainings, and a ledger of what each cost."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from limbeck import catalog
from limbeck import record as files
from limbeck.api import identity
from limbeck.api.fitting import Job, hang, perform
from limbeck.api.ledger import Entry, Ledger
from limbeck.batches import batch_size, moved, resized
from limbeck.compress import cost as costs
from limbeck.compress import results
from limbeck.compress.finished import require_unfinished
from limbeck.compress.served import Served, served
from limbeck.compress.structure import no_longer_of_the_zoo
from limbeck.compress.trial import require_runs
from limbeck.compressor import Compressor, findings, is_compressor, silent, tell
from limbeck.course import STUDENT, TEACHER, Gathering, Operation, is_course, is_taught, lessons_of, references
from limbeck.data.iterables import Batches
from limbeck.engine.evaluate import agreement, metrics, predictions
from limbeck.engine.progress import waiting
from limbeck.errors import DataError, HyperParameterError, LimbeckError, RunFolderError
from limbeck.methods.response import KD, Supervised
from limbeck.phase import Batch, Method, seed_for
from limbeck.randomness import own_random_numbers, seed_everything
from limbeck.settings import Training, require, require_whole
from limbeck.taps import original

ORIGINAL = "original"
_IDENTITY = "chain.json"
_TOLD = "told.json"  # in the folder of a step without training: what it had to say, and its time


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


@dataclass(frozen=True)
class _Setting:
    """What all steps of a chain share."""

    job: Job
    example: Any
    calibration: Sequence[Batch]
    tests: Batches | None
    begun: nn.Module
    teacher: nn.Module | None
    console: Console


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
    setting = _setting(
        model, batches, evaluate, validation, calibration, example, teacher, training, seed, device, out, quiet
    )
    if setting.job.folder is not None:
        _require_same(setting, chain)
    with own_random_numbers():
        state = _State(setting.begun)
        state.entries.append(_entry(setting, ORIGINAL, setting.begun, 0.0))
        for place, step in enumerate(chain, 1):
            _step(setting, state, place, step)
        rows = _timed(setting, state.entries) if latency else state.entries
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


def _setting(
    model: nn.Module,
    batches: Iterable[Any] | None,
    evaluate: Iterable[Any] | None,
    validation: Iterable[Any] | None,
    calibration: Iterable[Any] | int,
    example: Any,
    teacher: nn.Module | None,
    training: Training | None,
    seed: int,
    device: str,
    out: str | Path | None,
    quiet: bool,
) -> _Setting:
    from limbeck.api import DEFAULT_OPTIMIZER
    from limbeck.engine.team import alone

    team = alone(device)
    tests = None if evaluate is None else Batches(evaluate, "the evaluation batches")
    job = Job(
        loader=Batches(() if batches is None else batches),
        tests=tests,
        held=None if validation is None else Batches(validation, "the validation batches"),
        training=training or Training(optimizer=DEFAULT_OPTIMIZER, epochs=5),
        seed=seed,
        team=team,
        folder=None if out is None else Path(out),
        quiet=quiet,
        name="compress",
    )
    begun = copy.deepcopy(original(model)).to(team.device)
    with own_random_numbers():
        seed_everything(seed_for(seed, "compress", "calibration"))  # the loaders of the user draw from global numbers
        looked = _calibration(job.loader, calibration, team.device)
    if example is None:
        if not looked:
            raise DataError(
                "compress needs to see how the network is called: give batches, or example=, a batch of inputs"
            )
        example = looked[0].inputs
    example = moved(example, team.device)
    require_runs(begun, example)
    return _Setting(job, example, looked, tests, begun, teacher, Console())


def _calibration(loader: Batches, wanted: Iterable[Any] | int, device: torch.device) -> list[Batch]:
    """Batches to look at, on the device; of the training batches so many that they hold as many samples as wanted."""
    if not isinstance(wanted, int):
        found = list(Batches(wanted, "the calibration batches").epoch(0))
    else:
        require(wanted >= 0, "calibration", wanted, "a number of samples, or 0, or batches of their own")
        found, seen = [], 0
        for batch in loader.epoch(0) if wanted else ():
            found.append(batch)
            seen += batch_size(batch.inputs)
            if seen >= wanted:
                break
    return [batch._replace(inputs=moved(batch.inputs, device), targets=moved(batch.targets, device)) for batch in found]


def _require_same(setting: _Setting, chain: Sequence[Any]) -> None:
    """Refuse a folder with another chain's results."""
    folder = setting.job.folder
    assert folder is not None  # asked for by who calls
    told = {
        "steps": [repr(step) for step in chain],
        "seed": setting.job.seed,
        **identity.networks(setting.begun, setting.teacher, chain),
        **identity.samples(chain, setting.calibration),
    }
    kept = files.read_json(folder / _IDENTITY)
    if kept is None:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / _IDENTITY, told)
    elif (apart := _apart(kept, told)) is not None:
        raise RunFolderError(f"{folder} holds another chain: {apart}; choose another out")


def _apart(kept: Mapping[str, Any], told: Mapping[str, Any]) -> str | None:
    """The first thing in which two chains differ; None for the same."""
    there, here = kept.get("steps", []), told["steps"]
    for place, (old, new) in enumerate(itertools.zip_longest(there, here, fillvalue="nothing"), 1):
        if old != new:
            return f"its step {place} is {_short(old)}, this one's {_short(new)}"
    if kept.get("seed") != told["seed"]:
        return f"its seed is {kept.get('seed')}, this one's {told['seed']}"
    if "model" not in kept:  # older versions kept nothing of what a chain was made from
        return None
    for name in dict.fromkeys([*told, *kept]):
        if kept.get(name) != told.get(name):
            if name not in kept or name not in told:
                return f"it has {'a' if name in kept else 'no'} {name}, this one {'a' if name in told else 'none'}"
            if name == "calibration":
                return (
                    "its calibration holds other samples than this one's (a loader with a generator of its own draws others on each "
                    "call; calibration= takes a list of batches)"
                )
            return f"its {name} has other weights, or is built otherwise, than this one's"
    return None


def _short(step: str) -> str:
    return step if len(step) <= 120 else f"{step[:117]}..."


# -- steps -----------------------------------------------------------------------------------------


def _step(setting: _Setting, state: _State, place: int, step: Any) -> None:
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
    state.entries.append(_entry(setting, f"{place} {kind}", model, seconds))
    state.model = model


def _tuned(setting: _Setting, model: nn.Module, place: int, step: Tune) -> tuple[nn.Module, float]:
    student = copy.deepcopy(original(step.student)) if step.student is not None else copy.deepcopy(model)
    silent(student)  # what a compressor said stands in its own line
    teacher = setting.begun if step.teacher == ORIGINAL else step.teacher
    training = step.training or setting.job.training
    if step.epochs is not None:
        training = replace(training, epochs=step.epochs)
    cast = {"student": student} if teacher is None else {"student": student, "teacher": teacher}
    method = step.method or (Supervised() if teacher is None else KD())
    return student, _train(setting, f"{place}-tune", method, cast, training)


def _train(setting: _Setting, name: str, method: Method, cast: Mapping[str, nn.Module], training: Training) -> float:
    """Train the student of the cast in place; how many seconds that takes, or took when it was done before."""
    if next(iter(setting.job.loader.epoch(0)), None) is None:
        raise DataError(f"{name}: this step trains, and there are no batches to train on")
    job = replace(setting.job.lesson(name), training=training)
    return perform(job, method, cast).seconds


def _operation(
    setting: _Setting, name: str, model: nn.Module, how: Compressor, beside: tuple[nn.Module, ...]
) -> tuple[nn.Module, float]:
    """What a compressor makes, and how many seconds that takes, or took when it was done before."""
    folder, begun = None if setting.job.folder is None else setting.job.folder / name, time.perf_counter()
    if folder is not None and (folder / results.WEIGHTS).exists():
        made = results.load(model, folder, setting.example).to(setting.job.team.device)
        told = files.read_json(folder / _TOLD) or {}  # older versions kept none
        silent(made)  # of what the network before had to say
        tell(made, *told.get("notes", ()))
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
        files.write_json(folder / _TOLD, {"seconds": seconds, "notes": [str(note) for note in findings(made).notes]})
        results.save(model, made, folder)
    if not setting.job.quiet:
        for note in findings(made).notes:
            setting.console.print(f"{name}: {note}", highlight=False, markup=False, soft_wrap=True)
    return made, seconds


def _course(setting: _Setting, state: _State, place: int, kind: str, step: Any) -> tuple[nn.Module, float]:
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
            made = copy.deepcopy(named(part.student))
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
            state.entries.append(_entry(setting, f"{place} {kind}.{part.name}", made, seconds))
    return shelf[""], whole


# -- the ledger ------------------------------------------------------------------------------------


def _entry(setting: _Setting, name: str, model: nn.Module, seconds: float) -> Entry:
    one = resized(setting.example, 1)
    measured, same = None, None
    if setting.tests is not None:
        logits, targets = predictions(model, setting.tests.epoch(0), device=setting.job.team.device)
        measured = metrics(logits, targets)
        if model is not setting.begun:
            theirs, _ = predictions(setting.begun, setting.tests.epoch(0), device=setting.job.team.device)
            independent = isinstance(targets, Tensor) and targets.ndim == 2
            same = agreement(logits, theirs, independent=independent) if logits.shape == theirs.shape else None
    found = costs.cost(model, one)
    notes = findings(model).notes
    return Entry(
        name=name,
        **asdict(found),
        measured=measured,
        agreement=same,
        seconds=round(seconds, 2),
        notes=list(notes),
        model=model,
    )


def _timed(setting: _Setting, entries: Sequence[Entry]) -> list[Entry]:
    """The entries with measured times: all networks take turns, so that a slow moment of the machine meets all."""
    if not setting.job.quiet:
        setting.console.print("measuring latency, one thread, networks in turn ...", highlight=False)
    with costs.one_thread():
        forms: list[Served] = [served(entry.model, setting.example) for entry in entries if entry.model is not None]
    models = {str(k): form.model for k, form in enumerate(forms)}
    found = []
    for size, repeats in ((1, 50), (32, 10)):
        inputs = resized(setting.example, size)
        found.append(costs.latency(models, inputs, repeats=repeats))
    return [
        replace(entry, latency=asdict(found[0][str(k)]), latency_32=asdict(found[1][str(k)]), form=forms[k].name)
        for k, entry in enumerate(entries)
    ]
