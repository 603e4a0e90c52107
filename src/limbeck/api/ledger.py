"""What every step of a chain cost and kept."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from limbeck.processor import clearly_slower


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A network at one point of a chain.

    Attributes:
        name: "original", or the step's place and kind.
        parameters, macs, bytes: as `limbeck.compress.cost.Cost`.
        measured: accuracy, loss, ece and n on the ``evaluate`` batches, or None.
        agreement: part of those samples on which it chooses the same class as the original, or None.
        latency, latency_32: measured time of a forward with 1 and with 32 samples (`limbeck.compress.cost.Latency` as
            plain data), or None.
        form: what was timed: "eager", or "int8, compiled".
        seconds: that the step took.
        notes: what its compressor had to say.
        model: the network, while the chain is at work.
    """

    name: str
    parameters: int
    macs: int
    bytes: int
    measured: Mapping[str, float] | None = None
    agreement: float | None = None
    latency: Mapping[str, Any] | None = None
    latency_32: Mapping[str, Any] | None = None
    form: str = "eager"
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    model: Any = None


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The entries of a chain, the original first.  In a notebook it shows itself as a table.

    Attributes:
        rows: an `Entry` per step.
    """

    rows: list[Entry]

    def plain(self) -> list[dict[str, Any]]:
        """Plain data, for a file."""
        kept = [f.name for f in fields(Entry) if f.name != "model"]
        return [{name: getattr(row, name) for name in kept} for row in self.rows]

    def table(self) -> list[tuple[str, ...]]:
        """A head, then a line per entry; times with how many times faster (or slower) than the original they are."""
        first = self.rows[0]
        head = ("step", "accuracy", "agrees", "parameters", "MACs", "bytes", "ms, 1 sample", "ms, 32 samples", "as")
        lines: list[tuple[str, ...]] = [head]
        for place, row in enumerate(self.rows):
            before = self.rows[place - 1] if place else None
            lines.append(
                (
                    row.name,
                    f"{100 * row.measured['accuracy']:.2f} %" if row.measured else "-",
                    f"{100 * row.agreement:.1f} %" if row.agreement is not None else "-",
                    f"{row.parameters:,}",
                    f"{row.macs:,}",
                    f"{row.bytes:,}",
                    _time(row.latency, first.latency, before.latency if before else None),
                    _time(row.latency_32, first.latency_32, before.latency_32 if before else None),
                    row.form if row.latency or row.latency_32 else "-",
                )
            )
        return lines

    def footnote(self) -> str:
        """What stands below the table."""
        told = []
        timed = {f"{t['batch']} samples": t for t in (self.rows[0].latency, self.rows[0].latency_32) if t is not None}
        if timed:
            first = next(iter(timed.values()))
            counts = "".join(f" ({size}: {t['n']})" for size, t in list(timed.items())[1:])
            told.append(
                f"times: median of {first['n']} forwards{counts}, "
                f"{first['threads']} thread, {first['clock']}, {first['device']}, networks in turn; (x) against the original, eager"
            )
            told.append("'slower' marks a step whose network takes over 5 % longer than the one before")
        if self.rows[0].measured is not None:
            told.append(f"measured on {int(self.rows[0].measured['n']):,} samples; a single run")
        return "; ".join(told)

    def summary(self) -> str:
        """The table as text."""
        rows = self.table()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
                 for row in rows]  # fmt: skip
        return "\n".join([*(line.rstrip() for line in lines), *([note] if (note := self.footnote()) else [])])

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        head, *body = self.table()
        top = "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in head)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
        return f"<table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table><p>{html.escape(self.footnote())}</p>"


def _time(now: Mapping[str, Any] | None, first: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> str:
    if now is None or first is None:
        return "-"
    told = f"{now['median_ms']:.3g} ({now['p10_ms']:.3g}-{now['p90_ms']:.3g})"
    if before is None:
        return told
    slower = " slower" if clearly_slower(now["median_ms"], than=before["median_ms"]) else ""
    return f"{told} {first['median_ms'] / now['median_ms']:.1f}x{slower}"
