"""Looking at networks through hooks: torch's transformer layers take a fast path past them, on nested tensors where places are padded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import limbeck as lk
from limbeck.compress.pruning.judging.inputs import inputs_of
from limbeck.hooks import hooked
from limbeck.layers import hidden_layers
from limbeck.phase import Batch
from limbeck.taps import Tapped, capture

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 16, padding_idx=0)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0), 2)
        self.fc = nn.Linear(16, 3)

    def forward(self, tokens):
        return self.fc(self.encoder(self.table(tokens), src_key_padding_mask=tokens == 0)[:, 0])


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Words().eval().requires_grad_(False)


@pytest.fixture
def tokens():
    torch.manual_seed(1)
    made = torch.randint(1, 20, (12, 7))
    made[:6, 5:] = 0
    return made


def test_torch_shows_nested_tensors_to_a_bare_hook(net, tokens):
    seen = []
    with torch.no_grad():
        hook = net.encoder.layers[0].register_forward_hook(lambda part, args, output: seen.append(output.is_nested))
        net(tokens)
        hook.remove()
        with hooked([net.encoder.layers[0].register_forward_hook(lambda part, args, out: seen.append(out.is_nested))]):
            net(tokens)
    assert seen == [True, False]  # the first is why the second is needed
    assert torch.backends.mha.get_fastpath_enabled()


def test_an_error_takes_the_hooks_away_and_puts_the_switch_back():
    net, seen = nn.Linear(2, 2), []
    with pytest.raises(RuntimeError), hooked([net.register_forward_hook(lambda *given: seen.append(given))]):
        net(torch.zeros(1, 3))
    net(torch.zeros(1, 2))
    assert not seen
    assert torch.backends.mha.get_fastpath_enabled()


def test_taps_have_a_place_for_every_word(net, tokens):
    with torch.no_grad():
        seen = Tapped(net, ["encoder.layers.0", "encoder.layers.1.linear1"])(tokens)
        with capture(net, "encoder.layers.0") as captured:
            net(tokens)
    assert seen.taps["encoder.layers.0"].shape == captured["encoder.layers.0"].shape == (12, 7, 16)
    assert seen.taps["encoder.layers.1.linear1"].shape == (12, 7, 32)
    assert ("encoder.layers.0", (12, 7, 16)) in hidden_layers(net, tokens)


def test_what_goes_into_a_layer_is_seen_whole(net, tokens):
    seen = []
    with torch.no_grad(), inputs_of({"one": net.encoder.layers[0].linear2}, lambda name, x: seen.append(x.shape)):
        net(tokens)
    assert seen == [(12, 7, 32)]


@pytest.mark.parametrize("by", ["l1", "apoz", "mean_activation", "lasso", "thinet", "taylor", "oracle"])
def test_an_encoder_of_padded_sentences_is_pruned_by_every_kind_of_score(net, tokens, by):
    batch = Batch(tokens, torch.arange(12) % 3)
    new = lk.Prune(keep=0.5, by=by, multiple=1, minimum=2)(net, example=tokens, calibration=[batch])
    assert [layer.linear1.out_features for layer in new.encoder.layers] == [16, 16]
    assert new(tokens).shape == (12, 3)


def test_an_encoder_of_padded_sentences_is_factorized(net, tokens):
    with torch.no_grad():
        net.fc.weight[2] = net.fc.weight[0]
    new = lk.Factorize(rank=2, kind="svd", measured=False)(net, example=tokens)
    assert isinstance(new.fc, nn.Sequential)
    torch.testing.assert_close(new(tokens), net(tokens), atol=1e-5, rtol=0)  # two of its three rows are one
