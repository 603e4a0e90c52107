"""Operations that combine values: along a channel each by itself, over all channels, or place by place.

A rule takes (watch, func, args, kwargs, result): the operation as torch dispatched it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from limbeck.compress.pruning.labels.watch import Watch, compact, flat


def plane(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Poolings and the like: each channel by itself, over the last dimensions."""
    name, core = func.overloadpacket.__name__, watch.of(args[0])
    spatial = next((int(c) for c in name if c in "123"), 2)
    first = result[0] if isinstance(result, (tuple, list)) else result
    if core is not None:
        core = watch.merged(core, range(args[0].ndim - spatial))
    for part in flat(result):
        watch.put(part, core if isinstance(part, Tensor) and part.ndim == first.ndim else None)


def reduce(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    core, x = watch.of(args[0]), args[0]
    given = args[1] if len(args) > 1 else kwargs.get("dim")
    dims = [given] if isinstance(given, int) and not isinstance(given, bool) else given
    if not isinstance(dims, (list, tuple)) or not dims:
        dims = range(x.ndim)
    gone = {d % x.ndim for d in dims} if x.ndim else set()
    if core is not None:
        core = watch.merged(core, [d for d in range(x.ndim) if d not in gone])
        first = next(part for part in flat(result) if isinstance(part, Tensor))
        if first.ndim < x.ndim:
            core = core.reshape([s for d, s in enumerate(core.shape) if d not in gone])
    for part in flat(result):
        watch.put(part, core)


def softmax(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    core = watch.of(args[0])
    if core is not None and core.shape[args[1] % args[0].ndim] > 1:
        watch.ledger.fix(core, "a softmax runs over its channels")
    watch.put(result, core)


def layer_norm(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    core, count = watch.of(args[0]), len(args[1])
    if core is not None and math.prod(core.shape[-count:]) > 1:
        watch.ledger.fix(core, "a LayerNorm takes its mean over all channels, so that none can go without a trace")
    for i, part in enumerate(flat(result)):
        watch.put(part, core if i == 0 else None)


def group_norm(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    core = watch.of(args[0])
    if core is not None:
        watch.ledger.fix(core, "a GroupNorm takes its mean over several channels, so that none can go without a trace")
    for i, part in enumerate(flat(result)):
        watch.put(part, core if i == 0 else None)


def pointwise(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    tensors = [v for v in flat((args, kwargs)) if isinstance(v, Tensor) and v.numel() > 1]
    outs = [part for part in flat(result) if isinstance(part, Tensor)]
    rank = outs[0].ndim
    aligned = [(t, watch.of(t)) for t in tensors]
    cores = [core.view(*[1] * (rank - core.ndim), *core.shape) for _, core in aligned if core is not None]
    if not cores:
        for part in outs:
            watch.put(part, None)
        return
    varying = sorted({d for core in cores for d, size in enumerate(core.shape) if size > 1})
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
    merged = compact(watch.ledger.roots(united[0]))
    for part in outs:
        watch.put(part, merged)
