"""A chain's accounts: what each of its networks costs and keeps, and how long they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from torch import Tensor, nn

from limbeck.api.ledger import Entry
from limbeck.api.setting import Setting
from limbeck.batches import batch_size, resized
from limbeck.compress import cost as costs
from limbeck.compress.served import served
from limbeck.compress.trial import answers, smallest
from limbeck.compressor import findings
from limbeck.engine.evaluate import agreement, metrics, predictions_of

_TIMED = {"latency": (1, 50), "latency_32": (32, 10)}  # samples, and forwards that count


def entry(setting: Setting, name: str, model: nn.Module, seconds: float) -> Entry:
    """A network's line: size, arithmetic, accuracy, and how alike its answers are to those of the original."""
    tests, measured, same = setting.job.tests, None, None
    if tests is not None:
        # One walk for both: a loader that shuffles would give the second network other rows.
        models = [model] if model is setting.begun else [model, setting.begun]
        (logits, *others), targets = predictions_of(models, tests.epoch(0), device=setting.job.team.device)
        measured = metrics(logits, targets)
        independent = isinstance(targets, Tensor) and targets.ndim == 2
        if others and logits.shape == others[0].shape:
            same = agreement(logits, others[0], independent=independent)
    return Entry(
        name=name,
        **asdict(costs.cost(model, smallest(model, setting.one, 1))),
        measured=measured,
        agreement=same,
        seconds=round(seconds, 2),
        notes=list(findings(model).notes),
        model=model,
    )


def timed(setting: Setting, entries: Sequence[Entry]) -> list[Entry]:
    """The entries with measured times: all networks take turns, so that a slow moment of the machine meets all."""
    if not setting.job.quiet:
        setting.console.print("measuring latency, one thread, networks in turn ...", highlight=False)
    networks = [line.model for line in entries]
    with costs.one_thread():
        forms = [served(model, setting.example) for model in networks]
    found = [replace(line, form=form.name) for line, form in zip(entries, forms, strict=True)]
    for key, (size, repeats) in _TIMED.items():
        inputs = resized(setting.example, size)
        if batch_size(setting.one) > 1 and any(answers(model, inputs) is None for model in networks):
            note = f"{size} {'sample' if size == 1 else 'samples'} at a time is no batch that these networks take, so it is not timed"
            found[0] = replace(found[0], notes=[*found[0].notes, note])
            continue
        told = costs.latency({str(k): form.model for k, form in enumerate(forms)}, inputs, repeats=repeats)
        found = [replace(line, **{key: asdict(told[str(k)])}) for k, line in enumerate(found)]
    return found
