"""Agreement with what the published benchmark computes, worked out again from its formulas, written the slow way."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from limbeck import losses


def unit_rows(x):
    return x / x.pow(2).sum(-1, keepdim=True).sqrt().clamp(min=1e-12)


def same_size(s, t):
    if s.shape[2] > t.shape[2]:
        return F.adaptive_avg_pool2d(s, t.shape[2:]), t
    return s, F.adaptive_avg_pool2d(t, s.shape[2:])


def attention(s, t):
    s, t = same_size(s, t)
    a, b = (unit_rows(x.pow(2).mean(1).reshape(len(x), -1)) for x in (s, t))
    return (a - b).pow(2).mean()


def selectivity(s, t):
    s, t = same_size(s, t)
    q, p = (unit_rows(x.reshape(x.shape[0], x.shape[1], -1)) for x in (s, t))

    def kernel(x, y):
        return (x[:, None, :, :] * y[:, :, None, :]).sum(-1).pow(2)

    return kernel(p, p).mean() + kernel(q, q).mean() - 2 * kernel(q, p).mean()


def softened(s, t, temperature=4.0):
    log_q, p = (s / temperature).log_softmax(1), (t / temperature).softmax(1)
    return (p * (p.log() - log_q)).sum() / len(s) * temperature**2


def hint(s, t):
    return ((s - t) ** 2).mean()


MAPS = [
    ((4, 5, 7, 7), (4, 8, 7, 7)),
    ((3, 6, 9, 9), (3, 4, 5, 5)),
    ((3, 4, 4, 4), (3, 6, 8, 8)),
    ((2, 17, 3, 3), (2, 13, 3, 3)),
    ((2, 3, 1, 1), (2, 5, 1, 1)),
]
SAME = [((4, 5, 7, 3), (4, 5, 7, 3)), ((3, 11), (3, 11))]
PAIRS = [
    *[("attention", attention, lambda s, t: losses.attention_l2(s, t, form="benchmark"), *shapes) for shapes in MAPS],
    *[("nst", selectivity, losses.nst_mmd, *shapes) for shapes in MAPS],
    *[("hint", hint, lambda s, t: losses.hint_l2(s, t, form="benchmark"), *shapes) for shapes in SAME],
    ("kd", softened, lambda s, t: losses.kd_kl(s, t, temperature=4), (5, 11), (5, 11)),
]


def plain(x):
    return x


def transposed(x):
    """The same numbers, not contiguous in memory."""
    return x.transpose(1, -1).contiguous().transpose(1, -1)


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else transposed(x)


def every_other(x):
    wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


@pytest.mark.parametrize("layout", [plain, transposed, channels_last, every_other])
@pytest.mark.parametrize("i", range(len(PAIRS)), ids=lambda i: f"{PAIRS[i][0]}-{PAIRS[i][3]}-{PAIRS[i][4]}")
def test_mean_over_the_batch_is_the_benchmark(i, layout):
    _, naive, ours, s_shape, t_shape = PAIRS[i]
    gen = torch.Generator().manual_seed(i)
    s, t = torch.randn(s_shape, generator=gen), torch.randn(t_shape, generator=gen)
    want_s = s.double().requires_grad_()
    want = naive(want_s, t.double())
    want.backward()
    have_s = layout(s).detach().requires_grad_()
    torch.testing.assert_close(have_s.detach(), s, rtol=0, atol=0)
    have = ours(have_s, layout(t)).mean()
    have.backward()
    assert want_s.grad is not None
    assert have_s.grad is not None
    torch.testing.assert_close(have.double(), want, rtol=1e-5, atol=1e-7)
    largest = float(want_s.grad.abs().max())
    torch.testing.assert_close(have_s.grad.double(), want_s.grad, rtol=1e-5, atol=1e-5 * largest)


def test_the_two_forms_differ_by_the_documented_factor():
    gen = torch.Generator().manual_seed(0)
    s, t = torch.randn(3, 4, 5, 6, generator=gen), torch.randn(3, 4, 5, 6, generator=gen)
    torch.testing.assert_close(losses.hint_l2(s, t), 4 * 5 * 6 / 2 * losses.hint_l2(s, t, form="benchmark"))
    torch.testing.assert_close(losses.attention_l2(s, t).square() / 30, losses.attention_l2(s, t, form="benchmark"))
