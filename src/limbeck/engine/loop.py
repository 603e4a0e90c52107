"""The training loop: runs the phases of a method, and keeps the promises of `limbeck.phase`."""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from limbeck.compiling import without_limit
from limbeck.engine import optim
from limbeck.engine.checkpoint import Position
from limbeck.engine.evaluate import autocast, to_device
from limbeck.engine.keeping import Folder, Memory, restore
from limbeck.engine.owners import all_modules, hand_over, put_back, set_modes, trained_modules
from limbeck.engine.rehearsal import epochs_of, require_learners
from limbeck.engine.roles import Fit, Loader, Stop, Watch
from limbeck.engine.step import Act, take_step
from limbeck.engine.tally import Place, Tally, means
from limbeck.engine.team import Team, alone
from limbeck.errors import HyperParameterError, Interrupted, LimbeckError
from limbeck.phase import Batch, Cast, Method, Moment, Phase, seed_for
from limbeck.randomness import own_random_numbers, seed_everything
from limbeck.settings import Training
from limbeck.taps import Tapped, original

LINES_PER_EPOCH = 25


def identity(name: str, seed: int, method: Method, training: Training) -> str:
    """What must be equal for a checkpoint to be continued.  How often it is written is no part of it.

    Nor is where in memory an object lies, which a method without a text of its own has in its ``repr``.
    """
    settings = {**vars(training), "checkpoint": None}
    if not training.snapshots:  # which older versions did not know: their checkpoints go on
        del settings["snapshots"]
    said = re.sub(r" at 0x[0-9a-fA-F]+", "", repr((name, seed, method, settings)))
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def fit(
    method: Method,
    models: Mapping[str, nn.Module],
    loader: Loader,
    *,
    training: Training,
    seed: int = 0,
    name: str = "run",
    classes: int | None = None,
    team: Team | None = None,
    folder: Path | None = None,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    watch: Watch | None = None,
    stop: Stop | None = None,
) -> Fit:
    """Train ``models["student"]`` in place by a method.

    The other models end as they began, bit for bit.  With a ``folder``, training is resumable: the
    checkpoint, ``steps.jsonl`` and ``best.safetensors`` are kept there, and a second call goes on where
    the first was stopped, to the same bits.

    Args:
        method: one of `limbeck.methods`, or anything with ``phases(cast)``.
        models: by role; "student" is there, and what else the method needs.
        loader: the batches.
        training: how.
        seed: of everything random, together with ``name``.
        name: of the stage.
        classes: how many, where known.
        team: device and processes; None: this process on the best device.
        folder: where to keep what a resumed run needs; None: nowhere.
        validate: measures the student on held-out rows, after each epoch of the last phase.
        watch: is told of the progress.
        stop: asks for a clean end.

    Raises:
        Interrupted: ``stop`` was set; the checkpoint is written.
        NonFiniteError: a term was NaN or infinite; the last good checkpoint is kept.
    """
    with own_random_numbers():
        session = _Session(method, dict(models), loader, training, seed, name, classes, team or alone())
        return session.run(folder, validate, watch, stop or Stop())


class _Session:
    """One call of `fit`: its modules, and how far it is."""

    def __init__(
        self,
        method: Method,
        models: dict[str, nn.Module],
        loader: Loader,
        training: Training,
        seed: int,
        name: str,
        classes: int | None,
        team: Team,
    ) -> None:
        self.loader, self.training, self.seed, self.name, self.team = loader, training, seed, name, team
        self.identity = identity(name, seed, method, training)
        for model in models.values():
            self._settle(model)
        seed_everything(seed_for(seed, name, "example"))
        example = next(iter(loader.epoch(0, team.rank, team.world, 0)), None)
        if example is None:
            raise LimbeckError("there is nothing to train on: the batches ran out before the first one")
        example = to_device(example, team.device, training.channels_last)
        seed_everything(seed_for(seed, name, "cast"))
        with autocast(team.device, training.precision):
            self.phases = list(
                method.phases(Cast(models=models, example=example, classes=classes, rows=getattr(loader, "rows", None)))
            )
        require_learners(self.phases, models)
        self.example = example
        self.student = original(models["student"])
        for phase in self.phases:
            for module in phase.modules.values():
                self._settle(module)
        self.kept = trained_modules(self.phases)
        self.epochs = epochs_of(self.phases, training.epochs)
        self._require_steps()
        self.position = Position()
        self.tally = Tally()
        self.average: AveragedModel | None = None
        self.fit = Fit()

    def _require_steps(self) -> None:
        """Refuse to promise weights after a step that will not be."""
        last = max(self.training.snapshots, default=0)
        if self.loader.steps is not None and last > self.loader.steps * sum(self.epochs):
            raise HyperParameterError(
                f"training.snapshots = {self.training.snapshots!r}: this stage has {self.loader.steps * sum(self.epochs)} "
                f"steps ({sum(self.epochs)} epochs of {self.loader.steps}), so there are no weights after step {last}"
            )

    def _settle(self, module: nn.Module) -> None:
        module.to(self.team.device)
        if self.training.channels_last:
            # Not Module.to, which would try it on the five dimensions of a Conv3d as well, and fail.
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.ndim == 4:
                    tensor.data = tensor.data.to(memory_format=torch.channels_last)

    def run(
        self,
        folder: Path | None,
        validate: Callable[[nn.Module], dict[str, float]] | None,
        watch: Watch | None,
        stop: Stop,
    ) -> Fit:
        self.keeper = Memory(self.fit) if folder is None else Folder(folder, self.identity, self.team)
        self.validate, self.watch, self.stop = validate, watch if self.team.leads else None, stop
        found = self.keeper.load()
        if found is not None:
            self.position = found[0]
        try:
            with put_back(all_modules(self.phases)) as self.trainable:
                if validate is not None and found is None:
                    self.position.history.append({"phase": "before", "epoch": 0, "validation": validate(self.student)})
                for index, phase in enumerate(self.phases):
                    if index >= self.position.phase:
                        self._run_phase(index, phase, None if found is None else found[1:])
                        found = None
                if self.average is not None:
                    self.student.load_state_dict(self.average.module.state_dict())
                return self._result()
        finally:
            for module in self.kept.values():
                module.zero_grad(set_to_none=True)
            if self.watch:
                self.watch.close()

    def _result(self) -> Fit:
        at, result = self.position, self.fit
        result.phases = [
            {
                "name": p.name,
                "epochs": n,
                "notes": list(p.notes),
                "taps": {role: list(t) for role, t in p.taps.items() if t},
            }
            for p, n in zip(self.phases, self.epochs, strict=True)
        ]
        counted = {p.name for p in self.phases if p.epochs is None}
        result.epochs = sum(1 for line in at.history if line["phase"] in counted)
        result.seconds, result.images, result.best, result.history = at.seconds, at.images, at.best, at.history
        first = at.history[0] if at.history else {}
        result.before = first.get("validation") if first.get("phase") == "before" else None
        return result

    # -- one phase ---------------------------------------------------------------------------------

    def _run_phase(self, index: int, phase: Phase, restored: tuple[dict[str, Tensor], dict[str, Any]] | None) -> None:
        parameters = hand_over(phase, self.trainable)
        optimizers = {
            player: optim.build(phase.optimizers.get(player, self.training.optimizer), group)
            for player, group in parameters.items()
            if group
        }
        last = index == len(self.phases) - 1
        trains_student = any(
            original(phase.modules[role]) is self.student for roles in phase.trains.values() for role in roles
        )
        if last and self.training.ema is not None and trains_student:
            self.average = AveragedModel(self.student, multi_avg_fn=get_ema_multi_avg_fn(self.training.ema))
            self.kept["average"] = self.average
        if restored is not None:
            restore(*restored, self.kept, optimizers, self.team)
        with ExitStack() as stack:
            players = {role: self._on_stage(stack, phase, role) for role in phase.modules}
            act = Act(phase, players, parameters, optimizers)
            if self.watch:
                self.watch.phase(phase.name, self.epochs[index], self.loader.steps, self.position.epoch, phase.notes)
            while self.position.epoch < self.epochs[index] and not self.position.finished:
                self._run_epoch(act, index)
                self._end_epoch(act, last and trains_student)
        self.keeper.artefacts(phase)
        self.position.phase, self.position.epoch, self.position.step = index + 1, 0, 0
        self.position.first_step = self.position.global_step

    def _on_stage(self, stack: ExitStack, phase: Phase, role: str) -> Callable[..., Any]:
        module = phase.modules[role]
        if role not in phase.taps:
            return module
        with autocast(self.team.device, self.training.precision):
            example = self.example.inputs if phase.taps[role] else None
            window = Tapped(module, phase.taps[role], example=example, stop=role in phase.stops)
        stack.callback(window.close)
        if not (self.training.compile or window.was_compiled) or window.stop or role in phase.eager:
            return window
        stack.enter_context(without_limit())
        return torch.compile(window)

    def _run_epoch(self, act: Act, index: int) -> None:
        phase = act.phase
        set_modes(phase, self.trainable)
        at, steps = self.position, self.loader.steps
        epochs, before = self.epochs[index], sum(self.epochs[:index])
        every = max(1, (steps or 500) // LINES_PER_EPOCH)
        place = (self.name, phase.name, at.epoch)
        seed_everything(seed_for(self.seed, *place, self.team.rank))
        # Counted over all phases, so that methods with one phase and with two see the same views of the data.
        seeks = getattr(self.loader, "seeks", True)
        batches = iter(self.loader.epoch(before + at.epoch, self.team.rank, self.team.world, at.step if seeks else 0))
        for step in range(0 if seeks else at.step):
            seed_everything(seed_for(self.seed, *place, step, self.team.rank))
            next(batches, None)
        started, saved = time.perf_counter(), time.perf_counter()
        seen_before = at.images
        while True:
            seed = seed_for(self.seed, *place, at.step, self.team.rank)
            seed_everything(seed)
            batch = next(batches, None)
            if batch is None:
                break
            batch = to_device(batch, self.team.device, self.training.channels_last)
            epoch = at.epoch + (at.step / steps if steps else 0.0)
            done = at.global_step - at.first_step
            moment = Moment(torch.Generator(self.team.device).manual_seed(seed), epoch, epochs, done, steps)
            rates = {
                player: optim.set_rate(o, self.training.schedule.factor(moment.progress))
                for player, o in act.optimizers.items()
            }
            here = self._place(phase, batch)
            count, terms = take_step(act, batch, moment, here, self.team, self.training)
            self.tally.add(here, terms)
            if self.average is not None:
                self.average.update_parameters(self.student)
            at.step, at.global_step, at.images = at.step + 1, at.global_step + 1, at.images + count
            if at.global_step in self.training.snapshots:
                self.keeper.snapshot(self.student, at.global_step)
            now = time.perf_counter()
            if at.step % every == 0 or at.step == steps:
                said = self._flush(phase, epoch, rates)
                if self.watch:
                    self.watch.step(at.epoch, at.step, said, (at.images - seen_before) / max(now - started, 1e-9))
            stopping, saving = self._asked(now - saved > self.training.checkpoint)
            if stopping or saving:
                at.seconds, started, seen_before = at.seconds + now - started, now, at.images
                self._save(act)
                saved = time.perf_counter()
            if stopping:
                raise Interrupted(f"stopped at {self.name}, {phase.name}, epoch {at.epoch + 1}, step {at.step}")
        if at.step == 0:
            raise LimbeckError(
                f"epoch {at.epoch + 1} of {self.name} has no batches; a loader must give them anew every epoch"
            )
        self._flush(phase, at.epoch + 1.0, {})
        at.seconds += time.perf_counter() - started

    def _end_epoch(self, act: Act, measures: bool) -> None:
        at = self.position
        self.team.average_buffers(self.kept.values())
        at.epoch, at.step = at.epoch + 1, 0
        line: dict[str, Any] = {"phase": act.phase.name, "epoch": at.epoch}
        if measures and self.validate is not None:
            shown = self.student if self.average is None else self.average.module
            line["validation"] = found = self.validate(shown)
            if at.best is None or _better(found, at.best["validation"]):
                at.best = {"epoch": at.epoch, "validation": found}
                self.keeper.best(shown)
            patience = self.training.patience
            at.finished = patience is not None and at.epoch - at.best["epoch"] >= patience
        at.history.append(line)
        self.keeper.log({"kind": "epoch", **line, "seconds": round(at.seconds, 3)})
        if self.watch:
            self.watch.epoch(at.epoch, line.get("validation"))
        self._save(act)

    # -- what is left behind -----------------------------------------------------------------------

    def _place(self, phase: Phase, batch: Batch | None = None) -> Place:
        at = self.position
        rows = None if batch is None else batch.rows
        return Place(self.name, phase.name, at.epoch, at.step, at.global_step, rows, self.keeper.folder)

    def _flush(self, phase: Phase, epoch: float, rates: Mapping[str, float]) -> dict[str, float]:
        """Write the terms of the last steps into the log, and give them back, as means."""
        self.position.waiting += self.tally.collect()
        waiting, self.position.waiting = self.position.waiting, []
        if not waiting:
            return {}
        found = means(row for _, row in waiting)
        self.keeper.log(
            {
                "kind": "step",
                "phase": phase.name,
                "step": waiting[-1][0] + 1,
                "epoch": round(epoch, 4),
                "lr": rates,
                "terms": {n: v for n, v in found.items() if not n.endswith("/loss")},
                "loss": {n.removesuffix("/loss"): v for n, v in found.items() if n.endswith("/loss")},
            }
        )
        return found

    def _save(self, act: Act) -> None:
        """A checkpoint, after a look at all that it would keep: what is broken must not replace what is good."""
        self.position.waiting += self.tally.collect()
        if self.keeper.folder is not None:
            self._check_weights(act.phase)
        self.keeper.save(self.position, self.kept, act.optimizers)

    def _check_weights(self, phase: Phase) -> None:
        """A finite loss can have a gradient that is not."""
        for role, module in self.kept.items():
            for name, p in module.named_parameters():
                if p.requires_grad and not bool(torch.isfinite(p).all()):
                    raise self._place(phase).trouble(f"the weights {name!r} of {role!r} are no longer finite")

    def _asked(self, due: bool) -> tuple[bool, bool]:
        """Whether any process was asked to stop, and whether a checkpoint is due by the leader's clock."""
        due = due and self.keeper.folder is not None and self.team.leads
        if self.team.world == 1:
            return self.stop.asked, due
        asked = torch.tensor([float(self.stop.asked), float(due)], device=self.team.device)
        stopping, saving = (self.team.total(asked) > 0).tolist()
        return bool(stopping), bool(saving)


def _better(found: Mapping[str, float], best: Mapping[str, float]) -> bool:
    """Higher accuracy is better; among equals, lower loss; anything is better than what cannot be measured."""
    if math.isnan(best["accuracy"]):
        return not math.isnan(found["accuracy"])
    return (found["accuracy"], -found["loss"]) > (best["accuracy"], -best["loss"])
