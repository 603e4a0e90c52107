"""Patterns of torchao that cannot be in the graph are not exported, the others once; what comes out has the same bits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import limbeck as lk
from limbeck.compress.int8 import patterns, prepare, static

pytest.importorskip("torchao")
from torchao.quantization.pt2e import qat_utils


class PreActivation(nn.Module):
    """BatchNorm stands before the first convolution, and behind a transposed and a grouped one."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.BatchNorm2d(3)
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.third = nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8)
        self.up, self.last = nn.ConvTranspose2d(8, 8, 2, bias=False), nn.BatchNorm2d(8)
        self.classify = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.input(x))
        x = self.third(self.second(x + self.norm(x).relu())).relu()
        return self.classify(self.last(self.up(x)).mean((2, 3)))


def one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 4, 3, bias=False), nn.BatchNorm1d(4), nn.AdaptiveAvgPool1d(1),
        nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def made(build: Callable[[], nn.Module], shape: tuple[int, ...], mode: str) -> dict[str, Tensor]:
    """All that the int8 network holds, after a step of training where there is one; its program is among it, as bytes."""
    torch.manual_seed(0)
    model, x = build(), torch.randn(4, *shape)
    for norm in (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.data.uniform_(0.5, 2)
    if mode == "static":
        whole = lk.Quantize("int8")(model.eval(), example=x, calibration=[lk.Batch(x)])
    else:
        learner = prepare.prepared(model, x, [lk.Batch(x)]).train()
        learner(x).square().mean().backward()
        torch.optim.SGD(learner.parameters(), 0.1).step()
        whole = prepare.converted(learner, x)
    return whole.state_dict() | {"program": torch.tensor(list(whole.body.code.encode()))}


@contextlib.contextmanager
def counted() -> Iterator[list[str]]:
    """The kinds of convolution for which torchao exports a pattern."""
    found: list[str] = []
    export = qat_utils._get_aten_graph_module_for_pattern

    def exported(pattern, *args, **kwargs):
        found.extend(c.cell_contents.__name__ for c in pattern.fn.__closure__ if callable(c.cell_contents))
        return export(pattern, *args, **kwargs)

    with (
        mock.patch.object(qat_utils, "_get_aten_graph_module_for_pattern", exported),
        mock.patch.dict(patterns._once, clear=True),
    ):
        yield found


@pytest.mark.parametrize(
    ("build", "shape", "kinds"),
    [(PreActivation, (3, 8, 8), {"conv2d", "conv_transpose2d"}), (one_dimensional, (3, 12), {"conv1d"})],
)
def test_training_in_integers_looks_for_what_there_is(build, shape, kinds):
    with counted() as first:
        once = made(build, shape, "qat")
        exports = len(first)
        twice = made(build, shape, "qat")
    assert set(first) == kinds
    assert len(first) == exports == 27 * len(kinds)  # nothing is exported twice
    assert all(torch.equal(once[key], value) for key, value in twice.items())


def test_training_in_integers_gives_the_same_bits():
    build, shape = PreActivation, (3, 8, 8)
    fast = made(build, shape, "qat")
    with mock.patch.multiple(prepare, few_patterns=contextlib.nullcontext):
        slow = made(build, shape, "qat")
    assert all(torch.equal(fast[key], value) for key, value in slow.items())
    assert fast.keys() == slow.keys()


def test_int8_of_what_was_not_trained_in_it_needs_none():
    with counted() as first:
        fast = made(PreActivation, (3, 8, 8), "static")
    assert first == []
    with counted() as all_of_them, mock.patch.multiple(static, few_patterns=contextlib.nullcontext):
        slow = made(PreActivation, (3, 8, 8), "static")
    assert len(all_of_them) == 96
    assert fast.keys() == slow.keys()
    assert all(torch.equal(fast[key], value) for key, value in slow.items())


def test_another_torchao_does_it_its_way():
    with mock.patch.object(qat_utils, "_fold_conv_bn_qat_helper", new=None):
        del qat_utils._fold_conv_bn_qat_helper
        before = vars(qat_utils).copy()
        with patterns.few_patterns():
            assert vars(qat_utils) == before
        qat_utils._fold_conv_bn_qat_helper = None
