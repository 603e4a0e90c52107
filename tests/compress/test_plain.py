"""Networks as they are used when training is over: timed, exported and quantized without what only training needs."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import limbeck as lk
from limbeck.compress.binary import BinaryConv
from limbeck.compress.int8.prepare import prepared
from limbeck.compress.lottery import Scores
from limbeck.compress.plain import plain
from limbeck.compress.served import served
from limbeck.compressor import findings
from limbeck.errors import LimbeckError
from limbeck.export.subject import subject
from limbeck.models import build

X = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
ROWS = [lk.Batch(X, torch.zeros(8, dtype=torch.long))]


def net() -> nn.Module:
    torch.manual_seed(0)
    model = build("resnet8", classes=5).train()
    with torch.no_grad():
        for _ in range(3):  # statistics of BatchNorm that are not those of a new one
            model(torch.randn(16, 3, 16, 16) + 0.5)
    return model.eval()


def binary(form: str) -> nn.Module:
    return lk.Binarize(form)(net(), example=X, calibration=ROWS).eval()


MADE = {
    "mask": lambda: lk.Mask(density=0.3)(net(), example=X).eval(),
    **{form: (lambda form=form: binary(form)) for form in ("bwn", "xnor", "bnn")},
    "both": lambda: lk.Mask(density=0.9)(lk.Binarize("bwn")(net(), example=X), example=X).eval(),
}


def answers(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(X)


@pytest.mark.parametrize("name", MADE)
def test_the_same_bits_and_the_network_as_it_was(name: str) -> None:
    model = MADE[name]()
    before = copy.deepcopy(model.state_dict())
    made = plain(model)
    assert torch.equal(answers(made), answers(model))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert plain(made) is made
    assert not any("parametrizations" in key for key in made.state_dict())
    if name in ("bwn", "both"):
        assert not any(isinstance(part, BinaryConv) for part in made.modules())
    if name == "bwn":
        sizes = made.layer2[0].conv1.weight.detach().flatten(1).abs()
        assert torch.equal(sizes, sizes[:, :1].expand_as(sizes))


def test_a_network_with_nothing_to_write_out_is_not_copied() -> None:
    model = net()
    assert plain(model) is model
    assert served(model, X).model is model


def learned() -> nn.Module:
    """Masks that are drawn in training, over layers that begin far from an even chance."""
    model = Scores()(net(), example=X)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "scores" in key:
                value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())))
    return model


def iterated() -> nn.Module:
    """A weight that is divided by its spectral norm, which is estimated a step further in every training forward."""
    model = net()
    nn.utils.parametrizations.spectral_norm(model.layer1[0].conv1)
    return model


@pytest.mark.parametrize("made", [learned, iterated, *(lambda form=form: binary(form) for form in ("bnn", "xnor"))])
def test_given_while_it_is_trained(made: Callable[[], nn.Module]) -> None:
    model = made()
    wanted = answers(model.eval())
    model.train()
    model.layer2.eval()
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    one, other = plain(model), plain(model)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert all(part.training for part in (model, one, one.layer1, one.layer1[0].conv1))
    assert not any(part.training for part in (one.layer2, one.layer2[0].conv1))
    assert torch.equal(answers(one.eval()), wanted)


@pytest.mark.parametrize("name", MADE)
def test_it_is_timed_so(name: str) -> None:
    model = MADE[name]()
    form = served(model, X)
    assert form.name == "eager"
    assert torch.equal(answers(form.model), answers(model))
    kept = {key for key, _ in form.model.named_parameters()}
    assert not any("original" in key for key in kept)
    assert all(part.made["settled"] for part in form.model.modules() if isinstance(part, BinaryConv))


@pytest.mark.parametrize("name", MADE)
def test_it_is_exported_so(name: str) -> None:
    model = MADE[name]()
    taken = subject(model, X)
    assert torch.equal(taken([X]), answers(model))
    assert taken.original is model
    assert all(part.made["settled"] for part in taken.network.modules() if isinstance(part, BinaryConv))
    assert not any("original" in key for key in taken.network.state_dict())


@pytest.mark.parametrize("form", ["bwn", "xnor", "bnn"])
def test_binary_networks_go_on_to_int8(form: str) -> None:
    model = binary(form)
    small = lk.Quantize("int8")(model, example=X, calibration=ROWS)
    assert "10 layers in int8" in findings(small).notes
    with torch.no_grad():
        fast, slow = small.compiled(X)(X), small(X)  # every int8 kernel is found: none of them computes its weights
    assert (fast - slow).norm() < 0.1 * slow.norm()
    if form == "bwn":  # one size in a filter is one integer; torchao's scale for +-a is a / 127.5
        held = [t for t in small.state_dict().values() if t.dtype == torch.int8 and t.ndim == 4 and t.shape[1] > 3]
        assert len(held) == 8
        assert all(set(t.unique().tolist()) <= {-128, -127, 127} for t in held)
        assert (slow - answers(model)).norm() < 0.2 * answers(model).norm()


@pytest.mark.parametrize("form", ["bwn", "xnor", "bnn"])
def test_signs_are_not_trained_in_integers(form: str) -> None:
    with pytest.raises(LimbeckError, match=r"the weights of layer1\.0\.conv1, .* are signs of others.*static"):
        prepared(binary(form), X, ROWS)
