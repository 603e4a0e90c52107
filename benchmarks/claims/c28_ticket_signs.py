"""Claim 28: of the first weights of a lottery ticket only the signs matter."""

from __future__ import annotations

from common import (
    Claim,
    Judgement,
    Seeds,
    altogether,
    column,
    density,
    difference,
    digits,
    learnt_as_tickets,
    outcome,
    percent,
    points,
    right,
    start_of_tickets,
    tickets,
)

from limbeck.compress.lottery import CONTROLS, Replant

ROUNDS = (8, 12)
ARMS = {
    "rewind": "the first weights",
    "reinit": "others",
    "reinit_sign": "others with the first signs",
    "constant": "one size, drawn signs",
    "constant_sign": "one size with the first signs",
    "rewind_nosign": "the first sizes, drawn signs",
}
JUDGED = 12


def measure(seed: int) -> dict[str, float]:
    data, start = digits(seed), start_of_tickets(seed)
    dense = learnt_as_tickets(start, data, seed)
    found = {"dense": right(dense, data)}
    rounds = tickets(data, seed, start, dense, rounds=max(ROUNDS), rate=0.2)
    for k, (ticket, trained) in enumerate(rounds, 1):
        if k not in ROUNDS:
            continue
        found |= {f"density_{k}": density(ticket), f"rewind_{k}": right(trained, data)}
        for name in ARMS:
            if name != "rewind":
                keep, sign, shuffle = CONTROLS[name]
                how = Replant(keep=keep, sign=sign, shuffle=shuffle, seed=seed)
                other = how(ticket, example=data.train_x[:2], beside=(start,))
                found[f"{name}_{k}"] = right(learnt_as_tickets(other, data, seed), data)
        for name in ("reinit_sign", "constant_sign"):  # above zero: more than half of the gap is closed
            found[f"{name}_beyond_half_{k}"] = found[f"{name}_{k}"] - (found[f"rewind_{k}"] + found[f"reinit_{k}"]) / 2
        found[f"none_{k}"] = 0.0
    return found


def judge(figures: Seeds) -> Judgement:
    told = []
    for k in ROUNDS:
        part = column(figures, f"density_{k}")
        arms = ", ".join(f"{title} {percent(column(figures, f'{name}_{k}'))}" for name, title in ARMS.items())
        told.append(f"Density {100 * sum(part.values()) / len(part):.1f} %, begun again from: {arms}")
    k = JUDGED
    gap, lost = (difference(figures, f"rewind_{k}", f"{name}_{k}") for name in ("reinit", "rewind_nosign"))
    beyond = {n: difference(figures, f"{n}_beyond_half_{k}", f"none_{k}") for n in ("reinit_sign", "constant_sign")}
    rest = "; ".join(f"{ARMS[n]} {points(difference(figures, f'{n}_{k}', f'rewind_{k}'))}" for n in beyond)
    sentence = (
        f"Dense {percent(column(figures, 'dense'))}. {'. '.join(told)}. After {k} rounds, the first weights against others "
        f"{points(gap)}, against their sizes with drawn signs {points(lost)}. Above the middle of the gap between the first "
        f"weights and others: {'; '.join(f'{ARMS[n]} {points(d)}' for n, d in beyond.items())}. Against the first weights "
        f"themselves (not judged): {rest}."
    )
    return altogether(*(outcome(d) for d in (gap, lost, *beyond.values()))), sentence


CLAIM = Claim(
    number=28,
    claim="of the first weights of a lottery ticket the signs matter, not the sizes",
    source="Zhou, Lan, Liu, Yosinski, NeurIPS 2019",
    setup="Digits, 1,200 rows, digits_mlp 64-128-64-10; tickets by rounds of 20 % (output layer 10 %) with `Ticket`, every training 30 "
    "epochs of AdamW at 0.002 in batches of 64, the same batches; then the ticket's mask over other first weights by `Replant` (others: "
    "the layer's own first weights in a random order); 597 test rows. Held, after 12 rounds: the first weights are clearly above "
    "others and above their own sizes with drawn signs, and both others and a single size, with the first signs, close clearly more than half "
    "of the gap to others.",
    settings="Epochs, rate, rounds and the condition were chosen on seeds 100 and 101, where 16 rounds were seen, too.",
    measure=measure,
    judge=judge,
    seeds=(0, 1, 2, 3, 4, 5),
)
