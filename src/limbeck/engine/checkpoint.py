"""Everything that a killed run needs to go on, in one safetensors file.

Tensors (weights, buffers, optimizer state, averages) are the file's tensors, everything else is
JSON in its header; nothing is pickled.  One file, written beside and renamed, is there whole or not
at all.  Random numbers need no saving: every step seeds them from its place in the run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from limbeck.errors import RunFolderError


@dataclass
class Position:
    """How far a stage has come.

    Attributes:
        phase: index of the phase.
        epoch: epochs of it that are done.
        step: steps of the next epoch that are done.
        global_step: steps of the stage so far.
        first_step: what that was when the phase began.
        seconds, images: spent and seen so far.
        best: the best validation measure so far, and when.
        history: what was measured at the ends of epochs.
        log_bytes: how long steps.jsonl was.
        waiting: steps whose line in steps.jsonl is not due yet, with their terms.
        finished: the stage needs no more training.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    global_step: int = 0
    first_step: int = 0
    seconds: float = 0.0
    images: int = 0
    best: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    log_bytes: int = 0
    waiting: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    finished: bool = False


def write_atomically(path: Path, write: Any) -> None:
    """Call ``write(temporary path)``, force it to the disk, and rename it to ``path``.

    Raises:
        RunFolderError: the disk is full, the folder read-only, or the like; ``path`` is as before.
    """
    beside = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            beside.unlink()
        raise RunFolderError(
            f"cannot write {path}: {error}. What was there before is unchanged; "
            "make room or choose another --out, and start the same command again to go on"
        ) from error


def pack(
    modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Modules and optimizers as flat tensors, and the numbers that are no tensors."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            tensors[f"module/{name}/{key}"] = value
    for player, optimizer in optimizers.items():
        state = optimizer.state_dict()["state"]
        for index, entry in state.items():
            for key, value in entry.items():
                place = f"optimizer/{player}/{index}/{key}"
                if isinstance(value, Tensor):
                    tensors[place] = value
                elif value is not None:
                    numbers[place] = value
    return tensors, numbers


def unpack(
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> None:
    """Put back what `pack` took."""
    for name, module in modules.items():
        start = f"module/{name}/"
        found = {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}
        module.load_state_dict(found, strict=True)
    for player, optimizer in optimizers.items():
        whole = optimizer.state_dict()
        start = f"optimizer/{player}/"
        state: dict[int, dict[str, Any]] = {}
        for place, value in (*tensors.items(), *numbers.items()):
            if place.startswith(start):
                index, key = place[len(start) :].split("/", 1)
                state.setdefault(int(index), {})[key] = value
        whole["state"] = state
        optimizer.load_state_dict(whole)


def save(
    path: Path, position: Position, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], identity: str
) -> None:
    """Write a checkpoint.  ``identity`` names the stage and its settings; `load` refuses another's."""
    header = {"position": json.dumps(asdict(position)), "numbers": json.dumps(dict(numbers)), "identity": identity}
    # Shared or strided tensors would be refused; a plain copy of each is what must come back.
    plain = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
    write_atomically(path, lambda beside: save_file(plain, beside, metadata=header))


def load(path: Path, identity: str, device: torch.device) -> tuple[Position, dict[str, Tensor], dict[str, Any]] | None:
    """Read a checkpoint; None where there is none.

    Raises:
        RunFolderError: it cannot be read, or belongs to another stage.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
        position = Position(**json.loads(header["position"]))
        numbers = json.loads(header["numbers"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"the checkpoint {path} cannot be read ({error}); remove it to train this stage anew"
        ) from error
    if header.get("identity") != identity:
        raise RunFolderError(f"the checkpoint {path} belongs to another stage or other settings; choose another folder")
    return position, tensors, numbers
