"""How much each channel of each group matters, by any of the scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck import scores
from limbeck.compress.pruning.feeding import first_batches
from limbeck.compress.pruning.groups import Group
from limbeck.compress.pruning.judging import activations, gradients, reconstruction
from limbeck.compress.pruning.judging.inputs import Found, Reasons
from limbeck.compress.pruning.members import (
    entries,
    first_consumer,
    first_norm,
    producers,
    producing,
    summed,
)
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown, TargetError, unknown
from limbeck.models.swap import copied
from limbeck.phase import Batch, seed_for
from limbeck.randomness import own_random_numbers
from limbeck.taps import original

_WEIGHTS: Mapping[str, Callable[[Tensor], Tensor]] = {"l1": scores.l1, "l2": scores.l2, "fpgm": scores.fpgm}
_WITHOUT_DATA = (*_WEIGHTS, "slimming", "random")
_WITH_LABELS = ("taylor", "taylor_gate", "taylor_weight", "obd", "oracle")
_WITH_INPUTS = ("apoz", "mean_activation", "lasso", "thinet")

NAMES: tuple[str, ...] = (*_WITHOUT_DATA, *_WITH_INPUTS, *_WITH_LABELS)


def needs_data(by: str) -> bool:
    """Whether a score looks at calibration batches.

    >>> needs_data("fpgm"), needs_data("apoz")
    (False, True)
    """
    return _known(by) not in _WITHOUT_DATA


def needs_labels(by: str) -> bool:
    """Whether a score looks at the labels of these batches, too.

    >>> needs_labels("apoz"), needs_labels("taylor")
    (False, True)
    """
    return _known(by) in _WITH_LABELS


def _cannot_judge(by: str, model: nn.Module, group: Group) -> str | None:
    """Why a score has nothing to look at in a group of channels; None where it has."""
    plain = original(model)
    try:
        if by in _WEIGHTS:
            for _ in producers(plain, group):
                pass
        elif by in ("taylor_weight", "obd"):
            producing(plain, group)
        elif by in ("slimming", "taylor_gate"):
            first_norm(plain, group, by)
        elif by != "random":
            first_consumer(plain, group, by)
    except LimbeckError as error:
        return str(error)
    return None


def judge(
    model: nn.Module,
    by: str,
    groups: Sequence[Group],
    *,
    example: Any,
    calibration: Iterable[Batch] = (),
    seed: int = 0,
) -> Found:
    """The score of every channel of every group; low means "remove first".

    - ``l1``, ``l2``, ``fpgm``: of the filters of the layer that produces the channels; where several layers do (they are
      added up later, as in a residual network), the sum of their scores.  A depthwise convolution behind the first
      layer produces nothing of its own and is not counted.
    - ``slimming``: |gamma| of the group's first batch normalisation.
    - ``random``: a number in [0, 1), by seed and name of the group.
    - ``apoz``, ``mean_activation``, ``taylor``: of what goes into the group's first consumer, which in the usual order
      (convolution, normalisation, ReLU, next convolution) is the output of the ReLU; behind a pooling layer it is the
      pooled output.  ``apoz`` gives ``1 - APoZ``.  ``taylor`` has norm 1 in each group, so that groups compare.
    - ``taylor_gate``: of the first batch normalisation; ``taylor_weight``, ``obd``: of the filters, summed as above.
    - ``lasso``, ``thinet``: how badly the other channels make up for this one in the inputs of the first consumer, at
      `judging.reconstruction.PLACES` positions of each sample.  ``lasso`` is the lambda at which the channel leaves, divided
      by the layer's largest; ``thinet`` its place in the order of removal, in [0, 1).
    - ``oracle``: the measured change of the mean loss when nothing but this channel is set to zero in all consumers.
      One pass over the data for every channel, from its first consumer on.

    Gradients and activations are those of the network in eval mode: with batch statistics, a filter's weights times
    their gradients add up to zero, whatever it is worth.  At most `feeding.BATCHES` batches are looked at, and
    `judging.gradients.SAMPLES` samples for ``obd``, which goes sample by sample.

    Args:
        model: any module, in any mode; nothing of it changes, random numbers included.
        by: one of `NAMES`.
        groups: whose channels; see `limbeck.compress.pruning.groups`.
        example: a batch's inputs; no score needs it today.
        calibration: batches of training rows (with labels for those of `needs_labels`), walked once, on any device.
        seed: of ``random``, and of the positions that are drawn.

    Returns:
        By the group's name: float64 ``[size]`` on the CPU.

    Raises:
        NameUnknown: no such score; the message has near names.
        HyperParameterError: the score needs calibration batches, and there are none.
        TargetError: it needs labels, and a batch has none.
        LimbeckError: a group has not what the score looks at: no batch normalisation, no zeros, no consumer.
        NonFiniteError: a weight or an activation is NaN or infinite.
    """
    found, why = _judged(model, by, list(groups), calibration, seed)
    for group in groups:
        if group.name in why:
            raise LimbeckError(_ADVICE.format(name=group.name, reason=why[group.name]))
    return found


def judge_what_can_be(
    model: nn.Module,
    by: str,
    groups: Sequence[Group],
    *,
    example: Any,
    calibration: Iterable[Batch] = (),
    seed: int = 0,
) -> tuple[list[Group], Found, Reasons]:
    """The groups that a score can say something about, their scores, and why it cannot about the others.

    Args and errors are those of `judge`, but that a group which has not what the score looks at is no error.

    Raises:
        LimbeckError: it can say nothing about any of them.
    """
    _known(by)
    why = {g.name: told for g in groups if (told := _cannot_judge(by, model, g)) is not None}
    if len(why) == len(groups):
        raise LimbeckError(next(iter(why.values())))
    found, more = _judged(model, by, [g for g in groups if g.name not in why], calibration, seed)
    why |= more
    why = {g.name: why[g.name] for g in groups if g.name in why}
    if not found:
        name = next(name for name in why if name in more)
        raise LimbeckError(_ADVICE.format(name=name, reason=more[name]))
    return [g for g in groups if g.name in found], found, why


_ADVICE = "group {name!r}: {reason}. Take a score that looks at something else, such as l1, fpgm or taylor_weight"


def _judged(
    model: nn.Module, by: str, groups: list[Group], calibration: Iterable[Batch], seed: int
) -> tuple[Found, Reasons]:
    """Scores, and why there are none."""
    _known(by)
    if by == "random":
        return {g.name: scores.random(g.size, seed_for(seed, "random", g.name)) for g in groups}, {}
    plain = original(model)
    if by in _WEIGHTS:
        return {g.name: summed(_WEIGHTS[by](filters) for filters in producers(plain, g)) for g in groups}, {}
    if by == "slimming":
        norms = {g.name: first_norm(plain, g, by) for g in groups}
        return {name: scores.slimming(entries(norm.weight, member)) for name, (norm, member) in norms.items()}, {}
    batches = first_batches(calibration, plain)
    if not batches:
        raise HyperParameterError(
            f"by = {by!r}: this score looks at data, and there are no calibration batches; give calibration batches, or "
            f"take a score that looks at weights alone: {', '.join(_WITHOUT_DATA)}"
        )
    if by in _WITH_LABELS and any(batch.targets is None for batch in batches):
        raise TargetError(
            f"by = {by!r}: this score follows the loss, which needs labels, and a calibration batch has none (its targets "
            f"are None); give labels, or take one of {', '.join((*_WITHOUT_DATA, *_WITH_INPUTS))}"
        )
    with own_random_numbers():
        work = _bare(copied(plain)).eval()
        for parameter in work.parameters():
            parameter.requires_grad_(by in _WITH_LABELS and by != "oracle" and parameter.is_floating_point())
        if by in ("apoz", "mean_activation"):
            found, why = activations.averaged(work, by, groups, batches)
        elif by in ("lasso", "thinet"):
            found, why = reconstruction.by_reconstruction(work, by, groups, batches, seed)
        elif by in _BY_INPUTS:
            found, why = _BY_INPUTS[by](work, groups, batches)
        else:
            found, why = _BY_GRADIENTS[by](work, groups, batches), Reasons()
    return {name: score.detach().double().cpu() for name, score in found.items()}, why


def _bare(model: nn.Module) -> nn.Module:
    """The model with the weights that it computes with as parameters: under a mask, say, they are not."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # pyright: ignore[reportGeneralTypeIssues, reportArgumentType]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return model


def _known(by: str) -> str:
    if by not in NAMES:
        raise NameUnknown(unknown("score", by, NAMES))
    return by


_BY_INPUTS: Mapping[str, Callable[[nn.Module, Sequence[Group], Sequence[Batch]], tuple[Found, Reasons]]] = {
    "taylor": activations.taylor,
    "oracle": activations.oracle,
}
_BY_GRADIENTS: Mapping[str, Callable[[nn.Module, Sequence[Group], Sequence[Batch]], Found]] = {
    "taylor_gate": gradients.gates,
    "taylor_weight": gradients.weights,
    "obd": gradients.obd,
}
