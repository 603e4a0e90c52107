"""What is known while a network runs: the labels of its activations, and whose its parameters are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from limbeck.compress.pruning.labels.ledger import Key, Ledger


@dataclass
class Param:
    """A parameter or buffer, perhaps turned: which of its dimensions each dimension of the tensor is, or -1."""

    path: str
    dims: tuple[int, ...]


def compact(labels: Tensor) -> Tensor:
    """Only one entry along each dimension along which the labels are the same."""
    for dim, size in enumerate(labels.shape):
        if size > 1 and (labels.stride(dim) == 0 or bool((labels == labels.narrow(dim, 0, 1)).all())):
            labels = labels.narrow(dim, 0, 1)
    return labels


def flat(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [part for item in value for part in flat(item)]
    return [part for item in value.values() for part in flat(item)] if isinstance(value, dict) else [value]


@dataclass
class Watch:
    """What is known while a network runs: the labels of its activations, and whose its parameters are."""

    model: nn.Module
    ledger: Ledger
    ran: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.modules = dict(self.model.named_modules())
        self.labels: dict[int, Tensor] = {}
        self.params: dict[int, Param] = {}
        self.kept: list[Any] = []  # so that no id is used twice
        self.homes: dict[int, list[str]] = {}  # of every parameter, the paths under which it is held
        for path, module in self.modules.items():
            held = [*module._parameters.items(), *module._buffers.items()]
            for name, tensor in held:
                if tensor is not None:
                    full = f"{path}.{name}" if path else name
                    self.homes.setdefault(id(tensor), []).append(full)
                    self.params[id(tensor)] = Param(full, tuple(range(tensor.ndim)))
        for key, paths in self.homes.items():
            if len(paths) > 1:  # a parameter with two homes cannot be cut in one of them
                del self.params[key]

    # -- labels of activations

    def of(self, tensor: Tensor) -> Tensor | None:
        """Labels of the shape of the tensor, dimensions of equal labels compacted to 1; None: no channels."""
        held = self.labels.get(id(tensor))
        return None if held is None else compact(self.ledger.roots(held))

    def put(self, tensor: Any, core: Tensor | None) -> None:
        """Remember labels, given compacted, for a tensor."""
        if not isinstance(tensor, Tensor):
            return
        self.kept.append(tensor)
        self.labels.pop(id(tensor), None)
        if core is not None and bool(core.any()):
            while core.ndim < tensor.ndim:
                core = core.unsqueeze(0)
            self.labels[id(tensor)] = core.expand(tensor.shape)

    def fix(self, tensors: Iterable[Any], why: str) -> None:
        for tensor in tensors:
            if isinstance(tensor, Tensor) and (core := self.of(tensor)) is not None:
                self.ledger.fix(core, why)

    def merged(self, core: Tensor, dims: Sequence[int]) -> Tensor:
        """Unite what lies along all other dimensions than these; one entry along those is left."""
        first = core
        for dim in range(core.ndim):
            if dim not in dims and core.shape[dim] > 1:
                first = first.narrow(dim, 0, 1)
        if first.shape != core.shape:
            self.ledger.unite(first.expand(core.shape), core)
        return self.ledger.roots(first)

    # -- who owns a parameter

    def param(self, tensor: Any) -> Param | None:
        return self.params.get(id(tensor)) if isinstance(tensor, Tensor) else None

    def key(self, found: Param, dim: int) -> Key:
        """The slot of a parameter that is added or multiplied; a layer's own bias is part of its outputs."""
        home, _, name = found.path.rpartition(".")
        if name == "bias" and isinstance(self.modules[home], (nn.modules.conv._ConvNd, nn.Linear)):
            return home, "out", 0
        return found.path, "norm", dim

    def owner(self, tensor: Any, kinds: type | tuple[type, ...]) -> tuple[str, nn.Module] | None:
        """The module of such a kind that holds this tensor, as it is."""
        found = self.param(tensor)
        if found is None:
            return None
        path = found.path.rpartition(".")[0]
        module = self.modules[path]
        return (path, module) if isinstance(module, kinds) else None
