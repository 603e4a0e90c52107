"""The run in one sentence, which claims no more than the seeds carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.report import words
from limbeck.report.read import Run
from limbeck.report.tables import Measured, decimals_for, figure, measure


@dataclass(frozen=True)
class Sentence:
    """The verdict.

    Attributes:
        text: one sentence, with every n.
        mood: "good", "bad" or "plain".
        further: how the other comparisons went, or an empty text.
    """

    text: str
    mood: str = "plain"
    further: str = ""


def _validated(run: Run, m: Measured) -> float:
    stage = run.stage(m.name)
    found = [r.last.get("validation", {}).get("accuracy") for r in stage.runs] if stage else []
    values = [v for v in found if v is not None]
    return sum(values) / len(values) if values else -1.0


def headline(run: Run, measured: Sequence[Measured]) -> Measured | None:
    """The network that the sentence is about: of the distilled ones the best on *validation* rows.

    Choosing by the test part would make the winner's test figure too good.  What a stage leaves on its way (an
    assistant, an early generation) is not what the recipe is about.
    """
    ready = [m for m in measured if m.summary("accuracy")]
    distilled = [m for m in ready if m.stage and m.stage.taught and not m.stage.part_of]
    if distilled:
        return max(distilled, key=lambda m: _validated(run, m))
    trained = [m for m in ready if m.difference] or [m for m in ready if m.stage] or ready
    return trained[-1] if trained else None


def _size(m: Measured, everything: dict[str, Measured]) -> str:
    teacher = everything.get(m.teacher or "")
    factor = m.factor(teacher, "parameters")
    if not factor or teacher is None:
        return ""
    theirs = teacher.summary("accuracy")
    of = "its teacher" if m.stage and m.stage.teacher else teacher.name
    reached = f" ({words.percent(theirs)}, {words.counted(theirs.n)})" if theirs else ""
    count = words.times(factor, "fewer", "more")
    amount = "as many parameters as" if count == "as many" else f"{count} parameters than"
    return f", at {amount} {of}{reached}"


def _compared(m: Measured, rival: Measured, decimals: int) -> tuple[str, str]:
    ours, theirs, d = m.summary("accuracy"), rival.summary("accuracy"), m.difference
    if ours is None or theirs is None or d is None:
        raise ValueError(f"{m.name} and {rival.name} are not both measured")
    here, there = words.percent(ours, decimals), words.percent(theirs, decimals)
    change = words.signed(d.mean, decimals)
    if d.n == 1:
        spread = f", {words.counted(ours.n)}" if ours.n > 1 else ""
        # A mean over more seeds than the one difference may even point the other way.
        seed = "one seed" if ours.n == theirs.n == 1 else "the one seed that both have"
        return (
            f"Single run: {m.name} reached {here}{spread}, {rival.name} {there} "
            f"({change} points at {seed}, which is no result yet)"
        ), "plain"
    figures = f"(paired {change} points, {words.interval(d, decimals)}, n = {d.n} seeds)"
    verdict = d.verdict()
    if verdict == "no clear difference":
        return f"No clear difference: {m.name} reaches {here}, {rival.name} {there} {figures}", "plain"
    if verdict == "too few seeds":
        return f"Too few seeds for a verdict: {m.name} reaches {here}, {rival.name} {there} {figures}", "plain"
    verb, mood = ("lifts", "good") if verdict == "better" else ("lowers", "bad")
    what = rival.stage.model if rival.stage and rival.stage.model else rival.name
    return f"{m.name} {verb} {what} from {there} to {here} {figures}", mood


def _further(measured: Sequence[Measured], chosen: Measured) -> str:
    compared = [m for m in measured if m.difference and m.stage and m.stage.taught]
    if len(compared) < 2:
        return ""
    groups: dict[str, list[str]] = {}
    for m in compared:
        assert m.difference is not None
        groups.setdefault(m.difference.verdict(), []).append(m.name)
    order = ("better", "no clear difference", "worse", "too few seeds", "single run")
    told = "; ".join(f"{word}: {words.listing(groups[word])}" for word in order if word in groups)
    return (
        f"Of {len(compared)} distilled networks {chosen.name} is the best on the validation part. All of them: {told}."
    )


def _chains(run: Run, everything: dict[str, Measured], decimals: int) -> tuple[str, str] | None:
    """What chains of compressions came to: of several, that which ends with the best network on *validation* rows."""
    made = [s for s in run.stages if s.part_of is None and any(r.original for r in s.runs)]
    if not any(s.kind == "compress" for s in run.stages) or not made:
        return None
    used = {name for s in run.stages for name in (s.model, *s.teachers, *s.members)}
    ends = [everything[s.name] for s in made if s.name not in used] or [everything[made[-1].name]]
    told = {m.name: text for m in ends if (text := _against_root(m, everything, decimals))}
    ready = [m for m in ends if m.name in told]
    if not ready:
        return None
    best = max(ready, key=lambda m: _validated(run, m))
    if len(ready) == 1:
        return told[best.name], ""
    others = [f"Of {len(ready)} chains that of {best.name} ends with the best network on the validation part."]
    leading: dict[str, list[str]] = {}
    for word, what in (("smallest", "bytes"), ("fastest", "latency")):
        costs = {m.name: found for m in ready if (found := figure(m.cost, what)) is not None}
        if costs and (least := min(costs, key=lambda name: costs[name])) != best.name:
            leading.setdefault(least, []).append(word)
    others += [f"The {' and '.join(what)}: {told[name]}." for name, what in leading.items()]
    return told[best.name], " ".join(others)


def _against_root(m: Measured, everything: dict[str, Measured], decimals: int) -> str | None:
    """A network against the one at the beginning of its chain: accuracy, size, time."""
    root = everything.get(next((r.original for r in m.stage.runs if r.original), None) or "") if m.stage else None
    ours, theirs = m.summary("accuracy"), root.summary("accuracy") if root else None
    if root is None or ours is None or theirs is None:
        return None
    gains = [
        words.times(factor, more, less)
        for what, more, less in (("bytes", "smaller", "larger"), ("latency", "faster", "slower"))
        if (factor := m.factor(root, what))
    ]
    change = words.signed(ours.mean - theirs.mean, decimals)
    text = (
        f"{m.name} reaches {words.percent(ours, decimals)} ({words.counted(ours.n)}), {root.name} "
        f"{words.percent(theirs, decimals)} ({words.counted(theirs.n)}): {change} points"
    )
    return text + (f", {' and '.join(gains)}" if gains else "")


def verdict(run: Run) -> Sentence:
    """What came out, in one sentence.

    Args:
        run: finished or not.

    Returns:
        "better" or "worse" words only where the paired interval leaves zero out.
    """
    measured = measure(run)
    everything = {m.name: m for m in measured}
    chosen = headline(run, measured)
    prefix = "" if run.finished_well else f"Not finished ({run.status}). "
    if chosen is None:
        return Sentence(f"{prefix}Nothing has been measured yet.")
    decimals = decimals_for(run)
    if (told := _chains(run, everything, decimals)) is not None:
        return Sentence(f"{prefix}{told[0]}.", further=told[1])
    rival = everything.get(run.baseline or "")
    if chosen.difference is not None and rival is not None:
        text, mood = _compared(chosen, rival, decimals)
    else:
        summary = chosen.summary("accuracy")
        assert summary is not None
        counted = words.counted(summary.n)
        text, mood = (
            f"{chosen.name} reaches {words.percent(summary, decimals)} ({counted}), compared with nothing",
            "plain",
        )
    return Sentence(f"{prefix}{text}{_size(chosen, everything)}.", mood, _further(measured, chosen))
