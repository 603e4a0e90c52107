"""The weights after some step of a training are kept when they are asked for, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from engine_small import Seeking, StopAt, conv_net, same, state
from safetensors.torch import load_file

from limbeck.engine.loop import fit, identity
from limbeck.engine.roles import Stop
from limbeck.engine.team import Team
from limbeck.errors import HyperParameterError, Interrupted
from limbeck.methods import Supervised
from limbeck.settings import Optimizer, Training

CPU = Team(torch.device("cpu"))


def go(folder=None, *, snapshots=(), epochs=3, stop_at=None, checkpoint=1000.0, ema=None):
    model, stop = conv_net(3), Stop()
    data = Seeking() if stop_at is None else StopAt(Seeking(), stop, stop_at)
    training = Training(
        epochs=epochs, batch_size=6, optimizer=Optimizer(lr=0.02), checkpoint=checkpoint, snapshots=snapshots, ema=ema
    )
    try:
        found = fit(
            Supervised(), {"student": model}, data, training=training, name="s", team=CPU, folder=folder, stop=stop
        )
    except Interrupted:
        found = None
    return found, model


def by_hand(steps):
    """The student after so many of the 12 steps: a run that is stopped there, and what its checkpoint holds."""

    def weights(folder):
        go(folder, stop_at=steps)
        start = "module/student/"
        kept = load_file(folder / "checkpoint.safetensors")
        return {key.removeprefix(start): value for key, value in kept.items() if key.startswith(start)}

    return weights


def test_a_snapshot_is_the_student_after_that_step(tmp_path):
    whole, model = go(tmp_path / "a", snapshots=(3, 5, 12))
    assert whole is not None
    assert sorted(p.name for p in (tmp_path / "a").glob("step-*")) == [
        "step-12.safetensors",
        "step-3.safetensors",
        "step-5.safetensors",
    ]
    for step in (3, 5):  # inside the first epoch, and inside the second
        kept = load_file(tmp_path / "a" / f"step-{step}.safetensors")
        assert same(kept, by_hand(step)(tmp_path / f"b{step}"))
        assert not same(kept, state(model))
    assert same(load_file(tmp_path / "a" / "step-12.safetensors"), state(model))


def test_keeping_snapshots_changes_no_bit_of_the_training(tmp_path):
    _, plain = go(tmp_path / "a")
    _, kept = go(tmp_path / "b", snapshots=(1, 4))
    assert same(state(plain), state(kept))


def test_in_memory_without_a_folder(tmp_path):
    found, _ = go(snapshots=(3,))
    go(tmp_path, snapshots=(3,))
    assert list(found.snapshots) == [3]
    assert same(found.snapshots[3], load_file(tmp_path / "step-3.safetensors"))


@pytest.mark.parametrize("stop_at", [3, 5, 6, 8])
def test_there_after_a_stop_and_a_resumption(tmp_path, stop_at):
    go(tmp_path / "a", snapshots=(3, 6))
    go(tmp_path / "b", snapshots=(3, 6), stop_at=stop_at)
    assert (tmp_path / "b" / "step-6.safetensors").exists() == (stop_at >= 6)
    go(tmp_path / "b", snapshots=(3, 6))
    for step in (3, 6):
        name = f"step-{step}.safetensors"
        assert same(load_file(tmp_path / "a" / name), load_file(tmp_path / "b" / name))


def test_the_weights_themselves_and_not_their_average(tmp_path):
    _, averaged = go(tmp_path, snapshots=(12,), ema=0.9)
    _, plain = go()
    assert same(load_file(tmp_path / "step-12.safetensors"), state(plain))
    assert not same(state(averaged), state(plain))


def test_a_step_that_will_not_be_is_refused():
    with pytest.raises(HyperParameterError, match=r"this stage has 12 steps \(3 epochs of 4\), so .* after step 13"):
        go(snapshots=(2, 13))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((0,), "snapshots = 0: optimizer steps, at least 1"),
        ((1.5,), "snapshots = 1.5: a whole number"),
        (3, "snapshots = 3: a list of numbers of steps"),
    ],
)
def test_bad_steps(value, text):
    with pytest.raises(HyperParameterError, match=text):
        Training(snapshots=value)


def test_checkpoints_of_before_there_were_snapshots_go_on():
    """No snapshots: the same identity as if the setting did not exist."""
    import hashlib

    training = Training(epochs=3)
    before = {k: v for k, v in vars(training).items() if k != "snapshots"}
    old = hashlib.sha256(repr(("s", 0, Supervised(), {**before, "checkpoint": None})).encode()).hexdigest()[:16]
    assert identity("s", 0, Supervised(), training) == old
    assert identity("s", 0, Supervised(), Training(epochs=3, snapshots=(1,))) != old
    assert copy.deepcopy(training) == training
