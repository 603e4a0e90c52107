"""Which layers suffer from int8, one at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from limbeck.compress.int8.layers import weighted
from limbeck.compress.int8.needs import require_installed
from limbeck.compress.int8.program import count
from limbeck.compress.int8.static import converted, float_graph
from limbeck.data.iterables import Batches
from limbeck.errors import LimbeckError
from limbeck.settings import require_choice


def sensitivity(
    model: nn.Module,
    example: Any,
    calibration: Iterable[Any],
    measure: Callable[[nn.Module], float],
    *,
    quantized: str = "only",
    layers: Sequence[str] | None = None,
    observer: str = "histogram",
) -> dict[str, Any]:
    """What quantizing single layers costs, for choosing which to skip (mixed precision).

    Args:
        model: trained; stays as it is.
        example: a batch.
        calibration: batches that can be walked more than once, since each layer is calibrated anew.
        measure: says how good a network is, higher being better: its accuracy on validation rows.
        quantized: "only": that layer is in int8 and all others are in float; "others": all but that layer are.
        layers: of which; None: of all that can be quantized.
        observer: as in `limbeck.compress.quantize.Quantize`.

    Returns:
        Plain data: ``{"float": measure, "int8": measure with all layers quantized, "layers": [{"layer": name,
        "measure": m, "loss": how much worse than float}, ...]}``, the greatest loss first.

    Raises:
        LimbeckError: the network has no such layers.
        HyperParameterError: `quantized` is neither word, or there are no calibration batches.
    """
    require_choice("quantized", quantized, ("only", "others"))
    require_choice("observer", observer, ("histogram", "minmax"))
    require_installed()
    calibration = Batches(calibration, "the calibration batches")
    graph, least = float_graph(model, example)
    known = list(dict.fromkeys(name for name, _ in weighted(graph)))
    chosen = list(known if layers is None else layers)
    if missing := [name for name in chosen if name not in known]:
        raise LimbeckError(f"no layer {missing[0]!r} to quantize; there are: {', '.join(known[:20]) or 'none'}")

    def with_skipped(skip: tuple[str, ...]) -> float:
        settings: dict[str, Any] = {"per_channel": True, "observer": observer, "reduce_range": False, "skip": skip}
        settings |= {"mode": "static", "batches": None, "parameters": count(model)}
        made = converted(copy.deepcopy(graph), least, example, calibration, **settings)
        return float(measure(made))

    base, rows = float(measure(model)), []
    for name in chosen:
        others = tuple(other for other in known if other != name)
        found = with_skipped(others if quantized == "only" else (name,))
        rows.append({"layer": name, "measure": found, "loss": base - found})
    rows.sort(key=lambda row: -row["loss"])
    return {"float": base, "int8": with_skipped(()), "quantized": quantized, "layers": rows}
