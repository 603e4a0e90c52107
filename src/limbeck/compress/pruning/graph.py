"""Which channels of a network can be removed, and what each of them takes along.

`groups` watches one forward (`limbeck.compress.pruning.labels`), reads the groups off, and then *tries them out*: on a
copy with random weights a third of every group is removed, and the outputs must be those of the full copy with the same
channels set to zero.  Groups that break the network, or change what it computes, are found by halving and left whole.
So a network that counts on its own widths somewhere costs channels that stay, and never a wrong result.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from limbeck.batches import batch_size
from limbeck.compress.answers import tensors
from limbeck.compress.finished import require_unfinished, under_masks
from limbeck.compress.pruning.groups import Group, Member
from limbeck.compress.pruning.labels import Key, Ledger, Watch, Watcher, whole_groups
from limbeck.compress.pruning.surgery import masked, removed
from limbeck.compress.trial import require_runs
from limbeck.errors import LimbeckError
from limbeck.models.swap import copied
from limbeck.randomness import own_random_numbers
from limbeck.taps import call

WEIGHED = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True)
class ChannelGraph:
    """What can be removed from a network.

    Attributes:
        groups: in the order in which the network runs.
        left: layer -> why its output channels stay.
    """

    groups: tuple[Group, ...]
    left: Mapping[str, str]


def groups(model: nn.Module, example: Any) -> tuple[Group, ...]:
    """The groups of `channel_graph`."""
    return channel_graph(model, example).groups


def channel_graph(model: nn.Module, example: Any) -> ChannelGraph:
    """What can be removed from a network without changing its inputs or outputs.

    Followed are sums of branches, concatenation, splits and shuffles, flattening, depthwise and grouped convolutions,
    gates, and zero-padded shortcuts.  Heads of an attention can go where its module keeps their number (timm's).
    What is followed by a LayerNorm or GroupNorm stays: these take means over channels, so that no channel can go
    without a trace.

    Args:
        model: any module; it is copied and stays as it is.
        example: a batch as the model takes it, on its device; a mapping becomes keyword arguments.  Two samples of it
            are used.

    Raises:
        LimbeckError: no channel of the network can be removed; the message says why for its layers.

    >>> net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    >>> [(group.name, group.size) for group in groups(net, torch.zeros(2, 4))]
    [('0', 6)]
    """
    require_unfinished(model, "Prune")
    require_runs(model, example)
    inputs = few(example)
    trial = copied(model)
    ledger = _watched(trial, inputs)
    found = [*_read_off(trial, ledger), *_heads(trial)]
    good, broken = _tried(trial, found, inputs)
    kept = {member.module for group in good for member in group.of("out")}
    left: dict[str, str] = {}
    reasons = ledger.fixed()
    for (path, side, _), (start, size) in ledger.slots.items():
        if side == "out" and path not in kept:
            roots = ledger.roots(torch.arange(start, start + size)).tolist()
            why = next((reasons[r] for r in roots if r in reasons), None)
            left[path] = why or "all its channels belong together"
    for group in broken:
        left[group.name.split("#")[0]] = "the network did not run, or not rightly, when channels of it were removed"
    if not good:
        told = "; ".join(f"{path}: {why}" for path, why in list(left.items())[:6])
        raise LimbeckError(
            f"no channel of this {type(model).__name__} can be removed. {told or under_masks(model) or 'It has no layer with weights in front'}"
            ". Prune weights instead of channels, factorize, or quantize"
        )
    order = {key[0]: i for i, key in enumerate(ledger.slots)}
    return ChannelGraph(tuple(sorted(good, key=lambda g: order.get(g.members[0].module, 0))), left)


def few(example: Any, samples: int = 2) -> Any:
    """The first samples of a batch."""
    size = batch_size(example)
    if isinstance(example, Mapping):
        return {
            k: v[:samples] if isinstance(v, Tensor) and v.ndim and len(v) == size else v for k, v in example.items()
        }
    return example[:samples]


@contextmanager
def aside() -> Iterator[None]:
    """No gradients, attention in plain steps, and random numbers that are put back."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with own_random_numbers(), sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _watched(model: nn.Module, inputs: Any) -> Ledger:
    ledger = Ledger()
    with aside():
        ran = _watch(model.eval(), inputs, ledger)
        weighed = {path for path, module in model.named_modules() if isinstance(module, WEIGHED)}
        if not weighed <= ran:  # heads that only run in training
            saved = copy.deepcopy(model.state_dict())
            with suppress(RuntimeError, ValueError):  # one value per channel, say: nothing is known of them then
                _watch(model.train(), inputs, ledger)
            model.load_state_dict(saved)
            model.eval()
    ledger.settle()
    return ledger


def _watch(model: nn.Module, inputs: Any, ledger: Ledger) -> set[str]:
    watch = Watch(model, ledger)
    with Watcher(watch):
        output = call(model, inputs)
    watch.fix(tensors(output), "it is the output of the network")
    return watch.ran


# -- from labels to groups ------------------------------------------------------------------------------


def _read_off(model: nn.Module, ledger: Ledger) -> list[Group]:
    modules = dict(model.named_modules())
    fixed = ledger.fixed()
    classes: dict[int, dict[Key, list[int]]] = {}
    for key, (start, size) in ledger.slots.items():
        if key[1] == "in" and key[0] in modules and whole_groups(modules[key[0]]):
            continue
        for index, root in enumerate(ledger.roots(torch.arange(start, start + size)).tolist()):
            if root not in fixed:
                classes.setdefault(root, {}).setdefault(key, []).append(index)
    alike: dict[tuple[Any, ...], list[dict[Key, list[int]]]] = {}
    for taken in classes.values():
        if any(key[1] == "out" for key in taken):
            kind = tuple((key, len(index)) for key, index in taken.items())
            alike.setdefault(kind, []).append(taken)
    found: list[Group] = []
    used: dict[str, int] = {}
    for kind, channels in alike.items():
        if len(channels) < 2:
            continue
        keys = [key for key, _ in kind]
        leader = next(key for key in keys if key[1] == "out")
        channels.sort(key=lambda taken: taken[leader])
        keys.remove(leader)
        members = tuple(
            Member(path, side, tuple(tuple(taken[(path, side, dim)]) for taken in channels), dim)
            for path, side, dim in [leader, *keys]
        )
        used[leader[0]] = count = used.get(leader[0], 0) + 1
        found.append(Group(leader[0] + (f"#{count}" if count > 1 else ""), len(channels), members))
    return found


def _heads(model: nn.Module) -> list[Group]:
    """Attentions that say how many heads they have, and read it in their forward: their heads."""
    found: list[Group] = []
    for path, module in model.named_modules():
        if (shape := attention(module)) is None:
            continue
        heads, wide = shape
        all_wide = heads * wide
        inside = tuple(tuple(range(h * wide, (h + 1) * wide)) for h in range(heads))
        three = tuple(tuple(part * all_wide + i for part in range(3) for i in own) for own in inside)
        if heads > 1:
            qkv, proj = f"{path}.qkv", f"{path}.proj"
            found.append(Group(qkv, heads, (Member(qkv, "out", three), Member(proj, "in", inside))))
    return found


def attention(module: Any) -> tuple[int, int] | None:
    """Heads and their width, of an attention with one layer for queries, keys and values that keeps both as numbers."""
    qkv, proj = getattr(module, "qkv", None), getattr(module, "proj", None)
    heads, wide, all_wide = (getattr(module, name, None) for name in ("num_heads", "head_dim", "attn_dim"))
    if not isinstance(qkv, nn.Linear) or not isinstance(proj, nn.Linear):
        return None
    if not isinstance(heads, int) or not isinstance(wide, int) or heads * wide != all_wide:
        return None
    return (heads, wide) if (proj.in_features, qkv.out_features) == (all_wide, 3 * heads * wide) else None


# -- trying out -----------------------------------------------------------------------------------------


def _tried(model: nn.Module, found: Sequence[Group], inputs: Any) -> tuple[list[Group], list[Group]]:
    """The groups that can go, together, and those that break the network."""
    model, inputs = _scrambled(model, inputs)
    double = all(p.dtype == torch.float64 for p in model.parameters())
    tolerance = 1e-6 if double else 1e-3  # rounding is far below, and a channel in the wrong place far above
    with aside():

        def fine(some: Sequence[Group]) -> bool:
            generator = torch.Generator().manual_seed(len(some))
            gone = {g.name: torch.randperm(g.size, generator=generator)[: -(-g.size // 3)].tolist() for g in some}
            return difference(model, some, gone, inputs) < tolerance

        good, broken = _halved(list(found), fine)
        while good and broken and not fine(good):  # each half was right, but not both together
            broken.append(good.pop())
    return good, broken


def _halved(some: list[Group], fine: Any) -> tuple[list[Group], list[Group]]:
    if not some or fine(some):
        return some, []
    if len(some) == 1:
        return [], some
    middle = len(some) // 2
    one, other = _halved(some[:middle], fine), _halved(some[middle:], fine)
    return one[0] + other[0], one[1] + other[1]


def difference(model: nn.Module, some: Sequence[Group], gone: Mapping[str, Iterable[int]], inputs: Any) -> float:
    """How far the outputs of removal are from those of zeroing, relative to the largest; infinite where it fails."""
    full = tensors(call(masked(model, some, gone), inputs))
    try:
        less = tensors(call(removed(model, some, gone), inputs))
    except Exception:  # whatever a forward raises that counts on its widths
        return float("inf")
    if [t.shape for t in full] != [t.shape for t in less]:
        return float("inf")
    worst = [
        ((a - b).abs().max() / a.abs().max().clamp_min(torch.finfo(a.dtype).tiny)).item()
        for a, b in zip(full, less)
        if a.numel()
    ]
    return max((w if w == w else float("inf") for w in worst), default=0.0)


def _scrambled(model: nn.Module, inputs: Any) -> tuple[nn.Module, Any]:
    """The model with random weights that hide nothing (zeros and ones would), and in double precision if it can be."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is None or not tensor.is_floating_point():
                    continue
                random = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                if name in module._buffers:
                    if name not in ("running_mean", "running_var"):
                        continue
                    random = 0.5 + random.abs() if name == "running_var" else 0.3 * random
                elif tensor.ndim > 1:
                    random = random * (2.0 / max(1, tensor[0].numel())) ** 0.5
                else:
                    random = 1.0 + 0.3 * random if name == "weight" else 0.3 * random
                tensor.copy_(random.to(tensor.device, tensor.dtype))
    double = copied(model).double().eval()
    cast = _cast(inputs)
    try:
        with aside():
            call(double, cast)
    except RuntimeError:  # a forward that makes single precision itself
        return model.float().eval(), inputs
    return double, cast


def _cast(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {k: _cast(v) for k, v in inputs.items()}
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        return inputs
    # Random inputs of the same kind: an example of zeros would let every error pass.
    generator = torch.Generator().manual_seed(1)
    return torch.randn(inputs.shape, generator=generator, dtype=torch.float64).to(inputs.device)
