"""What a training from Python came to."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

from limbeck import record as files


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a training came to.  In a notebook it shows itself as a table.

    Attributes:
        method: its text, with all hyper-parameters.
        seed, epochs, seconds: of the training.
        phases: name, epochs and notes (chosen layer pairs, say) of each phase.
        cost: per role ("student", "teacher"): parameters, macs, bytes.
        before, after: per role: accuracy, loss, ece on the ``evaluate`` batches; empty without them.
        agreement: part of those samples (with several labels each: of the labels) on which student and teacher
            choose the same class, or None.
        best: the best epoch on the ``validation`` batches, or None.
        history: what was measured at the end of each epoch.
        lessons: the records of a course's other trainings, by name.
        versions, device: where the numbers come from.
    """

    method: str
    seed: int
    epochs: int
    seconds: float
    phases: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, dict[str, Any]] = field(default_factory=dict)
    before: dict[str, dict[str, float]] = field(default_factory=dict)
    after: dict[str, dict[str, float]] = field(default_factory=dict)
    agreement: float | None = None
    best: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    lessons: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=files.versions)
    device: str = "cpu"

    def rows(self) -> list[tuple[str, ...]]:
        """The table of `summary`: a head, then a line per network."""
        head = ("network", "parameters", "MACs", "bytes", "accuracy before", "accuracy after", "loss", "ECE")
        lines: list[tuple[str, ...]] = [head]
        for role, cost in self.cost.items():
            before, after = self.before.get(role), self.after.get(role)
            lines.append(
                (
                    role,
                    f"{cost['parameters']:,}",
                    f"{cost['macs']:,}" if cost.get("macs") is not None else "-",
                    f"{cost['bytes']:,}",
                    f"{100 * before['accuracy']:.2f} %" if before else "-",
                    f"{100 * after['accuracy']:.2f} %" if after else "-",
                    f"{after['loss']:.4f}" if after else "-",
                    f"{after['ece']:.4f}" if after else "-",
                )
            )
        return lines

    def footnote(self) -> str:
        """What stands below the table."""
        n = next((int(m["n"]) for m in self.after.values()), None)
        told = [
            f"{self.method}, {self.epochs} epochs, {self.seconds:.1f} s on {self.device}, seed {self.seed} (single run)"
        ]
        if n is not None:
            told.append(f"measured on {n:,} samples")
        if self.agreement is not None:
            told.append(f"student and teacher agree on {100 * self.agreement:.1f} %")
        return "; ".join(told)

    def summary(self) -> str:
        """The table as text."""
        rows = self.rows()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
                 for row in rows]  # fmt: skip
        return "\n".join([*lines, self.footnote()])

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        head, *body = self.rows()
        top = "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in head)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
        return f"<table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table><p>{html.escape(self.footnote())}</p>"
