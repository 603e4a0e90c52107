"""How much each channel of each group matters, by any of the scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck import scores
from limbeck.batches import batch_size
from limbeck.compress.pruning.feeding import (
    BATCHES as BATCHES,
)
from limbeck.compress.pruning.feeding import (
    first_batches,
    losses_of,
    one_sample,
)
from limbeck.compress.pruning.groups import Group, Member
from limbeck.compress.pruning.members import (
    by_channel,
    entries,
    filters_of,
    first_consumer,
    first_norm,
    producers,
    producing,
    summed,
)
from limbeck.compress.pruning.sampling import can_sample, dense, patches, places, weight_of
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown, TargetError, unknown
from limbeck.models.swap import copied
from limbeck.phase import Batch, seed_for
from limbeck.randomness import own_random_numbers
from limbeck.taps import call, original

SAMPLES = 256  # at most so many samples where each has a backward pass of its own
PLACES = 10  # positions of each sample whose patches LASSO and ThiNet look at (ThiNet: 10 for each image)
ROWS = 4096  # at most so many patches of a layer for ThiNet

_WEIGHTS: Mapping[str, Callable[[Tensor], Tensor]] = {"l1": scores.l1, "l2": scores.l2, "fpgm": scores.fpgm}
_WITHOUT_DATA = (*_WEIGHTS, "slimming", "random")
_WITH_LABELS = ("taylor", "taylor_gate", "taylor_weight", "obd", "oracle")
_WITH_INPUTS = ("apoz", "mean_activation", "lasso", "thinet")

NAMES: tuple[str, ...] = (*_WITHOUT_DATA, *_WITH_INPUTS, *_WITH_LABELS)

Found = dict[str, Tensor]


def needs_data(by: str) -> bool:
    """Whether a score looks at calibration batches.

    >>> needs_data("fpgm"), needs_data("apoz")
    (False, True)
    """
    return _known(by) not in _WITHOUT_DATA


def needs_labels(by: str) -> bool:
    """Whether a score looks at the labels of these batches, too.

    >>> needs_labels("apoz"), needs_labels("taylor")
    (False, True)
    """
    return _known(by) in _WITH_LABELS


def cannot_judge(by: str, model: nn.Module, group: Group) -> str | None:
    """Why a score has nothing to look at in a group of channels; None where it has."""
    plain = original(model)
    try:
        if by in _WEIGHTS:
            for _ in producers(plain, group):
                pass
        elif by in ("taylor_weight", "obd"):
            producing(plain, group)
        elif by in ("slimming", "taylor_gate"):
            first_norm(plain, group, by)
        elif by != "random":
            first_consumer(plain, group, by)
    except LimbeckError as error:
        return str(error)
    return None


def judge(
    model: nn.Module,
    by: str,
    groups: Sequence[Group],
    *,
    example: Any,
    calibration: Iterable[Batch] = (),
    seed: int = 0,
) -> Found:
    """The score of every channel of every group; low means "remove first".

    - ``l1``, ``l2``, ``fpgm``: of the filters of the layer that produces the channels; where several layers do (they are
      added up later, as in a residual network), the sum of their scores.  A depthwise convolution behind the first
      layer produces nothing of its own and is not counted.
    - ``slimming``: |gamma| of the group's first batch normalisation.
    - ``random``: a number in [0, 1), by seed and name of the group.
    - ``apoz``, ``mean_activation``, ``taylor``: of what goes into the group's first consumer, which in the usual order
      (convolution, normalisation, ReLU, next convolution) is the output of the ReLU; behind a pooling layer it is the
      pooled output.  ``apoz`` gives ``1 - APoZ``.  ``taylor`` has norm 1 in each group, so that groups compare.
    - ``taylor_gate``: of the first batch normalisation; ``taylor_weight``, ``obd``: of the filters, summed as above.
    - ``lasso``, ``thinet``: how badly the other channels make up for this one in the inputs of the first consumer, at
      `PLACES` positions of each sample.  ``lasso`` is the lambda at which the channel leaves, divided by the layer's
      largest; ``thinet`` its place in the order of removal, in [0, 1).
    - ``oracle``: the measured change of the mean loss when nothing but this channel is set to zero in all consumers.
      One pass over the data for every channel.

    Gradients and activations are those of the network in eval mode: with batch statistics, a filter's weights times
    their gradients add up to zero, whatever it is worth.  At most `BATCHES` batches are looked at, and `SAMPLES`
    samples for ``obd``, which goes sample by sample.

    Args:
        model: any module, in any mode; nothing of it changes, random numbers included.
        by: one of `NAMES`.
        groups: whose channels; see `limbeck.compress.pruning.groups`.
        example: a batch's inputs; no score needs it today.
        calibration: batches of training rows (with labels for those of `needs_labels`), walked once, on any device.
        seed: of ``random``, and of the positions that are drawn.

    Returns:
        By the group's name: float64 ``[size]`` on the CPU.

    Raises:
        NameUnknown: no such score; the message has near names.
        HyperParameterError: the score needs calibration batches, and there are none.
        TargetError: it needs labels, and a batch has none.
        LimbeckError: a group has not what the score looks at: no batch normalisation, no zeros, no consumer.
        NonFiniteError: a weight or an activation is NaN or infinite.
    """
    _known(by)
    groups = list(groups)
    if by == "random":
        return {g.name: scores.random(g.size, seed_for(seed, "random", g.name)) for g in groups}
    plain = original(model)
    if by in _WEIGHTS:
        return {g.name: summed(_WEIGHTS[by](filters) for filters in producers(plain, g)) for g in groups}
    if by == "slimming":
        norms = {g.name: first_norm(plain, g, by) for g in groups}
        return {name: scores.slimming(entries(norm.weight, member)) for name, (norm, member) in norms.items()}
    batches = first_batches(calibration, plain)
    if not batches:
        raise HyperParameterError(
            f"by = {by!r}: this score looks at data, and there are no calibration batches; give calibration batches, or "
            f"take a score that looks at weights alone: {', '.join(_WITHOUT_DATA)}"
        )
    if by in _WITH_LABELS and any(batch.targets is None for batch in batches):
        raise TargetError(
            f"by = {by!r}: this score follows the loss, which needs labels, and a calibration batch has none (its targets "
            f"are None); give labels, or take one of {', '.join((*_WITHOUT_DATA, *_WITH_INPUTS))}"
        )
    with own_random_numbers():
        work = _bare(copied(plain)).eval().requires_grad_(by in _WITH_LABELS and by != "oracle")
        if by in ("apoz", "mean_activation"):
            found = _activations(work, by, groups, batches)
        elif by in ("lasso", "thinet"):
            found = _reconstructions(work, by, groups, batches, seed)
        else:
            found = _FOLLOW[by](work, groups, batches)
    return {name: score.detach().double().cpu() for name, score in found.items()}


def _bare(model: nn.Module) -> nn.Module:
    """The model with the weights that it computes with as parameters: under a mask, say, they are not."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # pyright: ignore[reportGeneralTypeIssues, reportArgumentType]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return model


def _known(by: str) -> str:
    if by not in NAMES:
        raise NameUnknown(unknown("score", by, NAMES))
    return by


@contextmanager
def _inputs_of(watched: Mapping[str, nn.Module], see: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Show ``see`` what goes into these layers, by the name of the group; what it returns goes in instead."""

    def watch(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> Any:
            new = see(name, args[0])
            return None if new is None else (new, *args[1:])

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in watched.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _require_seen(
    by: str, groups: Sequence[Group], consumers: Mapping[str, tuple[nn.Module, Member]], seen: set
) -> None:
    for group in groups:
        if group.name not in seen:
            raise LimbeckError(
                f"group {group.name!r}: {by} looks at what goes into {consumers[group.name][1].module!r}, which never ran as a "
                "module of its own (a fused attention uses the weights of its parts without calling them, say); take a "
                "score that looks at weights, such as l1 or fpgm"
            )


# -- scores from activations --------------------------------------------------------------------


def _activations(model: nn.Module, by: str, groups: Sequence[Group], batches: Sequence[Batch]) -> Found:
    formula = scores.apoz if by == "apoz" else scores.mean_activation
    consumers = {g.name: first_consumer(model, g, by) for g in groups}
    total: Found = {}
    count = dict.fromkeys(consumers, 0)

    def see(name: str, x: Tensor) -> None:
        z = by_channel(consumers[name][0], x, consumers[name][1])
        total[name] = total.get(name, 0.0) + len(z) * formula(z).double()
        count[name] += len(z)

    with torch.no_grad(), _inputs_of({name: layer for name, (layer, _) in consumers.items()}, see):
        for batch in batches:
            call(model, batch.inputs)
    _require_seen(by, groups, consumers, set(total))
    means = {name: score / count[name] for name, score in total.items()}
    if by != "apoz":
        return means
    for name, zeros in means.items():
        if not bool(zeros.any()):
            raise LimbeckError(
                f"group {name!r}: apoz counts activations that are exactly zero, and in what goes into "
                f"{consumers[name][1].module!r} there is none; there is no ReLU in between (GELU, SiLU, sigmoid and tanh are "
                "never quite zero). Take another score, such as taylor or mean_activation"
            )
    return {name: 1.0 - zeros for name, zeros in means.items()}


def _taylor(model: nn.Module, groups: Sequence[Group], batches: Sequence[Batch]) -> Found:
    consumers = {g.name: first_consumer(model, g, "taylor") for g in groups}
    total: Found = {}
    count = dict.fromkeys(consumers, 0)
    held: dict[str, Tensor] = {}

    def see(name: str, x: Tensor) -> None:
        held[name] = x

    with _inputs_of({name: layer for name, (layer, _) in consumers.items()}, see), torch.enable_grad():
        for batch in batches:
            held.clear()
            # The sum of the losses: the gradient at a sample's activation is that of its own loss.
            loss = losses_of(model, batch).sum()
            names = [name for name, x in held.items() if x.requires_grad]
            gradients = torch.autograd.grad(loss, [held[name] for name in names], allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                layer, member = consumers[name]
                slope = torch.zeros_like(held[name]) if gradient is None else gradient
                z = by_channel(layer, held[name].detach(), member)
                total[name] = (
                    total.get(name, 0.0) + len(z) * scores.taylor(z, by_channel(layer, slope, member)).double()
                )
                count[name] += len(z)
    _require_seen("taylor", groups, consumers, set(total))
    return {name: scores.unit_norm(score / count[name]) for name, score in total.items()}


def _oracle(model: nn.Module, groups: Sequence[Group], batches: Sequence[Batch]) -> Found:
    modules = dict(model.named_modules())

    def measured() -> Tensor:
        return torch.cat([losses_of(model, batch).double() for batch in batches])

    found: Found = {}
    with torch.no_grad():
        whole = measured()
        for group in groups:
            first_consumer(model, group, "oracle")
            consumers = [
                (modules[m.module], m) for m in group.of("in") if can_sample(modules.get(m.module, nn.Identity()))
            ]
            changes = []
            for channel in range(group.size):

                def silence(layer: nn.Module, index: tuple[int, ...]) -> Callable[..., Any]:
                    def hook(module: nn.Module, args: tuple[Any, ...]) -> Any:
                        x = args[0].clone()
                        x.movedim(-1 if isinstance(layer, nn.Linear) else 1, 0)[list(index)] = 0
                        return (x, *args[1:])

                    return hook

                handles = [layer.register_forward_pre_hook(silence(layer, m.index[channel])) for layer, m in consumers]
                try:
                    changes.append(scores.oracle(whole, measured()))
                finally:
                    for handle in handles:
                        handle.remove()
            found[group.name] = torch.stack(changes)
    return found


# -- scores from gradients of weights ---------------------------------------------------------------


def _slopes(model: nn.Module, wanted: Sequence[nn.Parameter], batches: Sequence[Batch]) -> Iterator[dict[int, Tensor]]:
    """The gradients of each batch's mean loss, by the parameter's id."""
    for batch in batches:
        yield _gradients(losses_of(model, batch).mean(), wanted)


def _gradients(loss: Tensor, wanted: Sequence[nn.Parameter]) -> dict[int, Tensor]:
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return {id(p): torch.zeros_like(p) if g is None else g.detach() for p, g in zip(wanted, found, strict=True)}


def _gates(model: nn.Module, groups: Sequence[Group], batches: Sequence[Batch]) -> Found:
    norms = {g.name: first_norm(model, g, "taylor_gate") for g in groups}
    wanted = list(dict.fromkeys(p for norm, _ in norms.values() for p in (norm.weight, norm.bias)))
    total: Found = {}
    with torch.enable_grad():
        for slope in _slopes(model, wanted, batches):
            for name, (norm, member) in norms.items():
                gate = scores.taylor_gate(norm.weight, slope[id(norm.weight)], norm.bias, slope[id(norm.bias)])
                total[name] = total.get(name, 0.0) + entries(gate, member) / len(batches)
    return total


def _weights(model: nn.Module, groups: Sequence[Group], batches: Sequence[Batch]) -> Found:
    layers = {g.name: producing(model, g) for g in groups}
    wanted = list(dict.fromkeys(weight_of(layer) for found in layers.values() for layer, _ in found))
    total: Found = {}
    with torch.enable_grad():
        for slope in _slopes(model, wanted, batches):
            for name, found in layers.items():
                parts = [(weight_of(layer), layer, member) for layer, member in found]
                score = summed(
                    scores.taylor_weight(filters_of(w.detach(), layer, m), filters_of(slope[id(w)], layer, m)).double()
                    for w, layer, m in parts
                )
                total[name] = total.get(name, 0.0) + score / len(batches)
    return total


def _obd(model: nn.Module, groups: Sequence[Group], batches: Sequence[Batch]) -> Found:
    layers = {g.name: producing(model, g) for g in groups}
    wanted = list(dict.fromkeys(weight_of(layer) for found in layers.values() for layer, _ in found))
    h = _fisher(model, wanted, batches)
    found: Found = {}
    for name, producers_here in layers.items():
        parts = [(weight_of(layer), layer, member) for layer, member in producers_here]
        found[name] = summed(
            scores.obd(filters_of(h[id(w)], layer, m), filters_of(w.detach(), layer, m)).double().sum(1)
            for w, layer, m in parts
        )
    return found


def _fisher(model: nn.Module, wanted: Sequence[nn.Parameter], batches: Sequence[Batch]) -> dict[int, Tensor]:
    """The mean squared gradient of single samples: added up over samples, never of a batch's mean gradient."""
    squares = {id(p): torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in wanted}
    samples = islice((one_sample(batch, row) for batch in batches for row in range(batch_size(batch.inputs))), SAMPLES)
    count = 0
    with torch.enable_grad():
        for one in samples:
            for key, g in _gradients(losses_of(model, one).sum(), wanted).items():
                squares[key] += g.to(squares[key].dtype).square()
            count += 1
    return {key: value.detach() / count for key, value in squares.items()}


# -- scores from reconstruction ----------------------------------------------------------------------


def _reconstructions(model: nn.Module, by: str, groups: Sequence[Group], batches: Sequence[Batch], seed: int) -> Found:
    consumers = {g.name: first_consumer(model, g, by) for g in groups}
    generators = {name: torch.Generator().manual_seed(seed_for(seed, by, name)) for name in consumers}
    rows: dict[str, list[Tensor]] = {name: [] for name in consumers}
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    count = dict.fromkeys(consumers, 0)

    def see(name: str, x: Tensor) -> None:
        layer, member = consumers[name]
        generator = generators[name]
        weight = dense(layer)
        x = x.to(weight.dtype)
        patch = patches(layer, x, places(layer, x, PLACES, generator))
        if by == "thinet":  # one output channel for each position, drawn
            which = torch.randint(len(weight), (len(patch),), generator=generator).to(weight.device)
            per_input = (patch * weight[which]).sum(2)
            rows[name].append(_by_channel(per_input, member, 1))
            return
        step = max(1, 2**22 // (weight.shape[0] * weight.shape[1]))
        for part in patch.split(step):
            z = _by_channel(torch.einsum("sik,oik->soi", part, weight), member, 2)
            gram, moment = scores.moments(z.reshape(-1, z.shape[-1]))
            n = len(part)
            old = sums.get(name, (torch.zeros_like(gram), torch.zeros_like(moment)))
            sums[name] = (old[0] + n * gram, old[1] + n * moment)
            count[name] += n

    with torch.no_grad(), _inputs_of({name: layer for name, (layer, _) in consumers.items()}, see):
        for batch in batches:
            call(model, batch.inputs)
    _require_seen(by, groups, consumers, set(sums) if by == "lasso" else {name for name, x in rows.items() if x})
    found: Found = {}
    for group in groups:
        name = group.name
        if by == "lasso":
            gram, moment = (part / count[name] for part in sums[name])
            order = scores.lasso_order(gram, moment)
            found[name] = order / order.max() if bool(order.max() > 0) else order
        else:
            order = scores.thinet(torch.cat(rows[name])[:ROWS])
            found[name] = torch.empty(group.size, dtype=torch.float64)
            found[name][order] = torch.arange(group.size, dtype=torch.float64) / group.size
    return found


def _by_channel(values: Tensor, member: Member, dim: int) -> Tensor:
    """The contributions of inputs, added up for each channel of the group."""
    return torch.stack(
        [values.index_select(dim, torch.tensor(i, device=values.device)).sum(dim) for i in member.index], dim
    )


_FOLLOW: Mapping[str, Callable[[nn.Module, Sequence[Group], Sequence[Batch]], Found]] = {
    "taylor": _taylor,
    "taylor_gate": _gates,
    "taylor_weight": _weights,
    "obd": _obd,
    "oracle": _oracle,
}
