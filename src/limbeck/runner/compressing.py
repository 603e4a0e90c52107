"""One repetition of a stage that compresses: the network in, a smaller one out, and kept in the stage's folder."""

from __future__ import annotations

import time
from typing import Any

from torch import nn

from limbeck.compress import results
from limbeck.compress.finished import require_unfinished
from limbeck.compressor import findings
from limbeck.data import subset
from limbeck.engine.progress import waiting
from limbeck.phase import Batch, seed_for
from limbeck.randomness import own_random_numbers, seed_everything
from limbeck.recipe import Compress
from limbeck.runner.shelf import Work

_BATCH = 64


def compressed(work: Work, index: int, stage: Compress, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """The network that a compressor makes, read back from its files, and what the record should say of it.

    What it measures (a latency, say) decides what it does, so only the leading process asks it; all read its answer.
    """
    place = work.folder / work.place(stage, seed)
    told: dict[str, Any] = {}
    if work.team.leads:
        before = work.model(stage.model, index, seed).to(work.team.device)
        require_unfinished(before, type(stage.how).__name__)
        beside = tuple(work.model(name, index, seed).to(work.team.device) for name in stage.beside)
        batches = calibration(work, stage, seed)
        example = batches[0].inputs if batches else work.example(2)
        begun = time.perf_counter()
        further = {"beside": beside} if beside else {}
        with own_random_numbers(), waiting(work.console, f"{stage.name} (seed {seed})", work.quiet):
            seed_everything(seed_for(seed, stage.name, "compress"))
            made = stage.how(before, example=example, calibration=batches, **further)
        place.mkdir(parents=True, exist_ok=True)
        results.save(before, made, place)
        said = findings(made)
        told = {
            "seconds": round(time.perf_counter() - begun, 2),
            "notes": said.notes,
            "details": said.details,
        }
        for note in said.notes:
            work.note(f"{stage.name}: {note}")
    work.team.wait()
    return work.model(stage.name, index + 1, seed).to(work.team.device), told


def calibration(work: Work, stage: Compress, seed: int) -> list[Batch]:
    """Training rows for a compressor to look at: as many as the stage says, or as there are, without augmentation."""
    rows = min(stage.calibration, len(work.data.train))
    if rows == 0:
        return []
    chosen = subset(work.data.train, max(rows, len(work.data.classes)), seed)
    return list(work.loader(chosen, _BATCH, 0, False, vary=False).evaluation())
