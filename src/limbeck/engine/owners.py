"""Who trains what in a phase, and that everything else is as it was, during it and afterwards."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import nn

from limbeck.errors import LimbeckError
from limbeck.phase import Phase
from limbeck.taps import original


@contextmanager
def put_back(modules: Sequence[nn.Module]) -> Iterator[set[int]]:
    """Modes and ``requires_grad`` are afterwards what they were.  Gives the ids of the parameters that may be trained."""
    flags = [(p, p.requires_grad) for module in modules for p in module.parameters()]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        yield {id(p) for p, wanted in flags if wanted}
    finally:
        for p, wanted in flags:
            p.requires_grad_(wanted)
        for part, mode in modes:
            part.training = mode


def all_modules(phases: Iterable[Phase]) -> list[nn.Module]:
    """Every module of every phase, once."""
    return list({id(module): module for phase in phases for module in phase.modules.values()}.values())


def trained_modules(phases: Sequence[Phase]) -> dict[str, nn.Module]:
    """The modules that are trained in some phase, by the names that they have in a checkpoint.

    Raises:
        LimbeckError: two phases have one name.
    """
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


def hand_over(phase: Phase, trainable: Collection[int]) -> dict[str, list[nn.Parameter]]:
    """Give every player the parameters it owns, each once, and freeze all others of the phase.

    Args:
        phase: the phase that begins.
        trainable: ids of the parameters that may be trained at all: those that did not come frozen.

    Raises:
        LimbeckError: two players would train the same weights, or one what nobody may.
    """
    parameters = {  # a player's modules may share some
        player: list(dict.fromkeys(p for role in roles for p in phase.modules[role].parameters() if id(p) in trainable))
        for player, roles in phase.trains.items()
    }
    _require_one_owner(phase, parameters)
    for module in phase.modules.values():
        module.requires_grad_(False)
    for group in parameters.values():
        for p in group:
            p.requires_grad_(True)
            p.grad = None  # what the caller's own loop left there is not this step's gradient
    return parameters


def set_modes(phase: Phase, trainable: Collection[int]) -> None:
    """Train mode for what is trained, eval mode for the rest, also for frozen parts of what is trained."""
    owned = {id(phase.modules[role]) for roles in phase.trains.values() for role in roles}
    for module in phase.modules.values():
        module.train(id(module) in owned)
        _rest(module, trainable)


def _rest(module: nn.Module, trainable: Collection[int]) -> None:
    """Parts whose every parameter came frozen stay in eval mode: their running statistics must not move either."""
    if not any(id(p) in trainable for p in module.parameters()):
        return  # frozen as a whole, or nothing but statistics: then its mode is all that there is to it
    for part in module.modules():
        own = [id(p) for p in part.parameters()]
        if own and not any(key in trainable for key in own):
            part.eval()


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
