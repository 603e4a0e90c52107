"""The scores of pruning against numbers worked out by hand, and against loops and other libraries."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from limbeck import scores

D = torch.float64


def t(*values):
    return torch.tensor(values, dtype=D)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


# -- filters by their weights ------------------------------------------------------------------


def test_l1_prunes_the_middle_filter():
    filters = t([1, -1, 0, 2], [0.5] * 4, [0, 0, 0, -3]).reshape(3, 1, 2, 2)
    assert scores.l1(filters).tolist() == [4, 2, 3]
    assert scores.lowest(scores.l1(filters), 1).tolist() == [1]


def test_fpgm_prunes_what_the_others_stand_in_for():
    filters = t([1, 0], [0, 1], [1, 1], [5, 5])
    assert scores.fpgm(filters).tolist() == pytest.approx([8.8173, 8.8173, 7.6569, 18.4631], abs=5e-5)
    assert scores.lowest(scores.fpgm(filters), 1).tolist() == [2]
    assert scores.lowest(scores.l1(filters), 1).tolist() == [0]


def test_fpgm_tells_filters_of_equal_norm_apart():
    filters = t([3, 4], [4, 3], [3.5, 3.5], [-5, 0], [0, -5])
    assert scores.l2(filters).tolist() == pytest.approx([5, 5, 4.9497, 5, 5], abs=5e-5)
    found = scores.fpgm(filters)
    assert found.tolist() == pytest.approx([20.5524, 20.5524, 19.7990, 34.6946, 34.6946], abs=5e-5)
    assert scores.lowest(found, 1).tolist() == [2]


def test_fpgm_knows_a_filter_from_its_negative():
    filters = t([3, 4], [-3, -4], [3, 4.1])
    by_loop = [sum(math.dist(a, b) for b in filters.tolist()) for a in filters.tolist()]
    assert scores.fpgm(filters).tolist() == pytest.approx(by_loop)
    assert scores.fpgm(filters).argmax() == 1  # of absolute weights, the first two would be one


def test_fpgm_does_not_notice_a_shift_or_a_rotation():
    filters = draw(30, 6)
    turned, _ = torch.linalg.qr(draw(6, 6, seed=1))
    plain = scores.fpgm(filters)
    assert torch.allclose(scores.fpgm(filters + draw(1, 6, seed=2)), plain)
    assert torch.allclose(scores.fpgm(filters @ turned), plain)
    assert torch.allclose(scores.fpgm(3 * filters), 3 * plain)


def test_close_filters_in_float32_keep_their_distances():
    filters = torch.full((40, 9), 100.0) + 1e-3 * draw(40, 9).float()
    exact = scores.fpgm(filters.double())
    assert torch.allclose(scores.fpgm(filters).double(), exact, rtol=1e-3)


# -- slimming ------------------------------------------------------------------------------------


def test_one_threshold_for_all_layers():
    layers = [t(0.9, 0.01, 0.5), t(0.02, 0.03, -0.8, 0.7)]
    cut = scores.slimming_threshold(layers, 0.5)
    assert cut == 0.5
    assert [(scores.slimming(g) >= cut).int().tolist() for g in layers] == [[1, 0, 1], [0, 0, 1, 1]]
    assert scores.slimming_threshold(layers, 0.0) == 0.01


@pytest.mark.parametrize("percent", [7, 29, 57, 58])
def test_the_count_below_is_not_lost_to_rounding(percent):
    gammas = torch.arange(1, 101, dtype=D)
    assert int((gammas < scores.slimming_threshold([gammas], percent / 100)).sum()) == percent


# -- activations -----------------------------------------------------------------------------------


def test_apoz_of_two_channels_and_its_threshold():
    x = torch.stack([t([0, 1, 0, 2], [0, 0, 0, 3]), t([1, 0, 0, 0], [0, 0, 0, 0])]).reshape(2, 2, 2, 2)
    assert scores.apoz(x).tolist() == [0.625, 0.875]
    values = t(0.9, 0.2, 0.3, 0.25, 0.35)
    assert scores.apoz_threshold(values) == pytest.approx(0.65495098, abs=5e-9)
    assert (values > scores.apoz_threshold(values)).tolist() == [True, False, False, False, False]


def test_apoz_of_vectors():
    assert scores.apoz(t([0, 1], [0, 0])).tolist() == [1.0, 0.5]


# -- the change of the loss ------------------------------------------------------------------------


def test_taylor_takes_the_mean_over_positions_before_the_absolute_value():
    z = torch.stack([t([1, 2], [0, 1]), t([2, 0], [1, 1])]).unsqueeze(1)
    g = torch.stack([t([0.1, -0.1], [0.2, 0.1]), t([0.2, 0.1], [0, -0.1])]).unsqueeze(1)
    assert scores.taylor(z[:1], g[:1]).item() == pytest.approx(0.0, abs=1e-12)
    assert scores.taylor(z[1:], g[1:]).item() == pytest.approx(0.075)
    assert scores.taylor(z, g).item() == pytest.approx(0.0375)


def test_taylor_does_not_notice_a_scale_and_gives_a_dead_map_zero():
    z, g = draw(5, 3, 4, 4), draw(5, 3, 4, 4, seed=1)
    z[:, 1] = 0
    found = scores.taylor(z, g)
    assert found[1] == 0
    assert torch.allclose(scores.taylor(7 * z, g / 7), found)
    assert scores.unit_norm(found).square().sum().item() == pytest.approx(1.0)
    assert scores.unit_norm(torch.zeros(3)).tolist() == [0, 0, 0]


def test_the_gate_is_the_sum_over_the_next_layers_weights():
    """w dC/dw summed over the next layer's kernels for a channel is z dC/dz, and with ReLU also that of the gate."""
    torch.manual_seed(0)
    first = torch.nn.Conv2d(2, 4, 3, bias=False).double()
    norm, second = torch.nn.BatchNorm2d(4, eps=1e-14).double(), torch.nn.Conv2d(4, 3, 3, bias=False).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    loss = second(norm(first(draw(6, 2, 7, 7))).relu()).square().sum() / 6
    loss.backward()
    gate = scores.taylor_gate(norm.weight, norm.weight.grad, norm.bias, norm.bias.grad)
    following = (second.weight * second.weight.grad).sum((0, 2, 3)).square()
    assert torch.allclose(gate, following)
    # and the trap: with batch statistics the layer in front has nothing to say
    assert float(scores.taylor_weight(first.weight, first.weight.grad).max()) < 1e-10 * float(gate.max())
    assert float(scores.taylor_weight(first.weight, first.weight.grad, together=False).min()) > 0


def test_oracle_is_the_change_of_the_mean():
    assert scores.oracle(t(1, 3), t([2, 0], [3, 1])).tolist() == [0.5, 1.5]


# -- optimal brain damage --------------------------------------------------------------------------


def test_obd_and_magnitude_disagree():
    h, w = t(10, 0.5, 4), t(1, -3, 0.5)
    saliency = scores.obd(h, w)
    assert saliency.tolist() == [5, 2.25, 0.5]
    assert scores.lowest(saliency, 3).tolist() == [2, 1, 0]
    assert scores.lowest(w.abs(), 3).tolist() == [2, 0, 1]


def test_obd_is_exact_for_least_squares_with_decorrelated_inputs():
    x, _ = torch.linalg.qr(draw(50, 4))
    x = x * 50**0.5 * t(1, 2, 3, 4)
    w = t(0.5, -1, 2, 0.1)
    y = x @ w

    def loss(v):
        return float((x @ v - y).square().mean() / 2)

    found = scores.obd(x.square().mean(0), w)
    for k in range(4):
        without = w.clone()
        without[k] = 0
        assert loss(without) - loss(w) == pytest.approx(float(found[k]))


def test_fisher_adds_up_the_squares_of_single_samples():
    gradients = draw(5, 2, 3)
    by_loop = sum(g.square() for g in gradients) / 5
    assert torch.allclose(scores.fisher(gradients), by_loop)
    assert not torch.allclose(scores.fisher(gradients), gradients.mean(0).square())


# -- reconstruction ----------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.0, 0.3, 0.999, 1.0, 2.0])
def test_lasso_of_orthonormal_contributions(penalty):
    z, _ = torch.linalg.qr(draw(40, 5))
    z = z * 40**0.5
    found = scores.lasso(*scores.moments(z), penalty)
    assert found.tolist() == pytest.approx([max(1 - penalty, 0)] * 5, abs=1e-9)


@pytest.mark.parametrize("penalty", [0.05, 0.5, 2.0])
def test_lasso_agrees_with_scikit_learn(penalty):
    from sklearn.linear_model import Lasso

    z = draw(60, 12) @ draw(12, 12, seed=1)  # correlated
    y = draw(60, seed=2) + z.sum(1)
    known = Lasso(alpha=penalty, fit_intercept=False, tol=1e-12, max_iter=100000).fit(z.numpy(), y.numpy()).coef_
    found = scores.lasso(*scores.moments(z, y), penalty)
    assert np.allclose(found.numpy(), known, atol=1e-5)
    assert (found.numpy() != 0).tolist() == (np.abs(known) > 1e-7).tolist()


def test_without_a_penalty_nothing_is_lost():
    z = draw(60, 6) @ draw(6, 6, seed=1)
    assert scores.lasso(*scores.moments(z), 0.0).tolist() == pytest.approx([1.0] * 6, abs=1e-5)


def test_lasso_keeps_what_is_large_and_drops_what_is_said_twice():
    z = draw(200, 4)
    z[:, 3] = 0.01 * z[:, 3]
    assert scores.lasso_channels(*scores.moments(z), keep=3).tolist() == [0, 1, 2]
    z = torch.stack([z[:, 0], 0.999 * z[:, 0], z[:, 1]], 1)
    assert scores.lasso_channels(*scores.moments(z), keep=2).tolist() == [0, 2]


def test_lasso_with_a_dead_channel_and_with_nothing_at_all():
    z = draw(50, 3)
    z[:, 1] = 0
    found = scores.lasso_order(*scores.moments(z))
    assert found[1] == 0
    assert bool((found[[0, 2]] > 0).all())
    assert scores.lasso_order(torch.zeros(2, 2, dtype=D), torch.zeros(2, dtype=D)).tolist() == [0, 0]


ROWS = t([1, 0.1, 2], [2, -0.1, 1], [-1, 0.2, 0.5], [0, 0.1, -1])


def test_thinet_grows_the_cheapest_set():
    def cost(*channels):
        return float(ROWS[:, list(channels)].sum(1).square().sum())

    assert [cost(c) for c in range(3)] == pytest.approx([6, 0.07, 6.25])
    assert (cost(0, 1), cost(1, 2)) == (pytest.approx(5.47), pytest.approx(6.52))
    assert scores.thinet(ROWS).tolist() == [1, 0, 2]
    assert scores.thinet(ROWS, 2).tolist() == [1, 0]


def test_thinet_against_the_definition():
    x = draw(30, 7)
    removed = []
    for _ in range(7):
        left = [c for c in range(7) if c not in removed]
        removed.append(min(left, key=lambda c: float(x[:, [*removed, c]].sum(1).square().sum())))
    assert scores.thinet(x).tolist() == removed


def test_thinet_scales_leave_less_than_before():
    keep = torch.tensor([0, 2])
    scales = scores.thinet_scales(ROWS, keep)
    assert scales.tolist() == pytest.approx([0.91188119, 1.06534653], abs=5e-9)
    residual = (ROWS[:, keep] @ scales - ROWS.sum(1)).square().sum()
    assert float(residual) == pytest.approx(0.03702970, abs=5e-9)


# -- single connections ------------------------------------------------------------------------------


def test_weights_by_their_standard_deviation():
    w = t(-2, -1, 0, 1, 2)
    assert scores.std_mask(w, 1.0).sum() == 2  # the standard deviation is 1.41421
    assert scores.std_mask(w, 0.0).all()
    assert scores.dropout_rescale(0.5, kept=25, whole=100) == 0.25


# -- lottery tickets ---------------------------------------------------------------------------------

W_I, W_F = t(1, -2, 0.1), t(1.5, -1, -0.9)


@pytest.mark.parametrize(
    ("by", "known"),
    [
        ("large_final", [1.5, 1, 0.9]),
        ("small_final", [-1.5, -1, -0.9]),
        ("large_init", [1, 2, 0.1]),
        ("small_init", [-1, -2, -0.1]),
        ("large_init_large_final", [1, 1, 0.1]),
        ("small_init_small_final", [-1.5, -2, -0.9]),
        ("magnitude_increase", [0.5, -1, 0.8]),
        ("movement", [0.5, 1, 1.0]),
        ("large_final_same_sign", [1.5, 1, -math.inf]),
        ("large_final_diff_sign", [-math.inf, -math.inf, 0.9]),
    ],
)
def test_mask_criteria(by, known):
    assert scores.ticket(by, W_I, W_F).tolist() == pytest.approx(known)


def test_what_magnitude_increase_keeps():
    order = scores.lowest(scores.ticket("magnitude_increase", W_I, W_F), 3)
    assert order.flip(0).tolist() == [2, 0, 1]
    assert scores.ticket("large_init_large_final", W_I, W_F, alpha=0.5).tolist() == pytest.approx([0.75, 0.5, 0.1])


def test_random_is_seeded_and_draws_from_nobody_else():
    before = torch.random.get_rng_state()
    first, second = scores.random(8, seed=3), scores.ticket("random", draw(2, 4), draw(2, 4), seed=3)
    assert torch.equal(first, scores.random(8, seed=3))
    assert torch.equal(second, scores.ticket("random", draw(2, 4), draw(2, 4), seed=3))
    assert not torch.equal(first, scores.random(8, seed=4))
    assert torch.equal(before, torch.random.get_rng_state())


# -- orders --------------------------------------------------------------------------------------------


def test_spearman_by_the_sum_of_squared_rank_differences():
    for order in itertools.islice(itertools.permutations(range(5)), 0, 120, 17):
        by_hand = 1 - 6 * sum((i - j) ** 2 for i, j in enumerate(order)) / (5 * 24)
        assert scores.spearman(torch.arange(5.0), torch.tensor(order).double()) == pytest.approx(by_hand)


def test_ties_go_by_index():
    assert scores.lowest(torch.zeros(300), 5).tolist() == [0, 1, 2, 3, 4]
    assert scores.lowest(torch.tensor([1.0, -math.inf, 0.0]), 2).tolist() == [1, 2]


def test_squares_that_float32_cannot_hold():
    assert torch.allclose(scores.unit_norm(torch.tensor([3e-25, 4e-25])), torch.tensor([0.6, 0.8]))
    assert torch.allclose(scores.unit_norm(torch.tensor([3e20, 4e20])), torch.tensor([0.6, 0.8]))
    assert torch.allclose(scores.l2(torch.tensor([[3e20, 4e20], [3e-25, 4e-25]])), torch.tensor([5e20, 5e-25]))
