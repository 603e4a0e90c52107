"""What the stages of one run share: the data, the shelf of models, the record."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, fx, nn

from limbeck import catalog, record
from limbeck.compress import results
from limbeck.data import Loader
from limbeck.data.images import Images, Splits
from limbeck.engine.evaluate import metrics, predictions
from limbeck.engine.team import Team
from limbeck.errors import LimbeckError, WeightsError
from limbeck.grouping import comparable
from limbeck.methods.grouped import partitions_of
from limbeck.models import build, load_weights
from limbeck.models.ensemble import Ensemble as Average
from limbeck.phase import seed_for
from limbeck.randomness import own_random_numbers, seed_everything
from limbeck.recipe import Compress, Distill, Ensemble, Evaluate, Fitted, Model, Recipe, Result, student_of

_LAST = "last.safetensors"
_AT_ONCE = (
    125  # rows in a batch of an evaluation: many more fall out of a CPU's cache (resnet56: 500 took 1.4 times as long)
)
_REMEMBERED = 2**30  # bytes of scores kept in memory while a run goes on, so that they are not computed twice


def fingerprint(model: nn.Module) -> str:
    """A text that networks of one structure share if they have the same numbers in the same order in memory."""
    found = hashlib.sha256()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.stride()} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


@dataclass
class Work:
    """What the stages of one run share."""

    recipe: Recipe
    folder: Path
    data: Splits
    team: Team
    console: Console
    quiet: bool
    record: dict[str, Any]
    seen: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # scores and labels of the test part
    known: dict[tuple[Any, ...], dict[str, float]] = field(default_factory=dict)  # metrics on the validation part
    sums: dict[tuple[Path, int], str] = field(default_factory=dict)  # SHA-256 of files by when they were written

    # -- the shelf ---------------------------------------------------------------------------------

    def place(self, stage: Result, seed: int) -> Path:
        """The folder of a stage's repetition."""
        return Path("stages") / stage.name / f"seed-{self.seed_of(stage, seed)}"

    def weights_of(self, stage: Result, seed: int, step: str = "") -> Path:
        """The file of a repetition's weights, those at the end or those after a step, seen from the run's folder."""
        return self.place(stage, seed) / (f"step-{step}.safetensors" if step else _LAST)

    def seed_of(self, stage: Result, seed: int) -> int:
        return seed if stage.per_seed else self.recipe.seeds[0]

    def source(self, name: str, before: int) -> Result | Model:
        """What a name means to the stage at position ``before``: the newest result under it, else the blueprint.

        "NAME@STEP", the weights that a stage had after a step, means that stage.
        """
        name = name.partition("@")[0]
        for stage in reversed(self.recipe.plan[:before]):
            if stage.name == name and not isinstance(stage, Evaluate):
                return stage
        return self.recipe.models[name]

    def position(self, stage: Result) -> int:
        """Where in the plan a stage is."""
        return self.recipe.plan.index(stage)

    def origins(self, name: str, before: int) -> tuple[str, ...]:
        """The blueprints that a model descends from: one, or those of an ensemble's members."""
        found = self.source(name, before)
        if isinstance(found, Model):
            return (name,)
        here = self.position(found)
        names = found.members if isinstance(found, Ensemble) else (student_of(found),)
        return tuple(origin for one in names for origin in self.origins(one, here))

    def build_key(self, name: str, before: int) -> str:
        """A text that two models share if they are built alike: their blueprints, and what compressed them since."""
        found = self.source(name, before)
        if isinstance(found, Model):
            return name
        here = self.position(found)
        names = found.members if isinstance(found, Ensemble) else (student_of(found),)
        inside = " + ".join(self.build_key(one, here) for one in names)
        return f"{inside} > {found.name}" if isinstance(found, Compress) else inside

    def architecture(self, name: str, before: int) -> str:
        """What kind of network a model is, as people call it: "resnet8", or "ensemble of resnet8, resnet8"."""
        networks = [self.recipe.models[origin].name for origin in self.origins(name, before)]
        network = networks[0] if len(networks) == 1 else f"ensemble of {', '.join(networks)}"
        return ", ".join([network, *self._changed(name, before)])

    def _changed(self, name: str, before: int) -> list[str]:
        """What compressed a network, in order, as a recipe calls it."""
        found = self.source(name, before)
        if isinstance(found, (Model, Ensemble)):
            return []
        earlier = self._changed(student_of(found), self.position(found))
        return [*earlier, catalog.name_of(found.how)] if isinstance(found, Compress) else earlier

    def original(self, name: str, before: int) -> str | None:
        """The network that a chain of stages started from, by name; None for one that nothing made smaller.

        That is what was compressed first, or, for a network that was trained afresh, its (first) teacher's.  What was
        trained on before it was compressed, for slimming, say, is part of the chain.
        """
        found = self.source(name, before)
        if isinstance(found, (Model, Ensemble)):
            return None
        here = self.position(found)
        begun = self.source(student_of(found), here)
        if isinstance(found, Compress) or not isinstance(begun, Model):
            return self.original(student_of(found), here) or student_of(found)
        if isinstance(found, Distill):
            return self.original(found.teachers[0], here) or found.teachers[0]
        return student_of(found) if begun.weights else None

    def model(self, name: str, before: int, seed: int, init: str = "") -> nn.Module:
        """The network that a name means to the stage at position ``before``, in this repetition.

        Args:
            init: which random weights a blueprint starts from; see `limbeck.recipe.Train`.
        """
        name, _, step = name.partition("@")
        found = self.source(name, before)
        if isinstance(found, Model):
            model = self._blueprint(name, found, seed, init)
            if found.weights:
                load_weights(model, self._weights(name, found.weights))
            return model
        here, seed = self.position(found), self.seed_of(found, seed)
        if isinstance(found, Ensemble):
            return Average([self.model(member, here, seed) for member in found.members], averaging=found.averaging)
        model = self._begun(student_of(found), here, seed)
        place = self.folder / self.place(found, seed)
        try:
            if isinstance(found, Compress):
                return results.load(model, place, self.example())
            load_weights(model, self.folder / self.weights_of(found, seed, step))
        except WeightsError as error:
            raise WeightsError(
                f"{error}. To have it made again, remove {place} and give `limbeck run` again"
            ) from error
        return model

    def example(self, size: int = 1) -> Tensor:
        """A batch of black images, as networks take them."""
        return torch.zeros(size, *self.data.shape, device=self.team.device)

    def _blueprint(self, name: str, blueprint: Model, seed: int, init: str) -> nn.Module:
        options = {"classes": len(self.data.classes), "in_channels": self.data.shape[0], "size": self.data.shape[1]}
        with own_random_numbers():
            seed_everything(seed_for(seed, "model", name, *([init] if init else [])))
            return build(blueprint.name, **{**options, **blueprint.options})

    def _begun(self, name: str, before: int, seed: int) -> nn.Module:
        """A network of the build that a stage began with.

        What the stage left in the run is loaded into it, so the file that a blueprint's weights came from need not be there.
        """
        found = self.source(name, before)
        return self._blueprint(name, found, seed, "") if isinstance(found, Model) else self.model(name, before, seed)

    def _weights(self, name: str, written: str) -> Path:
        """The file of a blueprint's weights.

        A relative place is seen from here.  Once it was read, the run's record knows the file, which is then also looked for
        from every folder that the run lies in, and no other is taken.
        """
        known = self.record.get("weights", {})
        seen = self.record.get("models", {}).get(name, {}).get("sha256") or known.get(name)
        if not seen:
            if Path(written).is_file():
                known[name] = self.sum_of(Path(written))[:12]
            return Path(written)
        inside = (folder / written for folder in self.folder.absolute().parents)
        there = [place for place in dict.fromkeys([Path(written).absolute(), *inside]) if place.is_file()]
        sums = {place: self.sum_of(place)[: len(seen)] for place in there}
        for place, found in sums.items():
            if found == seen:
                return place
        if not sums:
            raise WeightsError(
                f"no file of weights at {written}, seen from here or from a folder that {self.folder} lies in; network "
                f"{name} came from it. Call it from the folder in which the run was made"
            )
        raise WeightsError(
            f"{next(iter(sums))} is not the file that network {name} of the run had (SHA-256 {seen} then, "
            f"{next(iter(sums.values()))} now). Put that one back, or start the run again with --fresh"
        )

    def identity(self, name: str, before: int, seed: int) -> str:
        """A key that two references share exactly if they mean the same weights."""
        found, step = self.source(name, before), name.partition("@")[2]
        if isinstance(found, Model):
            return f"weights {name}" if found.weights else f"blueprint {name} {seed}"
        return f"{self.place(found, seed)}@{step}"

    def sum_of(self, file: Path) -> str:
        """SHA-256 of a file; one that was not written anew is read once."""
        key = (file, file.stat().st_mtime_ns)
        if key not in self.sums:
            self.sums[key] = record.sha256(file)
        return self.sums[key]

    # -- measuring ---------------------------------------------------------------------------------

    def loader(self, images: Images, batch_size: int, seed: int, channels_last: bool, vary: bool) -> Loader:
        augment = {"augment": self.recipe.data.augment} if vary else {}
        return Loader(
            images=images, batch_size=batch_size, mean=self.data.mean, std=self.data.std, seed=seed,
            channels_last=channels_last, device=self.team.device, **augment,
        )  # fmt: skip

    def measure(self, model: nn.Module, part: Images) -> tuple[Tensor, Tensor]:
        """Logits and targets of a finished network, in the precision that the recipe asks for.

        Where a method of the recipe sums the classes of a teacher, so is done here: both are of one kind then.
        A network in int8, or on its way there, is a graph of its own steps of precision, and is run as it is.
        """
        return self.predict(model, part, *self.manner(model))

    def manner(self, model: nn.Module) -> tuple[str, bool]:
        """Precision, and whether channels come last, in which a finished network is measured."""
        own = any(isinstance(part, fx.GraphModule) for part in model.modules())
        precision = "fp32" if own else self.recipe.evaluation
        return precision, precision != "fp32"

    def validated(
        self, model: nn.Module, build: str, seed: int, precision: str, channels_last: bool
    ) -> dict[str, float]:
        """The metrics on the validation part; the same weights, built and run alike, are measured once.

        Args:
            build: says with ``seed`` how the network is built; see `build_key`.
        """
        key = (build, seed, fingerprint(model), precision, channels_last)
        if key not in self.known:
            self.known[key] = metrics(*self.predict(model, self.data.validation, precision, channels_last))
        return self.known[key]

    @property
    def partitions(self) -> list[tuple[tuple[int, ...], ...]]:
        """By which groups networks of finer classes are compared with others."""
        fitted = (stage for stage in self.recipe.plan if isinstance(stage, Fitted))
        return list(dict.fromkeys(groups for stage in fitted for groups in partitions_of(stage.method)))

    def predict(
        self, model: nn.Module, part: Images, precision: str = "fp32", channels_last: bool = False
    ) -> tuple[Tensor, Tensor]:
        loader = self.loader(part, _AT_ONCE, 0, channels_last, vary=False)
        logits, targets = predictions(
            model, loader.evaluation(), device=self.team.device, precision=precision, channels_last=channels_last
        )
        logits, targets = comparable(logits, targets, self.partitions, len(self.data.classes))
        if targets is None:  # images always come with labels
            raise LimbeckError("the data has no labels")
        return logits, targets

    def test_logits(self, name: str, before: int, seed: int) -> Tensor:
        return self.tested(name, before, seed)[0]

    def tested(self, name: str, before: int, seed: int) -> tuple[Tensor, Tensor]:
        """What a network makes of the test part, and what it should; looked at once."""
        key = self.identity(name, before, seed)
        if key not in self.seen:
            self.seen[key] = self.measure(self.model(name, before, seed).to(self.team.device), self.data.test)
        return self.seen[key]

    def remember(self, name: str, before: int, seed: int, test: Tensor, targets: Tensor) -> None:
        """Keep what a network made of the test part for those that ask later, unless that takes too much memory."""
        taken = sum(logits.nbytes for logits, _ in self.seen.values())
        if taken + test.nbytes <= _REMEMBERED:
            self.seen[self.identity(name, before, seed)] = (test, targets)

    def say(self, text: str) -> None:
        if self.team.leads and not self.quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Something that the user should know: said once, and kept in the record."""
        if text not in self.record["notes"]:
            self.record["notes"].append(text)
            self.say(f"note: {text}")

    def write(self, status: str = "running") -> None:
        self.record["status"] = status
        if self.team.leads:
            record.write_json(self.folder / "run.json", self.record)
