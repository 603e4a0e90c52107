"""Masks that are learned over weights that are not, and what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from limbeck.compress import parametrized
from limbeck.compress.masking.choose import require_some
from limbeck.compress.masking.layers import find
from limbeck.compress.masking.parts import Held, Learned
from limbeck.compress.masking.plant import SAVES_NOTHING, plant
from limbeck.compress.masking.state import density, layer_densities, masked_layers
from limbeck.compress.masking.tickets import values
from limbeck.compressor import silent, tell
from limbeck.errors import LimbeckError
from limbeck.models.swap import copied
from limbeck.phase import seed_for
from limbeck.randomness import base_seed, own_random_numbers

if TYPE_CHECKING:
    from limbeck.compress.lottery import Decide, Scores


def with_scores(how: Scores, model: nn.Module, example: Any) -> nn.Module:
    """What `Scores` does when it is called."""
    if any(True for _ in masked_layers(model)):
        raise LimbeckError("this network has masks already; settle them first (limbeck.compress.masking.settle)")
    new = copied(model)
    silent(new)
    layers = find(new, example, skip=how.skip)
    for layer in layers.modules.values():
        weight: Any = layer.weight
        if how.constant:
            with torch.no_grad():
                weight.copy_(values("constant", True, weight.detach(), torch.ones_like(weight, dtype=torch.bool), 0))
        part = Learned(list(weight.shape), how.rescale).to(weight.device)
        with own_random_numbers():  # registering looks at the weight, and so draws a mask
            parametrize.register_parametrization(layer, "weight", part)
        layer.parametrizations.train(layer.training)  # type: ignore[union-attr]
    held = 0
    for module in list(new.modules()):
        if isinstance(module, (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, Learned)):
            continue
        if isinstance(module, parametrize.ParametrizationList):
            continue
        for name in [name for name, p in module._parameters.items() if p is not None]:
            parametrize.register_parametrization(module, name, Held())
            module.parametrizations.train(module.training)  # type: ignore[union-attr]
            held += 1
    tell(new, *layers.notes, f"weights stay as they were drawn, and so do {held} other tensors; scores are learned")
    return new


def decide(how: Decide, model: nn.Module) -> nn.Module:
    """What `Decide` does when it is called."""
    new = copied(model)
    silent(new)
    found: dict[str, tuple[torch.Tensor, float]] = {}
    for path, module in new.named_modules():
        if not parametrize.is_parametrized(module, "weight"):
            continue
        for part in module.parametrizations["weight"].children():  # type: ignore[index, union-attr]
            if isinstance(part, Learned):
                found[path] = (_mask(how, path, part), part.rescale)
    if not found:
        raise LimbeckError("this network has no scores to make masks of; Supermask puts them there and trains them")
    stored: dict[str, Any] = {p: new.get_submodule(p).parametrizations["weight"].original for p in found}  # type: ignore[index, union-attr]
    weights = {path: value.detach().clone() for path, value in stored.items()}
    with own_random_numbers():  # settling looks at the weights, and so draws masks
        parametrized.settle(new, (Learned, Held))
    for path, (mask, rescale) in found.items():
        remedy = "train its scores for fewer epochs or with a lower lr, or leave it out with skip"
        require_some(path, mask, torch.ones_like(mask), remedy)
        layer: Any = new.get_submodule(path)
        with torch.no_grad():
            layer.weight.copy_(weights[path] * (mask.numel() / int(mask.sum()) if rescale else 1.0))
        plant(layer, mask)
    whole = density(new)
    tell(
        new,
        f"{100 * whole:.3g} % of the weights under masks are left, none of them trained",
        SAVES_NOTHING,
        density=whole,
        densities=layer_densities(new),
    )
    return new


def _mask(how: Decide, path: str, part: Learned) -> torch.Tensor:
    probability = torch.sigmoid(part.scores.detach())
    if not how.sample:
        return probability >= 0.5
    generator = torch.Generator().manual_seed(seed_for(base_seed(how.seed), "sample", how.sample, path))
    return torch.rand(probability.shape, generator=generator).to(probability.device) < probability
