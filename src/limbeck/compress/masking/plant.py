"""Putting masks on the weights of a network, and what `limbeck.compress.masks.Mask` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck.compress.masking import choose
from limbeck.compress.masking.layers import DROPOUTS, Layers, find, mask_of, matching
from limbeck.compress.masking.parts import Masked
from limbeck.compress.masking.state import density, layer_densities
from limbeck.compress.trial import require_trainable
from limbeck.compressor import silent, tell
from limbeck.errors import HyperParameterError, LimbeckError, ShapeError
from limbeck.models.swap import copied
from limbeck.phase import seed_for
from limbeck.randomness import base_seed
from limbeck.scores import dropout_rescale, ticket

if TYPE_CHECKING:
    from limbeck.compress.masks import Mask

SAVES_NOTHING = (
    "masks by themselves save no time and no bytes: a zero is stored and multiplied like any other number; what they show is "
    "how few weights the task needs"
)


def plant(layer: nn.Module, mask: Tensor, rest: Tensor | None = None) -> None:
    """Put a mask on a layer's weight, in place, or in the place of the mask that it has.

    Args:
        layer: with a ``weight``.
        mask: bool, in its shape.
        rest: where the weights outside the mask rest; None: at zero.

    Raises:
        ShapeError: the shapes differ.
    """
    old = mask_of(layer)
    weight: Any = layer.weight
    for what, value in (("mask", mask), ("resting values", rest)):
        if value is not None and value.shape != weight.shape:
            raise ShapeError(
                f"the {what} has the shape {list(value.shape)} and the weight {list(weight.shape)}; they must be equal"
            )
    new = Masked(list(weight.shape), rest is not None, str(weight.dtype).removeprefix("torch.")).to(weight.device)
    new.mask.copy_(mask)
    if rest is not None and new.rest is not None:
        new.rest.copy_(rest)
    if old is None:
        parametrize.register_parametrization(layer, "weight", new)
    else:
        chain: Any = layer.parametrizations["weight"]  # type: ignore[index]
        chain[list(chain.children()).index(old)] = new
    layer.parametrizations.train(layer.training)  # type: ignore[union-attr]
    with torch.no_grad():  # the stored weight, too, so that who reads a file sees what is used
        stored: Any = layer.parametrizations["weight"].original  # type: ignore[index, union-attr]
        stored.copy_(new(stored))


def told(model: nn.Module, layers: Layers, *notes: str, **details: Any) -> None:
    """Say with a masked model how dense it is."""
    whole = density(model)
    tell(
        model,
        f"{100 * whole:.3g} % of the weights under masks are left",
        *layers.notes,
        *notes,
        SAVES_NOTHING,
        density=whole,
        densities=layer_densities(model),
        **details,
    )


def scores_of(
    by: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor], seed: int, alpha: float = 1.0
) -> dict[str, Tensor]:
    """A criterion's scores for each layer."""
    return {
        path: ticket(by, before[path].to(w.device), w, alpha=alpha, seed=seed_for(seed, "mask", path)).to(w.device)
        for path, w in after.items()
    }


def weights_before(beside: Sequence[nn.Module], layers: Layers, who: str) -> dict[str, Tensor]:
    """The weights of the same layers in the network as it was before training.

    Raises:
        HyperParameterError: nobody kept it.
        ShapeError, LimbeckError: it is another network.
    """
    if not beside:
        raise HyperParameterError(
            f"{who} needs the weights from before training, and was given none: hand the untrained network over, "
            "beside=(network,); in a recipe, beside: [NAME]; in a course, Operation(..., beside=(STUDENT,))"
        )
    found: dict[str, Tensor] = {}
    for path, layer in layers.modules.items():
        try:
            other: Any = beside[-1].get_submodule(path).weight
        except AttributeError as error:
            raise LimbeckError(
                f"{who}: the network from before training has no layer {path!r}: another network"
            ) from error
        weight: Any = layer.weight
        if other.shape != weight.shape:
            raise ShapeError(
                f"{who}: layer {path!r} had the shape {list(other.shape)} before training and has {list(weight.shape)} now; "
                "masks and weights must be of one network"
            )
        found[path] = other.detach().to(weight.device)
    return found


def mask(how: Mask, model: nn.Module, example: Any, beside: Sequence[nn.Module]) -> nn.Module:
    """What `Mask` does when it is called."""
    new = copied(model)
    silent(new)
    layers = find(new, example, skip=how.skip)
    alive, notes = layers.alive, list[str]()
    if how.q is not None:
        masks = choose.below_deviation(layers.weights, alive, how.q)
    else:
        masks, notes = _by_share(how, layers, alive, beside)
    for path, found in masks.items():
        plant(layers.modules[path], found)
    if how.dropout:
        notes += _rescale_dropouts(new, layers, alive, masks)
    require_trainable(new, model, example)
    told(new, layers, *notes)
    return new


def _by_share(
    how: Mask, layers: Layers, alive: dict[str, Tensor], beside: Sequence[nn.Module]
) -> tuple[dict[str, Tensor], list[str]]:
    after = layers.weights
    before = weights_before(beside, layers, f"by = {how.by!r}") if how.needs_before else after
    scores = scores_of("large_final" if how.by == "magnitude" else how.by, before, after, base_seed(how.seed))
    own = own_shares(layers, how.layers, how.output)
    counts, notes = dict[str, int](), no_output(layers, "output") if how.output is not None else []
    for path, living in alive.items():
        gone = living.numel() - int(living.sum())
        counts[path] = choose.portion(own.get(path, how.share), living.numel()) - gone
        if counts[path] < 0 and (path in own or how.scope == "layer"):
            notes.append(
                f"{path} stays as it is: {gone} of its {living.numel()} weights were gone already, more than asked for"
            )
    within = list(alive) if how.scope == "layer" else [path for path in alive if path in own]
    masks = choose.remove_within(
        {p: scores[p] for p in within}, {p: alive[p] for p in within}, {p: max(0, counts[p]) for p in within}
    )
    pooled = {path: living for path, living in alive.items() if path not in masks}
    if pooled:
        whole = sum(living.numel() for living in pooled.values())
        left = sum(int(living.sum()) for living in pooled.values())
        count = choose.portion(how.share, whole) - (whole - left)
        if count < 0:
            notes.append(
                f"the {len(pooled)} layers of one order stay as they are: {whole - left} of their {whole} weights were gone already, "
                "more than asked for"
            )
        masks |= choose.remove_among({p: scores[p] for p in pooled}, pooled, max(0, count))
    return masks, notes


def own_shares(layers: Layers, given: Mapping[str, float], output: float | None) -> dict[str, float]:
    """The layers with a share of their own: those named, by their path before a pattern, and the output if it has one."""
    own = {} if output is None or layers.output is None else {layers.output: output}
    for pattern in sorted(
        given, key=lambda name: name in layers.modules
    ):  # stable: of two patterns the later one counts
        own |= dict.fromkeys(matching([pattern], layers.modules), given[pattern])
    return own


def no_output(layers: Layers, setting: str) -> list[str]:
    """A sentence where a setting of the output layer finds none to hold for."""
    if layers.output is not None:
        return []
    return [f"{setting} holds for no layer: the network's last one, the output, has no mask"]


def _rescale_dropouts(
    model: nn.Module, layers: Layers, alive: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> list[str]:
    """Dropouts after a layer that lost connections drop less (Han et al.): the layer before each is the one that counts."""
    notes: list[str] = []
    last: str | None = None
    for path in layers.order:
        part = model.get_submodule(path)
        if not isinstance(part, DROPOUTS):
            last = path if path in masks else None
        elif last is not None and 0 < part.p < 1:
            before = part.p
            part.p = dropout_rescale(before, kept=int(masks[last].sum()), whole=int(alive[last].sum()))
            notes.append(f"{path} drops {part.p:.3g} instead of {before:.3g}, since {last} lost connections")
    return notes
