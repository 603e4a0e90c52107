"""The networks of a run: opened from its folder, and exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from limbeck import config
from limbeck.data import Loader, load, subset
from limbeck.data.images import Images, Splits
from limbeck.engine.team import alone
from limbeck.errors import LimbeckError, NameUnknown, RunFolderError, unknown
from limbeck.export.making import Exported, export
from limbeck.export.pictures import preprocessing
from limbeck.export.targets import target
from limbeck.grouping import comparable
from limbeck.phase import Batch, logits_of
from limbeck.recipe import Evaluate, Model, Peer, Recipe, Result
from limbeck.report.read import Run, read_run
from limbeck.runner.shelf import Work

_CALIBRATION = 512  # training rows
_TESTED = 2_000  # test rows on which int8 is compared with float
_BATCH = 64


@dataclass(frozen=True)
class OpenRun:
    """A run whose networks can be had.

    Attributes:
        told: what its record says.
        recipe: that it ran.
        work: its shelf; the data in it may be without rows, with `data` there are all.
    """

    told: Run
    recipe: Recipe
    work: Work

    @cached_property
    def data(self) -> Splits:
        """The data of the run, loaded."""
        return load(self.recipe.data)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the networks that there are to be had: results of stages, and networks that came with weights."""
        results = [stage.name for stage in self.recipe.plan if not isinstance(stage, Evaluate)]
        given = [name for name, model in self.recipe.models.items() if model.weights]
        return tuple(dict.fromkeys([*results, *given]))

    @property
    def last(self) -> str:
        """The network that the run was for: the last that it made."""
        return [s.name for s in self.recipe.plan if not isinstance(s, (Evaluate, Peer))][-1]

    def source(self, name: str) -> Result | Model:
        """What a name means when all stages are done."""
        return self.work.source(name, len(self.recipe.plan))

    def original(self, name: str) -> str | None:
        """The network that this one stands for: what was compressed first, or its teacher; None where there is none."""
        return self.work.original(name, len(self.recipe.plan))

    def model(self, name: str, seed: int | None = None) -> nn.Module:
        """A network of the run with its weights, in eval mode.

        Raises:
            NameUnknown: there is no such network; the message has near names.
            RunFolderError: its stage is not done in this repetition, or there is no such repetition.
        """
        seed = self.seed(name, seed)
        return self.work.model(name, len(self.recipe.plan), seed).eval()

    def logits(self, name: str, inputs: Tensor, seed: int | None = None) -> Tensor:
        """What a network of the run says; its fine classes summed where a method of the run sums them, as it was measured.

        Raises:
            NameUnknown, RunFolderError: as `model`.
        """
        with torch.no_grad():
            found = logits_of(self.model(name, seed)(inputs))
        return comparable(found, None, self.work.partitions, len(self.work.data.classes))[0]

    def classes(self, logits: Tensor) -> tuple[str, ...] | None:
        """The names behind the scores of a network; None where its classes are not those of the data."""
        names = tuple(self.work.data.classes)
        return names if logits.shape[-1] == len(names) else None

    def seed(self, name: str, seed: int | None = None) -> int:
        """The repetition that a network is taken from; its stage is done.

        Raises:
            NameUnknown, RunFolderError: as `model`.
        """
        if name not in self.names:
            raise NameUnknown(unknown("network", name, self.names, f"the run {self.told.folder}"))
        if seed is not None and seed not in self.recipe.seeds:
            seeds = ", ".join(map(str, self.recipe.seeds))
            raise NameUnknown(f"no seed {seed} in the run {self.told.folder}; there are: {seeds}")
        wanted = self.recipe.seeds[0] if seed is None else seed
        found = self.source(name)
        if isinstance(found, Model):
            return wanted
        if not (self.told.folder / self.work.place(found, wanted) / "result.json").is_file():
            raise RunFolderError(
                f"{name} of the run {self.told.folder} is not done (seed {wanted}); {_go_on(self.told)}"
            )
        return self.work.seed_of(found, wanted)

    def network(self, name: str) -> str:
        """What kind of network it is: "resnet8"."""
        return self.work.architecture(name, len(self.recipe.plan))

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How a picture becomes an input of its networks."""
        data = self.work.data
        if data.shape[0] not in (1, 3):
            raise LimbeckError(f"the images of this run have {data.shape[0]} channels; pictures have 1 or 3")
        return preprocessing(data.shape, data.mean, data.std)

    def origin(self, name: str, seed: int) -> dict[str, Any]:
        """Where a network is from, for ``deploy.json``."""
        told = self.told
        stage = told.stage(name)
        run = next((run for run in stage.runs if run.seed == seed), None) if stage else None
        return {
            "run": told.name,
            "stage": name,
            "seed": seed,
            "network": self.network(name),
            "recipe_hash": told.recipe_hash,
            "commit": told.commit,
            "finished": told.finished,
            "data": told.data.get("source"),
            "test": dict(run.last.get("test", {})) if run else None,
            "versions": dict(told.versions),
        }

    def batches(self, images: Images) -> list[Batch]:
        """Some rows as the network takes them, without augmentation."""
        loader = Loader(images=images, batch_size=_BATCH, mean=self.data.mean, std=self.data.std)
        return list(loader.evaluation())


def open_run(folder: str | Path, *, partly: bool = False) -> OpenRun:
    """Open a run folder to take networks from it; the data is not loaded, unless the record is an older one.

    Args:
        folder: the one that holds ``run.json``.
        partly: take a run that is not done, too.

    Raises:
        RunFolderError: it is no run folder, has no recipe, or the run is not done.
    """
    told = read_run(folder)
    if not told.finished_well and not partly:
        raise RunFolderError(
            f"the run {told.folder} is not done (its status is {told.status!r}); {_go_on(told)}. A stage that is done can be "
            "had by its name, with --model"
        )
    path = told.folder / "recipe.yaml"
    if not path.is_file():
        raise RunFolderError(f"{told.folder} has no recipe.yaml, without which its networks cannot be built")
    recipe = config.read_recipe(path)
    kept = {"notes": [], "models": told.models}
    work = Work(recipe, told.folder, _described(told, recipe), alone("cpu"), Console(), True, kept)
    return OpenRun(told, recipe, work)


def export_run(
    folder: str | Path,
    *,
    to: str,
    model: str | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Exported:
    """Export a network of a run, with all that its record knows about it.

    Args:
        folder: of the run.
        to: the format; see `limbeck.export`.
        model: the stage whose network it is, or a network that came with weights; None: what the last stage made.
        seed: the repetition; None: the first.
        out: the folder to make; None: in ``exports`` of the run folder, named after stage, seed and format.
        say: called with a line before every step that may take seconds.

    Raises:
        LimbeckError: as `open_run`, `OpenRun.model` and `limbeck.export`.
    """
    format = target(to)
    run = open_run(folder, partly=model is not None)
    name = model or run.last
    used = run.seed(name, seed)
    network = run.model(name, seed)
    with torch.no_grad():
        classes = run.classes(logits_of(network(torch.zeros(2, *run.work.data.shape))))
    place = Path(out) if out is not None else run.told.folder / "exports" / f"{name}-seed-{used}-{to}"
    rows: list[Batch] = []
    test: list[Batch] = []
    if format.calibrates:
        if say:
            say("loading the run's data to calibrate with ...")
        rows = calibration(run, used)
        every = max(1, len(run.data.test) // _TESTED)
        test = run.batches(run.data.test.take(torch.arange(0, len(run.data.test), every)))
        if classes is None:  # the labels are of other classes than the network's
            test = [batch._replace(targets=None) for batch in test]
    data = run.work.data
    return export(
        network,
        place,
        to=to,
        example=torch.zeros(1, *data.shape),
        classes=classes,
        preprocessing=run.preprocessing,
        calibration=rows,
        test=test,
        origin=run.origin(name, used),
        say=say,
    )


def calibration(run: OpenRun, seed: int) -> list[Batch]:
    """Some training rows of a run, without augmentation, for a format that looks at data."""
    return run.batches(subset(run.data.train, min(_CALIBRATION, len(run.data.train)), seed))


def _go_on(told: Run) -> str:
    return f"to go on: {told.command or f'limbeck run {told.folder}/recipe.yaml --out {told.folder}'}"


def _described(told: Run, recipe: Recipe) -> Splits:
    """The run's data without its rows, as the record tells it; loaded, where an older limbeck kept less."""
    data: Mapping[str, Any] = told.data
    if not all(data.get(key) for key in ("classes", "shape", "mean", "std")):
        return load(recipe.data)
    shape = tuple(data["shape"])
    none = Images(
        torch.zeros(0, *shape, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    )
    return Splits(
        train=none,
        validation=none,
        test=none,
        classes=tuple(data["classes"]),
        shape=shape,  # type: ignore[arg-type]
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        skipped=0,
        source=str(data.get("source")),
    )
