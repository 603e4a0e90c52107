"""A whole search: trials one after the other, each kept in a file, and a page with what came out."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limbeck import config, record
from limbeck.config import Parsed
from limbeck.config.reading import read, read_recipe, refusal
from limbeck.engine.team import require_devices
from limbeck.errors import LimbeckError, RunFolderError
from limbeck.search import judge
from limbeck.search.judge import Trial
from limbeck.search.propose import optuna, propose
from limbeck.search.share import Shelf
from limbeck.search.spec import SECTION, Search, read_search
from limbeck.search.tell import line, outcome
from limbeck.search.trial import attempt, prepared

FORMAT = 1
_TRIALS = "trials"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to.

    Attributes:
        folder: of the search; the run folder of a trial is ``trials/NNN`` in it.
        search: what was looked for.
        trials: all of them.
        page: ``search.html``.
    """

    folder: Path
    search: Search
    trials: tuple[Trial, ...]
    page: Path

    @property
    def best(self) -> Trial | None:
        """The best trial within the budget; None where none is."""
        return judge.best(self.trials, self.search.within.limits(), self.search.aim)

    @property
    def nearest(self) -> Trial | None:
        """The best trial, or where none is within the budget, the one that came nearest."""
        return judge.nearest(self.trials, self.search.within.limits(), self.search.aim)

    @property
    def text(self) -> str:
        """What came out, in a sentence or two."""
        return outcome(self.search, self.trials, self.folder)

    def plain(self) -> dict[str, Any]:
        """All of it as plain data."""
        return _plain(self.search, self.trials)


def prepare(source: str | Path, *, trials: int | None = None, sets: Sequence[str] = ()) -> tuple[Parsed, Search]:
    """Read a search file, and say everything that is wrong with it.  Builds the networks, runs nothing.

    Raises:
        RecipeError: every problem at once.
        LimbeckError: Optuna is not installed, or the stage that is to be judged does not exist.
    """
    optuna()
    changes = (*sets, *([f"{SECTION}.trials={trials}"] if trials is not None else []))
    parsed = read(source, changes, apart=(SECTION,))
    search = read_search(parsed, tuple(changes))
    prepared(parsed.recipe, search, 1)
    wrong = config.check(parsed)
    if wrong:
        raise refusal(wrong)
    return parsed, search


def search(
    source: str | Path,
    *,
    out: str | Path,
    trials: int | None = None,
    sets: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
    command: str | None = None,
) -> Found:
    """Look for the best chain under a budget, or go on looking.

    Args:
        source: a search file, or its text: a recipe with a section ``search``, see `limbeck.search.spec.Search`.
        out: the folder; a search that was stopped goes on in it, and one that is done takes more ``trials``.
        trials: how many, instead of what the file says.
        sets: changes of the file, as on the command line.
        say: is told how it goes, a line per trial.
        command: what to type to go on; None makes one up.

    Returns:
        The trials and the best of them.  ``search.html`` and ``results.json`` in the folder say the same.

    Raises:
        RecipeError: the file is no search; with every problem.
        RunFolderError: the folder holds something else, is in use, or cannot be written.
        Interrupted: SIGINT or SIGTERM came; all is saved.
        LimbeckError: Optuna is missing, or not one trial could be run.
    """
    parsed, wanted = prepare(source, trials=trials, sets=sets)
    require_devices(parsed.machine.accelerator, parsed.machine.devices)
    folder = Path(out)
    command = command or f"limbeck search {shlex.quote(str(folder / 'search.yaml'))} --out {shlex.quote(str(folder))}"
    with record.locked(folder):
        _open(folder, parsed, wanted)
        done = _work(folder, parsed, wanted, tuple(sets), say or _nothing, command)
        page = _write(folder, parsed, wanted, done, command)
    if all(trial.status == "failed" for trial in done):
        raise LimbeckError(f"not one of {len(done)} trials could be run; the first: {done[0].problem}")
    return Found(folder=folder, search=wanted, trials=tuple(done), page=page)


def _work(
    folder: Path, parsed: Parsed, wanted: Search, sets: tuple[str, ...], say: Callable[[str], None], command: str
) -> list[Trial]:
    space, limits = wanted.settings(), wanted.within.limits()
    done = _kept(folder)
    shelf = Shelf(folder / ".sharing")
    for trial in done:
        place = folder / _TRIALS / trial.name
        if (place / "recipe.yaml").exists():
            shelf.put(read_recipe(place / "recipe.yaml"), place)
    begun = done.pop() if done and done[-1].status == "running" else None
    if done:
        more = len(done) > wanted.trials
        say(
            f"{len(done)} trials are there already, more than the {wanted.trials} that are asked for"
            if more
            else f"{len(done)} of {wanted.trials} trials are there already"
        )
    while len(done) < wanted.trials:
        number = len(done) + 1
        if begun is None:
            settings = propose(space, done, judge.ranks(done, limits, wanted.aim), seed=wanted.seed, number=number)
            if settings is None:
                say(f"all {len(done)} combinations have been tried")
                break
            begun = Trial(number=number, settings=settings)
            _keep(folder, begun)
        say(f"trial {begun.number} of {wanted.trials}: {_shown(begun.settings)}")
        place = folder / _TRIALS / begun.name
        trial, begun = attempt(parsed, wanted, begun, place, sets, shelf, command), None
        _keep(folder, trial)
        done.append(trial)
        _write(folder, parsed, wanted, done, command)
        say("  " + line(trial, limits))
    return done


def _open(folder: Path, parsed: Parsed, wanted: Search) -> None:
    """Refuse a folder with another search, or with something else; put this one into a new folder."""
    own = {
        "format": FORMAT,
        "search": {key: value for key, value in asdict(wanted).items() if key != "trials"},
        "recipe": config.to_data(parsed.recipe, defaults=True),
    }
    kept = record.read_json(folder / "search.json")
    if kept is not None:
        lines = record.difference(kept, own)
        if lines:
            raise RunFolderError(
                f"{folder} holds another search; choose another --out, or remove the folder. What differs:\n"
                + "\n".join(f"  {text}" for text in lines[:20])
            )
        return
    strangers = sorted(
        path.name for path in folder.iterdir() if not path.name.startswith(".") and path.name != "search.yaml"
    )
    if strangers:
        raise RunFolderError(
            f"{folder} holds no search and is not empty (it holds {', '.join(strangers[:5])}); choose another --out"
        )
    record.write_text(folder / "search.yaml", parsed.text)
    record.write_json(folder / "search.json", own)


def _kept(folder: Path) -> list[Trial]:
    """The trials so far; only the last can be unfinished."""
    found: list[Trial] = []
    while (told := record.read_json(folder / _TRIALS / f"{len(found) + 1:03}.json")) is not None:
        found.append(Trial(**{**told, "shared": tuple(told["shared"])}))
        if found[-1].status == "running":
            break
    return found


def _keep(folder: Path, trial: Trial) -> None:
    record.write_json(folder / _TRIALS / f"{trial.name}.json", asdict(trial))


def _write(folder: Path, parsed: Parsed, wanted: Search, done: Sequence[Trial], command: str) -> Path:
    from limbeck.search.page import write_page

    record.write_json(folder / "results.json", _plain(wanted, done))
    return write_page(folder, parsed.recipe.name, wanted, done, command)


def _plain(wanted: Search, done: Sequence[Trial]) -> dict[str, Any]:
    limits = wanted.within.limits()
    best, nearest = (choose(done, limits, wanted.aim) for choose in (judge.best, judge.nearest))
    return {
        "format": FORMAT,
        "aim": wanted.aim,
        "within": limits,
        "best": None if best is None else best.number,
        "nearest": None if nearest is None else nearest.number,
        "fronts": {cost: [trial.number for trial in judge.pareto(done, cost)] for cost in judge.FRONTS},
        "trials": [
            {**asdict(trial), "folder": f"{_TRIALS}/{trial.name}", "over": judge.overruns(trial.figures, limits)}
            if trial.status == "done"
            else asdict(trial)
            for trial in done
        ],
    }


def _shown(settings: Mapping[str, Any]) -> str:
    from limbeck.search.tell import settings_text

    return settings_text(settings)


def _nothing(text: str) -> None:
    del text
