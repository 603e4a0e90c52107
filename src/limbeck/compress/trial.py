"""What a network must do before it is compressed, and still do before it is handed over; tried out on copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batches import batch_size, resized
from limbeck.compress.answers import tensors
from limbeck.errors import LimbeckError, NonFiniteError, listed
from limbeck.models.swap import copied
from limbeck.randomness import own_random_numbers
from limbeck.taps import original, title


def require_runs(model: nn.Module, example: Any) -> None:
    """Refuse an example that the network does not take, before anything is made of it.

    A copy runs, in eval mode; random numbers are the caller's afterwards.

    Raises:
        LimbeckError: the batch is empty, or the network fails on it; the message says with what.

    >>> require_runs(nn.Linear(4, 2), torch.zeros(8, 3))
    Traceback (most recent call last):
    limbeck.errors.LimbeckError: this Linear does not run on the example, a tensor [8, 3]: RuntimeError: ...
    """
    _require_made(model)
    if isinstance(example, (Tensor, Mapping)):
        batch_size(example)
    error = _fails(model, example, train=False)
    if error is not None:
        raise LimbeckError(
            f"this {title(model)} does not run on the example, {worded(example)}: {type(error).__name__}: {_line(error)}. Give "
            "a batch of inputs as the network takes it, on its device: a tensor [batch, ...], or a mapping of such, which become keyword "
            "arguments"
            + ("; of a batch with targets the inputs alone, example[0]" if isinstance(example, (tuple, list)) else "")
        ) from error


def require_finite(model: nn.Module) -> None:
    """Refuse a network with NaN or infinity among its parameters or the statistics of its normalisation.

    Raises:
        NonFiniteError: with the first tensor that holds some, and how many.

    >>> net = nn.Linear(4, 2)
    >>> require_finite(net)
    """
    _require_made(model)
    for path, part in model.named_modules():
        own = dict(part.named_parameters(recurse=False))
        own |= {name: value for name, value in part.named_buffers(recurse=False) if name.startswith("running_")}
        for name, value in own.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                nan, inf = int(value.isnan().sum()), int(value.isinf().sum())
                raise NonFiniteError(
                    f"{f'{path}.' if path else ''}{name} is non-finite: it holds {nan} NaN and {inf} inf among {value.numel()} values; "
                    "use weights from before the training went wrong"
                )


def _require_made(model: nn.Module) -> None:
    lazy = [name for name, p in (*model.named_parameters(), *model.named_buffers()) if nn.parameter.is_lazy(p)]
    if lazy:
        raise LimbeckError(
            f"{listed(lazy)} of this {title(model)} {'is' if len(lazy) == 1 else 'are'} not there yet (lazy): run the network on a batch first, model(inputs)"
        )


def smallest(model: nn.Module, example: Any, samples: int) -> Any:
    """The example with so many samples or, where the network does not take so few, with more: at the most as it is.

    A network that folds the frames of a film into its batch, say, takes certain numbers of samples only.
    """
    while samples < batch_size(example):
        inputs = resized(example, samples)
        if _fails(model, inputs, train=False) is None:
            return inputs
        samples *= 2
    return example


def answers(model: nn.Module, inputs: Any) -> list[Tensor] | None:
    """All tensors of what a copy answers in eval mode; None where it fails on these inputs.

    >>> [tuple(one.shape) for one in answers(nn.Linear(4, 2), torch.zeros(3, 4)) or []], answers(nn.Linear(4, 2), torch.zeros(3))
    ([(3, 2)], None)
    """
    found: list[Tensor] = []
    return None if _fails(model, inputs, train=False, answered=found) is not None else found


def require_trainable(new: nn.Module, old: nn.Module, example: Any) -> None:
    """Refuse a network that no longer runs, or not in train mode where the one that it was made from does.

    Both run as copies; random numbers are the caller's afterwards.

    Args:
        new: the compressed network.
        old: the one that it was made from.
        example: a batch as they take it.

    Raises:
        LimbeckError: it fails, or what runs only while training does not fit any more.
    """
    error = _fails(new, example, train=False)
    if error is not None:
        raise LimbeckError(
            f"this {title(old)} cannot be compressed so: the smaller network fails with {type(error).__name__}: {_line(error)}. Its "
            "forward counts on sizes of before, or takes a dimension of one for none at all (a squeeze); compress it less "
            "(with Prune, a larger `minimum`), leave those layers out (ignore, keep or layers), or take that part out of the network"
        )
    error = _fails(new, example, train=True)
    if error is not None and _fails(old, example, train=True) is None:
        raise LimbeckError(
            f"this {title(old)} cannot be compressed so: in train mode the smaller network fails with {type(error).__name__}: "
            f"{_line(error)}. A part of its forward that runs only while training (if self.training) counts on the sizes or "
            "parameters of before; leave those layers out (ignore, keep or layers), or take that part out of the network"
        )


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def worded(example: Any) -> str:
    """What was given, in words.

    >>> worded((torch.zeros(8, 3), torch.zeros(8, dtype=torch.int64))), worded({"x": torch.zeros(2, 4)}), worded(None)
    ('a tuple of a tensor [8, 3] and a tensor [8] int64', 'a mapping of x (a tensor [2, 4])', 'None')
    """
    if isinstance(example, Tensor):
        kind = "" if example.dtype == torch.float32 else f" {str(example.dtype).removeprefix('torch.')}"
        return f"a tensor {list(example.shape)}{kind}"
    if isinstance(example, Mapping):
        return f"a mapping of {listed(f'{key} ({worded(value)})' for key, value in example.items())}"
    if isinstance(example, (tuple, list)) and example:
        return f"a {type(example).__name__} of {listed((worded(part) for part in example), 2, ' and ')}"
    return "None" if example is None else f"of type {type(example).__name__}"


def _fails(model: nn.Module, example: Any, *, train: bool, answered: list[Tensor] | None = None) -> Exception | None:
    own = copied(original(model))
    with own_random_numbers(), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        try:
            own.train(train)
            output = own(**example) if isinstance(example, Mapping) else own(example)
            if answered is not None:
                answered += tensors(output)
        except Exception as error:  # whatever the forward of a user's network raises
            return error
    return None
