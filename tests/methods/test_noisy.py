"""Noisy teachers: bits, expected values, and what the noise leaves alone."""

from __future__ import annotations

import pytest
import torch
from mini_driver import images, moment, net, run, stage
from torch import nn

from limbeck.errors import HyperParameterError, ShapeError, TargetError
from limbeck.methods import KD, LogitMatching, NoisyTeacher, preset
from limbeck.methods.noisy import disturbed
from limbeck.phase import Batch, Cast, Moment


class Fixed(nn.Module):
    """Says the same to every sample."""

    def __init__(self, scores):
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(scores))

    def forward(self, x):
        return self.scores.expand(len(x), -1)


def only(method, cast):
    (phase,) = method.phases(cast)
    return phase


def fixed(n=1):
    models = {"student": Fixed([0.5, -1.0, 2.0]), "teacher": Fixed([1.0, -2.0, 3.0])}
    return Cast(models=models, example=Batch(torch.zeros(n, 1), torch.zeros(n, dtype=torch.int64)))


def seeded(seed):
    return Moment(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("quiet", [{"sigma": 0.0}, {"alpha": 0.0}])
@pytest.mark.parametrize(
    ("form", "clean"),
    [
        ("logits", LogitMatching(standardize=False, soft=0.7, hard=0.3)),
        ("kd", KD(temperature=3.0, soft=0.7, hard=0.3)),
    ],
)
def test_without_noise_it_is_the_clean_method_bit_for_bit(quiet, form, clean):
    ends = []
    for method in (NoisyTeacher(form=form, temperature=3.0, soft=0.7, hard=0.3, **quiet), clean):
        cast = stage(seed=1)
        for step in range(3):
            ((_, terms),) = run(only(method, cast), cast.example, seeded(step), lr=0.1)
        ends.append((list(terms), cast.models["student"].state_dict()))
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(ends[0][1][k], ends[1][1][k]) for k in ends[1][1])


def test_golden_clean_and_expected_value():
    """1.125 without noise; 1.755 = 1.125 + 0.3^2 / 2 * 14 on average with it."""
    cast = fixed()
    ((_, terms),) = run(only(NoisyTeacher(sigma=0.0), cast), cast.example)
    assert terms["logits"].value.item() == pytest.approx(1.125)
    many = fixed(200_000)
    ((_, terms),) = run(only(NoisyTeacher(sigma=0.3, alpha=1.0), many), many.example)
    value = terms["logits"].value.detach()
    error = float(value.std()) / len(value) ** 0.5
    assert error < 0.01
    assert float(value.mean()) == pytest.approx(1.755, abs=4 * error)


@pytest.mark.parametrize("alpha", [0.25, 0.8])
def test_the_expected_value_and_gradient_for_other_parts(alpha):
    many = fixed(200_000)
    ((_, terms),) = run(only(NoisyTeacher(sigma=0.5, alpha=alpha), many), many.example)
    value = terms["logits"].value.detach()
    wanted = 1.125 + alpha * 0.5**2 / 2 * 14
    assert float(value.mean()) == pytest.approx(wanted, abs=4 * float(value.std()) / len(value) ** 0.5)
    clean = torch.tensor([0.5, -1.0, 2.0]) - torch.tensor([1.0, -2.0, 3.0])
    # of one logit z the gradient's standard deviation is sqrt(alpha) sigma |z| / sqrt(n)
    assert torch.allclose(many.models["student"].scores.grad, clean, atol=4 * 0.5 * 3 / 200_000**0.5)


def test_how_many_are_hit_and_how_hard():
    z = torch.full((100_000, 2), 2.0)
    shaken = disturbed(z, alpha=0.3, sigma=0.4, generator=torch.Generator().manual_seed(0))
    hit = (shaken != z).any(1)
    assert float(hit.float().mean()) == pytest.approx(0.3, abs=0.006)
    xi = shaken[hit] / 2 - 1
    assert float(xi.std()) == pytest.approx(0.4, abs=0.006)
    assert float(xi.mean()) == pytest.approx(0.0, abs=0.006)
    assert abs(float(torch.corrcoef(xi.T)[0, 1])) < 0.02, "every logit has a number of its own"


def test_zero_stays_zero_and_half_precision_is_left_behind():
    z = torch.tensor([[0.0, 5.0, -0.0]]).expand(50, -1)
    shaken = disturbed(z, alpha=1.0, sigma=2.0, generator=torch.Generator().manual_seed(0))
    assert not shaken[:, [0, 2]].any()
    assert shaken[:, 1].unique().numel() == 50
    assert disturbed(z.bfloat16(), alpha=1.0, sigma=0.0, generator=torch.Generator()).dtype == torch.float32
    assert disturbed(z.double(), alpha=1.0, sigma=0.1, generator=torch.Generator()).dtype == torch.float64


def test_noise_differs_between_steps_and_comes_from_the_steps_own_generator():
    cast = fixed(8)
    phase = only(NoisyTeacher(alpha=1.0), cast)

    def value(seed):
        torch.manual_seed(int(torch.randint(1000, ()).item()))  # the global numbers are none of its business
        ((_, terms),) = run(phase, cast.example, seeded(seed))
        return terms["logits"].value.detach()

    assert torch.equal(value(1), value(1))
    assert not torch.equal(value(1), value(2))
    before = torch.get_rng_state()
    run(phase, cast.example, seeded(1))
    assert torch.equal(before, torch.get_rng_state())


def test_in_the_softened_form_noise_comes_before_the_temperature():
    cast = fixed()
    ((_, terms),) = run(only(NoisyTeacher(form="kd", alpha=1.0, temperature=2.0), cast), cast.example, seeded(5))
    shaken = disturbed(torch.tensor([[1.0, -2.0, 3.0]]), alpha=1.0, sigma=0.3, generator=seeded(5).generator)
    p, q = (shaken / 2).softmax(1), (torch.tensor([[0.5, -1.0, 2.0]]) / 2).softmax(1)
    assert terms["kd"].value.item() == pytest.approx(4 * float((p * (p / q).log()).sum()), rel=1e-5)


def test_a_teacher_that_drops_units_is_not_one_that_shakes():
    """A frozen network is in eval mode: dropout as the source of noise is outside the contract."""
    teacher = net(5)
    teacher.fc = nn.Sequential(nn.Dropout(0.5), teacher.fc)
    cast = stage(3, teacher)
    phase = only(NoisyTeacher(sigma=0.0), cast)
    a, b = (run(phase, cast.example)[0][1]["logits"].value for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"alpha": 1.5}, r"alpha = 1.5: a part of the samples, in \[0, 1\]"),
        ({"alpha": -0.1}, "alpha = -0.1"),
        ({"sigma": -1.0}, "sigma = -1.0: zero or more"),
        ({"sigma": float("nan")}, "sigma = nan: zero or more, and finite"),
        ({"form": "mse"}, "form = 'mse': one of logits, kd"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"soft": 0.0}, "all are zero"),
    ],
)
def test_settings(setting, text):
    with pytest.raises(HyperParameterError, match=text):
        NoisyTeacher(**setting)


def test_bad_casts():
    with pytest.raises(ShapeError, match="N_t != N_s"):
        NoisyTeacher().phases(stage(3, net(5, 4)))
    with pytest.raises(ShapeError, match='use form="logits" for a single logit'):
        NoisyTeacher(form="kd").phases(stage(net(3, 1), net(5, 1)))
    assert run(only(NoisyTeacher(), stage(net(3, 1), net(5, 1))), images())
    with pytest.raises(TargetError, match=r"hard = 0\.5 needs labels"):
        NoisyTeacher(hard=0.5).phases(stage(batch=images(labels=False)))
    assert run(only(NoisyTeacher(), stage(batch=images(labels=False))), images(labels=False), moment())
    assert preset("noisy_teacher", "benchmark").sigma ** 2 == pytest.approx(0.1, abs=1e-4)
