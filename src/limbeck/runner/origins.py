"""Which weights a repetition of a stage was made of: kept beside what it left, so that no result outlives what it came from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from limbeck.recipe import Compress, Ensemble, Model, Peer, Result, cast_of
from limbeck.runner.shelf import Work


def origins(work: Work, stage: Result, seed: int) -> dict[str, str]:
    """By name the SHA-256 of the weights that earlier stages left and a repetition of this one is made of, or compared with."""
    here, found = work.position(stage), {}
    for name in dict.fromkeys(_names(work, stage)):
        source = work.source(name, here)
        if isinstance(source, Model):  # drawn, or from a file that the record of the run speaks of
            continue
        file = work.folder / work.weights_of(source, seed, name.partition("@")[2])
        if file.exists():
            found[name] = work.sum_of(file)
    return found


def _names(work: Work, stage: Result) -> Iterator[str]:
    """Of all networks that decide what a stage leaves and what its result says."""
    if isinstance(stage, Ensemble):
        yield from stage.members
    elif isinstance(stage, Peer):
        yield stage.of
    elif isinstance(stage, Compress):
        yield from (stage.model, *stage.beside)
    else:
        yield from cast_of(stage).values()
    original = work.original(stage.name, work.position(stage) + 1)
    if original is not None:
        yield original


def set_aside(place: Path) -> Path:
    """Move a repetition's folder out of the way, in one step; returns where it is."""
    number = 1
    while (aside := place.with_name(f"{place.name}.replaced-{number}")).exists():
        number += 1
    return place.rename(aside)
