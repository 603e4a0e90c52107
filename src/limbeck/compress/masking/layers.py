"""Which weights of a network a mask may touch, in which order they run, and which of them is the output's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck.compress.binary.layers import KINDS
from limbeck.compress.finished import require_unfinished
from limbeck.compress.masking.parts import Masked
from limbeck.compress.trial import require_finite, require_runs
from limbeck.errors import LimbeckError, NameUnknown, listed, unknown
from limbeck.models.swap import copied

MASKABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
DROPOUTS = nn.modules.dropout._DropoutNd


@dataclass(frozen=True)
class Layers:
    """The layers of a model whose weights can be masked.

    Attributes:
        modules: by path, in the model's order.
        output: the path of the network's last layer of such a kind; None where that one gets no mask.
        order: the paths of these and of the dropout modules in the order in which they ran.
        notes: what was left out, and why.
    """

    modules: dict[str, nn.Module]
    output: str | None
    order: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights as the layers use them, by path, out of any graph."""
        return {path: module.weight.detach() for path, module in self.modules.items()}  # type: ignore[union-attr]

    @property
    def alive(self) -> dict[str, Tensor]:
        """Where a weight still stays, by path; everywhere in a layer without a mask."""
        found: dict[str, Tensor] = {}
        for path, module in self.modules.items():
            mask = mask_of(module)
            shape = module.weight.shape  # type: ignore[union-attr]
            device = module.weight.device  # type: ignore[union-attr]
            found[path] = torch.ones(shape, dtype=torch.bool, device=device) if mask is None else mask.mask.clone()  # type: ignore[arg-type]
        return found


def mask_of(layer: nn.Module) -> Masked | None:
    """The mask on a layer's weight, if it has one."""
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    parts = layer.parametrizations["weight"].children()  # type: ignore[index, union-attr]
    return next((part for part in parts if isinstance(part, Masked)), None)


def find(model: nn.Module, example: Any, *, skip: Iterable[str] = ()) -> Layers:
    """The convolutions and linear layers of a model; biases and normalisation never count.

    Args:
        model: stays as it is: a copy of it runs, once.
        example: what it takes.
        skip: patterns of layer paths to leave alone.

    Raises:
        LimbeckError: there is no such layer, or one is parametrized in another way.
        NonFiniteError: a weight is no number.
        NameUnknown: a pattern in ``skip`` fits no layer.
    """
    require_unfinished(model, "a mask")
    require_runs(model, example)
    every = {path: m for path, m in model.named_modules() if isinstance(m, MASKABLE)}
    skipped = matching(skip, every)
    users: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, p in module._parameters.items():
            if p is not None:
                users.setdefault(id(p), []).append(f"{path}.{name}" if path else name)
    modules: dict[str, nn.Module] = {}
    notes: list[str] = []
    ran = order(model, example)
    for path, module in every.items():
        if path in skipped:
            continue
        if parametrize.is_parametrized(module, "weight") and mask_of(module) is None:
            raise LimbeckError(
                f"the weight of {path or 'the model'} is parametrized already, and not by a mask of limbeck; take that off "
                "first (torch.nn.utils.parametrize.remove_parametrizations), or leave the layer out with skip"
            )
        tied = users.get(id(module._parameters.get("weight")), [])
        if len({id(model.get_submodule(name.rpartition(".")[0])) for name in tied}) > 1:
            notes.append(f"{path} has no mask: its weight is shared ({', '.join(tied)}), and a mask would part them")
            continue
        if path not in ran:
            notes.append(f"{path} has no mask: the example does not call it")
            continue
        modules[path] = module
    require_finite(model)
    if not modules:
        why = [f"left out: {', '.join(skipped)}"] * bool(skipped) + notes
        raise LimbeckError("; ".join([f"{type(model).__name__} has no convolution and no linear layer to mask", *why]))
    signs = [path for path, m in model.named_modules() if isinstance(m, KINDS)]
    if signs:
        notes.append(f"{listed(signs)} have no mask: their weights are +1 and -1, and never 0")
    last = [path for path in ran if path in every][-1]
    return Layers(modules, last if last in modules else None, ran, tuple(notes))


def order(model: nn.Module, example: Any) -> tuple[str, ...]:
    """The paths of the maskable layers and dropouts in the order in which they first ran on the example."""
    twin = copied(model).eval()
    ran: list[str] = []
    for path, module in twin.named_modules():
        if isinstance(module, (*MASKABLE, DROPOUTS)):
            module.register_forward_hook(lambda m, i, o, path=path: ran.append(path))
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]
    try:
        with torch.no_grad():
            twin(**example) if isinstance(example, Mapping) else twin(example)
    finally:
        torch.set_rng_state(states[0])
        if len(states) > 1:
            torch.cuda.set_rng_state_all(states[1:])
    return tuple(dict.fromkeys(ran))


def matching(patterns: Iterable[str], paths: Iterable[str]) -> list[str]:
    """The paths that fit one of the patterns (``features.*``), in their order.

    Raises:
        NameUnknown: a pattern fits none.
    """
    known, found = list(paths), set[str]()
    for pattern in patterns:
        fits = {path for path in known if fnmatchcase(path, pattern)}
        if not fits:
            raise NameUnknown(unknown("layer", pattern, known, "this model"))
        found |= fits
    return [path for path in known if path in found]
