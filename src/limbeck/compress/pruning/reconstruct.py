"""After channels have gone, the layers that took them are fitted anew to what they used to answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.batches import batch_size
from limbeck.compress.pruning.feeding import first_batches
from limbeck.compress.pruning.groups import Group
from limbeck.compress.pruning.judging.inputs import first_input, inputs_of
from limbeck.compress.pruning.judging.reconstruction import PLACES
from limbeck.compress.pruning.sampling import can_sample, dense, patches, places, responses
from limbeck.errors import HyperParameterError, NameUnknown, unknown
from limbeck.hooks import hooked
from limbeck.models.swap import copied
from limbeck.phase import Batch, seed_for
from limbeck.randomness import own_random_numbers
from limbeck.taps import Tapped, call, original

REPAIRS: tuple[str, ...] = ("lasso", "thinet")
LARGEST = 6144  # inputs of a layer times positions of its kernel from which on only channels are rescaled
HELD = 2**26  # numbers that layers of the whole network may have answered and that are held together: 256 MiB
_RIDGE = 1e-5  # how far the weights may go for how little, relative to the mean energy of an input


class Repair(NamedTuple):
    """What the fit of a layer came to.

    Attributes:
        before: the squared error of its answers on the calibration data, relative to what the whole network's layer
            answers, as the surgery left it.
        after: the same with the new weights; never more.
        how: "weights" (every weight anew) or "scales" (one factor for each kept channel).
    """

    before: float
    after: float
    how: str


def repair(
    before: nn.Module,
    after: nn.Module,
    groups: Sequence[Group],
    kept: Mapping[str, Sequence[int]],
    by: str,
    *,
    calibration: Iterable[Batch],
    seed: int = 0,
) -> dict[str, Repair]:
    """Fit the input weights of every layer that lost inputs, so that it answers as the whole network's layer did.

    ``by="lasso"``: all weights of the layer by least squares, ``min_W |Y - X W^T|^2`` (He, Zhang, Sun, ICCV 2017).
    ``by="thinet"``: one factor for each kept channel, ``min_s |Y - sum_c s_c X_c W_c^T|^2`` (Luo, Wu, Lin, ICCV 2017);
    so it is with lasso, too, for a layer with more than `LARGEST` weights for each output, or with groups.  X is what the
    *pruned* network's layer gets, after the layers before it have been fitted; Y what the *whole* network's layer
    answers, without its bias, of the outputs that it still has; both at the same `PLACES` positions of each sample, in
    eval mode, over at most `BATCHES` batches.  A small ridge keeps the new weights near those that the surgery left
    where the data does not say.  Biases stay.

    Args:
        before: the whole network.  It is not changed.
        after: the network that surgery made of it: the same module paths, fewer channels.  Its weights change, in
            place; its modes, flags and hooks do not.
        groups: those of `before`, as given to surgery.
        kept: by the group's name, which of its channels (their numbers in `before`) are still there, ascending.  A
            group that is not named is whole.
        by: "lasso" or "thinet".
        calibration: batches of training rows, as for `judge`; at most the first `BATCHES` are held in memory.
        seed: of the positions.

    Returns:
        For each layer that was fitted, in the order of the network, its errors.  A layer that is no convolution or
        linear layer, or never ran as a module of its own, is left as surgery left it, and is not in here.

    Raises:
        NameUnknown: there is no such repair.
        HyperParameterError: there are no calibration batches.
    """
    if by not in REPAIRS:
        raise NameUnknown(unknown("repair", by, REPAIRS))
    whole, small = original(before), original(after)
    lost = _lost(groups, kept)
    batches = first_batches(calibration, whole)
    if not batches:
        raise HyperParameterError(f"by = {by!r}: the repair looks at data; give calibration batches")
    found: dict[str, Repair] = {}
    with own_random_numbers(), torch.no_grad(), _eval(small):
        source = copied(whole).eval()
        runs = _runs(small, batches[0], [path for path, sides in lost.items() if sides["in"]])
        layers = {path: _staying(source, small, path, lost[path]["out"]) for path in runs}
        for part in _portions({path: stay for path, stay in layers.items() if stay is not None}, batches):
            answers = _answers(source, part, batches, seed)
            for path in part:
                inputs = _inputs(small, path, batches, once=runs[path] == 1)
                new = _fit(small.get_submodule(path), by, zip(inputs, answers.pop(path), strict=True))
                if new is not None:
                    found[path] = new
    return found


def _lost(groups: Sequence[Group], kept: Mapping[str, Sequence[int]]) -> dict[str, dict[str, set[int]]]:
    """By the path of a layer: which of its inputs and outputs are gone."""
    lost: dict[str, dict[str, set[int]]] = {}
    for group in groups:
        stay = set(kept.get(group.name, range(group.size)))
        for member in group.members:
            if member.side in ("in", "out"):
                sides = lost.setdefault(member.module, {"in": set(), "out": set()})
                for channel, index in enumerate(member.index):
                    if channel not in stay:
                        sides[member.side].update(index)
    return lost


def _runs(model: nn.Module, batch: Batch, wanted: Sequence[str]) -> dict[str, int]:
    """Those of these layers that run, in the order in which they first do, and how often."""
    ran: dict[str, int] = {}
    modules = dict(model.named_modules())
    layers = {path: modules[path] for path in wanted if can_sample(modules.get(path, nn.Identity()))}

    def see(path: str, x: Tensor) -> None:
        ran[path] = ran.get(path, 0) + 1

    with inputs_of(layers, see):
        call(model, batch.inputs)
    return ran


def _staying(whole: nn.Module, small: nn.Module, path: str, gone: set[int]) -> list[int] | None:
    """The outputs that a layer still has; None: more has changed than these groups, so that answers cannot be matched."""
    stay = [row for row in range(len(dense(whole.get_submodule(path)))) if row not in gone]
    return stay if len(stay) == len(dense(small.get_submodule(path))) else None


@contextmanager
def _eval(model: nn.Module):
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


# What a layer answered to a batch: at which places, ``[samples, places]``, and what, ``[samples * places, out]``.
_Answer = tuple[Tensor, Tensor]


def _portions(layers: Mapping[str, list[int]], batches: Sequence[Batch]) -> Iterator[dict[str, list[int]]]:
    """The layers in their order, so many at a time that their answers may be held together."""
    rows = PLACES * sum(batch_size(batch.inputs) for batch in batches)
    part: dict[str, list[int]] = {}
    for path, stay in layers.items():
        if part and rows * (len(stay) + sum(map(len, part.values()))) > HELD:
            yield part
            part = {}
        part[path] = stay
    if part:
        yield part


def _answers(
    whole: nn.Module, layers: Mapping[str, list[int]], batches: Sequence[Batch], seed: int
) -> dict[str, list[_Answer]]:
    """What these layers of the whole network answer (in their last calls), batch by batch, at places that are drawn."""
    modules = {path: whole.get_submodule(path) for path in layers}
    draw = {path: torch.Generator().manual_seed(seed_for(seed, "repair", path)) for path in layers}
    found: dict[str, list[_Answer]] = {path: [] for path in layers}
    for batch in batches:
        begun = {path: generator.get_state() for path, generator in draw.items()}
        seen: dict[str, _Answer] = {}

        def watch(path: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
                where = places(module, first_input(args, kwargs), PLACES, draw[path].set_state(begun[path]))  # noqa: B023
                seen[path] = where, responses(module, output, where)[:, layers[path]]  # noqa: B023

            return hook

        handles = [module.register_forward_hook(watch(path), with_kwargs=True) for path, module in modules.items()]
        with hooked(handles):
            call(whole, batch.inputs)
        for path, answer in seen.items():
            found[path].append(answer)
    return found


def _inputs(model: nn.Module, path: str, batches: Sequence[Batch], *, once: bool) -> Iterator[Tensor]:
    """What goes into a layer (in its last call), batch by batch; what comes behind it is not run, if it runs but once."""
    if once:
        with closing(Tapped(model, (f"{path}:in",), stop=True)) as tapped:
            for batch in batches:
                yield tapped(batch.inputs).taps[f"{path}:in"]
        return
    seen: list[Tensor] = []
    with inputs_of({path: model.get_submodule(path)}, lambda name, x: seen.append(x.detach().clone())):
        for batch in batches:
            call(model, batch.inputs)
            yield seen[-1]
            seen.clear()


def _fit(layer: nn.Module, by: str, heard: Iterable[tuple[Tensor, _Answer]]) -> Repair | None:
    weight = dense(layer).double()  # [out, in, positions of the kernel]
    out, inputs, kernel = weight.shape
    every = by == "lasso" and getattr(layer, "groups", 1) == 1 and inputs * kernel <= LARGEST
    size = inputs * kernel if every else inputs
    gram = weight.new_zeros(size, size)
    cross = weight.new_zeros(size, out if every else 1)
    energy = missed = 0.0
    for x, (where, answer) in heard:
        target = answer.double()
        patch = patches(layer, x, where).double()
        left = target - torch.einsum("sik,oik->so", patch, weight)
        energy += float(target.square().sum())
        missed += float(left.square().sum())
        if every:
            flat = patch.flatten(1)
            gram += flat.T @ flat
            cross += flat.T @ left
            continue
        step = max(1, 2**22 // (out * inputs))
        for part, rest in zip(patch.split(step), left.split(step), strict=True):
            z = torch.einsum("sik,oik->soi", part, weight).flatten(0, 1)
            gram += z.T @ z
            cross += z.T @ rest.reshape(-1, 1)
    # The change of the weights, not the weights: with a ridge, what the data leaves open stays as it is.
    ridge = _RIDGE * float(gram.diagonal().mean())
    if not energy or not ridge:
        return None
    change = torch.linalg.solve(gram + ridge * torch.eye(size, dtype=gram.dtype, device=gram.device), cross)
    # |left - X change|^2, from the same sums
    now = missed - 2 * float((cross * change).sum()) + float((change * (gram @ change)).sum())
    own: Tensor = layer.weight  # type: ignore[assignment]
    if every:
        new = weight + change.T.reshape(out, inputs, kernel)
        own.copy_(new.reshape(own.shape).to(own.dtype))
    else:
        own.mul_(_per_input(layer, 1.0 + change[:, 0]).to(own.dtype))
    return Repair(missed / energy, max(now, 0.0) / energy, "weights" if every else "scales")


def _per_input(layer: nn.Module, scales: Tensor) -> Tensor:
    """One factor for each input, in a shape that the layer's weight can be multiplied with."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    groups = getattr(layer, "groups", 1)
    rows = scales.reshape(groups, -1).repeat_interleave(len(weight) // groups, 0)  # [out, in of a group]
    return rows.reshape(*rows.shape, *[1] * (weight.ndim - 2))
