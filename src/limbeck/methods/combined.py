"""Several methods at once: their losses are added, and the networks are run once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from limbeck.errors import HyperParameterError
from limbeck.methods.attention import AttentionTransfer
from limbeck.methods.nst import NST
from limbeck.methods.response import KD
from limbeck.methods.terms import cross_entropy, off
from limbeck.phase import Batch, Cast, Method, Models, Moment, Phase, Term, Update
from limbeck.settings import Presets, Weight, at, require, require_weights

_LABELS = ("ce", "bce")  # the terms that come from the labels


@dataclass(frozen=True, init=False)
class Sum:
    """The sum of several methods' losses, such as a feature method beside softened classes.

    ``L = sum_i weight_i * L_i``.  Every network sees each batch once, whatever the number of methods (gradient attention,
    which differentiates by the input, runs them on an input of its own).  Phases that come
    before a method's last one (FitNets' hints, a paraphraser) run first, in the order of the methods; then the last
    phases of all run as one, "distill", in the epochs that the first ones leave.  Terms of methods that would have the same name are told apart by a number.

    Each method brings its own part from the labels: ``Sum(KD(), NST())`` counts them ``0.1 + 1``.  ``hard`` says in one
    number what they count in all.

    In Python ``Sum(KD(), NST(weight=5))``; in a recipe a list stands for a sum: ``method: [kd, {kind: nst, weight: 5}]``.

    Attributes:
        methods: two or more, none of them a course.
        weights: one for each method, zero or more, or a `Ramp`.  Default None: 1 for each.
        hard: what the labels count in all, instead of what the methods say, zero or more, or a `Ramp`.  Default None:
            what the methods say, added up.

    Raises:
        HyperParameterError: fewer than two methods, something that is no method, weights that do not fit or leave no term,
            or first phases that together take all epochs.
        LimbeckError: what the methods themselves raise.

    >>> from limbeck import KD, NST, Ramp
    >>> len(Sum(KD(hard=0.0), NST(), weights=(1.0, Ramp(start=1, end=0))).methods)
    2
    """

    methods: tuple[Method, ...]
    weights: tuple[Weight, ...] | None = None
    hard: Weight | None = None

    presets: ClassVar[Presets] = {
        # AT+KD of Zagoruyko, Komodakis (ICLR 2017), section 4.1: T = 4, alpha = 0.9; beta as in AttentionTransfer
        "paper": {
            "methods": (
                KD(temperature=4.0, soft=0.9, hard=0.1),
                AttentionTransfer(kind="sum_pow", p=2.0, form="paper", weight=12.8, hard=0.0),
            )
        },
        # the "+KD" rows of the benchmark: labels 1, softened classes 1, and the other loss with its own weight
        "benchmark": {
            "methods": (KD(temperature=4.0, soft=1.0, hard=1.0), NST(form="benchmark", weight=50.0, hard=0.0))
        },
    }

    def __init__(
        self,
        *given: Method,
        methods: Sequence[Method] = (),
        weights: Sequence[Weight] | None = None,
        hard: Weight | None = None,
    ) -> None:
        object.__setattr__(self, "methods", (*given, *methods))
        object.__setattr__(self, "weights", None if weights is None else tuple(weights))
        object.__setattr__(self, "hard", hard)
        self._check()

    def _check(self) -> None:
        for method in self.methods:
            if isinstance(method, type) or not isinstance(method, Method):
                raise HyperParameterError(
                    f"methods = {method!r}: an instance with phases(cast), such as KD(); a course, which is several "
                    "trainings, cannot be part of a sum"
                )
        require(len(self.methods) >= 2, "methods", self.methods, "two or more; one method needs no sum")
        if self.weights is not None:
            rule = f"one weight for each of the {len(self.methods)} methods"
            require(len(self.weights) == len(self.methods), "weights", self.weights, rule)
            try:
                require_weights(some=True, **{f"weights[{i}]": weight for i, weight in enumerate(self.weights)})
            except HyperParameterError as error:
                raise HyperParameterError(f"weights = {self.weights!r}: {error}") from None
        if self.hard is not None:
            require_weights(some=False, hard=self.hard)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """What the methods do before their last phases, then "distill" with the terms of all."""
        titles = _titles(self.methods)
        weights = self.weights or (1.0,) * len(self.methods)
        before: list[Phase] = []
        parts: list[_Part] = []
        for title, method, weight in zip(titles, self.methods, weights, strict=True):
            *first, last = _of_one(method.phases(cast))
            renamed = _own_names(last, cast, title)
            before += [replace(phase, name=_free(phase.name, title, before)) for phase in first]
            parts.append(_Part(title, last, renamed, weight))
        _require_own_files(before)
        joint = _merge(parts, self.hard, name=_free("distill", "sum", before))
        return (*before, replace(joint, share=_left(before)))


class _Part(NamedTuple):
    """The last phase of one method of a sum, and what its modules are called in the sum's own phase."""

    title: str
    phase: Phase
    names: Mapping[str, str]
    weight: Weight


def _titles(methods: Sequence[Method]) -> list[str]:
    """Short names for messages and terms, each different."""
    plain = [type(method).__name__ for method in methods]
    return [f"{name}{plain[: i + 1].count(name)}" if plain.count(name) > 1 else name for i, name in enumerate(plain)]


def _of_one(phases: Sequence[Phase]) -> list[Phase]:
    """The phases of a method with their shares as parts of the whole stage, so that those of several methods compare."""
    whole = sum(phase.share for phase in phases if phase.epochs is None)
    return [replace(p, share=p.share / whole) if p.epochs is None and whole > 0 else p for p in phases]


def _left(before: Sequence[Phase]) -> float:
    """The part of the stage's epochs that the first phases of all the methods leave to the last."""
    taken = {phase.name: phase.share for phase in before if phase.epochs is None and phase.share > 0}
    left = 1.0 - sum(taken.values())
    if left < 1e-9:
        told = ", ".join(f"{name} {100 * share:g} %" for name, share in taken.items())
        raise HyperParameterError(
            f"methods: what comes before their last phases takes all of the epochs ({told}), and nothing is left for the "
            "sum; lower these shares (hint_share, paraphrase_share)"
        )
    return left


def _own_names(phase: Phase, cast: Cast, title: str) -> dict[str, str]:
    """The networks of the cast keep their names; each method's further modules get its title in front."""
    return {role: role if role in cast.models else f"{title}.{role}" for role in phase.modules}


def _require_own_files(before: Sequence[Phase]) -> None:
    """Two methods of a sum must not keep their modules in one file."""
    kept = [name for phase in before for name in phase.keeps]
    if twice := next((name for name in kept if kept.count(name) > 1), None):
        raise HyperParameterError(
            f"methods: two of them would keep a module as {twice}.safetensors; train them in stages of their own, or give "
            "one of them the file of the other"
        )


def _free(name: str, title: str, before: Sequence[Phase]) -> str:
    return f"{name} ({title})" if any(phase.name == name for phase in before) else name


def _merge(parts: Sequence[_Part], hard: Weight | None, *, name: str) -> Phase:
    """One phase that does what the last phases of all the methods do."""
    modules: dict[str, Any] = {}
    taps: dict[str, tuple[str, ...]] = {}
    trains: dict[str, tuple[str, ...]] = {}
    optimizers: dict[str, Any] = {}
    for title, phase, names, _ in parts:
        for role, module in phase.modules.items():
            modules[names[role]] = module
        for role, wanted in phase.taps.items():
            taps[names[role]] = tuple(dict.fromkeys((*taps.get(names[role], ()), *wanted)))
        for player, owned in phase.trains.items():
            whose = _player(player, title)
            trains[whose] = tuple(dict.fromkeys((*trains.get(whose, ()), *(names[role] for role in owned))))
            if player in phase.optimizers:
                optimizers[whose] = phase.optimizers[player]
    read = {names[role] for _, phase, names, _ in parts for role in phase.modules if role not in phase.stops}
    if hard is not None:
        read.add("student")

    def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
        shared = _Shared(models, frozenset(taps))
        runs = [_Run(part, part.phase.step(shared.seen_by(part), batch, moment)) for part in parts]
        for player, terms in _rounds(runs, shared, moment):
            yield Update(
                player, terms if hard is None or player != "student" else _labelled(terms, shared, batch, moment, hard)
            )

    return Phase(
        name=name,
        modules=modules,
        trains=trains,
        taps=taps,
        step=step,
        stops=frozenset(taps) - read,
        eager=frozenset(names[role] for _, phase, names, _ in parts for role in phase.eager),
        optimizers=optimizers,
        keeps=tuple(names[role] for _, phase, names, _ in parts for role in phase.keeps),
        notes=tuple(f"{title}: {note}" for title, phase, _, _ in parts for note in phase.notes),
    )


def _player(player: str, title: str) -> str:
    """Players of the cast are shared by all methods; a method's own (a discriminator) is its own."""
    return player if player == "student" or player.startswith("peer") else f"{title}.{player}"


class _Run(NamedTuple):
    """A method's step at work."""

    part: _Part
    updates: Iterator[Update]


class _Shared:
    """The networks of a step, each run once for the same input as long as no weight has moved."""

    def __init__(self, models: Models, tapped: frozenset[str]) -> None:
        self.models, self.tapped = models, tapped
        self.seen: dict[tuple[str, int], tuple[Any, Any]] = {}

    def forget(self) -> None:
        self.seen.clear()

    def seen_by(self, part: _Part) -> dict[str, Callable[..., Any]]:
        return {role: self._caller(name, role in part.phase.taps) for role, name in part.names.items()}

    def run(self, name: str, inputs: Any) -> Any:
        key = (name, id(inputs))
        if key not in self.seen:
            self.seen[key] = (inputs, self.models[name](inputs))  # the input is kept, so that its id stays its own
        return self.seen[key][1]

    def _caller(self, name: str, wants_seen: bool) -> Callable[..., Any]:
        if wants_seen:
            return lambda inputs: self.run(name, inputs)
        if name in self.tapped:  # by another method of the sum: this one wants the bare output
            return lambda inputs: self.run(name, inputs).output
        return self.models[name]


def _rounds(runs: Sequence[_Run], shared: _Shared, moment: Moment) -> Iterator[Update]:
    """The updates of all the methods: those of shared players added, others as they come."""
    going = list(runs)
    while going:
        waiting: list[tuple[_Run, Update]] = []
        for run in going:
            for update in run.updates:
                if _player(update.player, run.part.title) == update.player:
                    waiting.append((run, update))
                    break
                yield Update(_player(update.player, run.part.title), _scaled(run.part, update, moment))
        if not waiting:
            return
        player = waiting[0][1].player
        if any(update.player != player for _, update in waiting):
            told = ", ".join(f"{run.part.title}: {update.player}" for run, update in waiting)
            raise HyperParameterError(
                f"these methods cannot be summed: they train their players in different orders ({told})"
            )
        yield Update(player, _added(waiting, moment))
        shared.forget()
        going = [run for run, _ in waiting]


def _scaled(part: _Part, update: Update, moment: Moment) -> dict[str, Term]:
    factor = at(part.weight, moment)
    return {name: Term(term.value, factor * term.weight) for name, term in update.terms.items()}


def _added(waiting: Sequence[tuple[_Run, Update]], moment: Moment) -> dict[str, Term]:
    """The terms of one update, each under a name of its own."""
    terms: dict[str, Term] = {}
    for run, update in waiting:
        for name, term in _scaled(run.part, update, moment).items():
            same = sum(key.split("#")[0] == name for key in terms)
            terms[f"{name}#{same + 1}" if same else name] = term
    return terms


def _labelled(
    terms: Mapping[str, Term], shared: _Shared, batch: Batch, moment: Moment, hard: Weight
) -> dict[str, Term]:
    """The terms with one from the labels, whose weight is ``hard``, in place of those that the methods brought."""
    brought = [name for name in terms if name.split("#")[0] in _LABELS]
    others = {name: term for name, term in terms.items() if name not in brought}
    if off(hard):
        if not others:
            raise HyperParameterError(
                f"hard = {hard!r}: these methods bring nothing but what they learn from the labels, so nothing would be learnt"
            )
        return others
    if brought:
        return {brought[0]: Term(terms[brought[0]].value, at(hard, moment)), **others}
    return {**cross_entropy(shared.run("student", batch.inputs).logits, batch, moment, weight=hard), **others}
