"""Binary networks learn: from labels and from the real network, and also when the training is stopped and goes on."""

from __future__ import annotations

import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import limbeck as lk
from limbeck.compress.binarize import Binarize
from limbeck.compress.binary import BinaryConv, BinaryLinear, pack, settle, unpack
from limbeck.compressor import findings
from limbeck.phase import Batch

ADAM = lk.Optimizer(kind="adamw", lr=3e-3, weight_decay=0.0)


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 8 - 1, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return [(x[k : k + 64], y[k : k + 64]) for k in range(0, 1280, 64)], (x[1280:], y[1280:])


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


@pytest.fixture(scope="module")
def real(digits):
    return lk.train(mlp(), digits[0], epochs=4, optimizer=ADAM, quiet=True)


@pytest.fixture(scope="module")
def teacher(digits):
    torch.manual_seed(0)
    return lk.train(lk.build("digits_cnn", classes=10), digits[0], epochs=2, optimizer=ADAM, quiet=True)


def right(model, test):
    model.eval()
    with torch.no_grad():
        return (model(test[0]).argmax(1) == test[1]).double().mean().item()


def binary(model):
    return {name: part for name, part in model.named_modules() if isinstance(part, (BinaryConv, BinaryLinear))}


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("form", ["bnn", "bwn", "xnor"])
def test_it_learns_the_digits(form, ends, digits, real):
    batches, test = digits
    new = Binarize(form, ends=ends)(real, example=test[0][:8], calibration=[Batch(*batches[0])])
    before = {name: part.weight.detach().clone() for name, part in binary(new).items()}
    kept = copy.deepcopy(real.state_dict())
    if form == "bnn":  # from afresh, too
        for part in new.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
    lk.train(new, batches, epochs=4, optimizer=ADAM, quiet=True)
    assert right(real, test) > 0.9
    assert right(new, test) > 0.8  # chance is 0.1
    for name, part in binary(new).items():
        moved = (part.weight - before[name]).abs()
        assert (moved > 1e-4).double().mean() > 0.5
        assert len(part.weight.detach().abs().unique()) > 100  # the parameters are real numbers all the time
    assert all(torch.equal(v, kept[k]) for k, v in real.state_dict().items())
    assert torch.equal(settle(new)(test[0]), new(test[0]))
    empty = Binarize(form, ends=ends)(mlp(), example=test[0][:8])
    assert torch.equal(unpack(pack(new), empty).eval()(test[0]), new(test[0]))


def test_its_signs_matter(digits, real):
    """Were the latent weights what is computed with, other signs would change little."""
    batches, test = digits
    new = Binarize("bnn")(real, example=test[0][:8])
    lk.train(new, batches, epochs=3, optimizer=ADAM, quiet=True)
    good = right(new, test)
    (layer,) = binary(new).values()
    with torch.no_grad():
        layer.weight.copy_(layer.weight.sign() * torch.rand_like(layer.weight).clamp_min(1e-6))
    assert right(new, test) == good
    with torch.no_grad():
        layer.weight.copy_(layer.weight[:, torch.randperm(128, generator=torch.Generator().manual_seed(0))])
    assert right(new, test) < good - 0.3


def test_latent_weights_stay_between_minus_one_and_one(digits, real):
    batches, test = digits
    new = Binarize("bnn")(real, example=test[0][:8])
    rate = 0.1
    lk.train(new, batches, epochs=2, optimizer=lk.Optimizer(kind="adamw", lr=rate, weight_decay=0.0), quiet=True)
    (layer,) = binary(new).values()
    assert 1 < layer.weight.detach().abs().max() < 1 + rate  # what the last step left; the next use clips it
    y = new.eval()(test[0])
    new.train()(test[0][:8])
    latent = layer.weight.detach().abs()
    assert latent.max() == 1
    assert (latent == 1).double().mean() > 0.005
    fresh = Binarize("bnn")(real, example=test[0][:8])
    assert torch.equal(unpack(pack(new), fresh).eval()(test[0]), new.eval()(test[0]))
    assert y.isfinite().all()


@pytest.mark.parametrize("form", ["bnn", "xnor"])
def test_stopped_and_gone_on_with_it_ends_in_the_same_bits(form, digits, real, tmp_path):
    batches, test = digits
    how = lk.Training(epochs=2, checkpoint=1e-6, optimizer=lk.Optimizer(kind="adamw", lr=0.05, weight_decay=0.0))

    class Breaks(list):
        left = 27

        def __iter__(self):
            for batch in super().__iter__():
                self.left -= 1
                if self.left < 0:
                    raise KeyboardInterrupt
                yield batch

    def start():
        return Binarize(form, stochastic=form == "bnn")(real, example=test[0][:8])

    straight = lk.train(start(), batches, training=how, quiet=True)
    with pytest.raises(KeyboardInterrupt):
        lk.train(start(), Breaks(batches), training=how, quiet=True, out=tmp_path)
    again = lk.train(start(), batches, training=how, quiet=True, out=tmp_path)
    ends = straight.state_dict()
    assert all(torch.equal(v, ends[k]) for k, v in again.state_dict().items())


@pytest.mark.parametrize("method", [lk.KD(), lk.FitNets(), lk.NST(weight=1.0)], ids=lambda m: type(m).__name__)
def test_it_learns_from_the_real_network(method, digits, teacher):
    batches, test = digits
    student = Binarize("xnor")(teacher, example=test[0][:8], calibration=[Batch(*b) for b in batches[:3]])
    assert findings(student).details["binary"] == ["layer2.0", "layer3.0"]
    lk.distill(teacher, student, batches, method=method, epochs=2, optimizer=ADAM, quiet=True)
    assert right(student, test) > 0.7
    assert set(binary(student)) == {"layer2.0", "layer3.0"}
