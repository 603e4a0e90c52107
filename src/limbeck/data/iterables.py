"""Batches from anything that users iterate over: tuples, dicts, arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import DataError, ShapeError, TargetError
from limbeck.phase import Batch

TARGETS = ("labels", "label", "targets", "target", "y")
INPUTS = ("inputs", "input", "x", "image", "images", "img", "data")

_UNDERSTOOD = (
    "limbeck understands a Batch, (inputs, targets), (inputs,), a tensor, or a dict with the targets under "
    f"{', '.join(TARGETS)}"
)


class Batches:
    """An iterable of batches in whatever form `to_batch` understands, as `Batch`es, anew on every walk.

    Args:
        batches: a list, a DataLoader, or any object whose ``__iter__`` starts anew.
        what: what to call them in an error.

    Raises:
        DataError: they can be walked only once, or not at all, or are a single batch; in a walk: `to_batch` understands
            one of them not.

    >>> [batch.inputs.shape for batch in Batches([(torch.zeros(2, 3), torch.tensor([0, 1]))])]
    [torch.Size([2, 3])]
    """

    seeks = False  # to come to the middle of an epoch, its first half is walked again

    def __init__(self, batches: Iterable[Any], what: str = "the training batches") -> None:
        kind = type(batches).__name__
        if isinstance(batches, Iterator):
            raise DataError(
                f"{what} are a {kind}, which can be walked only once; give something that can be "
                "walked every epoch: a list, a DataLoader, or an object whose __iter__ starts anew"
            )
        if isinstance(batches, (Tensor, np.ndarray, Batch, Mapping, str)):  # iterable, but not over batches
            raise DataError(f"{what} are a single {kind}; give several, or a list of one: [...]")
        if _is_pair(batches):
            other = "" if batches[0].ndim != batches[1].ndim else "; two batches of inputs go in a list, too: [x, y]"
            raise DataError(
                f"{what} are a single pair of inputs and targets; give several, or a list of one: [(x, y)]{other}"
            )
        if not isinstance(batches, Iterable):
            raise DataError(f"{what} are a {kind}; an iterable of (inputs, targets) or of dicts is needed")
        self.batches = batches

    @property
    def steps(self) -> int | None:
        """How many there are in an epoch, where the object that gives them says so."""
        try:
            return len(self.batches)  # type: ignore[arg-type]
        except TypeError:
            return None

    @property
    def rows(self) -> int | None:
        """How many rows the batches' ``rows`` count, where the object that gives them says so."""
        rows = getattr(self.batches, "rows", None)
        return rows if isinstance(rows, int) else None

    def epoch(self, epoch: int, rank: int = 0, world: int = 1, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch; a sampler that wants to know which one is told."""
        set_epoch = getattr(getattr(self.batches, "sampler", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
        yield from self

    def __iter__(self) -> Iterator[Batch]:
        for item in self.batches:
            yield to_batch(item)


def to_batch(obj: Any) -> Batch:
    """What an iterable of batches yielded, as a `Batch`.

    - A `Batch` is itself; ``(x, y)`` are inputs and targets; ``(x,)`` and a bare tensor are inputs alone.
    - In a dict, targets are under "labels", "label", "targets", "target" or "y", and row ids may be under
      "rows".  Of what remains, a single tensor with a name that says no more than "the input" (inputs, input, x,
      image, images, img, data) becomes the tensor; anything else stays a mapping, for ``model(**inputs)``.
    - NumPy arrays become tensors, those of float64 float32; one-dimensional whole numbers in the targets become int64.

    Raises:
        DataError: it is none of these.
        ShapeError: inputs and targets differ in their number of samples.

    >>> to_batch((torch.zeros(2, 3), torch.tensor([0, 1]))).targets
    tensor([0, 1])
    >>> sorted(to_batch({"pixel_values": torch.zeros(2, 3), "labels": torch.tensor([0, 1])}).inputs)
    ['pixel_values']
    """
    if isinstance(obj, Batch):
        return obj
    rows = None
    if isinstance(obj, Mapping):
        inputs, targets, rows = _from_mapping(obj)
    elif isinstance(obj, (tuple, list)):
        if len(obj) not in (1, 2):
            raise DataError(
                f"a batch came as a {type(obj).__name__} of {len(obj)} things ({_what(obj)}); {_UNDERSTOOD}"
            )
        inputs, targets = obj[0], (obj[1] if len(obj) == 2 else None)
    else:
        inputs, targets = obj, None
    batch = Batch(_inputs(inputs), _targets(targets), None if rows is None else _tensor(rows))
    _check_lengths(batch)
    return batch


def _is_pair(value: Any) -> TypeGuard[Sequence[Tensor | np.ndarray]]:
    """Whether this is inputs and targets of one batch: a tuple of as many rows each, or two tensors of other dimensions.

    Two batches of inputs alone have as many dimensions, and come in a list.
    """
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        return False
    first, second = value
    if not all(isinstance(part, (Tensor, np.ndarray)) for part in value):
        return False
    return first.ndim != second.ndim or (isinstance(value, tuple) and first.shape[:1] == second.shape[:1])


def check_targets(batch: Batch, classes: int) -> None:
    """Check that the targets name classes: ids ``[batch]``, or ``[batch, classes]`` with numbers in [0, 1].

    Raises:
        TargetError: they are missing, of the wrong type or shape, or outside ``0..classes - 1``; the message
            names the sample, and its row where that is known.
    """
    targets = batch.targets
    if not isinstance(targets, Tensor):
        what = "no targets" if targets is None else f"targets of type {type(targets).__name__}"
        raise TargetError(f"the batch has {what}; labels are a tensor of class ids [batch], or of [batch, {classes}]")
    if targets.dim() == 2 and targets.shape[1] == classes:
        bad = ~((targets >= 0) & (targets <= 1))  # written so that NaN is bad, too
        if bad.any():
            sample, column = bad.nonzero()[0].tolist()
            raise TargetError(
                f"target {targets[sample, column].item()} of class {column}, {_sample(batch, sample)}: "
                f"[batch, classes] targets are numbers in [0, 1]"
            )
        return
    if targets.dim() != 1:
        raise TargetError(
            f"targets are {list(targets.shape)}; they are class ids [batch], or [batch, {classes}] for {classes} classes"
        )
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise TargetError(f"class ids are whole numbers (int64); the targets are {targets.dtype}")
    bad = (targets < 0) | (targets >= classes)
    if bad.any():
        sample = int(bad.nonzero()[0])
        raise TargetError(
            f"label {int(targets[sample])}, {_sample(batch, sample)}: outside 0..{classes - 1} ({classes} classes)"
        )


def _sample(batch: Batch, sample: int) -> str:
    row = "" if batch.rows is None else f" (row {int(batch.rows[sample])})"
    return f"sample {sample} of the batch{row}"


def _from_mapping(obj: Mapping[Any, Any]) -> tuple[Any, Any, Any]:
    named = [name for name in TARGETS if name in obj]
    if len(named) > 1:
        raise DataError(f"a batch came with targets under both {named[0]!r} and {named[1]!r}; leave one of them out")
    targets = obj[named[0]] if named else None
    rest = {k: v for k, v in obj.items() if k not in (*named, "rows") and v is not None}
    if not rest:
        raise DataError(
            f"a batch came as a dict with the keys {', '.join(map(str, obj)) or 'none'}: no inputs in it; {_UNDERSTOOD}"
        )
    alone = next(iter(rest)) if len(rest) == 1 else None
    return (rest[alone] if alone in INPUTS else rest), targets, obj.get("rows")


def _tensor(value: Any) -> Any:
    """NumPy to tensors; anything else as it is."""
    if not isinstance(value, (np.ndarray, np.generic)) or value.dtype.kind not in "biufc":
        return value
    tensor = torch.from_numpy(np.array(value))  # a copy: arrays from files may be read-only or of reversed bytes
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _inputs(value: Any) -> Any:
    if isinstance(value, Mapping):
        parts = {str(k): _tensor(v) for k, v in value.items()}
        for name, part in parts.items():
            if not isinstance(part, Tensor):
                raise DataError(
                    f"the input {name!r} of a batch is a {type(part).__name__}; inputs are tensors or NumPy arrays: "
                    "leave that key out, or turn it into a tensor"
                )
        return parts
    value = _tensor(value)
    if not isinstance(value, Tensor):
        raise DataError(f"the inputs of a batch came as {_what(value)}; {_UNDERSTOOD}")
    return value


def _targets(value: Any) -> Any:
    value = _tensor(value)
    whole = isinstance(value, Tensor) and value.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32)
    return value.long() if whole and value.dim() == 1 else value


def _check_lengths(batch: Batch) -> None:
    parts = batch.inputs if isinstance(batch.inputs, Mapping) else {"inputs": batch.inputs}
    lengths = {**parts, "rows": batch.rows}
    if isinstance(batch.targets, Tensor) and batch.targets.dim() == 1:  # boxes are not one per sample
        lengths["targets"] = batch.targets
    found = {name: len(t) for name, t in lengths.items() if isinstance(t, Tensor) and t.dim()}
    if len(set(found.values())) > 1:
        raise ShapeError(
            f"a batch with different numbers of samples: {', '.join(f'{k} {v}' for k, v in found.items())}"
        )


def _what(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(type(v).__name__ for v in value[:6]) + (", ..." if len(value) > 6 else "")
    return f"a {type(value).__name__}"
