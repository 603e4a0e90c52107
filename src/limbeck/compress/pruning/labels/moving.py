"""Operations that only move values, or make new ones: what they do to values they do to labels.

A rule takes (watch, func, args, kwargs, result): the operation as torch dispatched it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.compress.pruning.labels.watch import Watch, compact, flat


def unknown(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    watch.fix(flat((args, kwargs)), f"it goes through {func.overloadpacket.__name__}, which is not understood")
    for part in flat(result):
        watch.put(part, None)


def same(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    watch.put(result, watch.of(args[0]))


def made_anew(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    watch.put(result, None)


def moved(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """What only moves values is done to the labels."""
    core = watch.of(args[0])
    if core is None:
        for part in flat(result):
            watch.put(part, None)
        return
    rest = [_near(arg) for arg in args[1:]]
    labels = func(core.expand(args[0].shape), *rest, **kwargs)
    for part, new in zip(flat(result), flat(labels), strict=True):
        watch.put(part, compact(new))


def _near(value: Any) -> Any:
    """Indices where the labels are: on the CPU."""
    if isinstance(value, (list, tuple)):
        return [_near(item) for item in value]
    return value.cpu() if isinstance(value, Tensor) else value


def view(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
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
    return watch.put(result, compact(labels))


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


def split(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    core, x = watch.of(args[0]), args[0]
    dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % x.ndim
    if core is not None and core.shape[dim] > 1 and len(result) > 1:
        sizes = {part.shape[dim] for part in result}
        _blocks(watch, core, dim, len(result) if len(sizes) == 1 else 0)
    moved(watch, func, args, kwargs, result)


def _blocks(watch: Watch, core: Tensor, dim: int, blocks: int) -> None:
    if blocks and core.numel() == core.shape[dim]:
        watch.ledger.evenly.append((core.flatten(), blocks, False))
    else:
        watch.ledger.fix(core, "it is cut at a fixed place")


def sliced(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    core, x = watch.of(args[0]), args[0]
    dim = (args[1] if len(args) > 1 else 0) % x.ndim
    size, part = x.shape[dim], result.shape[dim]
    if core is not None and core.shape[dim] > 1 and part != size:
        start = args[2] if len(args) > 2 and args[2] is not None else 0
        start = start + size if start < 0 else start
        step = args[4] if len(args) > 4 else 1
        even = step == 1 and part > 0 and size % part == 0 and start % part == 0
        _blocks(watch, core, dim, size // part if even else 0)
    moved(watch, func, args, kwargs, result)


def picked(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """One or some places along dimensions; fixed numbers, so that these dimensions cannot shrink."""
    core, x = watch.of(args[0]), args[0]
    name = func.overloadpacket.__name__
    if name == "index":
        if any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
            return unknown(watch, func, args, kwargs, result)
        dims = [d for d, i in enumerate(args[1]) if i is not None]
    elif name in ("roll", "flip"):
        given = args[2] if name == "roll" and len(args) > 2 else args[1] if name == "flip" else ()
        dims = [d % x.ndim for d in ([given] if isinstance(given, int) else given)] or list(range(x.ndim))
    else:
        dims = [(args[1] if len(args) > 1 else 0) % x.ndim]
    if core is not None and any(core.shape[d] > 1 for d in dims):
        watch.ledger.fix(core, "single channels of it are picked by their place")
    return moved(watch, func, args, kwargs, result)


def cat(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    cores = [watch.of(part) for part in args[0]]
    full = [
        torch.zeros(part.shape, dtype=torch.int64) if core is None else core.expand(part.shape)
        for part, core in zip(args[0], cores, strict=True)
    ]
    watch.put(result, compact(func(full, *args[1:], **kwargs)))


def pad(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
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


def filled(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    watch.fix([args[0]], "it is written over in place")
    watch.put(result, None)


def copied_over(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    watch.fix(args[:2], "it is written over in place")


def strided(watch: Watch, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    if list(args[1]) == list(args[0].shape):
        return same(watch, func, args, kwargs, result)
    return unknown(watch, func, args, kwargs, result)
