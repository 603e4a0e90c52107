"""The network that is exported, brought into the form that every exporter takes: eval mode, CPU, tensors in a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from limbeck.compress.plain import plain_copy
from limbeck.errors import LimbeckError, ShapeError, TensorTypeError, listed
from limbeck.phase import logits_of
from limbeck.taps import original, takes_any

CHECKED = (1, 3, 7)  # rows in the batches on which an export is compared with the network
_TRACED = 2  # torch takes a batch of one row for a constant


@dataclass(frozen=True)
class Subject:
    """What an exporter is handed.

    Attributes:
        original: the network itself, as it was given.
        network: a copy on the CPU in eval mode; masks, other parametrizations and signs are written into its weights.
        module: takes the inputs in a row and returns logits; the network itself where that is so anyway.
        names: of the inputs.
        example: the inputs, two rows each.
        by_name: whether the network takes its inputs as keyword arguments.
    """

    original: nn.Module
    network: nn.Module
    module: nn.Module
    names: tuple[str, ...]
    example: tuple[Tensor, ...]
    by_name: bool

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits of the network."""
        with torch.no_grad():
            return self.module(*inputs)

    def row_of(self, inputs: Any) -> tuple[Tensor, ...]:
        """The inputs of a batch, in the order of `names`, on the CPU.

        Raises:
            LimbeckError: the batch holds other inputs than the example did.
        """
        named = _named(inputs)
        if set(named) != set(self.names):
            if len(named) != 1 or len(self.names) != 1:  # a single one may be called anything
                raise LimbeckError(
                    f"a batch holds {listed(named)}, and the example of this network {listed(self.names)}; give mappings with these "
                    "names, whose targets stand beside them under labels"
                )
            named = {self.names[0]: next(iter(named.values()))}
        return tuple(named[name].detach().cpu().contiguous() for name in self.names)

    @property
    def answer(self) -> str:
        """What to call the logits in a file that names what comes out of it: like none of the inputs."""
        return "logits" if "logits" not in self.names else "logits_out"

    @property
    def varargs(self) -> bool:
        """Whether `module` takes its inputs as ``*inputs``."""
        return isinstance(self.module, _Answers)

    @property
    def in_int8(self) -> bool:
        """Whether this is a network in int8 already: a graph with quantize and dequantize in it."""
        graphs = [module.graph for module in self.original.modules() if isinstance(module, fx.GraphModule)]
        return any("quantized_decomposed" in str(node.target) for graph in graphs for node in graph.nodes)


class _Answers(nn.Module):
    """A network that takes tensors in a row, whatever it takes itself, and returns logits, whatever it returns itself."""

    def __init__(self, network: nn.Module, names: tuple[str, ...] | None) -> None:
        super().__init__()
        self.network = network
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.names is None:
            return logits_of(self.network(*inputs))
        return logits_of(self.network(**dict(zip(self.names, inputs))))


def subject(model: nn.Module, example: Any) -> Subject:
    """Bring a network into the form that exporters take; the network given stays as it is.

    Raises:
        LimbeckError: it cannot be copied, does not run on the example, or returns no logits.
        TensorTypeError: the example is neither a tensor, nor several, nor a mapping of them.
        ShapeError: the example is empty, or its inputs have different numbers of rows.
    """
    if not isinstance(model, nn.Module):
        raise TensorTypeError(f"a network is a torch.nn.Module, not a {type(model).__name__}")
    model = original(model)  # of a compiled network the one inside: files are compiled otherwise
    named = _named(example)
    by_name = isinstance(example, Mapping)
    rows = {name: len(tensor) if tensor.dim() else 0 for name, tensor in named.items()}
    if len(set(rows.values())) != 1 or not next(iter(rows.values())):
        told = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in named.items())
        raise ShapeError(f"the example is a batch: every input has the same number of rows, one or more; got {told}")
    try:
        # Exporters write the layout of the weights into the file, and files are for inputs in the usual one.
        network = plain_copy(model).cpu().eval().to(memory_format=torch.contiguous_format)
        for parameter in network.parameters():
            parameter.requires_grad_(False)
    except Exception as error:
        raise LimbeckError(f"{type(model).__name__} cannot be copied ({error}); an export works on a copy") from error
    inputs = tuple(_rows(tensor.detach().cpu(), _TRACED) for tensor in named.values())
    answers = _Answers(network, tuple(named) if by_name else None)
    try:
        with torch.no_grad():
            output = network(**dict(zip(named, inputs))) if by_name else network(*inputs)
            logits = logits_of(output)
    except LimbeckError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{name} {list(t.shape)} {str(t.dtype)[6:]}" for name, t in zip(named, inputs))
        raise LimbeckError(
            f"{type(model).__name__} does not run on the example ({shapes}): {error}; give a batch as the network takes it"
        ) from error
    if logits.dim() < 2 or len(logits) != _TRACED:
        raise ShapeError(f"logits are [batch, classes]; {type(model).__name__} gives {list(logits.shape)} for 2 rows")
    direct = isinstance(output, Tensor) and not by_name and len(inputs) == 1 and not takes_any(network)
    return Subject(model, network, network if direct else answers, tuple(named), inputs, by_name)


def _named(inputs: Any) -> dict[str, Tensor]:
    if isinstance(inputs, Tensor):
        return {"input": inputs}
    if isinstance(inputs, Mapping):
        named = {str(name): value for name, value in inputs.items()}
    elif isinstance(inputs, (tuple, list)):
        named = {f"input{place}": value for place, value in enumerate(inputs, 1)}
    else:
        named = {"example": inputs}
    if not named or not all(isinstance(value, Tensor) for value in named.values()):
        told = ", ".join(f"{name}: {type(value).__name__}" for name, value in named.items()) or "nothing"
        raise TensorTypeError(f"inputs are a tensor, a tuple of tensors or a mapping of them; got {told}")
    return named


def _rows(tensor: Tensor, count: int) -> Tensor:
    """So many rows of a batch, from the front again where it has fewer."""
    return tensor[torch.arange(count) % len(tensor)].clone(memory_format=torch.contiguous_format)


def trials(example: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Batches of several sizes like an example: its rows, with noise where they are no whole numbers."""
    noise = torch.Generator().manual_seed(0)
    for count in CHECKED:
        yield tuple(_varied(_rows(tensor, count), noise) for tensor in example)


def _varied(tensor: Tensor, noise: torch.Generator) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return tensor + torch.randn(tensor.shape, generator=noise).to(tensor.dtype)
