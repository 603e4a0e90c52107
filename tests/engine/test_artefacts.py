"""Modules that a phase leaves as files of their own, and methods with several modules and phases, interrupted."""

from __future__ import annotations

import pytest
import torch
from engine_small import Seeking, StopAt, conv_net, same, state
from safetensors.torch import load_file

from limbeck.engine.loop import fit
from limbeck.engine.roles import Stop
from limbeck.engine.team import Team
from limbeck.errors import Interrupted, NameUnknown
from limbeck.methods import FEED, FactorTransfer, NeuronSelection, PreRegression, ReviewKD
from limbeck.models import load_weights
from limbeck.phase import Phase
from limbeck.settings import Optimizer, Training

CPU = Team(torch.device("cpu"))


def cast_of(method):
    names = ("teacher1", "teacher2") if isinstance(method, FEED) else ("teacher",)
    return {"student": conv_net(3), **{name: conv_net(5 - i, seed=1 + i) for i, name in enumerate(names)}}


def go(method, folder, stop_at=None, models=None, watch=None):
    models, stop, data = models or cast_of(method), Stop(), Seeking()
    if stop_at is not None:
        data = StopAt(data, stop, stop_at)
    training = Training(epochs=4, batch_size=6, optimizer=Optimizer(lr=0.02), checkpoint=1000.0)
    try:
        found = fit(
            method, models, data, training=training, name="stage", team=CPU, folder=folder, classes=3, stop=stop
        )
    except Interrupted:
        return None, models
    return found, models


CASES = {  # with the steps that it takes, four in an epoch
    "factor": (FactorTransfer(paraphrase_share=0.5), 16),
    "factor-benchmark": (FactorTransfer(layers="benchmark", form="benchmark", paraphrase_epochs=2, soft=0.5), 24),
    "feed": (FEED(paraphrase=True, paraphrase_share=0.5), 16),
    "pre-regression": (PreRegression(mode="sigmoid", hint_share=0.5), 16),
    "neurons": (NeuronSelection(k=4), 20),
    "review": (ReviewKD(weight=1.0), 16),
}


@pytest.mark.parametrize("case", list(CASES))
def test_stopped_inside_each_phase_it_goes_on_to_the_same_bits(case, tmp_path):
    method, steps = CASES[case]
    straight, models = go(method, tmp_path / "a")
    for stop_at in (2, steps // 2, steps - 3):
        folder = tmp_path / f"b{stop_at}"
        assert go(method, folder, stop_at)[0] is None
        again, others = go(method, folder)
        assert same(state(models["student"]), state(others["student"]))
        assert again.history == straight.history
        artefacts = sorted(p.name for p in (tmp_path / "a").glob("paraphraser*"))
        assert sorted(p.name for p in folder.glob("paraphraser*")) == artefacts
        for name in artefacts:
            assert (folder / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    untouched = cast_of(method)
    for role in untouched:
        assert same(state(models[role]), state(untouched[role])) == (role != "student")


def test_the_paraphraser_is_there_when_its_phase_ends_and_never_changes(tmp_path):
    method = FactorTransfer(paraphrase_share=0.5)  # 8 steps, then 8
    path = tmp_path / "paraphraser.safetensors"
    go(method, tmp_path, stop_at=7)
    assert not path.exists()
    go(method, tmp_path, stop_at=3)
    first = path.read_bytes()
    phases = []

    class Spy:
        def __repr__(self):
            return repr(method)

        def phases(self, cast):
            phases.extend(method.phases(cast))
            return phases

    found, _ = go(Spy(), tmp_path)
    assert found is not None
    assert path.read_bytes() == first
    assert same(state(phases[0].modules["paraphraser"]), load_file(path))


def test_a_run_that_was_killed_before_the_file_was_written_writes_it(tmp_path):
    method, path = FactorTransfer(paraphrase_share=0.5), tmp_path / "paraphraser.safetensors"
    go(method, tmp_path / "a")

    class Killed(Exception):
        pass

    class Kills(Seeking):
        left = 9  # one to look at, eight of the first phase; the checkpoint of its last epoch is written by then

        def epoch(self, epoch, rank=0, world=1, skip=0):
            if epoch == 2:
                raise Killed
            yield from super().epoch(epoch, rank, world, skip)

    with pytest.raises(Killed):
        fit(
            method,
            cast_of(method),
            Kills(),
            training=Training(epochs=4, batch_size=6, optimizer=Optimizer(lr=0.02), checkpoint=1000.0),
            name="stage",
            team=CPU,
            folder=tmp_path,
            classes=3,
        )
    path.unlink()  # as if the kill had come a moment earlier
    go(method, tmp_path)
    assert path.read_bytes() == (tmp_path / "a" / "paraphraser.safetensors").read_bytes()


def test_another_stage_takes_it_from_the_file(tmp_path):
    go(FactorTransfer(paraphrase_share=0.5), tmp_path / "a")
    path = tmp_path / "a" / "paraphraser.safetensors"
    found, _ = go(FactorTransfer(paraphraser=str(path)), tmp_path / "b")
    assert [p["name"] for p in found.phases] == ["distill"]
    assert found.epochs == 4
    assert not (tmp_path / "b" / "paraphraser.safetensors").exists()


def test_without_a_folder_nothing_is_kept():
    found, _ = go(FactorTransfer(), None)
    assert [p["name"] for p in found.phases] == ["paraphrase", "distill"]


def test_a_phase_keeps_modules_that_it_has():
    with pytest.raises(NameUnknown, match="no module 'paraphrase' in phase 'x'; near: paraphraser"):
        Phase(
            name="x",
            modules={"paraphraser": torch.nn.Linear(1, 1)},
            trains={},
            taps={},
            step=lambda *_: iter(()),
            keeps=("paraphrase",),
        )


def test_the_file_fits_a_paraphraser(tmp_path):
    from limbeck.connectors import paraphraser

    go(FactorTransfer(), tmp_path)
    net = paraphraser(10, 0.5)
    load_weights(net, tmp_path / "paraphraser.safetensors")
    assert same(state(net), load_file(tmp_path / "paraphraser.safetensors"))


def test_the_chosen_neurons_are_a_file(tmp_path):
    go(NeuronSelection(k=4), tmp_path / "a")
    kept = load_file(tmp_path / "a" / "selection.safetensors")
    assert list(kept) == ["neurons"]
    assert len(set(kept["neurons"].tolist())) == 4
    assert all(0 <= i < 10 for i in kept["neurons"].tolist())  # the teacher's layer has ten
    assert go(NeuronSelection(k=4), tmp_path / "b", 18)[0] is None
    go(NeuronSelection(k=4), tmp_path / "b")
    assert same(kept, load_file(tmp_path / "b" / "selection.safetensors"))
