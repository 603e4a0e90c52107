"""Sums: what is added, what is run once, who moves when."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from mini_driver import images, moment, run, stage

from limbeck.engine.rehearsal import epochs_of
from limbeck.errors import HyperParameterError
from limbeck.methods import KD, NST, AttentionTransfer, FactorTransfer, FitNets, LogitMatching, Sum, Supervised
from limbeck.phase import Cast, Phase, Term, Update
from limbeck.settings import Ramp

PAIRS = [("layer2", "layer2")]


def one(method, cast):
    (phase,) = method.phases(cast)
    ((player, terms),) = run(phase, cast.example)
    assert player == "student"
    return {name: term.weight * term.value.detach().mean() for name, term in terms.items()}


def total(terms):
    return sum(terms.values())


def test_the_sum_is_the_sum():
    kd, nst = KD(temperature=3.0), NST(pairs=PAIRS, weight=7.0)
    parts = [one(method, stage()) for method in (kd, nst)]
    both = one(Sum(kd, nst), stage())
    assert set(both) == {"ce", "kd", "ce#2", "nst/layer2"}
    torch.testing.assert_close(total(both), total(parts[0]) + total(parts[1]))
    scaled = one(Sum(kd, nst, weights=(0.5, Ramp(start=3, end=1))), stage())
    torch.testing.assert_close(total(scaled), 0.5 * total(parts[0]) + 3 * total(parts[1]))


def test_the_gradient_is_the_sum_too():
    def gradient(method):
        cast = stage()
        (phase,) = method.phases(cast)
        run(phase, cast.example)
        return torch.cat([p.grad.flatten() for p in cast.models["student"].parameters()])

    parts = [KD(), NST(pairs=PAIRS), AttentionTransfer(pairs=PAIRS)]
    expected = torch.stack([gradient(part) for part in parts]).sum(0)
    rounding = 1e-5 * float(
        expected.abs().max()
    )  # some are 0 but for the parts' roundings, which the processor decides
    torch.testing.assert_close(gradient(Sum(*parts)), expected, rtol=1e-4, atol=rounding)


def test_labels_count_what_hard_says():
    plain = one(Supervised(), stage())["ce"]
    for methods in ((KD(), NST(pairs=PAIRS)), (KD(hard=0.0), NST(pairs=PAIRS, hard=0.0))):
        both = one(Sum(*methods, hard=0.25), stage())
        assert [name for name in both if name.startswith("ce")] == ["ce"]
        torch.testing.assert_close(both["ce"], 0.25 * plain)
    assert set(one(Sum(KD(), NST(pairs=PAIRS), hard=0), stage())) == {"kd", "nst/layer2"}


def test_every_network_runs_once_per_step():
    cast, calls = stage(), Counter()
    for role, model in cast.models.items():
        model.register_forward_hook(lambda *_, role=role: calls.update([role]))
    method = Sum(KD(), NST(pairs=PAIRS), AttentionTransfer(pairs=[("layer1", "layer1")]))
    (phase,) = method.phases(cast)
    calls.clear()
    run(phase, cast.example)
    assert calls == {"student": 1, "teacher": 1}
    assert phase.taps == {"student": ("layer2", "layer1"), "teacher": ("layer2", "layer1")}


def test_a_network_stops_early_only_if_all_let_it():
    nst, at = NST(pairs=PAIRS), AttentionTransfer(pairs=[("layer1", "layer1")])
    assert Sum(nst, at).phases(stage())[0].stops == {"teacher"}
    assert Sum(nst, KD()).phases(stage())[0].stops == frozenset()
    assert Sum(nst, Supervised()).phases(stage())[0].stops == {"teacher"}


def test_what_comes_before_the_last_phase_comes_first_and_keeps_its_name():
    phases = Sum(FitNets(pair=PAIRS[0]), LogitMatching(), KD(hard=0.0)).phases(stage())
    assert [phase.name for phase in phases] == ["hint", "statistics", "distill"]
    last = phases[-1]
    assert set(last.modules) == {"student", "teacher", "LogitMatching.standardize"}
    assert last.trains == {"student": ("student",)}


@pytest.mark.parametrize(
    ("methods", "epochs"),
    [
        ((FitNets(pair=PAIRS[0], hint_share=0.5), NST(hard=0.0, pairs=PAIRS)), [10, 10]),
        ((NST(hard=0.0, pairs=PAIRS), FitNets(pair=PAIRS[0], hint_share=0.9)), [18, 2]),
        ((FactorTransfer(pair=PAIRS[0], paraphrase_share=0.5), KD(hard=0.0)), [10, 10]),
        (
            (FactorTransfer(pair=PAIRS[0], paraphrase_share=0.2), KD(), FitNets(pair=PAIRS[0], hint_share=0.25)),
            [4, 5, 11],
        ),
    ],
)
def test_first_phases_take_what_they_take_alone_and_the_sum_has_the_rest(methods, epochs):
    assert epochs_of(Sum(*methods).phases(stage()), 20) == epochs


def test_first_phases_that_leave_nothing():
    two = (FitNets(pair=PAIRS[0], hint_share=0.5), FactorTransfer(pair=PAIRS[0], paraphrase_share=0.5))
    with pytest.raises(HyperParameterError, match=r"takes all of the epochs \(hint 50 %, paraphrase 50 %\)"):
        Sum(*two).phases(stage())


def test_labels_alone_with_their_weight_at_zero_are_nothing():
    (phase,) = Sum(Supervised(), Supervised(), hard=0).phases(stage())
    with pytest.raises(
        HyperParameterError, match="hard = 0: these methods bring nothing but what they learn from the labels"
    ):
        run(phase, images())
    with pytest.raises(HyperParameterError, match="all are zero"):
        Sum(KD(), NST(), weights=(Ramp(start=0, end=0), 0))


def test_two_methods_of_one_kind_do_not_share_their_modules():
    joint = FitNets(stages="one", soft=0.0, pair=PAIRS[0])
    (phase,) = Sum(joint, FitNets(stages="one", soft=0.0, pair=("layer1", "layer1"))).phases(stage())
    assert set(phase.trains["student"]) == {"student", "FitNets1.regressor", "FitNets2.regressor"}
    terms = run(phase, images(), lr=0.1)[0][1]
    assert {"ce", "hint", "ce#2", "hint#2"} == set(terms)
    two = Sum(FitNets(pair=PAIRS[0]), FitNets(pair=("layer1", "layer1"))).phases(stage())
    assert [phase.name for phase in two] == ["hint", "hint (FitNets2)", "distill"]


def test_a_factor_beside_softened_classes():
    cast = stage()
    phases = Sum(KD(), FactorTransfer()).phases(cast)
    assert [phase.name for phase in phases] == ["paraphrase", "distill"]
    for phase in phases:
        assert run(phase, cast.example, lr=0.01)


def test_two_methods_that_would_keep_one_file_are_refused():
    both = Sum(FactorTransfer(pair=("layer1", "layer1")), FactorTransfer(pair=PAIRS[0]))
    with pytest.raises(HyperParameterError, match=r"two of them would keep a module as paraphraser\.safetensors"):
        both.phases(stage())


class Rival:
    """Two players, two updates: what an adversarial method does."""

    def phases(self, cast):
        judge = torch.nn.Linear(3, 1)

        def step(models, batch, when):
            yield Update(
                "judge", {"game": Term(models["judge"](models["student"](batch.inputs).logits.detach()).square())}
            )
            yield Update("student", {"fool": Term(models["judge"](models["student"](batch.inputs).logits).square())})

        modules = {**cast.pick("student"), "judge": judge}
        trains = {"judge": ("judge",), "student": ("student",)}
        return (Phase(name="distill", modules=modules, trains=trains, taps={"student": ()}, step=step),)


def test_a_further_player_moves_in_its_turn():
    cast = stage()
    (phase,) = Sum(KD(), Rival()).phases(cast)
    assert phase.trains == {"student": ("student",), "Rival.judge": ("Rival.judge",)}
    updates = run(phase, cast.example, lr=0.01)
    assert [(player, list(terms)) for player, terms in updates] == [
        ("Rival.judge", ["game"]),
        ("student", ["ce", "kd", "fool"]),
    ]


class Peers:
    """Two students in turn, each of whom the other's step looks at anew."""

    def phases(self, cast):
        def step(models, batch, when):
            for player in ("student", "peer2"):
                gap = models["student"](batch.inputs).logits - models["peer2"](batch.inputs).logits
                yield Update(player, {"gap": Term(gap.square().sum(1))})

        modules = cast.pick("student", "peer2")
        trains = {"student": ("student",), "peer2": ("peer2",)}
        return (Phase(name="together", modules=modules, trains=trains, taps={"student": (), "peer2": ()}, step=step),)


def test_after_a_step_the_moved_network_is_run_again():
    def gaps(method):
        cast = stage()
        cast = Cast(models={**cast.models, "peer2": cast.models["teacher"]}, example=cast.example)
        (phase,) = method.phases(cast)
        return [float(terms["gap"].value.detach().mean()) for _, terms in run(phase, cast.example, moment(), lr=0.05)]

    alone, summed = gaps(Peers()), gaps(Sum(Peers(), Peers(), weights=(1.0, 0.0)))
    assert summed == pytest.approx(alone)
    assert alone[0] != pytest.approx(alone[1])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Sum(KD()), "methods = .*two or more; one method needs no sum"),
        (lambda: Sum(KD, NST()), r"methods = <class .*an instance with phases\(cast\)"),
        (lambda: Sum(KD(), NST(), weights=(1,)), "weights = .*one weight for each of the 2 methods"),
        (lambda: Sum(KD(), NST(), weights=(1, -1)), "weights = .*zero or more"),
        (lambda: Sum(KD(), NST(), weights=(0, 0)), "weights = .*all are zero"),
        (lambda: Sum(KD(), NST(), hard=-1), "hard = -1: a loss weight is zero or more"),
    ],
)
def test_bad_input(make, text):
    with pytest.raises(HyperParameterError, match=text):
        make()
