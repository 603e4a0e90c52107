"""What a training leaves behind while it goes: in a folder, from which it can go on, or in memory alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.engine import checkpoint as files
from limbeck.engine.checkpoint import Position
from limbeck.engine.roles import Fit
from limbeck.engine.team import Team
from limbeck.errors import RunFolderError
from limbeck.models import save_weights
from limbeck.phase import Phase
from limbeck.taps import original


class Memory:
    """Nothing goes to the disk: weights that are asked for go into the result, and nothing can be continued."""

    folder = None

    def __init__(self, result: Fit) -> None:
        self.result = result

    def log(self, line: Mapping[str, Any]) -> None: ...

    def best(self, model: nn.Module) -> None:
        self.result.best_state = _copy(model)

    def snapshot(self, model: nn.Module, step: int) -> None:
        self.result.snapshots[step] = _copy(model)

    def artefacts(self, phase: Phase) -> None: ...

    def save(
        self, position: Position, modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
    ) -> None: ...

    def load(self) -> None:
        return None


class Folder:
    """``checkpoint.safetensors``, ``steps.jsonl`` and weights, written by the process that leads.

    Args:
        folder: where; made when something is written.
        identity: of the stage and its settings: another's checkpoint is refused.
        team: the processes.
    """

    def __init__(self, folder: Path, identity: str, team: Team) -> None:
        self.folder, self.identity, self.team = folder, identity, team
        self.written = 0  # bytes of steps.jsonl

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line to ``steps.jsonl``."""
        if not self.team.leads:
            return
        path = self.folder / "steps.jsonl"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                self.written = file.tell()
        except OSError as error:
            raise RunFolderError(
                f"cannot write {path}: {error.strerror or error}; make room or choose another --out, "
                "and start the same command again to go on"
            ) from error

    def best(self, model: nn.Module) -> None:
        """Keep the weights of the best epoch so far."""
        self._weights(model, "best")

    def snapshot(self, model: nn.Module, step: int) -> None:
        """Keep the weights after a step.

        Called before any checkpoint of this step is written: a run that goes on from one has the file already.
        """
        self._weights(model, f"step-{step}")

    def artefacts(self, phase: Phase) -> None:
        """Keep what a phase is said to leave behind.

        Also where it was over already: a run may have been killed between its last checkpoint and this.
        """
        for role in phase.keeps:
            self._weights(original(phase.modules[role]), role)

    def _weights(self, model: nn.Module, name: str) -> None:
        if self.team.leads:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_weights(model, self.folder / f"{name}.safetensors")

    def save(
        self, position: Position, modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
    ) -> None:
        """Write a checkpoint; every process takes part."""
        shares = _shares(modules, self.team)
        if self.team.leads:
            position.log_bytes = self.written
            tensors, numbers = files.pack(modules, optimizers)
            tensors.update(shares)
            files.save(self.folder / "checkpoint.safetensors", position, tensors, numbers, self.identity)
        self.team.wait()

    def load(self) -> tuple[Position, dict[str, Tensor], dict[str, Any]] | None:
        """The checkpoint, for `restore`; None where there is none.  ``steps.jsonl`` is cut to what it had then."""
        found = files.load(self.folder / "checkpoint.safetensors", self.identity, self.team.device)
        self.written = found[0].log_bytes if found else 0
        log = self.folder / "steps.jsonl"
        if self.team.leads and log.exists():
            with log.open("r+b") as file:
                file.truncate(min(self.written, log.stat().st_size))
        self.team.wait()
        return found


def restore(
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    team: Team,
) -> None:
    """Put back what a checkpoint holds, to each process its own buffers."""
    files.unpack(tensors, numbers, modules, optimizers)
    for role, module in modules.items():
        for name, buffer in module.named_buffers():
            found = tensors.get(f"share/{role}/{name}")
            if found is not None and len(found) == team.world:
                buffer.copy_(found[team.rank])


def _shares(modules: Mapping[str, nn.Module], team: Team) -> dict[str, Tensor]:
    """The buffers of every process: inside an epoch each has counted its own part of the batches."""
    if team.world == 1:
        return {}
    return {
        f"share/{role}/{name}": team.gather(buffer)
        for role, module in modules.items()
        for name, buffer in module.named_buffers()
        if buffer.dtype != torch.bool
    }


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
