"""What every experiment on a claim shares: its form, its data, and how its figures become a verdict."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import limbeck as lk
from limbeck import record
from limbeck.compress.lottery import Ticket
from limbeck.phase import Batch
from limbeck.processor import processor_name
from limbeck.stats import Paired, paired, summarise

_COMMIT = record.commit()  # of the beginning: the results that are written on the way change the checkout

Outcome = Literal["held", "did not hold", "inconclusive"]
Figures = Mapping[str, float]  # what one seed measured, by name
Seeds = Mapping[int, Figures]  # ... and every seed
Judgement = tuple[Outcome, str]  # ... and one sentence with the figures that it rests on


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim and the experiment that tests it.

    Attributes:
        number: of the row in the list of claims.
        claim: what is claimed, in one sentence.
        source: paper or method that says so.
        setup: what was done, in one or two sentences: data, networks, epochs, what is paired with what.
        measure: seed -> figures of that seed (accuracies as fractions).  Everything random comes from the seed.
        judge: figures of all seeds -> outcome and one sentence with the figures (mean, std, n) that it rests on.
        seeds: the repetitions, three or more; one for exact facts without chance.
        settings: chosen before the test part was looked at, and how.
    """

    number: int
    claim: str
    source: str
    setup: str
    measure: Callable[[int], Figures]
    judge: Callable[[Seeds], Judgement]
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    settings: str = ""
    also: Mapping[str, Any] = field(default_factory=dict)


def perform(claim: Claim, folder: Path, *, fresh: bool = False) -> dict[str, Any]:
    """Measure the seeds that are not there yet, judge, and write ``NN.json`` (each seed is kept as it comes)."""
    path, kept = folder / f"{claim.number:02d}.json", {}
    if path.exists() and not fresh:
        told = json.loads(path.read_text())
        if told["setup"] == claim.setup and told["settings"] == claim.settings:
            kept = {int(seed): figures for seed, figures in told["figures"].items()}
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[int, Figures] = {s: kept[s] for s in claim.seeds if s in kept}
    for seed in claim.seeds:
        if seed in figures:
            continue
        started = time.process_time()
        found = dict(claim.measure(seed))
        figures[seed] = {**found, "cpu_seconds": round(time.process_time() - started, 1)}
        print(
            f"claim {claim.number}, seed {seed}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures[seed].items()),
            flush=True,
        )
        _write(path, claim, figures, None)
    return _write(path, claim, {s: figures[s] for s in claim.seeds}, claim.judge(figures))


def _write(path: Path, claim: Claim, figures: Seeds, judged: Judgement | None) -> dict[str, Any]:
    told = {k: v for k, v in asdict_plain(claim).items() if k not in ("measure", "judge")}
    told |= {
        "outcome": judged[0] if judged else None,
        "sentence": judged[1] if judged else None,
        "figures": {str(seed): dict(found) for seed, found in figures.items()},
        "commit": _COMMIT,
        "versions": record.versions(),
        "device": f"cpu, {processor_name()}, {torch.get_num_threads()} thread(s)",
        "finished": record.now(),
    }
    record.write_json(path, told)
    return told


def asdict_plain(claim: Claim) -> dict[str, Any]:
    """The text of a claim; functions are left out."""
    return {
        "number": claim.number, "claim": claim.claim, "source": claim.source, "setup": claim.setup,
        "settings": claim.settings, "seeds": list(claim.seeds), **claim.also,
    }  # fmt: skip


# -- judging ------------------------------------------------------------------------------------------


def column(figures: Seeds, name: str) -> dict[int, float]:
    """One figure of every seed."""
    return {seed: found[name] for seed, found in figures.items()}


def difference(figures: Seeds, one: str, other: str) -> Paired:
    """``one - other``, paired by seed."""
    return paired(column(figures, one), column(figures, other))


def ends(d: Paired) -> tuple[float, float]:
    """The interval; a single run could be anything."""
    return (-math.inf, math.inf) if d.low is None or d.high is None else (d.low, d.high)


def percent(values: Mapping[int, float]) -> str:
    """Fractions as "91.30 ± 0.70 % (n = 5)"."""
    told = summarise([100 * v for v in values.values()])
    spread = "" if told.std is None else f" ± {told.std:.2f}"
    return f"{told.mean:.2f}{spread} % (n = {told.n})"


def points(d: Paired) -> str:
    """A paired difference of fractions as "+1.20 points [+0.30, +2.10]"."""
    if d.low is None or d.high is None:
        return f"{100 * d.mean:+.2f} points (single run)"
    return f"{100 * d.mean:+.2f} points [{100 * d.low:+.2f}, {100 * d.high:+.2f}]"


def outcome(d: Paired, *, higher_is_better: bool = True) -> Outcome:
    """ "held" where the first is clearly better, "did not hold" where it is clearly worse."""
    return {"better": "held", "worse": "did not hold"}.get(d.verdict(higher_is_better), "inconclusive")  # type: ignore[return-value]


def rank_correlation(a: Any, b: Any) -> float:
    """Spearman's rho of two lists of numbers."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)  # pyright: ignore[reportAttributeAccessIssue]


# -- data ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images:
    """Images ``[n, channels, height, width]`` with their classes, to train on and to measure on."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def digits(seed: int) -> Images:
    """8x8 digits, pixels in [0, 1]: 1,200 rows to train on, 597 to measure on, stratified by the seed."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    a, b, ya, yb = train_test_split(x / 16.0, y, train_size=1200, stratify=y, random_state=seed)
    shaped = [torch.tensor(part, dtype=torch.float32).reshape(-1, 1, 8, 8) for part in (a, b)]
    return Images(shaped[0], torch.tensor(ya), shaped[1], torch.tensor(yb))


def network(name: str, seed: int, **options: Any) -> torch.nn.Module:
    """A network of the zoo whose weights come from the seed; equal calls give equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return lk.build(name, **{"classes": 10, **options})


def cifar10(seed: int, rows: int, test_rows: int = 2000) -> Images:
    """A part of CIFAR-10, normalised: so many training rows by the seed, the first of the test part.  [n, 3, 32, 32]."""
    from limbeck.data import load, subset

    data = load(lk.Data(source=lk.CIFAR10(), validation=5000))
    train, test = subset(data.train, rows, seed), data.test
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (data.mean, data.std))
    scaled = [(part.pixels.float() / part.scale - mean) / std for part in (train, test)]
    return Images(scaled[0], train.labels, scaled[1][:test_rows], test.labels[:test_rows])


class Batches:
    """Shuffled batches of tensors, the same for the same seed and epoch; what `limbeck.distill` walks over."""

    def __init__(self, x: Tensor, y: Tensor | None, size: int, seed: int, *, shuffle: bool = True) -> None:
        self.x, self.y, self.size, self.seed, self.shuffle, self.walks = x, y, min(size, len(x)), seed, shuffle, 0

    def __len__(self) -> int:
        return max(1, len(self.x) // self.size) if self.shuffle else -(-len(self.x) // self.size)

    def __iter__(self):
        order = torch.arange(len(self.x))
        if self.shuffle:
            order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(self.seed + 1000 * self.walks))
            self.walks += 1
        for i in range(len(self)):
            rows = order[i * self.size : (i + 1) * self.size]
            yield Batch(self.x[rows], None if self.y is None else self.y[rows], rows)

    @property
    def rows(self) -> int:
        return len(self.x)


@torch.no_grad()
def scores(model: torch.nn.Module, x: Tensor, size: int = 500) -> Tensor:
    """The logits of a network in evaluation mode."""
    was, _ = model.training, model.eval()
    found = torch.cat([model(part) for part in x.split(size)])
    model.train(was)
    return found


def accuracy(model: torch.nn.Module, x: Tensor, y: Tensor) -> float:
    """The part of the rows that a network gets right."""
    return float((scores(model, x).argmax(1) == y).float().mean())


def brief(values: Mapping[int, float]) -> str:
    """Fractions as "91.3 ± 0.7", in percent: for lists of which n is said once."""
    told = summarise([100 * v for v in values.values()])
    return f"{told.mean:.1f}" + ("" if told.std is None else f" ± {told.std:.1f}")


# -- a small student and what it learns from --------------------------------------------------------------


def balanced(data: Images, rows: int) -> tuple[Tensor, Tensor]:
    """So many training rows, of each class as many as of the others: the first ones."""
    classes = int(data.train_y.max()) + 1
    found = torch.cat([(data.train_y == k).nonzero()[: rows // classes, 0] for k in range(classes)])
    return data.train_x[found], data.train_y[found]


def big_mlp(seed: int, x: Tensor, y: Tensor, *, classes: int = 10, epochs: int = 40) -> torch.nn.Module:
    """A teacher: 64-256-256 with dropout, trained on labels; about 2 CPU seconds on 1,200 rows."""
    model = network("digits_mlp", seed, classes=classes, hidden=[256, 256], dropout=0.5)
    return lk.train(model, Batches(x, y, min(64, len(x) // 2), seed), epochs=epochs, seed=seed, quiet=True)


def taught(
    student: torch.nn.Module, x: Tensor, y: Tensor | None, seed: int, *, teacher: Any = None, method: Any = None,
    steps: int = 800, lr: float = 1e-2, **more: Any,
) -> torch.nn.Module:  # fmt: skip
    """A small student after about so many steps of AdamW without decay; from labels alone where there is no teacher.

    The batches (32 rows) are the same for the same rows and seed, except for methods that walk over the data once more before
    (`LogitMatching`) and for courses (`TeacherAssistant`): their students see the batches of later epochs.
    """
    batches = Batches(x, y, 32, seed)
    told = {"epochs": max(1, steps // len(batches)), "seed": seed, "quiet": True, **more}
    told["optimizer"] = lk.Optimizer(kind="adamw", lr=lr, weight_decay=0.0)
    if teacher is None:
        return lk.train(student, batches, method=method, **told)
    return lk.distill(teacher, student, batches, method=method, **told)


# -- networks to compress -----------------------------------------------------------------------------------


def learnt(
    model: torch.nn.Module, data: Images, seed: int, *, epochs: int, lr: float, teacher: Any = None, method: Any = None
) -> torch.nn.Module:
    """This network, trained on all training rows: batches of 64, AdamW without decay, cosine; the same batches for the same seed."""
    batches = Batches(data.train_x, data.train_y, 64, seed)
    told: dict[str, Any] = {"epochs": epochs, "seed": seed, "quiet": True, "method": method}
    told["optimizer"] = lk.Optimizer(kind="adamw", lr=lr, weight_decay=0.0)
    if teacher is None:
        return lk.train(model, batches, **told)
    return lk.distill(teacher, model, batches, **told)


def six_convolutions(data: Images, seed: int) -> torch.nn.Module:
    """A network with something to spare: six 3x3 convolutions of 32 to 128 channels, 288,170 parameters, trained for 8 epochs."""
    net = network("plain_6", seed, width=32, grid=1, in_channels=1, size=8)
    return learnt(net, data, seed, epochs=8, lr=5e-3)


def looked_at(data: Images) -> list[Batch]:
    """The first 512 training rows, for compressors that look at data."""
    return [Batch(x, y) for x, y in zip(data.train_x[:512].split(64), data.train_y[:512].split(64), strict=True)]


def right(model: torch.nn.Module, data: Images) -> float:
    """The accuracy on the test rows."""
    return accuracy(model, data.test_x, data.test_y)


def no_worse(d: Paired, margin: float) -> Outcome:
    """ "held" where the whole interval is above minus the margin, "did not hold" where all of it is below."""
    if d.n < 3 or d.low is None or d.high is None:
        return "inconclusive"
    return "held" if d.low > -margin else "did not hold" if d.high < -margin else "inconclusive"


def altogether(*outcomes: str) -> Outcome:
    """Held where every part did; not where one part came out the other way."""
    if "did not hold" in outcomes:
        return "did not hold"
    return "held" if set(outcomes) == {"held"} else "inconclusive"


def unanimous(*outcomes: Outcome) -> Outcome:
    """What every part came out as, where they agree."""
    return outcomes[0] if len(set(outcomes)) == 1 else "inconclusive"


def start_of_tickets(seed: int) -> torch.nn.Module:
    """The untrained network 64-128-64-10 of the experiments on lottery tickets."""
    return network("digits_mlp", seed, hidden=[128, 64])


def learnt_as_tickets(model: torch.nn.Module, data: Images, seed: int) -> torch.nn.Module:
    """A copy of a network or ticket, trained as all of them are: 30 epochs."""
    return learnt(copy.deepcopy(model), data, seed, epochs=30, lr=2e-3)


def tickets(
    data: Images, seed: int, start: Any, trained: Any, *, rounds: int, rate: float, **more: Any
) -> Iterator[Any]:
    """Round by round: the ticket, and the ticket trained.  The output layer loses half as much."""
    for k in range(1, rounds + 1):
        how = Ticket(rate=rate, rounds=rounds + 1 - k, seed=seed, **more)
        ticket = how(trained, example=data.train_x[:2], beside=(start,))
        trained = learnt_as_tickets(ticket, data, seed)
        yield ticket, trained


def density(ticket: torch.nn.Module) -> float:
    """The part of the weights of a masked network that is left."""
    weights = [m.weight for m in ticket.modules() if isinstance(m, torch.nn.Linear)]
    return sum(int((w != 0).sum()) for w in weights) / sum(w.numel() for w in weights)
