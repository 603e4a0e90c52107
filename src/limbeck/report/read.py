"""What a run folder says, as plain values.  Reading is forgiving about what is missing, not about what is broken."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.errors import RunFolderError

FORMAT = 1  # of run.json; a newer one may mean something else by the same words


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """One repetition of one stage.

    Attributes:
        seed: of the run.
        status: "done", "running", "interrupted" or "failed".
        folder: absolute path with ``steps.jsonl``.
        epochs, seconds, images: how much training that was.
        phases: as recorded: name, epochs, pairs, notes.
        before, best, last: metrics by part ("validation", "test"); fractions and natural-log losses.
        agreement: part of the test rows on which student and teacher choose the same class, or None.
        original: the network at the beginning of a chain of compressions, or None.
        alike: part of the test rows on which this network and that one choose the same class, or None.
        notes, details: what a compressor had to say; see `limbeck.compressor.Findings`.
    """

    seed: int
    status: str = "done"
    folder: Path = Path()
    epochs: float | None = None
    seconds: float | None = None
    images: float | None = None
    phases: tuple[Mapping[str, Any], ...] = ()
    before: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    best: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    last: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    agreement: float | None = None
    original: str | None = None
    alike: float | None = None
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training stage of a run, with its repetitions.

    Attributes:
        name, kind: "train", "distill", "together", "peer", "ensemble" or "compress" (or what a newer limbeck adds).
        network: the network that was trained, by name.
        model: the blueprint or earlier result that it started from.
        teachers: the models that taught it.
        members: the networks that an ensemble averages.
        part_of: the stage of the recipe that it is a part of (a lesson of a course, one of several students), or None.
        method, training: plain data, as in the recipe; of a "compress" stage, the compressor is its method.
        cost: "parameters", "macs", "bytes" and "latency", as far as they are known.
        runs: by seed.
    """

    name: str
    kind: str = "train"
    network: str = ""
    model: str | None = None
    teachers: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    part_of: str | None = None
    method: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    rows: int | None = None
    per_seed: bool = True
    cost: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[SeedRun, ...] = ()

    @property
    def teacher(self) -> str | None:
        """The model that taught it, where it is one."""
        return self.teachers[0] if len(self.teachers) == 1 else None

    @property
    def taught(self) -> bool:
        """Whether it learnt from other networks: from teachers, or beside its peers."""
        return bool(self.teachers) or self.kind in ("together", "peer")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One ``evaluate`` stage: metrics by model and seed."""

    name: str
    split: str
    results: Mapping[str, Mapping[int, Mapping[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder, read."""

    folder: Path
    name: str
    status: str
    created: str | None = None
    finished: str | None = None
    command: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    recipe_hash: str | None = None
    commit: str | None = None
    versions: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    baseline: str | None = None
    exhibits: Mapping[str, Any] = field(default_factory=dict)
    exhibits_problem: str | None = None

    def stage(self, name: str | None) -> Stage | None:
        """The stage of that name, or None."""
        return next((stage for stage in self.stages if stage.name == name), None)

    @property
    def finished_well(self) -> bool:
        """Whether the run says that it is done."""
        return self.status == "done"


@dataclass(frozen=True, kw_only=True)
class StepLine:
    """One line of a loss curve; ``epoch`` counts from the start of its phase, ``terms`` has the total too."""

    phase: str
    step: int
    epoch: float
    terms: Mapping[str, float]
    loss: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class EpochLine:
    """The metrics on the validation part after one epoch of a phase."""

    phase: str
    epoch: float
    validation: Mapping[str, float]
    train_loss: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """What ``steps.jsonl`` of one stage and seed says, in the order of training.

    Attributes:
        steps, epochs: the lines of the two kinds.
        phases: their names, in order.
        ignored: how many lines could not be read (a run that was killed leaves a half-written one).
    """

    steps: tuple[StepLine, ...] = ()
    epochs: tuple[EpochLine, ...] = ()
    phases: tuple[str, ...] = ()
    ignored: int = 0


def number(value: Any) -> float | None:
    """A finite number, or None for whatever else a record may hold there.

    >>> number(3), number("3"), number(float("nan")), number(None), number(True)
    (3.0, None, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _numbers(value: Any) -> dict[str, float]:
    return {str(k): n for k, v in _mapping(value).items() if (n := number(v)) is not None}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _items(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _metrics(value: Any) -> dict[str, float]:
    """The metrics in a record; how many rows and which seed they come from are none."""
    return {k: v for k, v in _numbers(value).items() if k not in ("n", "seed")}


def _parts(value: Any) -> dict[str, dict[str, float]]:
    return {part: _metrics(_mapping(value).get(part)) for part in ("validation", "test")}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _names(value: Any) -> tuple[str, ...]:
    """One name, a list of them, or none."""
    return tuple(map(str, value)) if isinstance(value, list) else () if value is None else (str(value),)


def _there(folder: Path) -> str:
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir())
    shown = ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    return shown or "nothing"


def _seed_run(raw: Mapping[str, Any], folder: Path, stage: str) -> SeedRun:
    seed = int(number(raw.get("seed")) or 0)
    return SeedRun(
        seed=seed,
        status=str(raw.get("status", "done")),
        folder=folder / str(raw.get("folder") or f"stages/{stage}/seed-{seed}"),
        epochs=number(raw.get("epochs")),
        seconds=number(raw.get("seconds")),
        images=number(raw.get("images")),
        phases=tuple(_items(raw.get("phases"))),
        before=_parts(raw.get("before")),
        best=_parts(raw.get("best")),
        last=_parts(raw.get("last")),
        agreement=number(_mapping(raw.get("agreement")).get("test")),
        original=_text(_mapping(raw.get("original")).get("model")),
        alike=number(_mapping(raw.get("original")).get("agreement")),
        notes=_names(raw.get("notes")),
        details=_mapping(raw.get("details")),
    )


def _stage(raw: Mapping[str, Any], folder: Path) -> Stage:
    name = str(raw.get("name", "?"))
    rows = number(raw.get("rows"))
    return Stage(
        name=name,
        kind=str(raw.get("kind", "train")),
        network=str(raw.get("network") or ""),
        model=_text(raw.get("student") or raw.get("model")),
        teachers=_names(raw.get("teacher")),
        members=_names(raw.get("members")),
        part_of=_text(raw.get("part_of")),
        method=_mapping(raw.get("method")),
        training=_mapping(raw.get("training")),
        rows=None if rows is None else int(rows),
        per_seed=bool(raw.get("per_seed", True)),
        cost=_mapping(raw.get("cost")),
        runs=tuple(_seed_run(run, folder, name) for run in _items(raw.get("runs"))),
    )


def _evaluation(raw: Mapping[str, Any]) -> Evaluation:
    results = {
        str(model): {int(number(line.get("seed")) or 0): _metrics(line.get("metrics", line)) for line in _items(lines)}
        for model, lines in _mapping(raw.get("results")).items()
    }
    return Evaluation(name=str(raw.get("name", "?")), split=str(raw.get("split", "test")), results=results)


def _recipe_text(folder: Path, recipe: Mapping[str, Any]) -> str:
    try:
        return (folder / "recipe.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        if not recipe:
            return ""
        import yaml

        return yaml.safe_dump(json.loads(json.dumps(recipe)), sort_keys=False, allow_unicode=True)


def _exhibits(folder: Path) -> tuple[Mapping[str, Any], str | None]:
    path = folder / "exhibits.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, "there is no exhibits.json; a run writes it when it ends"
    except (OSError, ValueError) as error:
        return {}, f"exhibits.json cannot be read ({error})"
    if not isinstance(found, Mapping):
        return {}, f"exhibits.json holds a {type(found).__name__}, not a mapping"
    return found, None


def read_run(folder: str | Path) -> Run:
    """Read a run folder, finished or not.

    Args:
        folder: the one that holds ``run.json``.

    Returns:
        The run.  Whatever is missing is empty or None; curves are read by `read_curves`.

    Raises:
        RunFolderError: there is no such folder, no ``run.json`` in it, or it is not a record that
            this version of limbeck can read.
    """
    folder = Path(folder)
    if folder.is_file() and folder.name == "run.json":
        folder = folder.parent
    if not folder.exists():
        parent = folder.parent
        beside = f"{parent}/ has: {_there(parent)}" if parent.is_dir() else f"neither does {parent}/ exist"
        raise RunFolderError(f"no run folder {str(folder)!r}; {beside}")
    if not folder.is_dir():
        raise RunFolderError(f"{str(folder)!r} is a file; give the folder of a run, the one that holds run.json")
    path = folder / "run.json"
    if not path.is_file():
        raise RunFolderError(
            f"{str(folder)!r} is no run folder: it has no run.json; there is: {_there(folder)}. "
            "'limbeck run RECIPE --out FOLDER' makes one"
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{str(path)!r} cannot be read ({error}); the folder has: {_there(folder)}") from error
    if not isinstance(raw, Mapping):
        raise RunFolderError(f"{str(path)!r} holds a {type(raw).__name__}, not the record of a run")
    version = raw.get("format")
    if version != FORMAT:
        raise RunFolderError(f"{str(path)!r} has format {version!r}; this limbeck reads format {FORMAT}")
    recipe = _mapping(raw.get("recipe"))
    exhibits, problem = _exhibits(folder)
    stages = _items(raw.get("stages"))
    notes = raw.get("notes")
    return Run(
        folder=folder,
        name=str(raw.get("name") or folder.resolve().name),
        status=str(raw.get("status", "running")),
        created=_text(raw.get("created")),
        finished=_text(raw.get("finished")),
        command=_text(raw.get("command")),
        recipe=recipe,
        recipe_text=_recipe_text(folder, recipe),
        recipe_hash=_text(raw.get("recipe_hash")),
        commit=_text(raw.get("commit")),
        versions=_mapping(raw.get("versions")),
        machine=_mapping(raw.get("machine")),
        data=_mapping(raw.get("data")),
        notes=tuple(str(note) for note in notes) if isinstance(notes, list) else (),
        stages=tuple(_stage(stage, folder) for stage in stages if stage.get("kind") != "evaluate"),
        evaluations=tuple(_evaluation(stage) for stage in stages if stage.get("kind") == "evaluate"),
        models={name: _mapping(model) for name, model in _mapping(raw.get("models")).items()},
        baseline=_text(raw.get("baseline")),
        exhibits=exhibits,
        exhibits_problem=problem,
    )


def _lines(path: Path, ignored: list[int]) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            if not text.strip():
                continue
            try:
                line = json.loads(text)
            except ValueError:
                ignored[0] += 1
                continue
            if isinstance(line, Mapping):
                yield line


def read_curves(folder: str | Path) -> Curves:
    """The curves of one stage and seed; empty where ``steps.jsonl`` does not exist (yet).

    A line that is no JSON is counted and left out.  Where a resumed run has gone over the same step
    again, what it wrote last counts.

    Args:
        folder: of the stage and seed.
    """
    path = Path(folder) / "steps.jsonl"
    if not path.is_file():
        return Curves()
    ignored = [0]
    phases: dict[str, None] = {}
    steps: dict[tuple[str, int], StepLine] = {}
    epochs: dict[tuple[str, float], EpochLine] = {}
    for line in _lines(path, ignored):
        phase, epoch = str(line.get("phase", "train")), number(line.get("epoch"))
        if epoch is None:
            ignored[0] += 1
            continue
        phases.setdefault(phase)
        if line.get("kind") == "step":
            step = int(number(line.get("step")) or 0)
            steps[phase, step] = StepLine(
                phase=phase,
                step=step,
                epoch=epoch,
                terms=_numbers(line.get("terms")),
                loss=_numbers(line.get("loss")),
            )
        elif line.get("kind") == "epoch":
            epochs[phase, epoch] = EpochLine(
                phase=phase,
                epoch=epoch,
                validation=_metrics(line.get("validation")),
                train_loss=_numbers(line.get("train_loss")),
            )
    order = list(phases)
    return Curves(
        steps=tuple(sorted(steps.values(), key=lambda s: (order.index(s.phase), s.step))),
        epochs=tuple(sorted(epochs.values(), key=lambda e: (order.index(e.phase), e.epoch))),
        phases=tuple(order),
        ignored=ignored[0],
    )
