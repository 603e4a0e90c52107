"""Which values of a network belong to which channel: found out by watching one forward.

Every output channel of a convolution or linear layer gets a number, a *label*, and so does every input channel and every
channel of a BatchNorm.  While the network runs, each activation is accompanied by a tensor of its own shape that holds,
for each value, the label of the channel it comes from.  Whatever only moves values (reshaping, concatenation, splitting,
shuffling, padding) is done to the labels as it is done to the values.  Whatever combines two values (a sum of branches, a
gate) makes their labels one.  A layer that reads values makes their labels one with those of its input channels.  In
the end, equal labels are what can only go together.

Nothing here knows names of networks or of their modules; an operation that is not understood makes the channels that go
in stay (`Ledger.fix`), which is always right and costs only what might have been removed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from limbeck.compress.pruning.groups import Side

Key = tuple[str, Side, int]  # path of a module or parameter, side, dimension


def whole_groups(conv: nn.Module) -> bool:
    """Whether channels leave this grouped convolution by whole groups, as in a depthwise one, or some from each."""
    if not isinstance(conv, nn.modules.conv._ConvNd) or conv.groups == 1:
        return False
    return conv.groups >= conv.in_channels // conv.groups


class Ledger:
    """Labels, which of them are one, and which must stay.  Label 0 is "no channel"."""

    def __init__(self) -> None:
        self.slots: dict[Key, tuple[int, int]] = {}  # in the order in which the network runs
        self.reasons: dict[int, str] = {}
        self.evenly: list[tuple[Tensor, int, bool]] = []
        self._parent = np.zeros(1, dtype=np.int64)

    def slot(self, key: Key, size: int) -> Tensor:
        """The labels of one side of a module, ``[size]``; made at the first call."""
        if key not in self.slots:
            start = len(self._parent)
            self.slots[key] = (start, size)
            self._parent = np.concatenate([self._parent, np.arange(start, start + size)])
        start, size = self.slots[key]
        return torch.arange(start, start + size)

    def roots(self, labels: Tensor) -> Tensor:
        """The labels that stand for these: equal where channels go together."""
        return torch.from_numpy(self._parent[labels.numpy()])

    def unite(self, one: Tensor, other: Tensor) -> None:
        """Make labels one, place by place; a channel beside none must stay."""
        pairs = torch.stack([self.roots(one).flatten(), self.roots(other).flatten()])
        pairs = torch.unique(pairs[:, pairs[0] != pairs[1]], dim=1)
        alone = (pairs == 0).any(0)
        if alone.any():
            self.fix(pairs[:, alone].amax(0), "it is combined with values that belong to no channel")
        a, b = pairs[:, ~alone].numpy()
        while len(a):
            low, high = np.minimum(a, b), np.maximum(a, b)
            np.minimum.at(self._parent, high, low)
            while not np.array_equal(nearer := self._parent[self._parent], self._parent):
                self._parent = nearer
            a, b = self._parent[a], self._parent[b]
            differ = a != b
            a, b = a[differ], b[differ]

    def fix(self, labels: Tensor, why: str) -> None:
        """Say that these channels must stay."""
        for label in torch.unique(labels).tolist():
            if label:
                self.reasons.setdefault(label, why)

    def fixed(self) -> dict[int, str]:
        """Root -> why it must stay."""
        found: dict[int, str] = {}
        for label, why in self.reasons.items():
            found.setdefault(int(self._parent[label]), why)
        return found

    def settle(self) -> None:
        """See to it that equally many channels leave each block where a network counts on equal blocks."""
        changed = True
        while changed:
            changed = False
            for rule in self.evenly:
                changed = self._even(*rule) or changed

    def _even(self, labels: Tensor, blocks: int, rows_may_go: bool) -> bool:
        fixed = self.fixed()
        table = self.roots(labels).view(blocks, -1).numpy()
        free = [root for root in dict.fromkeys(table.flatten().tolist()) if root and root not in fixed]
        counts = {root: (table == root).sum(1) for root in free}
        if rows_may_go and all(np.isin(c, (0, table.shape[1])).all() for c in counts.values()):
            return False
        lists: dict[int, list[list[int]]] = {}
        changed = False
        for root, count in counts.items():
            inside = np.flatnonzero(count)
            if len(inside) == blocks and (count == count[0]).all():
                continue
            changed = True
            if len(inside) == 1:
                lists.setdefault(int(count[inside[0]]), [[] for _ in range(blocks)])[inside[0]].append(root)
            else:
                self.fix(torch.tensor([root]), "it lies across blocks that must stay equally wide")
        for by_block in lists.values():
            most = min(map(len, by_block))
            for partners in zip(*by_block):
                self.unite(torch.tensor(partners[:1] * (blocks - 1)), torch.tensor(partners[1:]))
            for rest in (root for block in by_block for root in block[most:]):
                self.fix(torch.tensor([rest]), "it has no partner in blocks that must stay equally wide")
        return changed


@dataclass
class _Param:
    """A parameter or buffer, perhaps turned: which of its dimensions each dimension of the tensor is, or -1."""

    path: str
    dims: tuple[int, ...]


def _compact(labels: Tensor) -> Tensor:
    """Only one entry along each dimension along which the labels are the same."""
    for dim, size in enumerate(labels.shape):
        if size > 1 and (labels.stride(dim) == 0 or bool((labels == labels.narrow(dim, 0, 1)).all())):
            labels = labels.narrow(dim, 0, 1)
    return labels


@dataclass
class Watch:
    """What is known while a network runs: the labels of its activations, and whose its parameters are."""

    model: nn.Module
    ledger: Ledger
    ran: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.modules = dict(self.model.named_modules())
        self.labels: dict[int, Tensor] = {}
        self.params: dict[int, _Param] = {}
        self.kept: list[Any] = []  # so that no id is used twice
        seen: dict[int, int] = {}
        for path, module in self.modules.items():
            held = [*module._parameters.items(), *module._buffers.items()]
            for name, tensor in held:
                if tensor is not None:
                    seen[id(tensor)] = seen.get(id(tensor), 0) + 1
                    full = f"{path}.{name}" if path else name
                    self.params[id(tensor)] = _Param(full, tuple(range(tensor.ndim)))
        for key, times in seen.items():
            if times > 1:  # a parameter with two homes cannot be cut in one of them
                del self.params[key]

    # -- labels of activations

    def of(self, tensor: Tensor) -> Tensor | None:
        """Labels of the shape of the tensor, dimensions of equal labels compacted to 1; None: no channels."""
        held = self.labels.get(id(tensor))
        return None if held is None else _compact(self.ledger.roots(held))

    def put(self, tensor: Any, core: Tensor | None) -> None:
        """Remember labels, given compacted, for a tensor."""
        if not isinstance(tensor, Tensor):
            return
        self.kept.append(tensor)
        self.labels.pop(id(tensor), None)
        if core is not None and bool(core.any()):
            while core.ndim < tensor.ndim:
                core = core.unsqueeze(0)
            self.labels[id(tensor)] = core.expand(tensor.shape)

    def fix(self, tensors: Iterable[Any], why: str) -> None:
        for tensor in tensors:
            if isinstance(tensor, Tensor) and (core := self.of(tensor)) is not None:
                self.ledger.fix(core, why)

    def merged(self, core: Tensor, dims: Sequence[int]) -> Tensor:
        """Unite what lies along all other dimensions than these; one entry along those is left."""
        first = core
        for dim in range(core.ndim):
            if dim not in dims and core.shape[dim] > 1:
                first = first.narrow(dim, 0, 1)
        if first.shape != core.shape:
            self.ledger.unite(first.expand(core.shape), core)
        return self.ledger.roots(first)

    # -- who owns a parameter

    def param(self, tensor: Any) -> _Param | None:
        return self.params.get(id(tensor)) if isinstance(tensor, Tensor) else None

    def key(self, found: _Param, dim: int) -> Key:
        """The slot of a parameter that is added or multiplied; a layer's own bias is part of its outputs."""
        home, _, name = found.path.rpartition(".")
        if name == "bias" and isinstance(self.modules[home], (nn.modules.conv._ConvNd, nn.Linear)):
            return home, "out", 0
        return found.path, "norm", dim

    def owner(self, tensor: Any, kinds: type | tuple[type, ...]) -> tuple[str, nn.Module] | None:
        """The module of such a kind that holds this tensor, as it is."""
        found = self.param(tensor)
        if found is None:
            return None
        path = found.path.rpartition(".")[0]
        module = self.modules[path]
        return (path, module) if isinstance(module, kinds) else None


class Watcher(TorchDispatchMode):
    """Runs every operation, and does to the labels what it does to the values."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        follow(self.watch, func, args, kwargs, result)
        return result


def follow(watch: Watch, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Labels of the result of one operation."""
    name = func.overloadpacket.__name__
    values = [v for v in _flat((args, kwargs)) if isinstance(v, Tensor)]
    if len(values) == 1 and watch.param(values[0]) and _turned(watch, name, args, result):
        return
    rule = _RULES.get(name)
    if rule is None and any(word in name for word in ("pool", "upsample", "reflection_pad", "replication_pad")):
        rule = _plane
    if rule is None and (torch.Tag.pointwise in func.tags or name in _POINTWISE):
        rule = _pointwise
    if rule is None or (kwargs.get("out") is not None and rule is not _pointwise):
        rule = _unknown
    rule(watch, func, args, kwargs, result)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [part for item in value for part in _flat(item)]
    return [part for item in value.values() for part in _flat(item)] if isinstance(value, dict) else [value]


def _turned(watch: Watch, name: str, args: tuple[Any, ...], result: Any) -> bool:
    """Follow a parameter through what only turns or stretches it."""
    source = watch.param(args[0]) if args and isinstance(args[0], Tensor) else None
    if source is None or not isinstance(result, Tensor):
        return False
    old, dims = args[0], source.dims
    if name == "t":
        new = dims[::-1]
    elif name == "transpose":
        turned = list(range(old.ndim))
        a, b = args[1] % old.ndim, args[2] % old.ndim
        turned[a], turned[b] = b, a
        new = tuple(dims[d] for d in turned)
    elif name == "permute":
        new = tuple(dims[d % old.ndim] for d in args[1])
    elif name in ("detach", "alias", "clone", "_to_copy", "contiguous"):
        new = dims
    elif name in ("view", "_unsafe_view", "unsqueeze", "squeeze", "reshape"):
        wide = [d for d, size in zip(dims, old.shape) if size > 1]
        if [s for s in old.shape if s > 1] != [s for s in result.shape if s > 1]:
            return False
        rest = iter(wide)
        new = tuple(next(rest) if size > 1 else -1 for size in result.shape)
    elif name == "expand":
        front = result.ndim - old.ndim
        new = (-1,) * front + tuple(d if old.shape[i] > 1 else -1 for i, d in enumerate(dims))
    else:
        return False
    watch.kept.append(result)
    watch.params[id(result)] = _Param(source.path, new)
    return True


# -- rules: (watch, func, args, kwargs, result) ---------------------------------------------------------


def _unknown(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    watch.fix(_flat((args, kwargs)), f"it goes through {func.overloadpacket.__name__}, which is not understood")
    for part in _flat(result):
        watch.put(part, None)


def _same(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    watch.put(result, watch.of(args[0]))


def _new(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    watch.put(result, None)


def _moved(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """What only moves values is done to the labels."""
    core = watch.of(args[0])
    if core is None:
        for part in _flat(result):
            watch.put(part, None)
        return
    rest = [_near(arg) for arg in args[1:]]
    labels = func(core.expand(args[0].shape), *rest, **kwargs)
    for part, moved in zip(_flat(result), _flat(labels), strict=True):
        watch.put(part, _compact(moved))


def _near(value: Any) -> Any:
    """Indices where the labels are: on the CPU."""
    if isinstance(value, (list, tuple)):
        return [_near(item) for item in value]
    return value.cpu() if isinstance(value, Tensor) else value


def _view(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    core = watch.of(args[0])
    if core is None:
        return watch.put(result, None)
    for old, new in _matched(args[0].shape, result.shape):
        varying = [d for d in old if core.shape[d] > 1]
        pieces = [result.shape[d] for d in new if result.shape[d] > 1]
        if not varying or len(pieces) < 2:
            continue
        alone = len([d for d in old if args[0].shape[d] > 1]) == 1
        if alone and len(pieces) == 2 and core.numel() == core.shape[varying[0]]:
            watch.ledger.evenly.append((core.flatten(), pieces[0], True))
        else:
            watch.ledger.fix(core, "its channels are dealt out over several dimensions")
    labels = core.expand(args[0].shape).reshape(result.shape)
    return watch.put(result, _compact(labels))


def _matched(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Which dimensions of one shape become which of the other."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        a, b = [i] if i < len(old) else [], [j] if j < len(new) else []
        p, q = (old[i] if a else 1), (new[j] if b else 1)
        i, j = i + len(a), j + len(b)
        while p != q:
            if p < q:
                if i >= len(old):
                    break
                p, a, i = p * old[i], [*a, i], i + 1
            else:
                if j >= len(new):
                    break
                q, b, j = q * new[j], [*b, j], j + 1
        found.append((a, b))
    return found


def _split(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    core, x = watch.of(args[0]), args[0]
    dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % x.ndim
    if core is not None and core.shape[dim] > 1 and len(result) > 1:
        sizes = {part.shape[dim] for part in result}
        _blocks(watch, core, dim, len(result) if len(sizes) == 1 else 0)
    _moved(watch, func, args, kwargs, result)


def _blocks(watch: Watch, core: Tensor, dim: int, blocks: int) -> None:
    if blocks and core.numel() == core.shape[dim]:
        watch.ledger.evenly.append((core.flatten(), blocks, False))
    else:
        watch.ledger.fix(core, "it is cut at a fixed place")


def _slice(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    core, x = watch.of(args[0]), args[0]
    dim = (args[1] if len(args) > 1 else 0) % x.ndim
    size, part = x.shape[dim], result.shape[dim]
    if core is not None and core.shape[dim] > 1 and part != size:
        start = args[2] if len(args) > 2 and args[2] is not None else 0
        start = start + size if start < 0 else start
        step = args[4] if len(args) > 4 else 1
        even = step == 1 and part > 0 and size % part == 0 and start % part == 0
        _blocks(watch, core, dim, size // part if even else 0)
    _moved(watch, func, args, kwargs, result)


def _picked(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """One or some places along dimensions; fixed numbers, so that these dimensions cannot shrink."""
    core, x = watch.of(args[0]), args[0]
    name = func.overloadpacket.__name__
    if name == "index":
        if any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
            return _unknown(watch, func, args, kwargs, result)
        dims = [d for d, i in enumerate(args[1]) if i is not None]
    elif name in ("roll", "flip"):
        given = args[2] if name == "roll" and len(args) > 2 else args[1] if name == "flip" else ()
        dims = [d % x.ndim for d in ([given] if isinstance(given, int) else given)] or list(range(x.ndim))
    else:
        dims = [(args[1] if len(args) > 1 else 0) % x.ndim]
    if core is not None and any(core.shape[d] > 1 for d in dims):
        watch.ledger.fix(core, "single channels of it are picked by their place")
    return _moved(watch, func, args, kwargs, result)


def _cat(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    cores = [watch.of(part) for part in args[0]]
    full = [
        torch.zeros(part.shape, dtype=torch.int64) if core is None else core.expand(part.shape)
        for part, core in zip(args[0], cores, strict=True)
    ]
    watch.put(result, _compact(func(full, *args[1:], **kwargs)))


def _pad(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    core, x, pads = watch.of(args[0]), args[0], args[1]
    if core is None:
        return watch.put(result, None)
    for k in range(len(pads) // 2):
        dim, (before, after) = x.ndim - 1 - k, pads[2 * k : 2 * k + 2]
        if core.shape[dim] > 1 and (before or after):
            if before < 0 or after < 0:
                watch.ledger.fix(core, "it is cut at a fixed place")
                return watch.put(result, None)
            shape = list(core.shape)
            ends = [torch.zeros([*shape[:dim], n, *shape[dim + 1 :]], dtype=core.dtype) for n in (before, after)]
            core = torch.cat([ends[0], core, ends[1]], dim)
    return watch.put(result, core)


def _plane(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Poolings and the like: each channel by itself, over the last dimensions."""
    name, core = func.overloadpacket.__name__, watch.of(args[0])
    spatial = next((int(c) for c in name if c in "123"), 2)
    first = result[0] if isinstance(result, (tuple, list)) else result
    if core is not None:
        core = watch.merged(core, range(args[0].ndim - spatial))
    for part in _flat(result):
        watch.put(part, core if isinstance(part, Tensor) and part.ndim == first.ndim else None)


def _reduce(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    core, x = watch.of(args[0]), args[0]
    given = args[1] if len(args) > 1 else kwargs.get("dim")
    dims = [given] if isinstance(given, int) and not isinstance(given, bool) else given
    if not isinstance(dims, (list, tuple)) or not dims:
        dims = range(x.ndim)
    gone = {d % x.ndim for d in dims} if x.ndim else set()
    if core is not None:
        core = watch.merged(core, [d for d in range(x.ndim) if d not in gone])
        first = next(part for part in _flat(result) if isinstance(part, Tensor))
        if first.ndim < x.ndim:
            core = core.reshape([s for d, s in enumerate(core.shape) if d not in gone])
    for part in _flat(result):
        watch.put(part, core)


def _softmax(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    core = watch.of(args[0])
    if core is not None and core.shape[args[1] % args[0].ndim] > 1:
        watch.ledger.fix(core, "a softmax runs over its channels")
    watch.put(result, core)


def _batch_norm(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    core, x = watch.of(args[0]), args[0]
    out = next(part for part in _flat(result) if isinstance(part, Tensor))
    tensors = [t for t in args[1:5] if isinstance(t, Tensor)]
    homes = [watch.owner(t, nn.modules.batchnorm._BatchNorm) for t in tensors]
    home = homes[0] if homes else None
    if home is not None:
        watch.ran.add(home[0])
    if core is not None:
        core = watch.merged(core, (1,))
        if tensors and home is None:
            watch.ledger.fix(core, "a normalisation of another kind runs over it")
        elif home is not None:
            _read(watch, core.flatten(), (home[0], "norm", 0), x.shape[1])
    for part in _flat(result):
        watch.put(part, core if part is out else None)


def _read(watch: Watch, labels: Tensor, key: Key, size: int) -> None:
    """A layer reads these channels: theirs and its own are one, but where there is no channel."""
    own, labels = watch.ledger.slot(key, size), labels.expand(size)
    watch.ledger.unite(own[labels != 0], labels[labels != 0])


def _layer_norm(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    core, count = watch.of(args[0]), len(args[1])
    if core is not None and math.prod(core.shape[-count:]) > 1:
        watch.ledger.fix(core, "a LayerNorm takes its mean over all channels, so that none can go without a trace")
    for i, part in enumerate(_flat(result)):
        watch.put(part, core if i == 0 else None)


def _group_norm(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    core = watch.of(args[0])
    if core is not None:
        watch.ledger.fix(core, "a GroupNorm takes its mean over several channels, so that none can go without a trace")
    for i, part in enumerate(_flat(result)):
        watch.put(part, core if i == 0 else None)


def _weight(watch: Watch, tensor: Any, kinds: type | tuple[type, ...], dims: tuple[int, int]) -> tuple[str, str] | None:
    """Path of the module, or else of the parameter, whose weight this is, its bias' path; None: not a weight as it is."""
    found = watch.param(tensor)
    if found is None or found.dims[:2] != dims:
        return None
    home, _, name = found.path.rpartition(".")
    module = watch.modules[home]
    if isinstance(module, kinds) and name == "weight":
        watch.ran.add(home)
        return home, f"{home}.bias" if home else "bias"
    return found.path, ""


def _unreadable(watch: Watch, weight: Any, what: str) -> str:
    """Why the channels before a layer stay whose weight `_weight` could not tell."""
    found = watch.param(weight)
    if found is None:
        return f"the weights of a {what} behind it are computed, not stored"
    return f"a {what} behind it computes with {found.path} in another way than the layer that holds it (a tied weight)"


def _bias(watch: Watch, tensor: Any, own: str, labels: Tensor) -> None:
    """A bias that is not the layer's own goes with the outputs, too."""
    if not isinstance(tensor, Tensor) or tensor.ndim != 1:
        return
    found = watch.param(tensor)
    if found is None:
        watch.ledger.fix(labels, "its bias is computed")
    elif found.path != own:
        watch.ledger.unite(watch.ledger.slot(watch.key(found, 0), len(tensor)), labels)


def _convolution(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    x, weight, bias, transposed, groups = args[0], args[1], args[2], args[6], args[8]
    core = watch.of(x)
    home = _weight(watch, weight, nn.modules.conv._ConvNd, (0, 1))
    known = home is not None and (home[1] != "" or groups == 1)
    if known and home is not None and home[1]:  # a transposed convolution may borrow the weight of one that is not
        owner = watch.modules[home[0]]
        known = (owner.transposed, owner.groups) == (transposed, groups)
    if not known or home is None:
        watch.fix([x], _unreadable(watch, weight, "convolution"))
        return watch.put(result, None)
    path, own = home
    out_dim, in_dim = (1, 0) if transposed else (0, 1)
    loose = own == ""
    inside, outside = x.shape[1], result.shape[1]
    if core is not None:
        _read(watch, watch.merged(core, (1,)).flatten(), (path, "in", in_dim if loose else 0), inside)
    ins = watch.ledger.slot((path, "in", in_dim if loose else 0), inside)
    outs = watch.ledger.slot((path, "out", out_dim if loose else 0), outside)
    if groups > 1:
        if core is None:
            watch.ledger.fix(ins, "the input of the network must keep its channels")
        elif bool((lost := watch.merged(core, (1,)).flatten().expand(inside) == 0).any()):
            watch.ledger.fix(ins[lost], "the input of the network must keep its channels")
        if whole_groups(watch.modules[path]):
            blocks = torch.cat([ins.view(groups, -1), outs.view(groups, -1)], 1)
            watch.ledger.unite(blocks[:, :1].expand(blocks.shape), blocks)
        else:
            watch.ledger.evenly += [(ins, groups, False), (outs, groups, False)]
    _bias(watch, bias, own, outs)
    return watch.put(result, watch.ledger.roots(outs).view(1, -1, *[1] * (result.ndim - 2)))


def _addmm(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    _product(watch, args[1], args[2], args[0], result)


def _mm(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    _product(watch, args[0], args[1], None, result)


def _linear(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    _product(watch, args[0], args[1], args[2] if len(args) > 2 else None, result, turned=False)


def _product(watch: Watch, x: Tensor, weight: Tensor, bias: Any, result: Tensor, *, turned: bool = True) -> None:
    """A matrix of rows times a stored matrix."""
    home = _weight(watch, weight, nn.Linear, (1, 0) if turned else (0, 1))
    if home is None:
        if watch.param(weight) is None and turned and bias is None:
            return _matrices(watch, x.unsqueeze(0), weight.unsqueeze(0), result, watch.of(x), watch.of(weight))
        watch.fix([x, weight, bias], _unreadable(watch, weight, "layer"))
        return watch.put(result, None)
    path, own = home
    loose = own == ""
    core = watch.of(x)
    ins = (path, "in", 1 if loose else 0)
    if core is not None:
        _read(watch, watch.merged(core, (x.ndim - 1,)).flatten(), ins, x.shape[-1])
    watch.ledger.slot(ins, x.shape[-1])
    outs = watch.ledger.slot((path, "out", 0), result.shape[-1])
    _bias(watch, bias, own, outs)
    return watch.put(result, watch.ledger.roots(outs))


def _bmm(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    _matrices(watch, args[0], args[1], result, watch.of(args[0]), watch.of(args[1]))


def _matrices(watch: Watch, a: Tensor, b: Tensor, result: Tensor, left: Tensor | None, right: Tensor | None) -> None:
    """Products of two activations: what is summed over goes together; rows and columns go on."""
    none = torch.zeros(1, 1, 1, dtype=torch.int64)
    left, right = (none if core is None else core.view(-1, *core.shape[-2:]) for core in (left, right))
    rows, columns = left, right
    if left.shape[2] > 1 or right.shape[1] > 1:
        inner = watch.merged(left, (0, 2)), watch.merged(right, (0, 1)).transpose(1, 2)
        watch.ledger.unite(*torch.broadcast_tensors(*inner))
        rows = none if left.shape[2] > 1 else rows
        columns = none if right.shape[1] > 1 else columns
    shape = (max(rows.shape[0], columns.shape[0]), rows.shape[1], columns.shape[2])
    rows, columns = rows.expand(shape), columns.expand(shape)
    both = (rows != 0) & (columns != 0)
    watch.ledger.unite(rows[both], columns[both])
    merged = watch.ledger.roots(torch.maximum(rows, columns))
    watch.put(result, merged if result.ndim == 3 else merged[0])


def _pointwise(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    tensors = [v for v in _flat((args, kwargs)) if isinstance(v, Tensor) and v.numel() > 1]
    outs = [part for part in _flat(result) if isinstance(part, Tensor)]
    rank = outs[0].ndim
    aligned = [(t, watch.of(t)) for t in tensors]
    cores = [core.view(*[1] * (rank - core.ndim), *core.shape) for _, core in aligned if core is not None]
    if not cores:
        for part in outs:
            watch.put(part, None)
        return
    varying = {d for core in cores for d, size in enumerate(core.shape) if size > 1}
    for tensor, core in aligned:
        if core is not None:
            continue
        front = rank - tensor.ndim
        shared = [d for d in varying if d >= front and tensor.shape[d - front] > 1]
        if not shared:
            continue
        found = watch.param(tensor)
        if found is not None and len(shared) == 1 and found.dims[shared[0] - front] >= 0:
            dim = shared[0]
            own = watch.ledger.slot(watch.key(found, found.dims[dim - front]), tensor.shape[dim - front])
            cores.append(own.view([-1 if d == dim else 1 for d in range(rank)]))
        else:
            for labels in cores:
                watch.ledger.fix(labels, "it is combined with values that belong to no channel")
    united = torch.broadcast_tensors(*cores)
    for other in united[1:]:
        watch.ledger.unite(united[0], other)
    merged = _compact(watch.ledger.roots(united[0]))
    for part in outs:
        watch.put(part, merged)


def _fill(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    watch.fix([args[0]], "it is written over in place")
    watch.put(result, None)


def _copy(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    watch.fix(args[:2], "it is written over in place")


def _strided(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    if list(args[1]) == list(args[0].shape):
        return _same(watch, func, args, kwargs, result)
    return _unknown(watch, func, args, kwargs, result)


# Element by element, though torch does not say so of all of them.
_POINTWISE = {"_prelu_kernel", "prelu", "where", "native_dropout", "masked_fill", "bernoulli"}
_POINTWISE |= {
    name + end for name in ("hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu") for end in ("", "_")
}
_POINTWISE |= {name + end for name in ("softplus", "mish", "silu", "gelu", "relu6", "threshold") for end in ("", "_")}
_LIKE = ("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like")  # made as wide as their model
_NEW = ("new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided")
_RULES: dict[str, Any] = {
    **dict.fromkeys(_LIKE, _same),
    **dict.fromkeys(_NEW, _new),
    **dict.fromkeys(("detach", "alias", "clone", "_to_copy", "contiguous", "lift_fresh", "bernoulli_"), _same),
    **dict.fromkeys(("transpose", "permute", "t", "expand", "unsqueeze", "squeeze", "movedim", "repeat"), _moved),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), _view),
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    **dict.fromkeys(("select", "unbind", "index_select", "index", "roll", "flip"), _picked),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "min", "std", "var", "logsumexp", "prod"), _reduce),
    **dict.fromkeys(("_softmax", "_safe_softmax", "_log_softmax"), _softmax),
    **dict.fromkeys(
        (
            "native_batch_norm",
            "cudnn_batch_norm",
            "miopen_batch_norm",
            "_native_batch_norm_legit",
            "_native_batch_norm_legit_no_training",
            "_batch_norm_with_update",
            "_batch_norm_no_update",
        ),
        _batch_norm,
    ),
    **dict.fromkeys(("fill_", "zero_"), _fill),
    **dict.fromkeys(("as_strided", "as_strided_"), _strided),
    "slice": _slice,
    "cat": _cat,
    "stack": _cat,
    "constant_pad_nd": _pad,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "convolution": _convolution,
    "addmm": _addmm,
    "mm": _mm,
    "linear": _linear,
    "bmm": _bmm,
    "copy_": _copy,
}
