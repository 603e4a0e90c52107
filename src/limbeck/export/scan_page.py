"""What a scan of layers says: the order of the layers, what to do next, a table, and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from limbeck.errors import RunFolderError, listed
from limbeck.export.scanning import Scanned
from limbeck.report.compression import layer_losses, mean_fall, sensitivity
from limbeck.report.draw import Chart
from limbeck.report.page import Certificate, certificate, render, require_no_folder, write
from limbeck.report.read import read_run
from limbeck.report.tables import Cell, Column, Table
from limbeck.report.verdict import Sentence

LIMITS = {"prune": 0.02, "int8": 0.005}  # accuracy that a layer may cost and still count as robust
TOUGH = 0.5  # a layer that bears this part gets a width of its own
_SHOWN = 6  # so many names in a sentence; the recipe line has all


def limit(scanned: Scanned) -> float:
    """The loss of accuracy that counts: never less than two of the rows."""
    return max(LIMITS[scanned.to], 2 / scanned.rows)


def blame(scanned: Scanned, layer: str) -> float:
    """What a layer costs: its mean fall over the parts, what int8 in it loses, or what float in it wins back."""
    if scanned.to == "prune":
        return mean_fall(scanned.lines[layer])
    if scanned.how == "others":
        return scanned.single[layer] - (scanned.int8 or 0.0)
    return scanned.whole - scanned.single[layer]


def ordered(scanned: Scanned) -> list[str]:
    """The layers, most sensitive first; equal ones in the order of the network."""
    layers = scanned.lines if scanned.to == "prune" else scanned.single
    return sorted(layers, key=lambda layer: -blame(scanned, layer))


def bears(line: Sequence[tuple[float, float]], loss: float) -> float:
    """The largest part that may go before more than this much is lost.

    >>> bears([(0.0, 0.9), (0.25, 0.9), (0.5, 0.7), (0.75, 0.9)], 0.02)
    0.25
    """
    kept = 0.0
    for part, value in line:
        if line[0][1] - value > loss + 1e-9:
            break
        kept = part
    return kept


def settings(scanned: Scanned) -> dict[str, Any]:
    """The settings of `Prune` or `Quantize` that follow from it, each a figure that was measured.

    Of layers that are robust and of those that are fragile nobody knows what they do together: this is where to begin.
    """
    return _int8_settings(scanned) if scanned.to == "int8" else _prune_settings(scanned)


def _int8_settings(scanned: Scanned) -> dict[str, Any]:
    loss = limit(scanned)
    if _all_int8(scanned) <= loss + 1e-9:
        return {"kind": "quantize"}
    found = [layer for layer in ordered(scanned) if blame(scanned, layer) > loss + 1e-9]
    skip = list(dict.fromkeys(scanned.paths[layer] for layer in found if layer in scanned.paths))
    if not skip or len(found) == len(scanned.single):
        return {"kind": "quantize", "mode": "qat"}
    return {"kind": "quantize", "skip": skip}


def _prune_settings(scanned: Scanned) -> dict[str, Any]:
    by = {} if scanned.how == "l1" else {"by": scanned.how}
    borne = _borne(scanned)
    if not any(borne.values()):
        return {"kind": "prune", "keep": 0.8, **by, "steps": 4, "epochs": 2}
    ignore = [path for path, part in borne.items() if part == 0]
    layers = {path: round(1 - part, 4) for path, part in borne.items() if part >= TOUGH}
    rest = [part for part in borne.values() if 0 < part < TOUGH]
    found: dict[str, Any] = {"kind": "prune", "keep": round(1 - min(rest, default=0.0), 4), **by}
    return found | ({"ignore": ignore} if ignore else {}) | ({"layers": layers} if layers else {})


def _borne(scanned: Scanned) -> dict[str, float]:
    """What each layer bears, by the name that a recipe has for it; of several groups the most sensitive decides."""
    found: dict[str, float] = {}
    for layer in ordered(scanned):
        if path := scanned.paths.get(layer):
            found[path] = min(found.get(path, 1.0), bears(scanned.lines[layer], limit(scanned)))
    return found


def _all_int8(scanned: Scanned) -> float:
    return scanned.whole - (scanned.int8 or 0.0)


def recipe_line(scanned: Scanned) -> str:
    """The settings as a recipe has them; the dumper knows which names would be read as numbers."""
    return f"how: {yaml.safe_dump(settings(scanned), default_flow_style=True, sort_keys=False, width=10**6).strip()}"


def advice(scanned: Scanned) -> str:
    """What was found and what to do next, in a sentence or two, without the recipe line."""
    points = f"{100 * limit(scanned):.3g} points"
    found = settings(scanned)
    return _int8_advice(scanned, found, points) if scanned.to == "int8" else _prune_advice(scanned, found, points)


def _int8_advice(scanned: Scanned, found: dict[str, Any], points: str) -> str:
    lost = f"All layers in int8 lose {_points(_all_int8(scanned))} points"
    if skip := found.get("skip"):
        does = "float wins back" if scanned.how == "others" else "int8 costs"
        return f"{lost}; {does} more than {points} in {listed(skip, _SHOWN)}. Leave out the first, measure, and go on until it is enough."
    if "mode" in found:
        return f"{lost}, and no single layer is to blame: train with the rounding in place."
    return f"{lost}: no layer need be skipped."


def _prune_advice(scanned: Scanned, found: dict[str, Any], points: str) -> str:
    tried = [part for line in scanned.lines.values() for part, _ in line if part]
    if not tried:
        return "Nothing was removed; give parts above 0."
    if "steps" in found:
        return f"Every layer loses more than {points} at {100 * min(tried):g} % already: go in small steps, with training between."
    ignore, layers = found.get("ignore", []), list(found.get("layers", ()))
    told = []
    if ignore:
        told.append(
            f"{listed(ignore, _SHOWN)} lose{'s' if len(ignore) == 1 else ''} more than {points} at {100 * min(tried):g} % already"
        )
    if layers:
        told.append(f"{listed(layers, _SHOWN)} bear{'s' if len(layers) == 1 else ''} {100 * TOUGH:g} % or more")
    return (
        f"{'; '.join(told) or 'No layer stands out'}. Each was measured alone and without training; together they lose more, and "
        "training wins most of it back."
    )


def _points(loss: float) -> str:
    text = f"{100 * loss:.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def subject(scanned: Scanned) -> str:
    """What was measured by what, in a line."""
    kind = {
        "prune": f"channels removed by {scanned.how}",
        "only": "one layer alone in int8",
        "others": "all layers but one in int8",
    }["prune" if scanned.to == "prune" else scanned.how]
    return f"{scanned.stage} (seed {scanned.seed}), {scanned.network}: {kind}"


def remarks(scanned: Scanned) -> list[str]:
    """What a reader has to know to read the figures rightly."""
    found = [f"Accuracy in %, on the same {scanned.rows} {scanned.part} rows throughout; no test row was looked at."]
    if scanned.part == "training":
        found = [
            f"Accuracy in %, on the same {scanned.rows} training rows throughout, without augmentation: this run holds no rows "
            "out for validation. The network knows these rows, which flatters it."
        ]
    if scanned.rows < 500:
        found.append(f"One row is {100 / scanned.rows:.2g} points: smaller differences cannot be seen with so few.")
    if silent := [layer for layer in scanned.channels if layer not in scanned.lines]:
        found.append(
            f"{listed(silent, _SHOWN)} {'is' if len(silent) == 1 else 'are'} not in it: {scanned.how} finds nothing to look at there."
        )
    if scanned.passed_over:
        found.append(f"{scanned.passed_over} is in int8 already; {scanned.stage}, of which it was made, was taken.")
    return found


def table(scanned: Scanned) -> Table:
    """The layers, most sensitive first; of int8 behind the float network and the one with all layers in int8."""
    columns, rows = _prune_rows(scanned) if scanned.to == "prune" else _int8_rows(scanned)
    return Table(subject(scanned), columns, tuple(rows), tuple(remarks(scanned)))


def _prune_rows(scanned: Scanned) -> tuple[tuple[Column, ...], list[tuple[Cell, ...]]]:
    loss = limit(scanned)
    parts = [part for part, _ in next(iter(scanned.lines.values()))]
    columns = (
        Column("network", "Layer", False, "the layer that makes the channels"),
        Column("channels", "Channels", True, "that it has"),
        Column("bears", "Bears", True, f"the largest part that costs {100 * loss:.3g} points at most"),
        *(Column(f"at-{part:g}", f"{100 * part:g} %", True, "accuracy with this part removed") for part in parts),
    )
    rows = []
    for layer in ordered(scanned):
        line = scanned.lines[layer]
        part, along = bears(line, loss), scanned.along.get(layer, ())
        rows.append(
            (
                Cell(layer, f"with {listed(along, _SHOWN)}" if along else "", layer, brief=_more(along)),
                Cell(str(scanned.channels[layer]), "", scanned.channels[layer]),
                Cell(f"{100 * part:g} %", "", part, "bad" if part == 0 else "good" if part >= TOUGH else ""),
                *(
                    Cell(_percent(value), "", value, "bad" if line[0][1] - value > loss + 1e-9 else "")
                    for _, value in line
                ),
            )
        )
    return columns, rows


def _more(along: Sequence[str]) -> str:
    return f"and {len(along)} more" if along else ""


def _int8_rows(scanned: Scanned) -> tuple[tuple[Column, ...], list[tuple[Cell, ...]]]:
    others = scanned.how == "others"
    columns = (
        Column("network", "Kept in float" if others else "In int8", False, "the layer; all others are the other way"),
        Column("accuracy", "Accuracy", True, "of the network"),
        Column("loss", "Lost", True, "percentage points, against the network in float"),
        *([Column("won", "Won back", True, "percentage points, against all layers in int8")] if others else []),
    )

    def row(name: str, value: float, mood: str = "") -> tuple[Cell, ...]:
        lost, won = scanned.whole - value, value - (scanned.int8 or 0.0)
        shown = [Cell(name, "", name), Cell(_percent(value), "", value), Cell(_points(lost), "", lost, mood)]
        return (*shown, Cell(_points(won), "", won)) if others else tuple(shown)

    none, everything = ("all layers", "no layer") if others else ("no layer: float", "all layers")
    bad = [] if others else [layer for layer in scanned.single if blame(scanned, layer) > limit(scanned) + 1e-9]
    return columns, [
        row(none, scanned.whole),
        row(everything, scanned.int8 or 0.0),
        *(row(layer, scanned.single[layer], "bad" if layer in bad else "") for layer in ordered(scanned)),
    ]


def picture(scanned: Scanned) -> Chart | None:
    """The chart of the page."""
    if scanned.to == "prune":
        return sensitivity("scan", scanned.lines)
    return layer_losses(
        "scan",
        {layer: blame(scanned, layer) for layer in scanned.single},
        whole=_all_int8(scanned),
        won_back=scanned.how == "others",
    )


def default_page(folder: Path, scanned: Scanned) -> Path:
    """Where the page goes that nobody named a place for."""
    how = "" if scanned.how == "only" else f"-{scanned.how}"
    return folder / f"sensitivity-{scanned.stage}-seed-{scanned.seed}-{scanned.to}{how}.html"


def require_place(path: Path) -> None:
    """Refuse a page that could not be written, before minutes go into it.

    Raises:
        RunFolderError: it is a folder, or its folder is not there.
    """
    require_no_folder(path)
    if not path.parent.is_dir():
        raise RunFolderError(f"cannot write {path}: there is no folder {path.parent}; make it first, or choose another")


def write_scan(scanned: Scanned, folder: str | Path, out: str | Path | None = None, command: str = "") -> Path:
    """Write the page of a scan; the record of the run stays as it is.

    Args:
        scanned: what `limbeck.export.scan_run` returned.
        folder: of the run.
        out: the file; None: in the folder, named after what was scanned.
        command: that made it, for the page.

    Raises:
        RunFolderError: it cannot be written.
    """
    path = default_page(Path(folder), scanned) if out is None else Path(out)
    require_place(path)
    shown, drawn, found = table(scanned), picture(scanned), settings(scanned)
    fine = set(found) <= {"kind", "keep", "by", "layers"}
    rows = (
        ("Network", f"{scanned.stage} (seed {scanned.seed}), {scanned.network}"),
        ("Scan", f"{scanned.to}, {scanned.how}"),
        ("Judged by", f"{scanned.rows} {scanned.part} rows"),
        ("Loss that counts", f"more than {100 * limit(scanned):.3g} points"),
        *([("Command", command)] if command else []),
    )
    return write(
        render(
            {
                "title": f"{scanned.stage}: limbeck sensitivity",
                "name": f"Sensitivity: {scanned.stage} of {scanned.run}",
                "verdict": Sentence(
                    advice(scanned), "good" if fine else "plain", f"In a recipe: {recipe_line(scanned)}"
                ),
                "facts": [
                    "pruning" if scanned.to == "prune" else "int8",
                    f"{len(scanned.lines or scanned.single)} layers",
                    f"accuracy {_percent(scanned.whole)} %",
                    f"{scanned.rows} {scanned.part} rows",
                ],
                "sections": (),
                "table": shown,
                "notes": list(shown.notes),
                "colours": {},
                "overview": [drawn] if drawn else [],
                "only_results": True,
                "certificates": [Certificate("What was measured", rows), certificate(read_run(folder))],
                "further": [],
            }
        ),
        path,
    )
