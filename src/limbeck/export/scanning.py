"""Which layers of a network of a run bear pruning, and which suffer from int8."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from limbeck.compress.cost import is_program
from limbeck.compress.finished import under_masks
from limbeck.compress.prune import BY
from limbeck.data import subset
from limbeck.data.images import Images
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown, unknown
from limbeck.export.runs import OpenRun, calibration, open_run
from limbeck.phase import Batch
from limbeck.recipe import Ensemble, Model, student_of
from limbeck.settings import finite, require, require_choice, require_whole

TO: tuple[str, ...] = ("prune", "int8")
PARTS = (0.1, 0.25, 0.5, 0.75, 0.9)
ROWS = 1000
_CHOICE = 0  # the seed of the rows: every network, score and repetition is judged by the same ones

Measure = Callable[[nn.Module], float]


@dataclass(frozen=True)
class Scanned:
    """What was measured, as plain data; layers stand in the order of the network.

    Attributes:
        run, stage, seed, network: which network, and what kind it is.
        passed_over: the int8 program that the run ends with, where its float network was taken instead.
        to: "prune" or "int8".
        how: of "prune" the score; of "int8" "only" (one layer alone is in int8) or "others" (all but one are).
        part: of the data that was judged by: "validation" or "training".
        rows: how many of it.
        whole: accuracy of the network as it is.
        lines: "prune": layer -> (part of its channels removed, accuracy), from (0, whole) on.
        channels: "prune": layer -> how many it has.
        along: "prune": layer -> further layers that lose the same channels.
        single: "int8": layer -> accuracy.
        int8: "int8": accuracy with all layers in int8.
        paths: layer -> what a recipe calls it; layers that cannot be named there are missing.
    """

    run: str
    stage: str
    seed: int
    network: str
    passed_over: str | None
    to: str
    how: str
    part: str
    rows: int
    whole: float
    lines: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    channels: Mapping[str, int] = field(default_factory=dict)
    along: Mapping[str, Sequence[str]] = field(default_factory=dict)
    single: Mapping[str, float] = field(default_factory=dict)
    int8: float | None = None
    paths: Mapping[str, str] = field(default_factory=dict)


def scan_run(
    folder: str | Path,
    *,
    model: str | None = None,
    seed: int | None = None,
    to: str = "prune",
    by: str | None = None,
    parts: Sequence[float] = (),
    quantized: str | None = None,
    rows: int = ROWS,
    progress: Callable[[int, int], None] | None = None,
) -> Scanned:
    """Compress one layer of a network at a time, without training, and measure its accuracy.

    Judged by validation rows, never by test rows: what is chosen here would be chosen by them.

    Args:
        folder: of the run.
        model: a stage, or a network that came with weights; None: the last that the run made, or, if that is in int8
            already, the float network that it was made of.
        seed: the repetition; None: the first.
        to: "prune" or "int8".
        by: "prune": the score of a channel; None: "l1".
        parts: "prune": of a layer's channels, each in [0, 1); none: `PARTS`.  What the whole network has is always measured.
        quantized: "int8": "only" (that layer alone is in int8; the default), or "others" (all but that layer).
        rows: to judge by, 1 or more; all, if there are fewer.
        progress: called with how many measurements are done, and of how many.

    Raises:
        NameUnknown: no such network, seed, form or score.
        HyperParameterError: a part outside [0, 1), no rows, or a setting of the other form.
        RunFolderError: the run, or the stage, is not done.
        LimbeckError: the network has nothing to prune or to quantize.
    """
    if to not in TO:
        raise NameUnknown(unknown("form of compression", to, TO))
    if to != "prune" and (by is not None or parts):
        raise HyperParameterError(
            "a score and parts are for pruning; int8 has neither: leave them out, or say --to prune"
        )
    if to != "int8" and quantized is not None:
        raise HyperParameterError(
            f"quantized = {quantized!r} (--others) is for int8, and this is pruning: leave it out, or say to = 'int8' (--to int8)"
        )
    by, quantized = by or "l1", quantized or "only"
    if by not in BY:
        raise NameUnknown(unknown("score", by, BY))
    require_choice("quantized", quantized, ("only", "others"))
    require_whole(rows=rows)
    require(rows >= 1, "rows", rows, "to judge by, 1 or more")
    for part in parts:
        require(finite(part) and 0 <= part < 1, "part", part, "of the channels of a layer, in [0, 1)")
    run = open_run(folder, partly=model is not None)
    used = run.seed(model or run.last, seed)
    stage, network, passed_over = _network(run, model, used)
    where, judged = _rows(run, rows)
    measure = _accuracy(run, judged)
    told = {
        "run": run.told.name,
        "stage": stage,
        "seed": used,
        "network": run.network(stage),
        "passed_over": passed_over,
        "to": to,
        "part": where,
        "rows": len(judged),
    }
    progress = progress or (lambda done, total: None)
    if to == "prune":
        try:
            return _pruned(run, network, used, judged, measure, by, parts or PARTS, progress, told)
        except LimbeckError as error:
            others = [name for name in run.names if name != stage]
            if under_masks(network) and others:
                raise LimbeckError(
                    f"{error}. Or name a network without masks: --model {' or '.join(others)}"
                ) from error
            raise
    return _quantized(network, calibration(run, used), measure, quantized, progress, told)


def _network(run: OpenRun, model: str | None, seed: int) -> tuple[str, nn.Module, str | None]:
    """The network by its name; where none was named and the last is finished, the float one that it was made of."""
    name = model or run.last
    network = run.model(name, seed)
    if not _finished(network):
        return name, network, None
    before, origin = len(run.recipe.plan), name
    while _finished(network):
        found = run.work.source(origin, before)
        if isinstance(found, (Model, Ensemble)):  # they are never finished
            break
        before, origin = run.work.position(found), student_of(found)
        network = run.work.model(origin, before, seed).eval()
    if model is not None:
        raise LimbeckError(
            f"{model} of the run {run.told.folder} is in int8, a finished program without layers to change; try the network that "
            f"it was made of: --model {origin}"
        )
    if origin not in run.names:
        raise LimbeckError(
            f"{name} of the run {run.told.folder} is in int8, and was made of {origin}, which nobody trained; name a stage "
            "with --model"
        )
    return origin, network, name


def _finished(network: nn.Module) -> bool:
    """Whether it is in int8, or on the way there (quantization-aware training)."""
    from limbeck.compress.int8.prepare import Prepared

    return is_program(network) or isinstance(network, Prepared)


def _rows(run: OpenRun, rows: int) -> tuple[str, Images]:
    """Rows without augmentation, stratified; of the training part, where nothing is held out."""
    where, images = ("validation", run.data.validation)
    if not len(images):
        where, images = ("training", run.data.train)
    return where, images if rows >= len(images) else subset(images, rows, _CHOICE)


def _accuracy(run: OpenRun, judged: Images) -> Measure:
    def measure(network: nn.Module) -> float:
        logits, targets = run.work.measure(network, judged)
        return (logits.argmax(1) == targets).float().mean().item()

    return measure


def _counted(measure: Measure, total: int, progress: Callable[[int, int], None]) -> Measure:
    """The same, telling after each measurement how many are done."""
    done = 0
    progress(0, total)

    def counted(network: nn.Module) -> float:
        nonlocal done
        found = measure(network)
        done += 1
        progress(done, total)
        return found

    return counted


def _pruned(
    run: OpenRun,
    network: nn.Module,
    seed: int,
    judged: Images,
    measure: Measure,
    by: str,
    parts: Sequence[float],
    progress: Callable[[int, int], None],
    told: Mapping,
) -> Scanned:
    from limbeck.compress.pruning.graph import groups
    from limbeck.compress.pruning.judge import needs_data
    from limbeck.compress.pruning.sensitivity import scan

    # Real rows: black ones would be zeros all the way through a network without biases.
    example = run.batches(judged.take(torch.arange(min(2, len(judged)))))[0].inputs
    found = groups(network, example)  # scan will look again, which takes little beside the measuring
    wanted = sorted({0.0, *parts})
    lines = scan(
        network,
        wanted,
        _counted(measure, 1 + len(found) * (len(wanted) - 1), progress),
        example=example,
        by=by,
        calibration=calibration(run, seed) if needs_data(by) else (),
    )
    return Scanned(
        **told,
        how=by,
        whole=next(iter(lines.values()))[0][1],
        lines=lines,
        channels={group.name: group.size for group in found},
        along={group.name: tuple(member.module for member in group.of("out")[1:]) for group in found},
        paths=_paths(network, lines),
    )


def _quantized(
    network: nn.Module,
    rows: Sequence[Batch],
    measure: Measure,
    quantized: str,
    progress: Callable[[int, int], None],
    told: Mapping,
) -> Scanned:
    from limbeck.compress.int8.layers import weighted
    from limbeck.compress.int8.layerwise import sensitivity
    from limbeck.compress.int8.needs import require_installed
    from limbeck.compress.int8.static import float_graph

    require_installed()
    example = rows[0].inputs
    layers = list(dict.fromkeys(name for name, _ in weighted(float_graph(network, example)[0])))
    if not layers:
        raise LimbeckError(
            f"{told['stage']}, a {type(network).__name__}, has no convolution and no linear layer to quantize; "
            "name another stage with --model"
        )
    found = sensitivity(network, example, rows, _counted(measure, len(layers) + 2, progress), quantized=quantized)
    single = {row["layer"]: row["measure"] for row in found["layers"]}
    return Scanned(
        **told,
        how=quantized,
        whole=found["float"],
        single={name: single[name] for name in layers},
        int8=found["int8"],
        paths=_paths(network, layers),
    )


def _paths(network: nn.Module, layers: Sequence[str] | Mapping[str, object]) -> dict[str, str]:
    """What recipes call these layers: a module; of a parameter that is no layer's, the module that holds it."""
    modules = {name for name, _ in network.named_modules() if name}
    found = {}
    for layer in layers:
        path = layer.split("#")[0]  # one of several groups of channels of this layer
        while path and path not in modules:
            path = path.rpartition(".")[0]
        if path:
            found[layer] = path
    return found
