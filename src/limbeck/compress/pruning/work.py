"""What `limbeck.compress.prune.Prune` does when it is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.compress.pruning.feeding import first_batches
from limbeck.compress.pruning.graph import WEIGHED, ChannelGraph, channel_graph, looked_through
from limbeck.compress.pruning.groups import Group
from limbeck.compress.pruning.judge import judge_what_can_be
from limbeck.compress.pruning.judged import Judged
from limbeck.compress.pruning.judging.gradients import far
from limbeck.compress.pruning.labels import whole_groups
from limbeck.compress.pruning.lineage import channels_left, lineage
from limbeck.compress.pruning.select import Row, checked, row_of
from limbeck.compress.pruning.surgery import masked
from limbeck.compress.pruning.targets import touches, within
from limbeck.compress.pruning.ways import Way, made, way
from limbeck.compress.trial import require_finite, require_trainable, smallest
from limbeck.compressor import silent, tell
from limbeck.data.iterables import Batches
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown, listed, unknown
from limbeck.models.macs import count_macs
from limbeck.randomness import base_seed
from limbeck.taps import original as unwrapped

if TYPE_CHECKING:
    from limbeck.compress.prune import Prune


@torch.inference_mode(False)
def pruned(
    told: Prune, model: nn.Module, *, example: Any, calibration: Iterable[Any], original: nn.Module
) -> nn.Module:
    """A copy of a model with fewer channels; see `limbeck.compress.prune.Prune`."""
    model, original = unwrapped(model), unwrapped(original)
    judged, left = _judged(told, model, original, example, Batches(calibration, "the calibration batches"))
    chosen = way(told, judged)
    if told.soft and told.step is not None and told.step < told.steps:
        return _zeroed(judged, chosen)
    new, fitted = chosen.made or made(told, judged, chosen.widths)
    silent(new)
    require_trainable(new, model, smallest(model, example, 2))
    before, after = judged.macs, count_macs(new, judged.sample)
    counts = [sum(p.numel() for p in net.parameters()) for net in (original, new)]
    tell(
        new,
        f"{before:,} MACs became {after:,} ({after / before:.1%}), {counts[0]:,} parameters became {counts[1]:,}",
        *chosen.reached,
        *chosen.why,
        *fitted,
        *([far(judged.model, first_batches(judged.calibration, judged.model))] if told.by == "obd" else []),
        *_left(left),
        by=told.by,
        scope=chosen.scope,
        widths={row.name: [row.base, chosen.widths[row.name]] for row in judged.rows},
        macs=[before, after],
        parameters=counts,
        left=left,
    )
    return new


def _zeroed(judged: Judged, chosen: Way) -> nn.Module:
    """A step of soft pruning: what is to go is zero, and training may bring it back."""
    gone = judged.gone(chosen.widths)
    new = masked(judged.model, judged.groups, gone, sides=("out",))
    silent(new)
    count, size = sum(map(len, gone.values())), sum(g.size for g in judged.groups)
    tell(
        new,
        f"{count} of {size} filters are zero and may come back",
        *chosen.why,
        zeroed={name: len(channels) for name, channels in gone.items()},
    )
    return new


def _judged(
    told: Prune, model: nn.Module, original: nn.Module, example: Any, calibration: Batches
) -> tuple[Judged, dict[str, str]]:
    """The network with scores for what may go of it, and layer -> why it is left whole."""
    require_finite(model)
    whole = channel_graph(original, example)
    wanted, unwanted = _chosen(told, original, whole)
    left, same, spent = whole.left, wanted, list[Group]()
    if original is not model:
        now = looked_through(model, example)
        left = now.left
        same, spent = lineage(wanted, whole.groups, now.groups)
    scores, unjudged = dict[str, Tensor](), dict[str, str]()
    groups = same
    if groups:
        groups, scores, unjudged = judge_what_can_be(
            model, told.by, same, example=example, calibration=calibration, seed=base_seed(told.seed)
        )
    bases = {g.name: g.size for g in wanted}
    rows = [row_of(g, base=bases[g.name], multiple=told.multiple, minimum=told.minimum) for g in groups]
    # Parts are parts of the original: layers of which nothing more can go are counted, too.
    have = channels_left(spent, same, whole.groups, original, model)
    rows += [Row(name, size, bases[name], least=size) for name, size in have.items()]
    scores = {**checked(groups, scores), **{name: torch.zeros(size) for name, size in have.items()}}
    return Judged(model, original, groups, rows, scores, example, calibration), {**left, **unwanted, **unjudged}


# -- which groups ---------------------------------------------------------------------------------------


def _chosen(told: Prune, model: nn.Module, whole: ChannelGraph) -> tuple[list[Group], dict[str, str]]:
    """The groups that the settings leave to be pruned, and layer of another -> why that stays whole."""
    groups = whole.groups
    known = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    for name in (*told.ignore, *told.layers):
        if name not in known:
            raise NameUnknown(unknown("layer", name, known, f"this {type(model).__name__}"))
    modules = dict(model.named_modules())
    ignored = [within(model, name) for name in told.ignore]
    for name, inside in zip(told.ignore, ignored, strict=True):
        made = any(isinstance(modules[path], WEIGHED) for path in inside)
        if not made and not any(touches(g, inside) for g in groups):
            raise LimbeckError(
                f"ignore: {name!r}, a {type(model.get_submodule(name)).__name__}, makes no channels; name the convolution or linear "
                "layer that does"
            )
    ours, left = list[Group](), dict[str, str]()
    for g in groups:
        names = [name for name, inside in zip(told.ignore, ignored, strict=True) if touches(g, inside)]
        if names:
            left |= dict.fromkeys(
                (m.module for m in g.of("out")), f"ignore names it, or what makes channels with it: {listed(names)}"
            )
        elif not told.residual and len(_makers(g, modules)) > 1:
            left |= dict.fromkeys(
                (m.module for m in g.of("out")), "several layers make its channels together (residual = False)"
            )
        else:
            ours.append(g)
    if not ours:
        raise LimbeckError(
            f"of the {len(groups)} groups of channels that could be removed none is left: `ignore` names them all"
            + ("" if told.residual else ", or they are made by several layers together (residual = False)")
        )
    for name in told.layers:
        inside = within(model, name)
        if not any(touches(g, inside) for g in ours):
            why = next((left[path] for path in sorted(inside) if path in left), whole.left.get(name))
            raise HyperParameterError(
                f"layers: no channel that {name!r} makes can be removed" + (f": {why}" if why else "")
            )
    return ours, left


def _makers(group: Group, modules: Mapping[str, nn.Module]) -> list[str]:
    return [m.module for m in group.of("out") if m.module not in modules or not whole_groups(modules[m.module])]


def _left(left: Mapping[str, str]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for path, why in left.items():
        if why != "it is the output of the network":
            reasons.setdefault(why, []).append(path)
    return [f"left whole: {listed(paths)}: {why}" for why, paths in reasons.items()]
