"""The pictures and further tables of a chain of compressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from limbeck.report import lottery
from limbeck.report.compression import widths
from limbeck.report.draw import Chart
from limbeck.report.read import Run
from limbeck.report.tables import Measured, Table


def pictures(run: Run, measured: Sequence[Measured]) -> list[Chart]:
    """Accuracy against density for every lottery ticket, and the channels that every pruning left (first seed)."""
    found = [lottery.density_chart(f"ticket-{k}", measured, name) for k, name in enumerate(lottery.tickets(measured))]
    for k, stage in enumerate(run.stages):
        details = next((r.details for r in stage.runs if r.details), {})
        channels = details.get("widths")
        if isinstance(channels, Mapping) and all(isinstance(v, list) and len(v) == 2 for v in channels.values()):
            made = widths(f"widths-{k}", {str(name): pair for name, pair in channels.items()})
            found.append(made and replace(made, title=f"{stage.name}: {made.title[0].lower()}{made.title[1:]}"))
    return [chart for chart in found if chart]


def ticket_tables(measured: Sequence[Measured]) -> list[Table]:
    """The rounds of every lottery ticket with its controls."""
    return [made for name in lottery.tickets(measured) if (made := lottery.table(measured, name))]
