"""``limbeck latency``: the networks of a run, timed in every form that this machine can run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.cli import say

if TYPE_CHECKING:
    from limbeck.export.timing import Timed


def print_latency(
    run: Path,
    *,
    models: Sequence[str],
    seed: int | None,
    batches: Sequence[int],
    only: Sequence[str],
    against: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Time, and print a table for each batch size."""
    from limbeck.export.timing import time_run

    silent = quiet or as_json
    told = time_run(
        run,
        models=models,
        seed=seed,
        batches=batches,
        only=only,
        against=against,
        say=None if silent else lambda text: say.console(stderr=True).print(text),
    )
    if as_json:
        say.line(json.dumps({**asdict(told), "clock": _one(told).clock, "device": _one(told).device}, indent=2))
        return
    for batch, networks in told.times.items():
        say.line(f"batches of {batch}, against {told.original} {told.against}")
        rows = [
            (
                name,
                form,
                f"{t.median_ms:.3g}",
                f"{t.p10_ms:.3g} to {t.p90_ms:.3g}",
                _factor(told.faster(batch, name, form)),
            )
            for name, forms in networks.items()
            for form, t in forms.items()
        ]
        say.table(("network", "run as", "ms", "10 % to 90 %", "times"), rows, right=("ms", "10 % to 90 %"))
    for name, forms in told.missing.items():
        for form, why in forms.items():
            say.line(f"{name} is missing as {form}: {why}")
    any_one = _one(told)
    say.line(f"Medians; seed {told.seed}, {any_one.threads} thread, {any_one.clock}, {any_one.device}, taking turns.")


def _factor(times: float) -> str:
    return f"{times:.3g}x faster" if times > 1.005 else f"{1 / times:.3g}x slower" if times < 0.995 else "the same"


def _one(told: Timed):  # any of the times: threads, clock and device are those of all
    return next(iter(next(iter(next(iter(told.times.values())).values())).values()))
