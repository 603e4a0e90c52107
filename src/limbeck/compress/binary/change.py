"""Which layers of a network become binary, and putting the binary ones in their place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils import parametrize

from limbeck.compress.answers import tensors
from limbeck.compress.binary.layers import KINDS, BinaryConv, BinaryLinear, Form
from limbeck.compress.binary.packing import packed_bytes
from limbeck.compress.finished import require_unfinished
from limbeck.compress.kinds import ASKED, Stand, asked_about
from limbeck.compress.statistics import Recalibration, recalibrated
from limbeck.compress.structure import no_longer_of_the_zoo
from limbeck.compress.trial import require_finite, require_runs, require_trainable
from limbeck.compressor import silent, tell
from limbeck.data.iterables import Batches
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown, listed, unknown
from limbeck.models.swap import copied, exchange
from limbeck.models.weights import packed
from limbeck.randomness import own_random_numbers
from limbeck.taps import call, original, quiet, title

_CONVOLUTIONS: dict[type, int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
_PLAIN = (*_CONVOLUTIONS, nn.Linear)
_WEIGHTED = (
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.RNNBase,
    nn.MultiheadAttention,
)
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Run(NamedTuple):
    """What one dry forward of a network shows.

    Attributes:
        order: paths of the layers with weights, in the order in which they first run.
        several: those of them that run more than once.
        normed: those whose output goes into a BatchNorm as it is.
        pooled: layer -> the max-pooling whose output it takes as it is.
    """

    order: tuple[str, ...]
    several: frozenset[str]
    normed: frozenset[str]
    pooled: dict[str, str]


class _Plan(NamedTuple):
    """The layers to change and those that stay, with the reason."""

    chosen: tuple[str, ...]
    left: dict[str, str]
    first: str


def binarize(
    model: nn.Module,
    example: Any,
    calibration: Iterable[Any],
    *,
    form: Form,
    ends: bool,
    keep: tuple[str, ...],
    fewest: int,
    stochastic: bool,
) -> nn.Module:
    """A copy with binary layers; the settings are those of `limbeck.compress.binarize.Binarize`."""
    calibration = Batches(calibration, "the calibration batches")
    model = original(model)
    require_unfinished(model, "Binarize")
    _require_real(model)
    require_finite(model)
    require_runs(model, example)
    ran = _watched(copied(model), example)  # a forward may keep something: a count, what it saw last
    plan = _planned(model, ran, ends=ends, keep=keep, fewest=fewest)
    read = _read_elsewhere(model, plan.chosen, example)
    plan = _without(plan, dict.fromkeys(read, "its weight is also read outside of the layer"), model, ends)
    asked = asked_about(model, plan.chosen, example, Stand)
    plan = _without(plan, dict.fromkeys(asked, ASKED), model, ends)
    new = copied(model)
    silent(new)
    no_longer_of_the_zoo(new)
    made: dict[nn.Module, nn.Module] = {}
    for path in plan.chosen:
        layer = new.get_submodule(path)
        if layer not in made:
            made[layer] = _binary(
                layer,
                form=form,
                real_input=path == plan.first,
                norm_after=form == "bnn" and path not in ran.normed,
                stochastic=stochastic,
            )
    new = exchange(new, made)
    seen = recalibrated(new, calibration, batches=None)  # the network's own signals are others than before
    require_trainable(new, model, example)
    _report(new, model, plan, ran, form, seen)
    return new


# -- looking ---------------------------------------------------------------------------------------


def _require_real(model: nn.Module) -> None:
    already = [name for name, part in model.named_modules() if isinstance(part, KINDS)]
    if already:
        raise LimbeckError(
            f"{title(model)} is binary already ({', '.join(already[:3])}{' ...' if len(already) > 3 else ''}); binarize the network "
            "that it was made of"
        )


def _watched(model: nn.Module, example: Any) -> _Run:
    """One forward in eval mode without gradients, watched; the random numbers are as before afterwards."""
    order: list[str] = []
    runs: dict[str, int] = {}
    normed, pooled = set[str](), dict[str, str]()
    came: dict[int, tuple[str, nn.Module]] = {}  # id of a tensor -> who made it
    alive: list[Tensor] = []  # else an id could be that of a later tensor

    names = {id(part): name for name, part in model.named_modules()}

    def before(part: nn.Module, args: tuple[Any, ...]) -> None:
        name = names.get(id(part))
        if name is None:
            return  # of another network, in another thread
        given = next((v for v in args if isinstance(v, Tensor)), None)
        source, maker = came.get(id(given), ("", None))
        if isinstance(part, _WEIGHTED):
            runs[name] = runs.get(name, 0) + 1
            if runs[name] == 1:
                order.append(name)
            if isinstance(maker, _POOLS):
                pooled[name] = source
        if isinstance(part, _NORMS) and isinstance(maker, _PLAIN):
            normed.add(source)

    def after(part: nn.Module, args: Any, output: Any) -> None:
        name = names.get(id(part))
        if name is not None and isinstance(output, Tensor) and isinstance(part, (*_PLAIN, *_POOLS)):
            alive.append(output)
            came[id(output)] = (name, part)

    # Hooks on the modules themselves would keep torch's transformer layers from their fused path, which reads the weights of
    # its linear layers without calling them: such layers must not be taken for ones that run.
    handles = [register_module_forward_pre_hook(before), register_module_forward_hook(after)]
    try:
        with own_random_numbers(), torch.compiler.set_stance("force_eager"), quiet(model):
            call(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return _Run(tuple(order), frozenset(n for n, k in runs.items() if k > 1), frozenset(normed), pooled)


def _planned(model: nn.Module, ran: _Run, *, ends: bool, keep: tuple[str, ...], fewest: int) -> _Plan:
    parts, every = dict(model.named_modules()), dict(model.named_modules(remove_duplicate=False))
    weighted = [name for name, part in parts.items() if isinstance(part, _WEIGHTED)]
    for name in keep:
        if name not in every:
            raise NameUnknown(unknown("layer", name, weighted, title(model)))
        if not any(isinstance(part, _WEIGHTED) for part in every[name].modules()):
            raise HyperParameterError(
                f"keep = {name!r}: neither a layer with weights nor a part of the network that has such"
            )
    kept = {part for name in keep for part in every[name].modules()}  # by whichever of its names
    tied = _tied(model)
    first, last = (ran.order[0], ran.order[-1]) if ran.order else ("", "")
    chosen, left = [], dict[str, str]()
    for name in sorted(weighted, key=lambda n: ran.order.index(n) if n in ran.order else len(ran.order)):
        if name not in ran.order:
            reason = "not called with the example: fused into another module, or unused"
        elif not ends and name in (first, last):
            reason = f"the {'first' if name == first else 'last'} layer"
        elif parts[name] in kept:
            reason = "in keep"
        else:
            reason = _unfit(parts[name], tied, fewest)
        if reason is None:
            chosen.append(name)
        else:
            left[name] = reason
    if not chosen:
        raise LimbeckError(_nothing(title(model), left, ends))
    return _Plan(tuple(chosen), left, first)


def _read_elsewhere(model: nn.Module, names: Sequence[str], example: Any) -> list[str]:
    """Layers whose weight is used beside their own forward: outside of it their weight is NaN, and the output shows it.

    Such a use would see the real weight, and a network that is packed into bits and unpacked would compute something else.
    """

    def shows(some: Sequence[str]) -> bool:
        own = copied(model)
        for name in some:
            layer: Any = own.get_submodule(name)
            real = layer.weight.detach().clone()
            layer.register_forward_pre_hook(lambda part, args, w=real: _fill(part, w))
            layer.register_forward_hook(lambda part, args, out: _fill(part, None))
            _fill(layer, None)
        with own_random_numbers(), torch.compiler.set_stance("force_eager"), quiet(own):
            answers = tensors(call(own, example))
        return any(bool(answer.isnan().any()) for answer in answers if answer.is_floating_point())

    if shows(()) or not shows(names):  # NaN without our doing says nothing
        return []
    return [name for name in names if shows([name])]


def _fill(layer: nn.Module, value: Tensor | None) -> None:
    """Put a weight in place, or NaN."""
    with torch.no_grad():
        assert isinstance(layer.weight, Tensor)
        layer.weight.fill_(math.nan) if value is None else layer.weight.copy_(value)


def _without(plan: _Plan, reasons: dict[str, str], model: nn.Module, ends: bool) -> _Plan:
    """The plan less some layers, which have a reason each."""
    left = plan.left | reasons
    chosen = tuple(name for name in plan.chosen if name not in left)
    if not chosen:
        raise LimbeckError(_nothing(title(model), left, ends))
    return plan._replace(chosen=chosen, left=left)


def _unfit(part: Any, tied: set[int], fewest: int) -> str | None:
    """Why there is no use in a binary layer of this kind; None where there is."""
    if parametrize.is_parametrized(part, "weight"):
        return "its weight is computed in every forward (a mask, weight norm); write it out first (limbeck.compress.plain.plain)"
    if type(part) not in _PLAIN:
        return f"a {type(part).__name__}, which has no binary counterpart here"
    if id(part.weight) in tied:
        return "its weight is shared with another layer"
    if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks:
        return "it carries hooks, which would be lost"
    n = part.weight[0].numel()
    if n == 1:
        return "1 weight per filter: alpha = |w| is the weight itself"
    return f"{n} weights per filter: the scale of a filter costs about as much as its weights" if n < fewest else None


def _within(name: str, part: str) -> bool:
    return not part or name == part or name.startswith(f"{part}.")


def _tied(model: nn.Module) -> set[int]:
    """Parameters that more than one module holds."""
    owners: dict[int, set[int]] = {}
    for part in model.modules():
        for value in part._parameters.values():
            if value is not None:
                owners.setdefault(id(value), set()).add(id(part))
    return {key for key, parts in owners.items() if len(parts) > 1}


def _nothing(who: str, left: dict[str, str], ends: bool) -> str:
    if not left:
        return f"{who} has no layer with weights (convolution or linear) that could become binary"
    told = listed((f"{name or 'the network itself'}: {why}" for name, why in left.items()), 8, "; ")
    hint = "" if ends else ". With ends=True the first and the last layer become binary, too"
    return f"no layer of {who} can become binary: {told}{hint}"


# -- changing --------------------------------------------------------------------------------------


def _binary(layer: nn.Module, *, form: Form, real_input: bool, norm_after: bool, stochastic: bool) -> nn.Module:
    """A binary layer with this layer's own parameters, on its device and in its mode."""
    how: dict[str, Any] = {"form": form, "real_input": real_input, "norm_after": norm_after, "stochastic": stochastic}
    with torch.random.fork_rng(devices=()):  # its own start is thrown away
        if isinstance(layer, nn.Linear):
            new: Any = BinaryLinear(
                in_features=layer.in_features, out_features=layer.out_features, bias=layer.bias is not None, **how
            )
        else:
            assert isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
            new = BinaryConv(
                dims=_CONVOLUTIONS[type(layer)],
                in_channels=layer.in_channels,
                out_channels=layer.out_channels,
                kernel_size=layer.kernel_size,
                stride=layer.stride,
                padding=layer.padding,
                dilation=layer.dilation,
                groups=layer.groups,
                bias=layer.bias is not None,
                padding_mode=layer.padding_mode,
                **how,
            )
    new.to(layer.weight.device, layer.weight.dtype)
    new.weight, new.bias = layer.weight, layer.bias
    return new.train(layer.training)


# -- telling ---------------------------------------------------------------------------------------


def _report(new: nn.Module, old: nn.Module, plan: _Plan, ran: _Run, form: Form, seen: Recalibration) -> None:
    weights = sum(p.weight.numel() for p in {id(m): m for m in new.modules() if isinstance(m, KINDS)}.values())
    others = sum(p.numel() for p in new.parameters()) - weights
    bits = {"bnn": (1, 1), "bwn": (1, 32), "xnor": (1, 1)}[form]
    notes = [
        f"{len(plan.chosen)} layers are binary ({form}): {weights:,} weights of 1 bit beside {others:,} numbers that stay real",
        "only the size is smaller: signs are computed as floating-point numbers here, which is no faster than the real network",
    ]
    kept = [f"{name} ({why})" for name, why in plan.left.items()]
    if kept:
        notes.append(f"real layers: {listed(kept, 12)}")
    shared = [name for name in plan.chosen if name in ran.several]
    if shared:
        notes.append(f"{', '.join(shared)} run more than once per forward, with one BatchNorm for all of these runs")
    if form != "bwn":
        for name in plan.chosen:
            if name in ran.pooled and name != plan.first:
                notes.append(
                    f"the max-pooling {ran.pooled[name]} feeds the signs of {name}: of maxima a BatchNorm must take the mean away before "
                    "signs differ; XNOR-Net pools straight behind a binary convolution instead"
                )
        if not seen.used:
            why = (
                "every calibration batch is a single sample, which has no variance"
                if seen.single
                else "no calibration batches"
            )
            notes.append(
                f"{why}: the new BatchNorms have seen nothing yet, so the network is to be trained before it is measured"
            )
    tell(
        new,
        *notes,
        form=form,
        binary=list(plan.chosen),
        real=dict(plan.left),
        weight_bits=bits[0],
        activation_bits=bits[1],
        binary_weights=weights,
        real_numbers=others,
        packed_bytes=packed_bytes(new),
        float_bytes=len(packed(old)),
    )
