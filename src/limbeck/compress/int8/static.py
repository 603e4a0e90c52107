"""Quantization after training: ranges from calibration batches, or measured anew in every batch."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import fx, nn

from limbeck.compress.finished import require_unfinished
from limbeck.compress.int8.answering import answer_plainly
from limbeck.compress.int8.batches import calibrate, run
from limbeck.compress.int8.dead import remove_dead
from limbeck.compress.int8.export import as_graph, exported, free_modes
from limbeck.compress.int8.folding import keep_apart
from limbeck.compress.int8.layers import (
    in_int8,
    left_alone,
    mark_holders,
    padding,
    require_foldable,
    require_left_alone,
)
from limbeck.compress.int8.needs import quiet, require_installed
from limbeck.compress.int8.patterns import few_patterns
from limbeck.compress.int8.program import Quantized, count, takes
from limbeck.compress.plain import plain_copy
from limbeck.compress.trial import require_finite, require_runs
from limbeck.data.iterables import Batches
from limbeck.errors import LimbeckError, listed
from limbeck.randomness import own_random_numbers
from limbeck.taps import title


def float_graph(model: nn.Module, example: Any, kept: Collection[str] = ()) -> tuple[fx.GraphModule, int]:
    """The graph of a network in evaluation mode, of a copy, and the smallest batch that it takes.

    Args:
        kept: the modules that stay in float, by all their paths (`limbeck.compress.int8.layers.left_alone`).
    """
    require_unfinished(model, "Quantize")
    require_finite(model)
    require_runs(model, example)
    own = plain_copy(model).eval()  # nothing is trained any more
    answer_plainly(own, example)
    program, least = exported(own, example)
    graph = as_graph(program)
    mark_holders(graph, own, kept)
    keep_apart(graph)
    return graph, least


def quantized(
    model: nn.Module,
    example: Any,
    calibration: Iterable[Any],
    *,
    mode: str,
    per_channel: bool,
    observer: str,
    reduce_range: bool,
    skip: tuple[str, ...],
    batches: int | None,
) -> Quantized:
    """An int8 network made of a trained one; see `limbeck.compress.quantize.Quantize` for the settings."""
    calibration = Batches(calibration, "the calibration batches")
    require_installed()
    kept = left_alone(model, skip)
    graph, least = float_graph(model, example, kept)
    require_foldable(graph)
    settings: dict[str, Any] = {
        "per_channel": per_channel,
        "observer": observer,
        "reduce_range": reduce_range,
        "skip": kept,
    }
    try:
        own = count(model)
        return converted(graph, least, example, calibration, mode=mode, batches=batches, parameters=own, **settings)
    except (ValueError, TypeError, KeyError, IndexError, AssertionError) as error:
        if isinstance(error, LimbeckError):
            raise
        if doubles := [name for name, p in model.named_parameters() if p.dtype == torch.float64]:
            raise LimbeckError(
                f"torchao cannot quantize this {title(model)}, whose weights are float64 ({listed(doubles)}): make it and its inputs "
                "float32 first, with .float()"
            ) from error
        raise LimbeckError(
            f"torchao cannot quantize this {title(model)}: {type(error).__name__}: {error}. Layers whose forward does more than "
            f"torch's own are the usual cause{_suspects(model)}: put what a hook or a subclass adds into a module of its own "
            'behind the layer, or store the weights alone in int8 (mode="weights")'
        ) from error


def _suspects(model: nn.Module) -> str:
    """Layers with hooks, or of classes made from torch's, in brackets."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
    found = [
        name
        for name, part in model.named_modules()
        if isinstance(part, kinds) and (type(part) not in kinds or part._forward_hooks or part._forward_pre_hooks)
    ]
    return f" ({', '.join(found[:8])})" if found else ""


def converted(
    graph: fx.GraphModule,
    least: int,
    example: Any,
    calibration: Iterable[Any],
    *,
    mode: str,
    batches: int | None,
    parameters: int,
    skip: tuple[str, ...],
    **settings: Any,
) -> Quantized:
    """The same from the float graph, which is used up; `skip` are paths as the graph has them, `parameters` the network's."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from limbeck.compress.int8.observers import quantizer

    with quiet(), own_random_numbers(), torch.no_grad():
        padded = padding(graph) if mode == "static" else 1.0  # "dynamic" leaves convolutions in float
        watched = prepare_pt2e(graph, quantizer(mode=mode, skip=skip, **settings))
        require_left_alone(watched, skip)
        samples = 0
        if mode == "static":
            samples = calibrate(watched, least, calibration, batches, example, "static quantization")
        else:
            run(watched, least, example)  # weights are measured in a forward, too
        with few_patterns():
            made = free_modes(convert_pt2e(watched))
    remove_dead(made)
    return finished(made, least, example, mode=mode, samples=samples, parameters=parameters, padded=padded)


def finished(graph: fx.GraphModule, least: int, example: Any, *, mode: str, **more: Any) -> Quantized:
    """A converted graph as a network, if anything in it is quantized."""
    layers = in_int8(graph)
    if not layers["int8"]:
        kept = f"; skipped or unsuitable: {', '.join(layers['float'][:8])}" if layers["float"] else ""
        only = "linear layers" if mode == "dynamic" else "convolutions (1-D, 2-D) or linear layers"
        raise LimbeckError(f"nothing was quantized: mode {mode!r} finds no {only} to work on{kept}")
    return Quantized(graph, {"mode": mode, "least": least, "takes": takes(example), "layers": layers, **more})
