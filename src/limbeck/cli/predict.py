"""``limbeck predict``: what networks say about pictures, the original beside the small one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.cli import say
from limbeck.errors import LimbeckError, RecipeError, RunFolderError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.export.runs import OpenRun


@dataclass(frozen=True)
class Answers:
    """What one network says about all pictures.

    Attributes:
        name: of the network.
        role: "original", "network" or "exported".
        network: what kind it is.
        probabilities: ``[pictures, classes]``.
        classes: their names.
    """

    name: str
    role: str
    network: str
    probabilities: Tensor
    classes: Sequence[str]

    def top(self, picture: int, count: int) -> list[tuple[str, float]]:
        """The likeliest classes of a picture, with their probabilities."""
        values, places = self.probabilities[picture].topk(min(count, len(self.classes)))
        return [(str(self.classes[place]), value) for place, value in zip(places.tolist(), values.tolist())]


def print_predictions(
    folder: Path, pictures: Sequence[Path], *, model: str | None, seed: int | None, top: int, as_json: bool
) -> None:
    """Print the likeliest classes of every picture."""
    if (folder / "deploy.json").is_file():
        if model is not None or seed is not None:
            raise RecipeError(f"{folder} holds one exported network; --model and --seed are for the folder of a run")
        answers = _exported(folder, pictures)
    elif folder.is_dir() and not (folder / "run.json").is_file():
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise RunFolderError(
            f"{folder} is neither a run (it has no run.json) nor an exported network (it has no deploy.json); it holds: {held}"
        )
    else:
        answers = _of_run(folder, pictures, model, seed)
    if as_json:
        say.line(json.dumps(_plain(answers, pictures, top), indent=2, ensure_ascii=False))
        return
    for place, picture in enumerate(pictures):
        _print(answers, place, picture, top)
    if len(answers) > 1 and len(pictures) > 1 and answers[0].classes == answers[1].classes:
        alike = int((answers[0].probabilities.argmax(1) == answers[1].probabilities.argmax(1)).sum())
        say.line(
            f"{answers[0].name} and {answers[1].name} choose the same class on {alike} of {len(pictures)} pictures"
        )


def _of_run(folder: Path, pictures: Sequence[Path], model: str | None, seed: int | None) -> list[Answers]:
    from limbeck.export.pictures import prepared
    from limbeck.export.runs import open_run

    run = open_run(folder, partly=model is not None)
    name = model or run.last
    run.seed(name, seed)  # what cannot be had is told before the pictures are looked at
    original = run.original(name)
    inputs = prepared(pictures, run.preprocessing)
    shown = [_answers(run, name, "network", inputs, seed)]
    if original is None or original == name:
        return shown
    try:
        return [_answers(run, original, "original", inputs, seed), *shown]
    except WeightsError as error:  # the file that it came from may be gone; the network asked for is in the run
        say.console(stderr=True).print(f"note: the original cannot be shown: {error}")
        return shown


def _answers(run: OpenRun, name: str, role: str, inputs: Tensor, seed: int | None) -> Answers:
    logits = run.logits(name, inputs, seed)
    classes = run.classes(logits) or [f"class {place}" for place in range(logits.shape[-1])]
    return Answers(name, role, run.network(name), logits.softmax(-1), classes)


def _exported(folder: Path, pictures: Sequence[Path]) -> list[Answers]:
    import torch

    from limbeck.export.opening import open_export
    from limbeck.export.pictures import prepared

    opened = open_export(folder)
    told = opened.told
    if told.get("preprocessing") is None:
        raise LimbeckError(
            f"{folder / 'deploy.json'} does not say how a picture becomes an input (preprocessing is null); "
            "export it with preprocessing=, or from a run"
        )
    inputs = prepared(pictures, told["preprocessing"]).to(getattr(torch, told["inputs"][0]["dtype"]))
    probabilities = opened(inputs).float().softmax(-1)
    classes = told["classes"] or list(map(str, range(probabilities.shape[-1])))
    origin = told.get("origin") or {}
    return [
        Answers(
            str(origin.get("stage", folder.name)),
            "exported",
            f"{origin.get('network', 'network')} as {told['to']}",
            probabilities,
            classes,
        )
    ]


def _print(answers: Sequence[Answers], place: int, picture: Path, top: int) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    say.line(str(picture))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("", justify="right")
    for one in answers:
        role = " (original)" if one.role == "original" else ""
        table.add_column(Text(f"{one.name}{role}\n{one.network}"), overflow="fold")
        table.add_column("", justify="right")
    columns = [one.top(place, top) for one in answers]
    for rank, row in enumerate(zip(*columns), 1):
        cells = [Text(cell) for name, value in row for cell in (name, f"{value:.1%}")]
        table.add_row(str(rank), *cells)
    say.wide().print(table)


def _plain(answers: Sequence[Answers], pictures: Sequence[Path], top: int) -> list[dict[str, Any]]:
    return [
        {
            "picture": str(picture),
            "answers": [
                {
                    "name": one.name,
                    "role": one.role,
                    "network": one.network,
                    "top": [{"class": name, "probability": value} for name, value in one.top(place, top)],
                }
                for one in answers
            ],
        }
        for place, picture in enumerate(pictures)
    ]
