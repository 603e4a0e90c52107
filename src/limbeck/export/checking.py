"""How far what comes out of a file is from what comes out of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.export.needs import cause_of
from limbeck.export.subject import CHECKED, Subject, trials
from limbeck.phase import Batch

TOLERANCE = 1e-4  # of the largest logit: float32 sums in another order
_UNITS = 8  # of the last place, where numbers are shorter than that: half precision
_LEAST = 1e-6  # where all logits are next to nothing
_LOST = 0.5  # of the norm of the logits: an int8 network this far off gives answers of its own
_DOUBTFUL = 0.95  # of the rows answered alike: worth a word

Runs = Callable[[Sequence[Tensor]], Tensor]


def allowance(logits: Tensor) -> float:
    """How far a file may be off by default, as a part of the largest logit.

    >>> allowance(torch.zeros(1)), allowance(torch.zeros(1, dtype=torch.float16))
    (0.0001, 0.0078125)
    """
    return max(TOLERANCE, _UNITS * torch.finfo(logits.dtype).eps) if logits.is_floating_point() else TOLERANCE


def ran(run: Runs, inputs: Sequence[Tensor], what: str) -> Tensor:
    """What comes out.

    Raises:
        LimbeckError: it does not run on these inputs; the message has the reason.
    """
    try:
        return run(inputs)
    except LimbeckError:
        raise
    except Exception as error:  # whatever a user's network, or another library, raises
        shapes = ", ".join(f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for tensor in inputs)
        raise LimbeckError(f"{what} does not run on a batch of {shapes}: {cause_of(error)}") from error


def compared(
    subject: Subject, run: Runs, tolerance: float, batches: Iterable[tuple[Tensor, ...]] = ()
) -> dict[str, Any]:
    """Run network and file on batches of several sizes.

    Args:
        subject: the network.
        run: the file.
        tolerance: how large the largest difference may be, as a part of the largest logit.
        batches: what to run them on; none: `trials`.

    Raises:
        LimbeckError: another shape, a value that is not finite, or a difference above the tolerance.
    """
    given = list(batches)
    found, largest, sizes = 0.0, 0.0, []
    for inputs in given or trials(subject.example):
        expected, got = ran(subject, inputs, "the network"), ran(run, inputs, "the file")
        sizes.append(len(expected))
        _same_shape(expected, got)
        if not expected.isfinite().all():
            raise LimbeckError("the network's own logits are not finite; there is nothing to compare the file with")
        found = max(found, _furthest(expected, got))
        largest = max(largest, float(expected.abs().max()))
    allowed = max(tolerance * largest, _LEAST)
    if found > allowed:
        raise LimbeckError(
            f"what the file computes differs from the network: by {found:.3g} at most, where {allowed:.3g} is allowed "
            f"(batches of {', '.join(map(str, sizes))} rows). Nothing was kept. Something in the network works otherwise "
            "there: a network that draws random numbers in eval mode, say; try another --to"
        )
    return {
        "against": f"PyTorch {torch.__version__}",
        "rows": sizes if given else list(CHECKED),
        "max_difference": found,
        "tolerance": allowed,
    }


def quantized(subject: Subject, run: Runs, batches: Iterable[Batch]) -> dict[str, Any]:
    """How an int8 file answers beside the float network, on batches of data.

    Returns:
        Part of the rows on which both choose the same class, differences of the logits, and both accuracies where the
        batches have labels.

    Raises:
        LimbeckError: the file's answers have little to do with the network's.
    """
    rows = alike = right = right_before = labelled = 0
    off = norm = furthest = 0.0
    for batch in batches:
        inputs = subject.row_of(batch.inputs)
        if not len(inputs[0]):
            raise LimbeckError("a batch to compare on is empty; every one has a row or more")
        expected, got = ran(subject, inputs, "the network"), ran(run, inputs, "the file")
        _same_shape(expected, got)
        rows += len(expected)
        furthest = max(furthest, _furthest(expected, got))
        off += float((got.double() - expected.double()).square().sum())
        norm += float(expected.double().square().sum())
        before, after = expected.argmax(-1), got.argmax(-1)
        alike += int((before == after).sum())
        if isinstance(batch.targets, Tensor) and batch.targets.shape == after.shape:
            labels = batch.targets.cpu()
            labelled += len(labels)
            right, right_before = right + int((after == labels).sum()), right_before + int((before == labels).sum())
    relative = (off / norm) ** 0.5 if norm else float("nan")
    if not relative <= _LOST:
        raise LimbeckError(
            f"in int8 the logits are off by {relative:.0%} of their norm on {rows} rows; that is another network. Nothing "
            "was kept. Calibrate with more rows of what the network will see, compress with {kind: quantize, mode: qat}, "
            "or take --to onnx"
        )
    told: dict[str, Any] = {
        "against": f"PyTorch {torch.__version__}, float",
        "rows": rows,
        "max_difference": furthest,
        "relative_difference": relative,
        "agreement": alike / rows,
    }
    if labelled:
        told["accuracy"] = {"float": right_before / labelled, "int8": right / labelled, "rows": labelled}
    return told


def doubt(check: dict[str, Any]) -> str | None:
    """What to say of an int8 file that answers otherwise than the network too often."""
    if check.get("agreement", 1.0) >= _DOUBTFUL:
        return None
    return (
        f"in int8 the network chooses another class on {1 - check['agreement']:.1%} of {check['rows']} rows; "
        "quantization-aware training would bring them nearer"
    )


def _same_shape(expected: Tensor, got: Tensor) -> None:
    if got.shape != expected.shape:
        raise LimbeckError(
            f"the file gives {list(got.shape)} where the network gives {list(expected.shape)}; nothing was kept"
        )


def _furthest(expected: Tensor, got: Tensor) -> float:
    """The largest difference; infinity, where a number is none."""
    off = float((got.double() - expected.double()).abs().max())
    return off if off == off else float("inf")
