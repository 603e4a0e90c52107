"""What cannot be changed any more: quantized programs, which end every chain, and layers under masks."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

from limbeck.compress.cost import is_program
from limbeck.errors import LimbeckError, listed
from limbeck.taps import original


def require_unfinished(model: nn.Module, what: str) -> None:
    """Refuse to change or train a quantized program, whose layers are one graph.

    Args:
        model: any network.
        what: who would change it, such as "Prune".

    Raises:
        LimbeckError: the network is a quantized program.

    >>> require_unfinished(nn.Linear(2, 2), "Prune")
    """
    if is_program(original(model)):
        raise LimbeckError(
            f"{what} cannot change a network that Quantize made: it is a finished program, without layers to change and without "
            "weights to train. Quantize comes last: put what changes or trains the network before it"
        )


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
