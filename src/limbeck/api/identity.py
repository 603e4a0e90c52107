"""What a chain was made from, as texts: so that a folder gives back the results of these networks and no others'."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck import record as files
from limbeck.batches import batch_size, changed
from limbeck.compress.structure import attributes
from limbeck.compress.trial import worded
from limbeck.compressor import is_compressor
from limbeck.errors import RunFolderError
from limbeck.models.weights import is_plain
from limbeck.phase import Batch
from limbeck.taps import original

if TYPE_CHECKING:
    from limbeck.api.setting import Setting

_FILE = "chain.json"
_LATER = ("layers", "example")  # folders of older versions do not know these


def require_same(setting: Setting, chain: Sequence[Any]) -> None:
    """Refuse a folder with another chain's results; one that is new is told whose it is.

    Raises:
        RunFolderError: the folder holds another chain; the message has the first thing in which they differ.
    """
    folder = setting.job.folder
    assert folder is not None  # asked for by who calls
    parts = networks(setting.begun, setting.teacher, chain)
    told = {
        "steps": [repr(step) for step in chain],
        "seed": setting.job.seed,
        **{name: of_network(part) for name, part in parts.items()},
        "layers": _of_layers(parts),
        **samples(chain, setting.calibration),
        "example": _form(setting.example),
    }
    files.require_writable(folder, "out")
    kept = files.read_json(folder / _FILE)
    if kept is None:
        if strangers := sorted(path.name for path in folder.iterdir() if path.name != ".lock"):
            raise RunFolderError(
                f"{folder} holds no chain and is not empty (it holds {', '.join(strangers[:5])}); choose another out"
            )
        files.write_json(folder / _FILE, told)
    elif (apart := _apart(kept, told)) is not None:
        raise RunFolderError(f"{folder} holds another chain: {apart}; choose another out")


def require_made_of(folder: Path, networks: Mapping[str, nn.Module]) -> None:
    """Refuse a folder with what was made of other networks, finished or not; one that is new is told of which.

    Args:
        folder: of a training, or of a step of a chain.
        networks: by what they are there: "teacher", say.

    Raises:
        RunFolderError: one of them has other weights than that of its name had.
    """
    now = {name: of_weights(one) for name, one in networks.items()}
    if others := files.replaced(folder, now):
        raise RunFolderError(
            f"{folder} holds what was made of another {' and another '.join(others)}, with other weights. "
            "Choose another out, or remove that folder to have it made again"
        )
    files.keep_origins(folder, now)


def networks(model: nn.Module, teacher: nn.Module | None, chain: Sequence[Any]) -> dict[str, nn.Module]:
    """Every network that a chain begins with, by what it is there."""
    found = {"model": model, "teacher": teacher}
    for place, step in enumerate(chain, 1):
        found |= {f"{one.name} of step {place}": getattr(step, one.name) for one in fields(step)}
    return {name: original(one) for name, one in found.items() if isinstance(one, nn.Module)}


def samples(chain: Sequence[Any], calibration: Iterable[Batch]) -> dict[str, str]:
    """A print of the batches that compressors look at; nothing for a chain that only trains."""
    return {"calibration": of_batches(calibration)} if any(is_compressor(step) for step in chain) else {}


def of_network(model: nn.Module) -> str:
    """A text that two networks share if they are built of the same layers and hold the same numbers.

    How the numbers lie in memory does not count: training in another layout leaves them the same.

    >>> one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> of_network(one) == of_network(other), of_network(one) == of_network(one)
    (False, True)
    """
    found, bare = hashlib.sha256(), original(model)
    for path, part in bare.named_modules():
        found.update(f"{path} {type(part).__qualname__}\n".encode())
    for name, tensor in (*bare.named_parameters(), *bare.named_buffers()):
        found.update(f"{name} ".encode())
        _add(found, tensor)
    return found.hexdigest()


def of_weights(model: nn.Module) -> str:
    """A text that two networks share if files of their weights would be alike.

    In whatever order a network holds them, which is another one in a network that was just made smaller than in one
    that was read back from its folder.
    """
    found = hashlib.sha256()
    for name, value in sorted(original(model).state_dict().items()):
        if isinstance(value, Tensor):
            found.update(f"{name} ".encode())
            _add(found, value)
    return found.hexdigest()


def of_batches(batches: Iterable[Batch]) -> str:
    """A text that lists of batches share if they hold the same inputs and targets in the same order."""
    found = hashlib.sha256()
    for batch in batches:
        _add(found, batch.inputs)
        _add(found, batch.targets)
    return found.hexdigest()


def _add(found: Any, value: Any) -> None:
    if isinstance(value, Tensor) and not is_plain(value):
        if (flatten := getattr(value, "__tensor_flatten__", None)) is not None:
            names, _ = flatten()
            _add(found, [getattr(value, name) for name in names])
        else:
            _add(found, value.dequantize() if value.is_quantized else value.to_dense())
    elif isinstance(value, Tensor):
        found.update(f"{tuple(value.shape)} {value.dtype}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        for key, one in value.items():
            found.update(f"{key} ".encode())
            _add(found, one)
    elif isinstance(value, (tuple, list)):
        for one in value:
            _add(found, one)
    else:
        found.update(f"{value!r} ".encode())


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
    for name in sorted(dict.fromkeys([*told, *kept]), key=lambda name: name in _LATER):
        if kept.get(name) != told.get(name) and not (name in _LATER and name not in kept):
            if name not in kept or name not in told:
                return f"it has {'a' if name in kept else 'no'} {name}, this one {'a' if name in told else 'none'}"
            if name == "calibration":
                return (
                    "its calibration holds other samples than this one's (a loader with a generator of its own draws others on each "
                    "call; calibration= takes a list of batches)"
                )
            if name == "layers":
                return "a layer of its networks has other settings than in these (stride, padding, rate), or other parts are frozen"
            if name == "example":
                return f"its example is {kept[name]}, this one's {told[name]}"
            return f"its {name} has other weights, or is built otherwise, than this one's"
    return None


def _of_layers(models: Mapping[str, nn.Module]) -> str:
    """A text that networks share with others if torch's layers in them have the same settings and the same parts learn.

    Modules of other classes may keep what moves with every call, so only their learning counts.
    """
    settings = [
        (name, path, attributes(part))
        for name, model in models.items()
        for path, part in model.named_modules()
        if type(part).__module__.startswith("torch.nn.")
    ]
    learns = [(name, path) for name, model in models.items() for path, p in model.named_parameters() if p.requires_grad]
    return hashlib.sha256(json.dumps([settings, learns]).encode()).hexdigest()


def _form(example: Any) -> str:
    """An example in words: its tensors' shapes without the number of samples, and their types."""
    had = batch_size(example)
    one = changed(example, lambda part: part[:1] if part.ndim and len(part) == had else part)
    return worded(one).replace("[1, ", "[batch, ").replace("[1]", "[batch]")


def _short(step: str) -> str:
    return step if len(step) <= 120 else f"{step[:117]}..."
