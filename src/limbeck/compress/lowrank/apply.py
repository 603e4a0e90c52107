"""From a network to one with factorized layers: look, choose, measure, exchange, compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from limbeck.batches import batch_size, resized
from limbeck.compress.answers import output_of, tensors
from limbeck.compress.cost import Latency, latency
from limbeck.compress.finished import require_unfinished
from limbeck.compress.kinds import ASKED, asked_about
from limbeck.compress.lowrank.choose import wishes
from limbeck.compress.lowrank.fold import product
from limbeck.compress.lowrank.layers import split
from limbeck.compress.lowrank.look import Layer, left_alone, watched
from limbeck.compress.lowrank.options import Split, dense_macs, kinds_of
from limbeck.compress.statistics import recalibrated
from limbeck.compress.trial import require_finite, require_runs, require_trainable
from limbeck.compressor import silent, tell
from limbeck.data.iterables import Batches
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown, NonFiniteError, unknown
from limbeck.models.macs import count_macs
from limbeck.models.swap import copied, exchange
from limbeck.processor import clearly_slower
from limbeck.taps import original, title

if TYPE_CHECKING:
    from limbeck.compress.factorize import Factorize

_NOT_RUN = "it did not run on the example: it is not used, or its weight is read from outside"
NO_SAVING, LITTLE, NOT_FASTER, DONE = "no less arithmetic", "little to save", "not clearly faster", "factorized"


def factorized(model: nn.Module, example: Any, calibration: Iterable[Any], how: Factorize) -> nn.Module:
    """What `limbeck.compress.factorize.Factorize` does."""
    calibration = Batches(calibration, "the calibration batches")
    require_unfinished(model, "Factorize")
    require_runs(model, example)
    require_finite(model)
    new = copied(original(model))
    silent(new)
    example = example if how.batch is None else resized(example, how.batch)
    able = _able(new)
    _check_names(new, how, able)
    before, calls = watched(new, example)
    _require_finite(before, f"the output of this {title(model)} on the example, before anything was changed,")
    meant = _meant(new, how)
    reasons = {name: why for name, why in left_alone(new).items() if name in meant}
    names = [name for name in able if name in meant and name not in reasons]
    names = [name for name in names if kinds_of(new.get_submodule(name), how.kind)]
    reasons |= dict.fromkeys((name for name in names if not calls[name]), _NOT_RUN)
    asked = asked_about(new, [name for name in names if calls[name]], example, nn.Sequential)
    reasons |= dict.fromkeys(asked, ASKED)
    names = [name for name in names if name not in asked]
    layers = [Layer(name, new.get_submodule(name), tuple(calls[name])) for name in names if calls[name]]
    batch, whole = batch_size(example), count_macs(new, example)
    others = whole * batch - sum(dense_macs(layer) for layer in layers)
    asked_for = set(map(new.get_submodule, how.layers))  # by any of its names
    named = {layer.name for layer in layers if layer.module in asked_for}
    wanted, little, notes, details = wishes(how, layers, max(0, others), named)
    notes += [f"{name or 'the model'} is left alone: {why}" for name, why in reasons.items()]
    parameters = sum(p.numel() for p in new.parameters())

    clock = _Clock()
    rows: dict[str, dict[str, Any]] = {}
    others_for: dict[nn.Module, nn.Module] = {}
    for layer in layers:
        rows[layer.name], made = _tried(
            layer, wanted[layer.name], batch, clock if how.measured else None, how.macs is None
        )
        if made is not None:
            others_for[layer.module] = made
        elif layer.name in little:
            rows[layer.name]["decision"] = LITTLE
    new = exchange(new, others_for)

    require_trainable(new, original(model), example)
    error = _difference(new, example, before)
    if how.recalibrate and others_for:
        notes += recalibrated(new, calibration).notes
    macs = count_macs(new, example)
    left = sum(p.numel() for p in new.parameters())
    notes += _summary(rows, how, (whole, macs), (parameters, left), error)
    if clock.last is not None:
        told = clock.last
        details["measured_on"] = {"device": told.device, "clock": told.clock, "threads": told.threads, "batch": batch}
    tell(
        new,
        *notes,
        layers=[_line(name, row) for name, row in rows.items()],
        macs={"before": whole, "after": macs},
        parameters={"before": parameters, "after": left},
        output_error=error,
        **details,
    )
    return new


def _able(model: nn.Module) -> list[str]:
    """Names of the linear layers and convolutions."""
    able = [name for name, part in model.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))]
    if not able:
        raise LimbeckError(f"a {title(model)} without nn.Linear and nn.Conv2d has nothing that can be factorized")
    return able


def _check_names(model: nn.Module, how: Factorize, able: Sequence[str]) -> None:
    """Refuse names that the network does not have, and `layers` with nothing in them."""
    parts = {name: part for name, part in model.named_modules(remove_duplicate=False) if name}
    inside = set(map(model.get_submodule, able))
    for field, given in (("layer", how.layers), ("layer to ignore", how.ignore)):
        for name in given:
            if name not in parts:
                raise NameUnknown(unknown(field, name, parts, title(model)))
    for name in how.layers:
        if not any(part in inside for part in parts[name].modules()):
            raise HyperParameterError(
                f"layers: {name!r} is a {type(parts[name]).__name__} without nn.Linear and nn.Conv2d, which alone can "
                f"be factorized; there are: {', '.join(able[:20])}"
            )


def _meant(model: nn.Module, how: Factorize) -> set[str]:
    """Names of what `layers` and `ignore` leave in question; they may call a part by any of its names."""
    named = {part for outer in how.layers for part in model.get_submodule(outer).modules()}
    ignored = {part for outer in how.ignore for part in model.get_submodule(outer).modules()}
    return {name for name, part in model.named_modules() if (not how.layers or part in named) and part not in ignored}


class _Clock:
    """Measured times of layers, each pair of settings and shape once."""

    def __init__(self) -> None:
        self.known: dict[Any, tuple[float, float]] = {}
        self.last: Latency | None = None

    def times(self, layer: Layer, made: nn.Module, what: Split) -> tuple[float, float]:
        """Milliseconds of the layer and of its split, on numbers of the shape that the layer was given."""
        use = layer.calls[0]
        key = (repr(layer.module), what.kind, what.ranks, use)
        if key not in self.known:
            numbers = torch.Generator().manual_seed(0)
            x = torch.randn(use.inside, generator=numbers).to(layer.module.weight.device, use.dtype)
            if use.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            both = {"before": layer.module, "after": made}
            once = latency(both, x, repeats=1, warmup=1)["before"].median_ms
            repeats = min(100, max(7, int(200 / max(once, 1e-3))))  # some tenths of a second for each layer
            found = latency(both, x, repeats=repeats, warmup=2)
            self.last = found["after"]
            self.known[key] = (found["before"].median_ms, found["after"].median_ms)
        return self.known[key]


def _tried(
    layer: Layer, wanted: Sequence[Split], batch: int, clock: _Clock | None, fastest: bool
) -> tuple[dict[str, Any], nn.Module | None]:
    """The split that a layer gets, if any helps, and its row of the table; of the best that was tried if none does.

    Args:
        layer: that is to be split.
        wanted: the splits in question, the one with the least arithmetic first.
        batch: samples in a forward.
        clock: that times them; None: the first is taken that saves arithmetic.
        fastest: whether to time all of them; else the first is taken that is faster than the layer.
    """
    dense, had = dense_macs(layer), sum(p.numel() for p in layer.module.parameters())
    row: dict[str, Any] = {"decision": NO_SAVING, "kind": None, "ranks": []}
    row |= {"macs": [round(dense / batch)] * 2, "parameters": [had] * 2, "error": 0.0, "ms": None}
    best: nn.Module | None = None
    part = 1.0  # of the layer's time, that the best takes
    for what in wanted:
        this = row | {"kind": what.kind, "ranks": list(what.ranks)}
        this["macs"] = [round(dense / batch), round(what.macs / batch)]
        if what.macs >= dense:
            row = row if best is not None else this
            continue
        made = split(layer.module, what.kind, what.ranks)
        this["parameters"] = [had, sum(p.numel() for p in made.parameters())]
        this["error"] = _error(layer.module, made)
        if clock is None:
            return {**this, "decision": DONE}, made
        before, after = clock.times(layer, made, what)
        # Cheaper ones come first: what needs more arithmetic has to be clearly faster.
        if best is None or clearly_slower(part, than=after / before):
            best, part, row = made, after / before, {**this, "ms": [before, after]}
        if not fastest and clearly_slower(1.0, than=part):
            break
    if best is None:
        return row, None
    # A split always costs accuracy, so it has to pay.
    return (
        ({**row, "decision": DONE}, best) if clearly_slower(1.0, than=part) else ({**row, "decision": NOT_FASTER}, None)
    )


def _line(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the report shows it: a column for each number, before and after."""
    line: dict[str, Any] = {"layer": name, **{key: row[key] for key in ("decision", "kind", "ranks", "error")}}
    for key in ("macs", "parameters", "ms"):
        line[key], line[f"{key}_after"] = row[key] or (None, None)
    return line


def _error(layer: nn.Module, made: nn.Sequential) -> float:
    """How far the product is from the weight, relative to it."""
    whole = product(made)
    weight = layer.get_parameter("weight").detach().to(whole.device).double()
    return float((whole - weight).norm() / weight.norm()) if weight.any() else 0.0


def _require_finite(output: Any, what: str) -> None:
    if not all(t.isfinite().all() for t in tensors(output) if t.is_floating_point()):
        raise NonFiniteError(f"{what} is non-finite")


def _difference(new: nn.Module, example: Any, before: Any) -> float:
    """How far the new network's output is from the old one's on the example, relative to it."""
    after = output_of(new, example)
    _require_finite(after, "the output of the factorized network on the example")
    now, then = tensors(after), tensors(before)
    if [t.shape for t in now] != [t.shape for t in then]:
        raise LimbeckError(
            "the network answers with other tensors from one call to the next, so nothing can be compared"
        )
    pairs = [(a.double(), b.double()) for a, b in zip(now, then, strict=True) if a.is_floating_point()]
    distance = sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5
    length = sum(float(b.square().sum()) for _, b in pairs) ** 0.5
    return distance / length if length else distance


def _summary(
    rows: Mapping[str, Mapping[str, Any]],
    how: Factorize,
    macs: tuple[int, int],
    parameters: tuple[int, int],
    error: float,
) -> list[str]:
    by = {
        why: [name or "the model" for name, row in rows.items() if row["decision"] == why]
        for why in (NO_SAVING, LITTLE, NOT_FASTER)
    }
    done = len(rows) - sum(map(len, by.values()))
    part = macs[1] / macs[0] if macs[0] else 1.0
    notes = [
        f"{done} of {len(rows)} layers are factorized; {part:.3g} of the multiply-accumulates and "
        f"{parameters[1] / parameters[0]:.3g} of the parameters are left, and the output on the example is off by "
        f"{error:.2g} of its length"
    ]
    if by[NO_SAVING]:
        notes.append(f"left alone, since no split at this target needs less arithmetic: {', '.join(by[NO_SAVING])}")
    if by[LITTLE]:
        notes.append(
            f"left alone, since a split would save less than a fifth of what the average layer has: {', '.join(by[LITTLE])}; "
            "layers= with their names splits them"
        )
    if by[NOT_FASTER]:
        notes.append(
            f"left alone, since the split was measured and is not 5 % faster here: {', '.join(by[NOT_FASTER])}"
        )
    if how.macs is not None and macs[1] > how.macs * macs[0]:
        notes.append(
            f"macs = {how.macs:g} is not met ({part:.3g}), since layers that got hardly faster were left alone; "
            "measured=False goes by arithmetic only"
        )
    return notes
