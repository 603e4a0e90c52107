"""The ledger of a run's compressions: what its lines call the steps, and what is told of masks."""

from __future__ import annotations

import json

import pytest

from limbeck import catalog
from limbeck.compress.lottery import Decide, Replant, Scores, Ticket
from limbeck.report import words
from limbeck.report.ledger import ledger
from limbeck.report.read import read_run


@pytest.fixture
def ticket_run(make_run):
    """A run whose stage "alone" is followed by the parts of a ticket, as a record has them: without a kind."""

    def make(word="ticket"):
        folder = make_run(word)
        record = json.loads((folder / "run.json").read_text())
        plain = next(stage for stage in record["stages"] if stage["name"] == "alone")
        for name, part_of, network in (("lt.mask1", "lt", f"digits_mlp, {word}"), ("other", None, "digits_mlp, prune")):
            line = json.loads(json.dumps(plain))
            method = {"kind": "prune", "keep": 0.5} if name == "other" else {"rate": 0.3}
            line |= {"name": name, "kind": "compress", "part_of": part_of, "network": network, "method": method}
            line["model"] = "alone"
            for run in line["runs"]:
                run["original"] = {"model": "alone", "agreement": 0.9}
            record["stages"].append(line)
        (folder / "run.json").write_text(json.dumps(record))
        return read_run(folder)

    return make


@pytest.mark.parametrize("word", ["ticket", "Ticket"])
def test_a_part_of_a_ticket_is_called_by_a_word(ticket_run, word):
    found = ledger(ticket_run(word))
    notes = {cell.text: cell.note for cell in found.column("stage")}
    assert notes["lt.mask1"] == "alone → ticket, rate 0.3"
    assert notes["other"] == "alone → prune, keep 0.5"
    (said,) = [note for note in found.notes if "masks alone" in note]
    assert said.startswith("lt: zeros are stored"), "the stage of the recipe, not each of its parts; nothing pruned"


def test_no_class_is_shown_to_a_reader():
    assert [catalog.name_of(part) for part in (Ticket(), Replant(), Scores(), Decide())] == [
        "ticket", "ticket_control", "mask_scores", "learned_mask",
    ]  # fmt: skip
    assert words.repeated("resnet8, Ticket, Ticket, Replant") == "resnet8, ticket × 2, ticket_control"
    known = {name for kind in ("technique", "source", "stage") for name in catalog.entries(kind)}
    assert not known & set(catalog.PARTS.values()), "a recipe cannot name them"


def test_every_part_of_the_catalogue_is_there():
    import importlib

    for where in catalog.PARTS:
        module, _, name = where.partition(":")
        assert hasattr(importlib.import_module(module), name), where


def test_the_machines_on_which_times_were_measured_are_named(ticket_run):
    run = ticket_run()
    for stage, device in zip(run.stages[-2:], ("cpu (One, AVX512)", "cpu (Two, AVX512)")):
        stage.cost["latency"]["device"] = device
    assert "Clock: process_time, on cpu (One, AVX512), cpu (Two, AVX512)." in ledger(run).notes
