from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from limbeck import models
from limbeck.compress.cost import Cost, Latency, cost, latency
from limbeck.errors import HyperParameterError, LimbeckError
from limbeck.processor import bf16_unit, processor_name


class Counts(nn.Module):
    """Changes a buffer and replaces another even in evaluation mode; fails when told to."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.dropout = nn.Dropout(0.5)
        self.fails = fails
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(4))

    def forward(self, x):
        assert not self.training
        self.calls += 1
        self.last = x[0] + 1
        if self.fails:
            raise RuntimeError("out of memory")
        return self.dropout(self.linear(x))


def found(model: nn.Module) -> tuple:
    modes = [part.training for part in model.modules()]
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules()]
    return modes, hooks, {key: (id(value), value.tolist()) for key, value in model.named_buffers()}


def test_cost_of_a_network(tmp_path):
    net = models.build("resnet20", classes=10)
    seen = cost(net, torch.zeros(2, 3, 32, 32))
    models.save_weights(net, tmp_path / "w.safetensors")
    assert seen == Cost(272_474, 40_813_184, (tmp_path / "w.safetensors").stat().st_size)
    numbers = 4 * (272_474 + 2 * 784) + 8 * 21  # 21 BatchNorms, 784 channels in all
    assert 0 < seen.bytes - numbers < 20_000  # the rest is the table of contents
    with pytest.raises(dataclasses.FrozenInstanceError):
        seen.macs = 1  # type: ignore[misc]


def test_tied_parameters_count_once():
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    apart = cost(net, torch.zeros(1, 8))
    net[1].weight = net[0].weight
    tied = cost(net, torch.zeros(1, 8))
    assert (apart.parameters, tied.parameters) == (128, 64)
    assert apart.macs == tied.macs == 128
    assert apart.bytes - tied.bytes >= 4 * 64


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("measure", ["cost", "latency"])
def test_the_model_is_left_as_found(fails, measure):
    net = Counts(fails).train()
    net.dropout.eval()
    before, fast, threads = found(net), torch.backends.mha.get_fastpath_enabled(), torch.get_num_threads()
    run = {
        "cost": lambda: cost(net, torch.ones(2, 4)),
        "latency": lambda: latency({"net": net}, torch.ones(2, 4), repeats=2, warmup=1),
    }[measure]
    if fails:
        with pytest.raises(RuntimeError, match="out of memory"):
            run()
    else:
        run()
    assert found(net) == before
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch.get_num_threads() == threads
    net.linear(torch.ones(1, 4)).sum().backward()  # nothing of it stayed in inference mode


def test_the_number_of_threads_comes_back():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    inside = []

    class Asks(nn.Module):
        def forward(self, x):
            inside.append(torch.get_num_threads())
            return x

    try:
        latency({"a": Asks()}, torch.ones(1, 1), repeats=1, warmup=0)
        assert inside == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_models_take_turns():
    order = []

    class Says(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            order.append(self.name)
            assert torch.is_inference_mode_enabled()
            return x

    seen = latency({"a": Says("a"), "b": Says("b")}, {"x": torch.ones(5, 1)}, repeats=3, warmup=2)
    turns = [tuple(order[i : i + 2]) for i in range(0, 10, 2)]
    assert set(turns) == {("a", "b"), ("b", "a")}, "each comes in every turn, not always in the same order"
    assert [(name, value.n, value.batch) for name, value in seen.items()] == [("a", 3, 5), ("b", 3, 5)]


def test_a_latency_says_how_it_was_measured():
    seen = latency({"net": models.build("digits_cnn", classes=10)}, torch.zeros(4, 1, 8, 8), repeats=7, warmup=1)["net"]
    assert isinstance(seen, Latency)
    assert 0 < seen.p10_ms <= seen.median_ms <= seen.p90_ms < math.inf
    assert (seen.batch, seen.n, seen.threads, seen.clock) == (4, 7, 1, "process_time")
    assert seen.device.startswith(f"cpu ({processor_name()}, ")
    assert (bf16_unit() or "cpu") in seen.device


def test_percentiles_are_of_the_counted_forwards(monkeypatch):
    ticks = iter([0, 99, 100, 101, 200, 203, 300, 302])  # seconds: before and after each of four forwards
    monkeypatch.setattr("time.process_time", lambda: float(next(ticks)))
    seen = latency({"a": nn.Identity()}, torch.zeros(1, 1), repeats=3, warmup=1)["a"]
    assert seen.median_ms == 2000
    assert seen.p10_ms == pytest.approx(1200)
    assert seen.p90_ms == pytest.approx(2800)


def test_bad_settings():
    net, x = nn.Linear(2, 2), torch.zeros(1, 2)
    with pytest.raises(HyperParameterError, match="repeats = 0: 1 or more"):
        latency({"a": net}, x, repeats=0)
    with pytest.raises(HyperParameterError, match="warmup = -1: 0 or more"):
        latency({"a": net}, x, warmup=-1)
    with pytest.raises(LimbeckError, match="there is no model to time"):
        latency({}, x)
    with pytest.raises(LimbeckError, match="the batch is empty"):
        latency({"a": net}, torch.zeros(0, 2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_cuda_device():
    net = models.build("resnet8", classes=10).cuda()
    x = torch.zeros(8, 3, 32, 32, device="cuda")
    seen = latency({"net": net}, x, repeats=5, warmup=2)["net"]
    assert (seen.clock, seen.n) == ("cuda events", 5)
    assert seen.device.startswith("cuda:0 (")
    assert 0 < seen.p10_ms <= seen.median_ms <= seen.p90_ms
    assert cost(net, x).macs == models.zoo()["resnet8"].macs
