"""What every stage of a chain of compressions cost and kept, against the network at its beginning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.processor import clearly_slower
from limbeck.report import words
from limbeck.report.exhibits import Grid
from limbeck.report.read import Run, Stage, number
from limbeck.report.tables import Cell, Column, Measured, Table, against, decimals_for, measure, measured_on, part_of
from limbeck.stats import summarise

_MASKS = ("mask", "lottery_ticket", "supermask", "ticket", "ticket_control", "learned_mask")


def columns(part: str) -> tuple[Column, ...]:
    """The columns of a ledger."""
    return (
        Column("stage", "Stage", False, "the stage, and so the name of the network it made"),
        Column("accuracy", "Accuracy", True, f"on the {part} part, mean ± standard deviation over the seeds"),
        Column("kept", "Against the original", True, "in percentage points, paired by seed, with its 95 % t interval"),
        Column("same", "Answers alike", True, "part of the test rows where it and the original choose the same class"),
        Column("parameters", "Parameters", True, "how many numbers the network has learnt"),
        Column("macs", "MACs", True, "multiply-accumulate operations for one sample"),
        Column("bytes", "File", True, "the file in which it is handed over"),
        Column("latency", "1 image", True, "median [10 % to 90 %] of one forward pass with one image"),
        Column("latency_32", "32 images", True, "median [10 % to 90 %] of one forward pass with 32 images"),
        Column("form", "Run as", False, "what was timed: the modules as they are, or compiled"),
    )


def ledger(run: Run) -> Table | None:
    """The chain of a run, the original first; None for a run in which nothing was compressed."""
    if not any(stage.kind == "compress" for stage in run.stages):
        return None
    measured = {m.name: m for m in measure(run)}
    chained = [stage for stage in run.stages if _original(stage) is not None]
    originals = list(dict.fromkeys(name for stage in chained if (name := _original(stage)) is not None))
    rows = [_row(run, measured[name], None, None, measured) for name in originals if name in measured]
    for stage in chained:
        root = measured.get(_original(stage) or "")
        rows.append(_row(run, measured[stage.name], root, measured.get(stage.model or ""), measured))
    return Table(
        caption=f"Every step of {run.name} against {words.listing(originals)}, measured on the {part_of(run)} part",
        columns=columns(part_of(run)),
        rows=tuple(rows),
        notes=_notes(run, [measured[stage.name] for stage in chained]),
    )


def _original(stage: Stage) -> str | None:
    return next((r.original for r in stage.runs if r.original), None)


def _row(
    run: Run, m: Measured, root: Measured | None, before: Measured | None, everything: Mapping[str, Measured]
) -> tuple[Cell, ...]:
    decimals = decimals_for(run)
    accuracy = m.summary("accuracy")
    same = [r.alike for r in (m.stage.runs if m.stage else ()) if r.alike is not None]
    return (
        Cell(m.name, "" if root is None else _what(m.stage), m.name, "", ""),
        Cell() if accuracy is None else Cell(words.percent(accuracy, decimals), f"n = {accuracy.n}", accuracy),
        _kept(m, root, decimals),
        Cell(words.percent(summarise(same), decimals), "", sum(same) / len(same)) if same else Cell(),
        *(_size(m, root, what) for what in ("parameters", "macs", "bytes")),
        *(_time(m, root, before, key) for key in ("latency", "latency_32")),
        Cell(str(_latency(m, "latency").get("form") or words.NONE)),
    )


def _what(stage: Stage | None) -> str:
    if stage is None:
        return ""
    name, settings = _words(stage)
    return f"{stage.model} → {name}" + (f", {settings}" if stage.kind == "compress" and settings else "")


def _words(stage: Stage) -> tuple[str, str]:
    return words.method_words(stage.method, stage.network if stage.kind == "compress" else "")


def _kept(m: Measured, root: Measured | None, decimals: int) -> Cell:
    if root is None:
        return Cell("original")
    found = against(m.metrics, root.metrics, shared=root.stage is None or not root.stage.per_seed)
    if found is None:
        return Cell()
    mood = {"better": "good", "worse": "bad"}.get(found.verdict(), "plain")
    detail = words.interval(found, decimals) if found.n > 1 else "single run"
    low, high = (None if v is None else words.signed(v, decimals) for v in (found.low, found.high))
    brief = f"[{low}, {high}]" if found.n > 1 else "single run"
    return Cell(words.signed(found.mean, decimals), detail, found, mood, brief)


def _size(m: Measured, root: Measured | None, what: str) -> Cell:
    value = number(m.cost.get(what))
    if value is None:
        return Cell()
    factor = m.factor(root, what)
    less, more = ("smaller", "larger") if what == "bytes" else ("fewer", "more")
    note = words.times(factor, less, more) if factor else ""
    brief = (f"{factor:.3g}×" if factor > 0.995 else f"{1 / factor:.3g}× {more}") if factor else ""
    return Cell(words.size(value) if what == "bytes" else words.amount(value), note, value, "", brief)


def _latency(m: Measured | None, key: str) -> Mapping[str, Any]:
    found = m.cost.get(key) if m is not None else None
    return found if isinstance(found, Mapping) else {}


def _time(m: Measured, root: Measured | None, before: Measured | None, key: str) -> Cell:
    """A measured time; a step that made the network slower than the one it was given says so."""
    ours = _latency(m, key)
    value = number(ours.get("median_ms"))
    if value is None:
        return Cell()
    low, high = number(ours.get("p10_ms")), number(ours.get("p90_ms"))
    reach = f"[{low:.3g} to {high:.3g}]" if low is not None and high is not None else ""
    theirs, given = number(_latency(root, key).get("median_ms")), number(_latency(before, key).get("median_ms"))
    factor = words.times(theirs / value, "faster", "slower") if theirs else ""
    slower = given is not None and clearly_slower(value, than=given)
    mark = f"slower than {before.name}" if slower and before is not None else ""
    note = ", ".join(text for text in (reach, factor, mark) if text)
    ratio = theirs / value if theirs else None
    brief = "" if ratio is None else f"{ratio:.3g}× faster" if ratio > 1.005 else f"{1 / ratio:.3g}× slower"
    brief = "as fast" if ratio is not None and abs(ratio - 1) <= 0.005 else brief
    brief = ", ".join(text for text in (brief, mark) if text)
    return Cell(words.milliseconds(value), note, value, "bad" if slower else "", brief)


def _notes(run: Run, chained: Sequence[Measured]) -> tuple[str, ...]:
    found = [
        "Times are measured, never derived: one thread, all networks in turn, and compared with the original run eagerly."
    ]
    timed = [latency for m in chained if (latency := _latency(m, "latency"))]
    if timed:
        places = ", ".join(dict.fromkeys(measured_on(run, latency) for latency in timed))
        clocks = ", ".join(sorted({str(latency.get("clock")) for latency in timed}))
        found.append(f"Clock: {clocks}" + (f", on {places}." if places else "."))
    masked = dict.fromkeys(m.stage.part_of or m.name for m in chained if m.stage and _words(m.stage)[0] in _MASKS)
    if masked:
        found.append(
            f"{words.listing(list(masked))}: zeros are stored and multiplied like other numbers; masks alone save no time and no bytes."
        )
    return tuple(found)


def layer_tables(run: Run) -> list[Grid]:
    """What compressors did to each layer, a table for each stage whose details have such lines."""
    found = []
    for stage in run.stages:
        details = next((r.details for r in stage.runs if r.details), {}) if stage.kind == "compress" else {}
        lines = details.get("layers")
        if isinstance(lines, list) and lines and all(isinstance(line, Mapping) for line in lines):
            keys = list(dict.fromkeys(key for line in lines for key in line))
            rows = tuple(tuple(_text(line.get(key)) for key in keys) for line in lines)
            found.append(Grid(f"{stage.name}: what was done to each layer (first seed)", tuple(keys), rows))
    return found


def _text(value: Any) -> str:
    if value is None:
        return words.NONE
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
