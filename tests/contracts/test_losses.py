"""One table with every loss, and what all of them promise."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jaxtyping
import pytest
import torch

from limbeck import losses

B = 4


def draw(*shape):
    return lambda gen: torch.randn(*shape, generator=gen, dtype=torch.float64)


def equal(t):
    return t.clone()


def sure(t):
    """Logits that leave no doubt about the class ids."""
    return 100.0 * torch.nn.functional.one_hot(t, 5).double()


def sure_each(t):
    """Logits that leave no doubt about each label."""
    return 200.0 * t.double() - 100.0


def beyond_doubt(t):
    """Logits far above zero for the class ids, and far below for the others."""
    return 200.0 * torch.nn.functional.one_hot(t, 5).double() - 100.0


NORMS = ("squared", "plain")
PARTS = ((0, 3), (1, 2, 4))
EACH = ((0,), (1,), (2,), (3,), (4,))


def middle(t):
    """The student's best answer to the mean of the teachers' probabilities at T = 2."""
    return 2 * (t / 2).softmax(2).mean(1).log()


def sums(t):
    """The student's best answer to a teacher of finer classes at T = 1."""
    p = t.softmax(1)
    return torch.stack([p[:, group].sum(1) for group in map(list, PARTS)], 1).log()


def decoupled(temperature):
    """With one and the same target class for every sample, so that any part of a batch can be cut out."""

    def call(s, t):
        targets = torch.ones(s.shape[:1], dtype=torch.int64)
        return losses.dkd(s, t, targets=targets, temperature=temperature, alpha=1.0, beta=2.0)

    return call


@dataclass(frozen=True)
class Loss:
    """A line of the table: how to call it, what to feed it, and which student is best."""

    title: str
    call: Callable
    student: Callable
    teacher: Callable
    best: Callable | None = equal  # None: student and teacher differ in shape
    labels: bool = False
    between: bool = False  # it compares samples with each other: one number for the batch
    in_order: bool = False  # and looks at consecutive ones, so that their order counts

    def make(self, seed=0):
        gen = torch.Generator().manual_seed(seed)
        return self.student(gen), self.teacher(gen)


def attention(kind, p, form):
    call = partial(losses.attention_l2, kind=kind, p=p, form=form)
    return Loss(f"attention_l2-{kind}-{p}-{form}", call, draw(B, 3, 5, 4), draw(B, 3, 5, 4))


TABLE = [
    Loss("kd_kl-1", partial(losses.kd_kl, temperature=1), draw(B, 5), draw(B, 5)),
    Loss("kd_kl-4", partial(losses.kd_kl, temperature=4), draw(B, 5), draw(B, 5)),
    Loss("kd_sigmoid-4", partial(losses.kd_sigmoid, temperature=4), draw(B, 5), draw(B, 5)),
    Loss("kd_sigmoid-one-logit", partial(losses.kd_sigmoid, temperature=2), draw(B), draw(B)),
    Loss("logit_l2", losses.logit_l2, draw(B, 5), draw(B, 5)),
    Loss("cross_entropy", losses.cross_entropy, draw(B, 5), lambda g: torch.randint(5, (B,), generator=g), sure, True),
    Loss(
        "sigmoid_cross_entropy",
        losses.sigmoid_cross_entropy,
        draw(B, 5),
        lambda g: torch.randint(2, (B, 5), generator=g),
        sure_each,
        True,
    ),
    Loss(
        "squared_hinge",
        losses.squared_hinge,
        draw(B, 5),
        lambda g: torch.randint(5, (B,), generator=g),
        beyond_doubt,
        True,
    ),
    *[
        Loss(f"hint_l2-{f}", partial(losses.hint_l2, form=f), draw(B, 3, 5, 4), draw(B, 3, 5, 4))
        for f in ("paper", "benchmark")
    ],
    Loss("adversarial_value", losses.adversarial_value, draw(B, 5), draw(B, 7), None),
    *[Loss(f"gradient_l2-{n}", partial(losses.gradient_l2, norm=n), draw(B, 3, 5, 4), draw(B, 3, 5, 4)) for n in NORMS],
    *[
        Loss(
            f"kd_kl_mixture-{a}",
            partial(losses.kd_kl_mixture, temperature=2, averaging=a),
            draw(B, 5),
            draw(B, 3, 5),
            b,
        )
        for a, b in (("arithmetic", middle), ("geometric", lambda t: t.mean(1)))
    ],
    Loss("kd_grouped", partial(losses.kd_grouped, groups=PARTS, temperature=1), draw(B, 2), draw(B, 5), sums),
    Loss("kd_grouped-one-each", partial(losses.kd_grouped, groups=EACH, temperature=4), draw(B, 5), draw(B, 5)),
    Loss("dkd", decoupled(4), draw(B, 5), draw(B, 5)),
    Loss("dkd-1", decoupled(1), draw(B, 5), draw(B, 5)),
    *[
        Loss(
            f"vid_nll-{f}", partial(losses.vid_nll, variance=torch.ones(3), form=f), draw(B, 3, 5, 4), draw(B, 3, 5, 4)
        )
        for f in ("paper", "benchmark")
    ],
    *[
        Loss(f"factor_lp-{p}-{f}", partial(losses.factor_lp, p=p, form=f), draw(B, 3, 5, 4), draw(B, 3, 5, 4))
        for p in (1, 2)
        for f in ("paper", "mean", "benchmark")
    ],
    Loss("factor_lp-sizes", losses.factor_lp, draw(B, 3, 5, 4), draw(B, 3, 8, 3), None),
    *[
        Loss(f"hint_ce-{m}", partial(losses.hint_ce, mode=m, temperature=2), draw(B, 3, 5, 4), draw(B, 3, 5, 4))
        for m in ("softmax", "sigmoid")
    ],
    Loss("hcl", losses.hcl, draw(B, 3, 5, 4), draw(B, 3, 5, 4)),
    *[attention(k, p, f) for k, p in (("sum", 1), ("sum_pow", 2), ("max_pow", 2)) for f in ("paper", "benchmark")],
    Loss("attention_l2-sizes", losses.attention_l2, draw(B, 3, 5, 4), draw(B, 7, 8, 3), None),
    *[
        Loss(f"nst_mmd-{k}-{r}", partial(losses.nst_mmd, kernel=k, resize=r), draw(B, 3, 5, 4), draw(B, 3, 5, 4))
        for k in ("linear", "poly", "gaussian")
        for r in ("pool", "interpolate")
    ],
    Loss("nst_mmd-by-channels", losses.nst_mmd, draw(B, 3, 6, 6), draw(B, 3, 6, 6)),
    Loss("nst_mmd-by-positions", losses.nst_mmd, draw(B, 12, 2, 2), draw(B, 12, 2, 2)),
    Loss("nst_mmd-sizes", losses.nst_mmd, draw(B, 3, 5, 4), draw(B, 7, 8, 3), None),
    *[
        Loss(f"{f.__name__}-{n}", f, draw(B, 6), draw(B, *n), best, between=True)
        for f in (losses.rkd_distance, losses.rkd_angle, losses.similarity, losses.pkt, losses.correlation)
        for n, best in (((6,), equal), ((3, 2, 2), None))
    ],
    Loss("pkt-benchmark", partial(losses.pkt, form="benchmark"), draw(B, 6), draw(B, 6), between=True),
    Loss(
        "correlation-benchmark",
        partial(losses.correlation, form="benchmark"),
        draw(B, 6),
        draw(B, 6),
        between=True,
        in_order=True,
    ),
]
every_loss = pytest.mark.parametrize("loss", TABLE, ids=lambda loss: loss.title)
every_pair = pytest.mark.parametrize("loss", [x for x in TABLE if not x.labels], ids=lambda loss: loss.title)


def test_table_is_complete():
    named = {loss.title.split("-")[0] for loss in TABLE}
    assert named == set(losses.__all__) - {"attention_map", "contrast_scores", "crd_nce"}
    assert dir(losses) == sorted(losses.__all__)


@pytest.mark.parametrize("name", losses.__all__)
def test_documented_and_keyword_only(name):
    function = getattr(losses, name)
    options = list(inspect.signature(function).parameters.values())[1 if name == "attention_map" else 2 :]
    assert all(o.kind is o.KEYWORD_ONLY for o in options)
    doc = inspect.getdoc(function) or ""
    for part in ("Args:", "Returns:", "Raises:", ">>> "):
        assert part in doc, f"{name} has no {part!r}"


@every_loss
def test_one_value_per_sample_or_per_batch(loss):
    s, t = loss.make()
    value = loss.call(s, t)
    if loss.between:
        assert value.shape == ()
        return
    assert value.shape == (B,)
    one_by_one = torch.cat([loss.call(s[i : i + 1], t[i : i + 1]) for i in range(B)])
    torch.testing.assert_close(value, one_by_one)


@pytest.mark.parametrize("loss", [x for x in TABLE if x.best], ids=lambda loss: loss.title)
def test_minimal_at_the_teacher_and_above_elsewhere(loss):
    for seed in range(5):
        s, t = loss.make(seed)
        best = loss.best(t)
        least = loss.call(best, t)
        assert least.abs().max() < 1e-12
        assert (loss.call(s, t) > 1e-6).all()
        if not loss.labels:  # for labels the minimum is at infinity, and here all but reached
            assert (loss.call(best + 0.5 * s, t) > 1e-6).all()


@every_loss
def test_going_down_the_gradient_lowers_it(loss):
    s, t = loss.make()
    s.requires_grad_()
    before = loss.call(s, t)
    (grad,) = torch.autograd.grad(before.sum(), s)
    assert (loss.call(s - 1e-3 * grad, t) < before).all()


@every_pair
def test_gradient_reaches_the_student_only(loss):
    s, t = (x.requires_grad_() for x in loss.make())
    value = loss.call(s, 1.5 * t)
    value.sum().backward()
    assert s.grad is not None
    assert (s.grad.flatten(1) if s.ndim > 1 else s.grad[:, None]).abs().amax(1).min() > 0
    assert t.grad is None
    with pytest.raises(RuntimeError, match="does not require grad"):
        loss.call(s.detach(), 1.5 * t).sum().backward()


@every_loss
def test_order_of_the_batch_is_nothing(loss):
    s, t = loss.make()
    order = torch.tensor([2, 0, 3, 1])
    value = loss.call(s, t)
    if loss.in_order:
        assert loss.call(s[order], t[order]) != value
        return
    torch.testing.assert_close(loss.call(s[order], t[order]), value if loss.between else value[order])


@every_loss
@pytest.mark.parametrize(("dtype", "close"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precision_inputs(loss, dtype, close):
    s, t = loss.make()
    half_s = s.to(dtype).requires_grad_()
    half_t = t if loss.labels else t.to(dtype)
    value = loss.call(half_s, half_t)
    assert value.dtype == torch.float32
    exact = loss.call(half_s.detach().float(), half_t if loss.labels else half_t.float())
    assert torch.equal(value, exact)  # nothing but the inputs is rounded
    torch.testing.assert_close(value.double(), loss.call(s, t), rtol=close, atol=close)
    value.sum().backward()
    assert half_s.grad is not None
    assert half_s.grad.dtype == dtype
    assert torch.isfinite(half_s.grad).all()


@every_loss
def test_float32_is_close_to_float64(loss):
    s, t = loss.make()
    value = loss.call(s.float(), t if loss.labels else t.float())
    assert value.dtype == torch.float32
    assert loss.call(s, t).dtype == torch.float64
    torch.testing.assert_close(value.double(), loss.call(s, t), rtol=2e-5, atol=2e-6)


@every_pair
def test_mixed_precision_pair(loss):
    s, t = loss.make()
    torch.testing.assert_close(loss.call(s.float(), t).double(), loss.call(s, t), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss.call(s.float(), t.bfloat16()), loss.call(s.float(), t.bfloat16().float()))


@every_loss
def test_autocast_changes_nothing(loss):
    s, t = loss.make()
    s, t = s.float().requires_grad_(), t if loss.labels else t.float()
    plain = loss.call(s, t)
    (want,) = torch.autograd.grad(plain.sum(), s)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss.call(s, t)
    (have,) = torch.autograd.grad(value.sum(), s)
    assert value.dtype == torch.float32
    assert torch.equal(value, plain)
    torch.testing.assert_close(have, want)


@every_loss
def test_inputs_are_left_alone(loss):
    s, t = loss.make()
    kept = s.clone(), t.clone()
    loss.call(s, t)
    assert torch.equal(s, kept[0])
    assert torch.equal(t, kept[1])


@pytest.fixture
def unchecked():
    """torch.compile from a clean start, and not through a type checker, should one be switched on for the tests."""
    old = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    torch.compiler.reset()
    yield
    jaxtyping.config.update("jaxtyping_disable", old)


@every_loss
@pytest.mark.usefixtures("unchecked")
def test_captured_as_one_graph(loss):
    s, t = loss.make()
    s.requires_grad_()
    compiled = torch.compile(loss.call, backend="eager", fullgraph=True)
    value, want = compiled(s, t), loss.call(s, t)
    torch.testing.assert_close(value, want)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), s)[0] for v in (value, want)))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("call", [losses.attention_l2, losses.nst_mmd], ids=["attention_l2", "nst_mmd"])
def test_zero_gradient_where_equal_also_when_compiled(call):
    t = torch.randn(2, 3, 4, 4)
    t[:, 1] = 0
    s = t.clone().requires_grad_()
    torch.compile(call, backend="aot_eager", fullgraph=True)(s, t).sum().backward()
    assert s.grad is not None
    assert s.grad.abs().max() < 1e-6


# --- bad input, by text


@every_loss
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_student_that_is_no_float(loss, dtype):
    s, t = loss.make()
    with pytest.raises(TypeError, match=rf"the student is {str(dtype)[6:]}; features and logits are floating-point"):
        loss.call(s.to(dtype), t)


@every_pair
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_teacher_that_is_no_float(loss, dtype):
    s, t = loss.make()
    with pytest.raises(TypeError, match=rf"the teacher is {str(dtype)[6:]}; features and logits are floating-point"):
        loss.call(s, t.to(dtype))


@every_pair
def test_different_batches(loss):
    s, t = loss.make()
    with pytest.raises(ValueError, match=rf"batch sizes differ: student \[{B}.*teacher \[{B - 1}"):
        loss.call(s, t[1:])


@every_loss
def test_empty_batch(loss):
    s, t = loss.make()
    with pytest.raises(ValueError, match=r"empty batch: the student has the shape \[0"):
        loss.call(s[:0], t[:0])


@every_loss
def test_a_single_number(loss):
    _, t = loss.make()
    with pytest.raises(ValueError, match="the student is a single number; the first dimension must be the batch"):
        loss.call(torch.tensor(1.0), t)


@every_loss
@pytest.mark.parametrize(("value", "text"), [(math.nan, "1 NaN and 0 inf"), (math.inf, "0 NaN and 1 inf")])
def test_non_finite_student(loss, value, text):
    s, t = loss.make()
    s.view(-1)[-1] = value
    if loss.title == "cross_entropy":
        t[-1] = 0  # an infinite score of another class
    if loss.title == "sigmoid_cross_entropy":
        t[-1, -1] = 0
    where = "" if loss.between else rf" for 1 of {B} samples \(rows {B - 1}\)"
    with pytest.raises(ValueError, match=rf"non-finite{where}: the student holds {text}"):
        loss.call(s, t)


@every_pair
@pytest.mark.parametrize(("value", "text"), [(math.nan, "1 NaN and 0 inf"), (-math.inf, "0 NaN and 1 inf")])
def test_non_finite_teacher(loss, value, text):
    s, t = loss.make()
    t.view(-1)[-1] = value
    where = "" if loss.between else f" for 1 of {B} samples.*"
    with pytest.raises(ValueError, match=rf"non-finite{where}: the teacher holds {text}"):
        loss.call(s, t)


@pytest.mark.usefixtures("unchecked")
def test_nothing_non_finite_is_turned_into_a_number_while_compiling():
    s, t = torch.randn(2, 3), torch.randn(2, 3)
    s[0, 0] = math.nan
    value = torch.compile(partial(losses.kd_kl, temperature=4), backend="eager", fullgraph=True)(s, t)
    assert value.isnan().tolist() == [True, False]


@pytest.mark.usefixtures("unchecked")
def test_a_temperature_that_varies_is_captured_too():
    s, t = torch.randn(2, 3), torch.randn(2, 3)
    compiled = torch.compile(lambda s, t, by: losses.kd_kl(s, t, temperature=by), backend="eager", fullgraph=True)
    for by in (4.0, 3.5, 2.0):
        torch.testing.assert_close(compiled(s, t, by), losses.kd_kl(s, t, temperature=by))


def test_importing_the_room_imports_no_torch():
    code = "import sys, limbeck.losses; assert 'torch' not in sys.modules, 'torch was imported'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'kd'"):
        losses.kd  # noqa: B018
