"""Weights as safetensors beside a description of the network, for limbeck itself or for a class of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compress import structure
from limbeck.compress.plain import plain
from limbeck.errors import LimbeckError
from limbeck.export.subject import Subject
from limbeck.models import build, load_weights, save_weights
from limbeck.models.ensemble import Ensemble
from limbeck.phase import logits_of
from limbeck.randomness import own_random_numbers

FILE = "model.safetensors"
STRUCTURE = "structure.json"


def write(subject: Subject, folder: Path) -> dict[str, Any]:
    """Write ``model.safetensors`` and ``structure.json``; of a network that limbeck did not build, the weights alone."""
    network = plain(subject.original)
    save_weights(network, folder / FILE)
    told = described(network)
    if told is None:
        return {"structure": None, "class": f"{type(network).__module__}.{type(network).__qualname__}"}
    told = {**told, "by_name": subject.by_name}
    (folder / STRUCTURE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return {"structure": STRUCTURE}


def described(network: nn.Module) -> dict[str, Any] | None:
    """How to build the network without its weights, as plain data; None where limbeck did not build it."""
    if isinstance(network, Ensemble):
        members = [described(member) for member in network.members]
        if any(member is None for member in members):
            return None
        return {"members": members, "averaging": network.averaging, "weights": list(network.weights)}
    made = getattr(network, "zoo_options", None) or getattr(network, "zoo_origin", None)
    if made is None:
        return None
    with own_random_numbers():  # not on "meta": buffers that no file holds are described with their values
        before = build(**made)
    return {"network": made, "changes": structure.describe(before, network)}


def rebuilt(told: Mapping[str, Any]) -> nn.Module:
    """The network that `described` spoke of, with weights still to be loaded."""
    if "members" in told:
        members = [rebuilt(member) for member in told["members"]]
        return Ensemble(members, averaging=told["averaging"], weights=told["weights"])
    return structure.rebuild(build(**told["network"]), told["changes"])


def opened(folder: Path, told: Mapping[str, Any]) -> Callable[[Sequence[Tensor]], Tensor]:
    """The network rebuilt: inputs in, logits out.

    Raises:
        LimbeckError: only the weights are there.
    """
    path = folder / STRUCTURE
    if not path.is_file():
        made = told.get("details", {}).get("class", "a class of its own")
        raise LimbeckError(
            f"{folder} has weights alone: {made} is no network that limbeck builds. Build it yourself, then "
            f"limbeck.load_weights(model, {str(folder / FILE)!r})"
        )
    plan = json.loads(path.read_text(encoding="utf-8"))
    network = rebuilt(plan)
    load_weights(network, folder / FILE)
    network.eval()
    names = [entry["name"] for entry in told["inputs"]]

    def run(inputs: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            return logits_of(network(**dict(zip(names, inputs))) if plan["by_name"] else network(*inputs))

    return run
