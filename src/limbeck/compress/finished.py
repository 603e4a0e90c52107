"""What cannot be changed any more: programs, whose layers are one graph, and layers under masks."""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from limbeck.compress.cost import is_program
from limbeck.errors import LimbeckError, listed
from limbeck.taps import original


def require_unfinished(model: nn.Module, what: str) -> None:
    """Refuse to change or train a program, whose layers are one graph: a quantized one, an exported one, TorchScript.

    Args:
        model: any network.
        what: who would change it, such as "Prune".

    Raises:
        LimbeckError: the network is such a program.

    >>> require_unfinished(nn.Linear(2, 2), "Prune")
    """
    model = original(model)
    if (maker := _maker(model)) is not None:
        raise LimbeckError(
            f"{what} cannot change a network that {maker} made: it is a finished program, whose layers have become a graph of operations. "
            "Compress the network that it was made from, and make the program of the result (limbeck export)"
        )
    if is_program(model):
        raise LimbeckError(
            f"{what} cannot change a network that Quantize made: it is a finished program, without layers to change and without "
            "weights to train. Quantize comes last: put what changes or trains the network before it"
        )


def _maker(model: nn.Module) -> str | None:
    """Which of torch's exporters wrote this network as a program, if one did; a graph of modules (torch.fx) is none.

    >>> _maker(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)).module()), _maker(fx.symbolic_trace(nn.ReLU()))
    ('torch.export', None)
    """
    if isinstance(model, torch.jit.ScriptModule):
        return "torch.jit"
    exported = isinstance(model, fx.GraphModule) and any(
        isinstance(n.target, torch._ops.OpOverload) for n in model.graph.nodes
    )
    return "torch.export" if exported else None


def computed(model: nn.Module) -> list[str]:
    """The layers whose weights are parametrized: made anew in every forward.

    >>> computed(nn.Sequential(nn.Linear(2, 2), nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))))
    ['1']
    """
    return [name or "the model" for name, part in model.named_modules() if parametrize.is_parametrized(part, "weight")]


def under_masks(model: nn.Module) -> str:
    """A sentence about the layers whose weights are parametrized, with what to do; empty, where there are none.

    >>> under_masks(nn.Linear(2, 2))
    ''
    """
    found = computed(model)
    if not found:
        return ""
    return (
        f"The weights of {listed(found)} are computed in every "
        "forward (masks, weight norm), so that nothing can be cut from them: mask afterwards, or write them out first "
        "(limbeck.compress.plain.plain), which ends the masks"
    )
