"""The training loop: runs the phases of a method, and keeps the promises of `limbeck.phase`."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from limbeck.batches import batch_size
from limbeck.compiling import without_limit
from limbeck.engine import checkpoint as files
from limbeck.engine import optim
from limbeck.engine.checkpoint import Position
from limbeck.engine.evaluate import autocast, to_device
from limbeck.engine.parts import split
from limbeck.engine.rehearsal import require_learners
from limbeck.engine.roles import Fit, Loader, Stop, Watch
from limbeck.engine.team import Team, alone
from limbeck.errors import (
    DataError,
    HyperParameterError,
    Interrupted,
    LimbeckError,
    NonFiniteError,
    RunFolderError,
    ShapeError,
)
from limbeck.models import save_weights
from limbeck.phase import Batch, Cast, Method, Moment, Phase, Update, seed_for
from limbeck.randomness import own_random_numbers, seed_everything
from limbeck.settings import Training, divide_epochs
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


class _Place(NamedTuple):
    """Where in a stage something happened."""

    phase: str
    epoch: int
    step: int
    global_step: int
    rows: Tensor | None = None

    def __str__(self) -> str:
        rows = "" if self.rows is None else f", rows {self.rows[:8].tolist()} ..."
        return f"{self.phase}, epoch {self.epoch + 1}, step {self.step + 1}{rows}"


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
        self.kept = _kept(self.phases)
        budget = iter(divide_epochs(training.epochs, [p.share for p in self.phases if p.epochs is None]))
        self.epochs = [p.epochs if p.epochs is not None else next(budget) for p in self.phases]
        idle = [p.name for p, n in zip(self.phases, self.epochs, strict=True) if p.share > 0 and n == 0]
        if idle:
            raise HyperParameterError(
                f"training.epochs = {training.epochs}: too few for the {len(self.phases)} phases of this method; "
                f"nothing would be left for {', '.join(map(repr, idle))}"
            )
        self._require_steps()
        self.position = Position()
        self.pending: list[tuple[_Place, dict[str, Tensor]]] = []
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

    def _rest(self, module: nn.Module) -> None:
        """Parts whose every parameter came frozen stay in eval mode: their running statistics must not move either."""
        if self.trainable.isdisjoint(map(id, module.parameters())):
            return  # frozen as a whole, or nothing but statistics: then its mode is all that there is to it
        for part in module.modules():
            own = [id(p) for p in part.parameters()]
            if own and self.trainable.isdisjoint(own):
                part.eval()

    def run(
        self,
        folder: Path | None,
        validate: Callable[[nn.Module], dict[str, float]] | None,
        watch: Watch | None,
        stop: Stop,
    ) -> Fit:
        self.folder, self.validate, self.watch, self.stop = folder, validate, watch if self.team.leads else None, stop
        flags = [(p, p.requires_grad) for m in self._all_modules() for p in m.parameters()]
        modes = [(m, m.training) for top in self._all_modules() for m in top.modules()]
        self.trainable = {id(p) for p, wanted in flags if wanted}
        restored = self._restore()
        try:
            if validate is not None and not restored:
                self.position.history.append({"phase": "before", "epoch": 0, "validation": validate(self.student)})
            for index, phase in enumerate(self.phases):
                if index >= self.position.phase:
                    self._run_phase(index, phase, restored)
                    restored = None
            if self.average is not None:
                self.student.load_state_dict(self.average.module.state_dict())
            return self._result()
        finally:
            for p, wanted in flags:
                p.requires_grad_(wanted)
            for module in self.kept.values():
                module.zero_grad(set_to_none=True)
            for module, mode in modes:
                module.training = mode
            if self.watch:
                self.watch.close()

    def _all_modules(self) -> list[nn.Module]:
        found: dict[int, nn.Module] = {}
        for phase in self.phases:
            found.update({id(m): m for m in phase.modules.values()})
        return list(found.values())

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
        owned = {player: [phase.modules[role] for role in roles] for player, roles in phase.trains.items()}
        parameters = {  # each once: a player's modules may share some
            player: list(dict.fromkeys(p for m in modules for p in m.parameters() if id(p) in self.trainable))
            for player, modules in owned.items()
        }
        _require_one_owner(phase, parameters)
        for module in phase.modules.values():
            module.requires_grad_(False)
        for group in parameters.values():
            for p in group:
                p.requires_grad_(True)
                p.grad = None  # what the caller's own loop left there is not this step's gradient
        optimizers = {
            player: optim.build(phase.optimizers.get(player, self.training.optimizer), group)
            for player, group in parameters.items()
            if group
        }
        last = index == len(self.phases) - 1
        trains_student = any(original(m) is self.student for modules in owned.values() for m in modules)
        if last and self.training.ema is not None and trains_student:
            self.average = AveragedModel(self.student, multi_avg_fn=get_ema_multi_avg_fn(self.training.ema))
            self.kept["average"] = self.average
        if restored is not None:
            files.unpack(*restored, self.kept, optimizers)
            self._take_share(restored[0])
        with ExitStack() as stack:
            players = {role: self._on_stage(stack, phase, role) for role in phase.modules}
            if self.watch:
                self.watch.phase(phase.name, self.epochs[index], self.loader.steps, self.position.epoch, phase.notes)
            while self.position.epoch < self.epochs[index] and not self.position.finished:
                self._run_epoch(phase, index, players, owned, parameters, optimizers)
                self._end_epoch(phase, optimizers, last and trains_student)
        self._keep_modules(phase)
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

    def _run_epoch(
        self,
        phase: Phase,
        index: int,
        players: Mapping[str, Callable[..., Any]],
        owned: Mapping[str, list[nn.Module]],
        parameters: Mapping[str, list[nn.Parameter]],
        optimizers: Mapping[str, torch.optim.Optimizer],
    ) -> None:
        training = {id(m) for modules in owned.values() for m in modules}
        for module in phase.modules.values():
            module.train(id(module) in training)
            self._rest(module)
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
            here = seed_for(self.seed, *place, at.step, self.team.rank)
            seed_everything(here)
            batch = next(batches, None)
            if batch is None:
                break
            batch = to_device(batch, self.team.device, self.training.channels_last)
            epoch = at.epoch + (at.step / steps if steps else 0.0)
            done = at.global_step - at.first_step
            moment = Moment(torch.Generator(self.team.device).manual_seed(here), epoch, epochs, done, steps)
            rates = {
                player: optim.set_rate(o, self.training.schedule.factor(moment.progress))
                for player, o in optimizers.items()
            }
            count = self._step(phase, players, batch, moment, parameters, optimizers)
            if self.average is not None:
                self.average.update_parameters(self.student)
            at.step, at.global_step, at.images = at.step + 1, at.global_step + 1, at.images + count
            if at.global_step in self.training.snapshots:
                self._keep_snapshot(at.global_step)
            now = time.perf_counter()
            if at.step % every == 0 or at.step == steps:
                terms = self._flush(phase, epoch, rates)
                if self.watch:
                    self.watch.step(at.epoch, at.step, terms, (at.images - seen_before) / max(now - started, 1e-9))
            stopping, saving = self._asked(now - saved > self.training.checkpoint)
            if stopping or saving:
                at.seconds, started, seen_before = at.seconds + now - started, now, at.images
                self._collect()
                self._save(optimizers)
                saved = time.perf_counter()
            if stopping:
                raise Interrupted(f"stopped at {self.name}, {phase.name}, epoch {at.epoch + 1}, step {at.step}")
        if at.step == 0:
            raise LimbeckError(
                f"epoch {at.epoch + 1} of {self.name} has no batches; a loader must give them anew every epoch"
            )
        self._flush(phase, at.epoch + 1.0, {})
        at.seconds += time.perf_counter() - started

    def _end_epoch(self, phase: Phase, optimizers: Mapping[str, torch.optim.Optimizer], measures: bool) -> None:
        at = self.position
        self.team.average_buffers(self.kept.values())
        at.epoch, at.step = at.epoch + 1, 0
        line: dict[str, Any] = {"phase": phase.name, "epoch": at.epoch}
        if measures and self.validate is not None:
            shown = self.student if self.average is None else self.average.module
            line["validation"] = found = self.validate(shown)
            if at.best is None or _better(found, at.best["validation"]):
                at.best = {"epoch": at.epoch, "validation": found}
                self._keep_best(shown)
            patience = self.training.patience
            at.finished = patience is not None and at.epoch - at.best["epoch"] >= patience
        at.history.append(line)
        self._log({"kind": "epoch", **line, "seconds": round(at.seconds, 3)})
        if self.watch:
            self.watch.epoch(at.epoch, line.get("validation"))
        if self.folder is not None:
            self._save(optimizers)

    # -- one step ----------------------------------------------------------------------------------

    def _step(
        self,
        phase: Phase,
        players: Mapping[str, Callable[..., Any]],
        batch: Batch,
        moment: Moment,
        parameters: Mapping[str, list[nn.Parameter]],
        optimizers: Mapping[str, torch.optim.Optimizer],
    ) -> int:
        """Run the step's generator on every part of the batch in turn, one update at a time."""
        parts = split(batch, self.training.accumulate)
        sizes = [batch_size(part.inputs) for part in parts]
        mine = sum(sizes)
        whole = mine
        if self.team.world > 1:
            whole = int(self.team.total(torch.tensor(float(mine), device=self.team.device)).item())
        steps = [phase.step(players, part, moment) for part in parts]
        terms: dict[str, Tensor] = {}
        while True:
            player: str | None = None
            for step, size in zip(steps, sizes, strict=True):
                with autocast(self.team.device, self.training.precision):
                    update = self._next(step, phase, batch)
                if update is None:
                    continue
                if player not in (None, update.player):
                    raise LimbeckError(
                        f"phase {phase.name!r} asks for a step of {player!r} for one part of a batch and of {update.player!r} "
                        "for another; with training.accumulate, the order of players must not depend on the samples"
                    )
                player = update.player
                loss = self._sum(update, size * self.team.world / whole, size / mine, terms, phase, batch)
                if player not in optimizers:
                    raise LimbeckError(
                        f"phase {phase.name!r} asks for a step of {player!r}, who owns nothing that can be trained: "
                        "all its parameters are frozen, or it is a quantized program, to be trained before Quantize"
                    )
                if not loss.requires_grad:
                    raise LimbeckError(
                        f"phase {phase.name!r}: the loss of {player!r} ({', '.join(update.terms)}) does not depend on anything "
                        f"that {player!r} trains"
                    )
                torch.autograd.backward(loss, inputs=parameters[player])
            if player is None:
                break
            self.team.average_gradients(parameters[player])
            if self.training.clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters[player], self.training.clip)
            optimizers[player].step()
            optimizers[player].zero_grad(set_to_none=True)
        if terms:
            self.pending.append((self._place(phase, batch), terms))
        return whole

    def _next(self, step: Iterator[Update], phase: Phase, batch: Batch) -> Update | None:
        try:
            return next(step, None)
        except NonFiniteError as error:
            raise NonFiniteError(self._where(self._place(phase, batch), str(error))) from error
        except ShapeError as error:  # a last batch that is too small, say
            raise ShapeError(f"{self.name}, {self._place(phase, batch)}: {error}") from error
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise DataError(
                f"{self.name}, {self._place(phase, batch)}: batch normalisation cannot train on a single sample ({error}); "
                "leave out a last batch of one (drop_last=True), or lower training.accumulate"
            ) from error

    def _sum(
        self, update: Update, share: float, part: float, terms: dict[str, Tensor], phase: Phase, batch: Batch
    ) -> Tensor:
        """The loss of an update, scaled so that parts and processes add up to the mean over the batch."""
        total: Tensor | None = None
        values: dict[str, Tensor] = {}
        for name, term in update.terms.items():
            mean = term.value.mean()
            values[f"{update.player}/{name}"] = mean.detach()
            weighted = term.weight * mean
            total = weighted if total is None else total + weighted
        if total is None:
            raise LimbeckError(f"phase {phase.name!r}: an update of {update.player!r} came without terms")
        values[f"{update.player}/loss"] = total.detach()
        # On a CPU this look is free, and comes before the weights have moved.
        if total.device.type == "cpu" and not math.isfinite(total.item()):
            raise NonFiniteError(
                self._where(self._place(phase, batch), _culprit({k: v.item() for k, v in values.items()}))
            )
        for name, value in values.items():
            terms[name] = terms[name] + part * value if name in terms else part * value
        return share * total

    def _place(self, phase: Phase, batch: Batch) -> _Place:
        at = self.position
        return _Place(phase.name, at.epoch, at.step, at.global_step, batch.rows)

    def _where(self, place: _Place, what: str) -> str:
        kept = "" if self.folder is None else f" The last good checkpoint is kept in {self.folder}."
        return f"{self.name}, {place}: {what}.{kept} Try a lower learning rate, gradient clipping (training.clip), or fp32."

    def _collect(self) -> None:
        """Bring the terms of the last steps to the CPU at once, and check them."""
        pending, self.pending = self.pending, []
        if not pending:
            return
        values = iter(torch.stack([v.float() for _, terms in pending for v in terms.values()]).tolist())
        for place, terms in pending:
            row = {name: next(values) for name in terms}
            if not all(map(math.isfinite, row.values())):
                raise NonFiniteError(self._where(place, _culprit(row)))
            self.position.waiting.append((place.global_step, row))

    def _flush(self, phase: Phase, epoch: float, rates: Mapping[str, float]) -> dict[str, float]:
        """Write the terms of the last steps into the log, and give them back, as means."""
        self._collect()
        waiting, self.position.waiting = self.position.waiting, []
        if not waiting:
            return {}
        found: dict[str, list[float]] = {}
        for _, row in waiting:
            for name, value in row.items():
                found.setdefault(name, []).append(value)
        means = {name: sum(row) / len(row) for name, row in found.items()}
        self._log(
            {
                "kind": "step",
                "phase": phase.name,
                "step": waiting[-1][0] + 1,
                "epoch": round(epoch, 4),
                "lr": rates,
                "terms": {n: v for n, v in means.items() if not n.endswith("/loss")},
                "loss": {n.removesuffix("/loss"): v for n, v in means.items() if n.endswith("/loss")},
            }
        )
        return means

    # -- files -------------------------------------------------------------------------------------

    def _log(self, line: Mapping[str, Any]) -> None:
        if self.folder is None or not self.team.leads:
            return
        path = self.folder / "steps.jsonl"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                self.position.log_bytes = file.tell()
        except OSError as error:
            raise RunFolderError(
                f"cannot write {path}: {error.strerror or error}; make room or choose another --out, "
                "and start the same command again to go on"
            ) from error

    def _keep_best(self, model: nn.Module) -> None:
        if self.folder is None:
            self.fit.best_state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        elif self.team.leads:
            save_weights(model, self.folder / "best.safetensors")

    def _keep_snapshot(self, step: int) -> None:
        """Before any checkpoint of this step is written: a run that goes on from one has the file already."""
        if self.folder is None:
            self.fit.snapshots[step] = {k: v.detach().cpu().clone() for k, v in self.student.state_dict().items()}
        elif self.team.leads:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_weights(self.student, self.folder / f"step-{step}.safetensors")

    def _keep_modules(self, phase: Phase) -> None:
        """Also where a phase was over already: a run may have been killed between its last checkpoint and this."""
        if self.folder is not None and self.team.leads:
            for role in phase.keeps:
                save_weights(original(phase.modules[role]), self.folder / f"{role}.safetensors")

    def _save(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        if self.folder is not None:
            self._check_weights()
        shares = self._shares() if self.folder is not None else {}
        if self.folder is not None and self.team.leads:
            tensors, numbers = files.pack(self.kept, optimizers)
            tensors.update(shares)
            files.save(self.folder / "checkpoint.safetensors", self.position, tensors, numbers, self.identity)
        self.team.wait()

    def _shares(self) -> dict[str, Tensor]:
        """The buffers of every process: inside an epoch each has counted its own part of the batches."""
        if self.team.world == 1:
            return {}
        return {
            f"share/{role}/{name}": self.team.gather(buffer)
            for role, module in self.kept.items()
            for name, buffer in module.named_buffers()
            if buffer.dtype != torch.bool
        }

    def _take_share(self, tensors: Mapping[str, Tensor]) -> None:
        for role, module in self.kept.items():
            for name, buffer in module.named_buffers():
                found = tensors.get(f"share/{role}/{name}")
                if found is not None and len(found) == self.team.world:
                    buffer.copy_(found[self.team.rank])

    def _check_weights(self) -> None:
        """A finite loss can have a gradient that is not: such weights must not replace a good checkpoint."""
        for role, module in self.kept.items():
            for name, p in module.named_parameters():
                if p.requires_grad and not bool(torch.isfinite(p).all()):
                    at = self.position
                    place = _Place(self.phases[at.phase].name, at.epoch, at.step, at.global_step)
                    raise NonFiniteError(self._where(place, f"the weights {name!r} of {role!r} are no longer finite"))

    def _restore(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        if self.folder is None:
            return None
        found = files.load(self.folder / "checkpoint.safetensors", self.identity, self.team.device)
        log = self.folder / "steps.jsonl"
        if self.team.leads and log.exists():
            with log.open("r+b") as file:
                file.truncate(min(found[0].log_bytes if found else 0, log.stat().st_size))
        self.team.wait()
        if found is None:
            return None
        self.position = found[0]
        return found[1], found[2]

    def _asked(self, due: bool) -> tuple[bool, bool]:
        """Whether any process was asked to stop, and whether a checkpoint is due by the leader's clock."""
        due = due and self.folder is not None and self.team.leads
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


def _require_one_owner(phase: Phase, parameters: Mapping[str, Sequence[nn.Parameter]]) -> None:
    """Two names for one module would let two players train the same weights, or one train what nobody may."""
    owner = {id(p): player for player, group in parameters.items() for p in group}
    for player, group in parameters.items():
        if any(owner[id(p)] != player for p in group):
            others = sorted({owner[id(p)] for p in group} - {player})
            raise LimbeckError(
                f"phase {phase.name!r}: {player!r} and {', '.join(map(repr, others))} train the same weights"
            )
    for role in phase.frozen:
        shared = {owner[id(p)] for p in phase.modules[role].parameters() if id(p) in owner}
        if shared:
            raise LimbeckError(
                f"phase {phase.name!r}: nobody trains {role!r}, but {', '.join(map(repr, sorted(shared)))} trains some of "
                "its weights under another name"
            )


def _kept(phases: Sequence[Phase]) -> dict[str, nn.Module]:
    """The modules that are trained in some phase, by the names that they have in a checkpoint."""
    names = [phase.name for phase in phases]
    if len(set(names)) < len(names):
        raise LimbeckError(
            f"two phases of this method have the same name ({', '.join(names)}); their seeds come from it"
        )
    kept: dict[str, nn.Module] = {}
    for phase in phases:
        for role in (role for roles in phase.trains.values() for role in roles):
            module = original(phase.modules[role])
            if kept.setdefault(role, module) is not module:  # another phase calls another module so
                kept[f"{role} of {phase.name}"] = module
    return kept


def _culprit(values: Mapping[str, float]) -> str:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    named = [name for name in bad if not name.endswith("/loss")] or bad
    rest = ", ".join(f"{name} = {value:.4g}" for name, value in values.items())
    return f"non-finite term {', '.join(repr(n) for n in named)} (all terms: {rest})"
