"""What widths cost, from one count and no further surgery."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from limbeck.batches import batch_size
from limbeck.compress.pruning.groups import Group
from limbeck.compress.pruning.judging.inputs import first_input
from limbeck.compress.pruning.labels import whole_groups
from limbeck.hooks import hooked
from limbeck.models.macs import as_found, count_macs
from limbeck.taps import call


def macs_of(model: nn.Module, groups: Sequence[Group], inputs: Any) -> Callable[[Mapping[str, int]], int]:
    """A function from kept widths by group to multiply-accumulates per sample.

    A layer's are its own outputs times its own inputs times a constant; what no layer of a group does (products of an
    attention, say) stays as it is, so that the number can be too high there, and never too low.

    Args:
        model: is run once, and left as it was found.
        groups: of this model.
        inputs: a batch as the model takes it; few samples will do.
    """
    total = count_macs(model, inputs)
    calls = _calls(model, inputs)
    touched: dict[str, dict[str, list[tuple[str, int]]]] = {}
    for group in groups:
        for member in group.members:
            if member.module in calls and member.side != "norm":
                each = len(member.index[0])
                touched.setdefault(member.module, {}).setdefault(member.side, []).append((group.name, each))
    sizes = {group.name: group.size for group in groups}
    layers = {path: calls[path] for path in touched}
    rest = total - sum(once * outs * ins for once, outs, ins, _ in layers.values())

    def count(widths: Mapping[str, int]) -> int:
        gone = {name: size - widths.get(name, size) for name, size in sizes.items()}
        macs = float(rest)
        for path, (once, outs, ins, whole) in layers.items():
            sides = touched[path]
            outs -= sum(gone[name] * each for name, each in sides.get("out", ()))
            if not whole:  # where whole groups go, the inputs of the others are as many as before
                ins -= sum(gone[name] * each for name, each in sides.get("in", ()))
            macs += once * outs * ins
        return round(macs)

    return count


def _calls(model: nn.Module, inputs: Any) -> dict[str, tuple[float, int, int, bool]]:
    """Layer -> multiply-accumulates per output and input channel, outputs, inputs, and whether it goes by whole groups."""
    found: dict[str, tuple[float, int, int, bool]] = {}
    batch = batch_size(inputs)

    def note(path: str) -> Callable[..., None]:
        def after(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if isinstance(module, nn.Linear):
                outs, ins = module.out_features, module.in_features
                once, whole = output.numel() / outs / batch, False
            else:
                outs, ins, whole = module.out_channels, module.in_channels, whole_groups(module)
                places = first_input(args, kwargs) if module.transposed else output
                window = module.weight[0, 0].numel()
                once = places.numel() / (ins if module.transposed else outs) / batch * window / module.groups
            found[path] = (found[path][0] + once if path in found else once, outs, ins, whole)

        return after

    layers = [(p, m) for p, m in model.named_modules() if isinstance(m, (nn.modules.conv._ConvNd, nn.Linear))]
    hooks = [module.register_forward_hook(note(path), with_kwargs=True) for path, module in layers]
    import torch

    with hooked(hooks), as_found(model), torch.no_grad():
        call(model.eval(), inputs)
    return found
