"""Relations between samples: known answers, what changes them and what does not, edges, errors, memory."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from limbeck import losses
from limbeck.errors import HyperParameterError, NonFiniteError, ShapeError

PKT_B = partial(losses.pkt, form="benchmark")
CC_B = partial(losses.correlation, form="benchmark")
ALL = [losses.rkd_distance, losses.rkd_angle, losses.similarity, losses.pkt, PKT_B, losses.correlation, CC_B]
NAMES = ["rkd_distance", "rkd_angle", "similarity", "pkt", "pkt-benchmark", "correlation", "correlation-benchmark"]
every = pytest.mark.parametrize("loss", ALL, ids=NAMES)
relations = pytest.mark.parametrize("loss", ALL[:-1], ids=NAMES[:-1])  # of any two sizes, in any order


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradient(loss, s, t):
    s = s.clone().requires_grad_()
    loss(s, t).backward()
    assert s.grad is not None
    return s.grad


def turned(x, seed=5):
    """The same cloud, rotated."""
    return x @ torch.linalg.qr(draw(x.shape[1], x.shape[1], seed=seed, dtype=x.dtype))[0]


# --- known answers

RIGHT = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
LEGS_3_4 = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 5e-9), (torch.float32, 1e-7)])
def test_two_triangles(dtype, close):
    s, t = RIGHT.to(dtype), LEGS_3_4.to(dtype)
    d, a = losses.rkd_distance(s, t), losses.rkd_angle(s, t)
    assert d.item() == pytest.approx(0.00348125, abs=close)
    assert 9 * d.item() == pytest.approx(0.03133124, abs=9 * close)
    assert a.item() == pytest.approx(0.00074448, abs=close)
    assert (25 * d + 50 * a).item() == pytest.approx(0.12425532, abs=50 * close)


def test_similarity_of_three():
    s = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    t = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    assert losses.similarity(s, t).item() == pytest.approx(0.26300076, abs=1e-6)


def test_neighbours_of_three():
    """Orthogonal samples have the affinity 1/2, equal ones 1, opposite ones 0 (1e-7)."""
    orthogonal = torch.eye(3, dtype=torch.float64)
    t = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]], dtype=torch.float64)
    # q is 1/2 everywhere; p is 2/3, 1/3 in the first two rows, 1/2 in the last
    row = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    assert losses.pkt(orthogonal, t).item() == pytest.approx(2 * row / 3, abs=1e-12)
    opposite = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0]], dtype=torch.float64)
    far = (0.5 * math.log(0.5 / 2e-7) + 0.5 * math.log(0.5)) * 2 / 3
    assert losses.pkt(opposite, orthogonal).item() == pytest.approx(far, rel=1e-6)
    assert math.isfinite(PKT_B(opposite, orthogonal).item())


def test_kernel_of_two():
    """Two unit vectors with the product c against two equal ones: only c and 1 occur."""
    c, gamma = 0.6, 0.4
    s = torch.tensor([[1.0, 0.0], [c, 0.8]], dtype=torch.float64)
    t = torch.ones(2, 5, dtype=torch.float64)
    for order in (1, 2, 3):
        series = [math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) for p in range(order + 1)]
        apart = sum(a * (1 - c**p) for p, a in enumerate(series))
        assert losses.correlation(s, t, order=order).item() == pytest.approx(apart**2 / 2, abs=1e-14)
    exact = (1 - math.exp(-gamma * ((1 - c) ** 2 + 0.8**2))) ** 2 / 2
    assert losses.correlation(s, t, order=20).item() == pytest.approx(exact, abs=1e-14)


# --- what changes nothing


@relations
def test_rotation_and_scale_of_the_whole_cloud(loss):
    s, t = draw(7, 5), draw(7, 9, seed=1)
    value = loss(s, t)
    assert value > 1e-4
    torch.testing.assert_close(loss(turned(s), t), value)
    torch.testing.assert_close(loss(s, turned(t)), value)
    close = {"atol": 1e-6, "rtol": 1e-6} if loss is PKT_B else {}  # its 1e-7 stands beside the length
    torch.testing.assert_close(loss(30 * s, 0.2 * t), value, **close)
    if s.shape != t.shape:
        torch.testing.assert_close(loss(torch.cat([s, torch.zeros(7, 3)], 1), t), value)


@pytest.mark.parametrize("loss", [losses.rkd_distance, losses.rkd_angle])
def test_distances_and_angles_do_not_know_the_origin(loss):
    s, t = draw(7, 5), draw(7, 9, seed=1)
    torch.testing.assert_close(loss(s + 100 * draw(5, seed=2), t), loss(s, t))
    t5 = draw(7, 5, seed=3)
    assert loss(turned(3 * t5) + 7, t5) < 1e-12
    assert loss(t5 * torch.linspace(0.5, 2, 5), t5) > 1e-4  # each axis by its own factor


@pytest.mark.parametrize("loss", [losses.similarity, losses.pkt, PKT_B, losses.correlation])
def test_similarities_know_the_origin(loss):
    s, t = draw(7, 5), draw(7, 9, seed=1)
    assert abs(loss(s + 2, t) - loss(s, t)) > 1e-5


def test_lengths_of_single_samples():
    s, t = draw(7, 5), draw(7, 9, seed=1)
    scale = torch.linspace(0.3, 3, 7, dtype=torch.float64)[:, None]
    for loss in (losses.pkt, losses.correlation):
        torch.testing.assert_close(loss(scale * s, t), loss(s, t))
    for loss in (losses.similarity, losses.rkd_distance, losses.rkd_angle):
        assert abs(loss(scale * s, t) - loss(s, t)) > 1e-5


@every
def test_a_common_order_and_the_errors_own(loss):
    s, t, order = draw(7, 5), draw(7, 5, seed=1), torch.tensor([3, 0, 6, 1, 5, 2, 4])
    same = torch.allclose(loss(s[order], t[order]), loss(s, t))
    assert same == (loss is not CC_B)
    assert not torch.allclose(loss(s[order], t), loss(s, t))


@every
def test_maps_are_flattened(loss):
    s, t = draw(6, 3, 2, 4), draw(6, 4, 3, 2, seed=1)
    assert loss(s, t) == loss(s.flatten(1), t.flatten(1))
    last = s.to(memory_format=torch.channels_last)
    assert loss(last, t) == loss(s, t)


# --- gradients


@every
def test_gradient_by_finite_differences(loss):
    t = draw(6, 5, seed=1)
    assert torch.autograd.gradcheck(lambda s: loss(s, t), draw(6, 5).requires_grad_())


@pytest.mark.parametrize("loss", ALL[:3] + ALL[5:6], ids=NAMES[:3] + NAMES[5:6])
def test_coincident_samples(loss):
    for dtype in (torch.float32, torch.float64):
        s, t = draw(6, 5, dtype=dtype), draw(6, 5, seed=1, dtype=dtype)
        s[1], s[2], t[3] = s[0], s[0], t[0]
        grad = gradient(loss, s, t)
        assert torch.isfinite(grad).all()
        assert 0 < grad.abs().max() < 100


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-8, 1e-20])
def test_gradients_stay_of_one_size_as_samples_meet(gap):
    t = draw(6, 5, seed=1)
    for loss in (losses.rkd_distance, losses.rkd_angle):
        s = draw(6, 5)
        s[1] = s[0]
        s[1, 2] += gap
        grad = gradient(loss, s, t)
        # A gradient on a direction grows with 1 / distance, but never beyond 1 / (the distance that counts as none)
        assert torch.isfinite(grad).all()
        assert grad.abs().max() < 1 + 1 / max(gap, 1e-7)
        assert grad[3:].abs().max() < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_samples_the_same(dtype):
    s, t = torch.full((5, 4), 0.3, dtype=dtype), draw(5, 4, dtype=dtype)
    for ours, theirs in ((s, t), (t, s), (s, s)):
        assert losses.rkd_distance(ours, theirs) == 0
        assert (gradient(losses.rkd_distance, ours, theirs) == 0).all()
    assert losses.rkd_angle(s, t) > 0
    assert (gradient(losses.rkd_angle, s, t) == 0).all()
    for loss in (losses.similarity, losses.pkt, losses.correlation):
        assert torch.isfinite(loss(s, t))
        assert torch.isfinite(gradient(loss, s, t)).all()


@every
def test_samples_of_zeros(loss):
    s, t = draw(6, 5, dtype=torch.float32), draw(6, 5, seed=1, dtype=torch.float32)
    s[2], t[4] = 0, 0
    grad = gradient(loss, s, t)
    assert torch.isfinite(loss(s, t))
    assert torch.isfinite(grad).all()
    assert grad.abs().max() < 1e2
    if loss in (losses.pkt, PKT_B, losses.correlation):  # by its length; SP still pulls on its products
        assert (grad[2] == 0).all()
    nothing = torch.zeros(6, 5)
    assert torch.isfinite(loss(nothing, nothing))
    assert (gradient(loss, nothing, nothing) == 0).all()


# --- angles: values, precision, memory


def angle_cube(s, t):
    """All cosines at once, from unit vectors: batch^3 numbers, and batch^2 vectors on the way."""

    def cosines(x):
        ray = x[None, :, :] - x[:, None, :]
        length = ray.norm(dim=2, keepdim=True)
        unit = ray / torch.where(length == 0, 1, length)
        return unit @ unit.transpose(1, 2)

    return torch.nn.functional.smooth_l1_loss(cosines(s), cosines(t))


@pytest.mark.parametrize("batch", [3, 17, 64, 80, 100])  # 80 and 100 are several chunks, the last one smaller
def test_angles_are_the_cube(batch):
    s, t = draw(batch, 6), draw(batch, 9, seed=1)
    torch.testing.assert_close(losses.rkd_angle(s, t), angle_cube(s, t))
    torch.testing.assert_close(gradient(losses.rkd_angle, s, t), gradient(angle_cube, s, t))


def test_angles_beyond_one_apart():
    """The Huber function is a line beyond 1: opposite directions differ by 2."""
    s = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    t = torch.tensor([[1.0], [0.0], [2.0]], dtype=torch.float64)
    torch.testing.assert_close(losses.rkd_angle(s, t), angle_cube(s, t))
    torch.testing.assert_close(losses.rkd_angle(s, t).item(), 4 * 1.5 / 27)


def test_tight_clusters_keep_their_angles_in_float32():
    """Products of float32 points would lose every digit of a distance of 1e-3 in a length of 100."""
    centres = 100 * draw(4, 8)
    s = (centres[:, None] + 1e-3 * draw(4, 6, 8, seed=1)).flatten(0, 1).float()
    t = draw(24, 8, seed=2).float()
    for loss, reference in ((losses.rkd_angle, angle_cube), (losses.rkd_distance, losses.rkd_distance)):
        want = reference(s.double(), t.double())
        torch.testing.assert_close(loss(s, t).double(), want, rtol=1e-6, atol=1e-7)
        exact = gradient(reference, s.double(), t.double())
        have = gradient(loss, s, t).double()
        torch.testing.assert_close(have, exact, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))


class Largest(TorchDispatchMode):
    """The bytes of the largest array that any operation made, forward and backward."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [x.untyped_storage().nbytes() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.bytes = max([self.bytes, *made])
        return out


@relations
def test_batch_512_in_modest_memory(loss):
    batch = 512
    s, t = draw(batch, 48, dtype=torch.float32).requires_grad_(), draw(batch, 64, seed=1, dtype=torch.float32)
    kept = []

    def keep(x):
        kept.append(x.numel())
        return x

    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss(s, t).backward()
    assert s.grad is not None
    assert torch.isfinite(s.grad).all()
    assert largest.bytes <= 8 * batch**2  # batch^2 x features would be 24 times that, batch^3 256 times
    assert sum(kept) <= 16 * batch**2


def test_chunks_elsewhere_stay_modest():
    """On an accelerator chunks are larger, so that kernels are few."""
    from limbeck.losses import relations

    assert max(1, relations._ON_DEVICE // 512**2) * 512**2 * 8 <= 2**25  # 32 MiB for an array


# --- errors


@pytest.mark.parametrize(
    ("loss", "name", "least"),
    [
        (losses.rkd_distance, "rkd_distance", 2),
        (losses.rkd_angle, "rkd_angle", 3),
        (losses.similarity, "similarity", 2),
        (losses.pkt, "pkt", 3),
        (PKT_B, "pkt", 2),
        (losses.correlation, "correlation", 2),
        (CC_B, "correlation", 2),
    ],
    ids=NAMES,
)
def test_too_few_samples(loss, name, least):
    few = draw(least - 1, 4)
    text = rf"{name} compares samples .* at least {least}; this one has {least - 1}\. Leave out .*drop_last=True"
    with pytest.raises(ShapeError, match=text):
        loss(few, few)
    assert torch.isfinite(loss(draw(least, 4), draw(least, 4, seed=1)))


@every
def test_features_have_a_second_dimension(loss):
    with pytest.raises(ShapeError, match=r"features are \[batch, \.\.\.\]; the student is \[5\]"):
        loss(draw(5), draw(5, 2))
    with pytest.raises(ShapeError, match=r"features are \[batch, \.\.\.\]; the teacher is \[5\]"):
        loss(draw(5, 2), draw(5))


def test_errors_of_single_samples_need_equal_sizes():
    with pytest.raises(ShapeError, match=r"the student is \[5, 4\] and the teacher \[5, 6\]\. Bring both to one size"):
        CC_B(draw(5, 2, 2), draw(5, 6))


@pytest.mark.parametrize("loss", [losses.pkt, losses.correlation])
def test_unknown_form(loss):
    with pytest.raises(HyperParameterError, match=r"no form 'papers' in (pkt|correlation); near: paper"):
        loss(draw(5, 4), draw(5, 4), form="papers")


def test_settings_of_the_kernel():
    s = draw(5, 4)
    for gamma in (0, -1.0, math.inf, math.nan):
        with pytest.raises(HyperParameterError, match=r"gamma = .*: a finite number, more than 0"):
            losses.correlation(s, s, gamma=gamma)
    with pytest.raises(HyperParameterError, match="order = 0: a whole number, at least 1"):
        losses.correlation(s, s, order=0)


@every
@pytest.mark.parametrize("row", [0, 3])
@pytest.mark.parametrize(("bad", "text"), [(math.nan, "1 NaN and 0 inf"), (math.inf, "0 NaN and 1 inf")])
def test_non_finite_anywhere(loss, row, bad, text):
    for who in ("student", "teacher"):
        both = {"student": draw(5, 4), "teacher": draw(5, 4, seed=1)}
        both[who][row, 1] = bad
        with pytest.raises(ValueError, match=f"non-finite: the {who} holds {text}"):
            loss(*both.values())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_network_that_gives_the_same_for_all_hides_no_bad_value(bad):
    same, other = torch.ones(4, 3), torch.rand(4, 3)
    other[1, 2] = bad
    with pytest.raises(NonFiniteError, match="the teacher holds"):
        losses.rkd_distance(same, other)
    with pytest.raises(NonFiniteError, match="the student holds"):
        losses.rkd_distance(other, same)


def test_from_two_samples_no_distance_is_learnt():
    s = torch.tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
    value = losses.rkd_distance(s, torch.tensor([[0.0], [9.0]]))
    value.backward()
    assert value == 0
    assert s.grad is not None
    assert s.grad.abs().max() < 1e-6
