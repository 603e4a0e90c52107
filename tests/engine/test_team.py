"""Several processes, as far as one can play them; real ones are in test_run.py."""

from __future__ import annotations

import pytest
import torch
from engine_small import Seeking, StopAt, conv_net
from safetensors.torch import load_file

from limbeck.engine.loop import fit
from limbeck.engine.roles import Stop
from limbeck.engine.team import Team, alone, require_devices
from limbeck.errors import HyperParameterError, Interrupted
from limbeck.methods import KD
from limbeck.settings import Training


class Other:
    """What the second process would send: the same numbers, and buffers that are larger by one."""

    def all_reduce(self, value, reduce_op):
        assert reduce_op == "sum"
        gathered = value.ndim and len(value) == 2 and (value.ndim > 1 or value.dtype == torch.int64)
        if gathered:  # ours, and zeros where the other's belongs
            return torch.stack([value[0], value[0] + 1])
        return value * 2

    def barrier(self):
        pass


def test_one_process_alone():
    team = alone("cpu")
    value = torch.tensor([1.0, 2.0])
    assert team.leads
    assert torch.equal(team.total(value), value)
    assert team.gather(value).shape == (1, 2)
    net = conv_net(3)
    team.average_gradients(net.parameters())
    team.average_buffers([net])
    assert all(p.grad is None for p in net.parameters())


def test_devices_that_are_not_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for accelerator, devices in (("auto", 1), ("cpu", 64), ("cuda", 2)):
        require_devices(accelerator, devices)
    with pytest.raises(HyperParameterError, match="'cuda' with 3 devices: this machine has 2 cuda devices that torch"):
        require_devices("cuda", 3)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(HyperParameterError, match="'cuda' with 1 device: this machine has no cuda device that torch"):
        require_devices("cuda")


class Sums:
    """Adds what a second process has."""

    def __init__(self, *others):
        self.others = list(others)

    def all_reduce(self, value, reduce_op):
        return value + self.others.pop(0)


def test_gradients_are_averaged_and_unused_parameters_have_none():
    a, b, c = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    a.grad = torch.tensor([1.0, 2.0])
    # The other process has a gradient for b, none for a; c is used by nobody.
    fabric = Sums(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 3.0, 5.0]))
    Team(torch.device("cpu"), 0, 2, fabric).average_gradients([a, b, c])
    assert a.grad.tolist() == [0.5, 1.0]
    assert b.grad.tolist() == [1.5, 2.5]
    assert c.grad is None


def test_running_statistics_are_averaged_and_counts_are_not():
    net = torch.nn.BatchNorm1d(2)
    net.num_batches_tracked += 7
    fabric = Sums(torch.tensor([1.0, 3.0]), torch.tensor([3.0, 3.0]))
    Team(torch.device("cpu"), 0, 2, fabric).average_buffers([net])
    assert net.running_mean.tolist() == [0.5, 1.5]
    assert net.running_var.tolist() == [2.0, 2.0]
    assert net.num_batches_tracked == 7


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_gets_its_own_statistics_back(rank, tmp_path):
    def go(team, stop_at):
        stop = Stop()
        models = {"student": conv_net(3), "teacher": conv_net(5, seed=1)}
        with pytest.raises(Interrupted):
            fit(
                KD(),
                models,
                StopAt(Seeking(size=4), stop, stop_at),
                training=Training(epochs=1, batch_size=4),
                team=team,
                folder=tmp_path,
                stop=stop,
            )
        return models["student"]

    student = go(Team(torch.device("cpu"), 0, 2, Other()), 3)
    kept = load_file(tmp_path / "checkpoint.safetensors")
    mean = student.layer1[1].running_mean
    assert torch.equal(kept["share/student/layer1.1.running_mean"], torch.stack([mean, mean + 1]))
    seen = []

    class Watch:
        def phase(self, *_):
            seen.append(models["student"].layer1[1].running_mean.clone())

        def step(self, *_): ...
        def epoch(self, *_): ...
        def close(self): ...

    # Played with rank 0's pen, so that the watch is told; its statistics are those of ``rank``.
    models = {"student": conv_net(3), "teacher": conv_net(5, seed=1)}
    fit(
        KD(),
        models,
        Seeking(size=4),
        training=Training(epochs=1, batch_size=4),
        team=_Reader(torch.device("cpu"), rank, 2, Other()),
        folder=tmp_path,
        watch=Watch(),
    )
    assert torch.equal(seen[0], mean + rank)


class _Reader(Team):
    @property
    def leads(self):
        return True


def test_a_device_that_is_none_or_not_there():
    with pytest.raises(HyperParameterError, match="device = 'gpu': 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'"):
        alone("gpu")
    with pytest.raises(
        HyperParameterError, match=r"accelerator 'cuda' with 100 devices: this machine has .* 'cpu' works"
    ):
        alone("cuda:99")
