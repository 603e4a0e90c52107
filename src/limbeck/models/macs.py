"""How much arithmetic a forward does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.utils.flop_counter import FlopCounterMode

from limbeck.attention import slow_attention
from limbeck.batches import batch_size
from limbeck.hooks import hooked
from limbeck.randomness import own_random_numbers


def _of_vector(matrix: Any, vector: Any, *, out_shape: Any = None, **others: Any) -> int:
    return 2 * math.prod(matrix)


def _of_sum_and_vector(summand: Any, matrix: Any, vector: Any, *, out_shape: Any = None, **others: Any) -> int:
    return _of_vector(matrix, vector)


def _of_sum_of_products(summand: Any, one: Any, other: Any, *, out_shape: Any = None, **others: Any) -> int:
    return 2 * math.prod(one) * other[-1]


def _of_two(one: Any, other: Any, *, out_shape: Any = None, **others: Any) -> int:
    return 2 * math.prod(one)


def _of_three(left: Any, weight: Any, right: Any, *given: Any, out_shape: Any = None, **others: Any) -> int:
    # A bilinear layer: [batch, 1, in1, 1], [1, out, in1, in2] and [batch, 1, 1, in2], each but for its own dimensions of one.
    rows = left[0] if left else 1
    return 2 * rows * math.prod(weight)


# Products that torch's counter does not know: operations (two for a MAC) from shapes.
_PRODUCTS: dict[Any, Any] = {
    torch.ops.aten.mv: _of_vector,
    torch.ops.aten.dot: _of_two,
    torch.ops.aten.vdot: _of_two,
    torch.ops.aten.addmv: _of_sum_and_vector,
    torch.ops.aten.addbmm: _of_sum_of_products,
    torch.ops.aten._trilinear: _of_three,
}


def count_macs(model: nn.Module, inputs: Any) -> int:
    """Multiply-accumulates per sample, of convolutions, linear layers and matrix products: what papers count.

    Counted by running the model once in evaluation mode (`torch.utils.flop_counter`, a MAC being two of its
    operations), not derived from its layers.  Attention's products are included; for that, its fused kernels, which
    the counter sees past, are off meanwhile.  Recurrent layers, whose kernels it does not see either, are counted as
    two matrix products per step, direction and gate.  What parametrizations (and the older ``spectral_norm``) do to make a
    weight is not counted: it is the same for every batch, and gone once they are removed.

    Args:
        model: any module; its mode, switches and buffers are put back, even after an error, and so are random numbers.
        inputs: a batch as the model takes it; a mapping becomes keyword arguments.
    """
    batch = batch_size(inputs)
    with (
        own_random_numbers(),  # of a network that draws some in eval mode, too
        as_found(model),
        slow_attention(),
        torch.no_grad(),
        parametrize.cached(),
    ):
        to_eval(model)
        _make_weights(model)
        with (
            FlopCounterMode(display=False, custom_mapping=_PRODUCTS) as counter,
            _recurrent(model, counter) as extra,
            _spectral(model, counter) as weights,
        ):
            _ = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    return round(((counter.get_total_flops() - sum(weights)) / 2 + sum(extra)) / batch)


def to_eval(model: nn.Module) -> None:
    """Evaluation mode; a program of torch.export has the mode in which it was exported, and stays in it."""
    with suppress(NotImplementedError):
        model.eval()


def _make_weights(model: nn.Module) -> None:
    """Parametrized tensors are made now, and kept as long as `parametrize.cached` lasts."""
    for part in model.modules():
        if parametrize.is_parametrized(part):
            for name in part.parametrizations:  # pyright: ignore[reportGeneralTypeIssues]
                getattr(part, name)


@contextmanager
def as_found(*models: nn.Module) -> Iterator[None]:
    """Put back every module's mode and buffers at the end, whatever happens."""
    modules = [part for model in models for part in model.modules()]
    modes = [part.training for part in modules]
    buffers = [dict(part._buffers) for part in modules]
    values = [{k: v.detach().clone() for k, v in held.items() if v is not None} for held in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for part, mode, held, copies in zip(modules, modes, buffers, values, strict=True):
                part.training = mode
                for key, tensor in held.items():
                    part._buffers[key] = tensor
                    if tensor is not None and not tensor.is_inference():
                        tensor.copy_(copies[key])


@contextmanager
def _spectral(model: nn.Module, counter: FlopCounterMode) -> Iterator[list[int]]:
    """Operations that the hooks of ``torch.nn.utils.spectral_norm`` do before the layers that they stand at."""
    found: list[int] = []

    def first(part: nn.Module, args: tuple[Any, ...]) -> None:
        found.append(-counter.get_total_flops())

    def last(part: nn.Module, args: tuple[Any, ...]) -> None:
        found.append(counter.get_total_flops())

    parts = [m for m in model.modules() if any(isinstance(h, SpectralNorm) for h in m._forward_pre_hooks.values())]
    hooks = [
        h for m in parts for h in (m.register_forward_pre_hook(first, prepend=True), m.register_forward_pre_hook(last))
    ]
    with hooked(hooks):
        yield found


_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


@contextmanager
def _recurrent(model: nn.Module, counter: FlopCounterMode) -> Iterator[list[float]]:
    """MACs of recurrent layers by formula, less what the counter saw of them."""
    extra: list[float] = []
    seen: list[int] = []

    def before(part: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(counter.get_total_flops())

    def after(part: nn.RNNBase, args: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
        given = args[0] if args else named["input"]
        packed = isinstance(given, nn.utils.rnn.PackedSequence)
        steps = given.data.shape[0] if packed else given.shape[:-1].numel()  # time steps of all samples
        wide = 2 if part.bidirectional else 1
        out = part.proj_size or part.hidden_size
        per_step = 0
        for layer in range(part.num_layers):
            inside = part.input_size if layer == 0 else out * wide
            gates = _GATES[part.mode] * part.hidden_size * (inside + out)
            per_step += wide * (gates + part.hidden_size * part.proj_size)
        extra.append(steps * per_step - (counter.get_total_flops() - seen.pop()) / 2)

    parts = [part for part in model.modules() if isinstance(part, nn.RNNBase)]
    hooks = [
        h
        for part in parts
        for h in (part.register_forward_pre_hook(before), part.register_forward_hook(after, with_kwargs=True))
    ]
    with hooked(hooks):
        yield extra
