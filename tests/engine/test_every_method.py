"""Every method of the catalogue: stopped and gone on with ends in the same bits; two processes train what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine_small import Seeking, StopAt, conv_net, same, state
from method_table import TABLE, make, widths
from one_of_two import METHODS, train

from limbeck.engine.loop import fit
from limbeck.engine.roles import Stop
from limbeck.engine.team import Team
from limbeck.errors import Interrupted
from limbeck.settings import Optimizer, Training

CPU = Team(torch.device("cpu"))
ROWS = [
    pytest.param(name, changes, id=f"{name}-{i}")
    for name, tries in TABLE.items()
    for i, (changes, _) in enumerate(tries)
]


def go(name, changes, folder, stop_at=None):
    models = {role: conv_net(width, seed=i) for i, (role, width) in enumerate(widths(name).items())}
    data, stop = Seeking(multi=name == "sigmoid_kd"), Stop()
    training = Training(epochs=3, batch_size=6, optimizer=Optimizer(lr=0.001), checkpoint=1000.0)
    try:
        fit(
            make(name, changes),
            models,
            data if stop_at is None else StopAt(data, stop, stop_at),
            training=training,
            seed=1,
            team=CPU,
            folder=folder,
            classes=3,
            stop=stop,
        )
    except Interrupted:
        return None
    return {role: state(model) for role, model in models.items()}


@pytest.mark.parametrize(("name", "changes"), ROWS)
def test_stopped_and_gone_on_with_ends_in_the_same_bits(name, changes, tmp_path):
    straight = go(name, changes, tmp_path / "a")
    assert straight is not None
    stops = 0
    for after in (2, 3, 5, 7, 50):  # in the first phase, in a later one, in the middle of an epoch and at its end
        found = go(name, changes, tmp_path / "b", after)
        if found is not None:
            break
        stops += 1
    assert stops >= 3
    assert found is not None
    for role, weights in straight.items():
        assert same(weights, found[role]), role


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """The weights that two processes come to, for every method whose loss adds up over a batch."""
    folder = tmp_path_factory.mktemp("two")
    script = Path(__file__).with_name("one_of_two.py")
    words = [str(folder / "meeting"), str(folder / "out.pt")]
    here = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}  # whatever this machine is called on its network
    both = [
        subprocess.Popen([sys.executable, str(script), str(rank), *words], stderr=subprocess.PIPE, text=True, env=here)
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=300)[1][-2000:] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(said)
    return torch.load(folder / "out.pt")


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_what_one_does(name, of_two):
    for role, weights in train(name, CPU).items():
        for key, value in weights.items():
            assert torch.allclose(of_two[name][role][key], value, rtol=1e-4, atol=2e-6), (role, key)
