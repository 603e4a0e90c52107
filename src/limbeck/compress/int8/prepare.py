"""A network that feels in training what int8 will do to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from limbeck.batches import batch_size
from limbeck.compress.binary.layers import KINDS
from limbeck.compress.finished import computed, require_unfinished
from limbeck.compress.int8.answering import answer_plainly
from limbeck.compress.int8.batches import calibrate, call
from limbeck.compress.int8.dead import remove_dead
from limbeck.compress.int8.export import as_graph, exported, free_modes, two_rows
from limbeck.compress.int8.folding import constants, keep_apart, put_back, settle_constants, whole_norms
from limbeck.compress.int8.layers import (
    left_alone,
    mark_holders,
    padding,
    require_foldable,
    require_left_alone,
)
from limbeck.compress.int8.needs import quiet, require_installed
from limbeck.compress.int8.patterns import few_patterns
from limbeck.compress.int8.program import Quantized, count
from limbeck.compress.int8.resting import require_rest, set_graph
from limbeck.compress.int8.static import finished
from limbeck.compress.trial import require_finite, require_runs
from limbeck.data.iterables import Batches
from limbeck.errors import LimbeckError, ShapeError
from limbeck.models.swap import copied
from limbeck.phase import Batch
from limbeck.randomness import own_random_numbers

_TINY = 1e-6
_aten = torch.ops.aten


class Prepared(nn.Module):
    """A network with rounding in its graph (quantization-aware training), until `converted` makes integers of it.

    Trains like any network: its weights are float, and gradients pass straight through the rounding.  In training mode
    it follows the ranges of weights and activations by moving averages; in evaluation mode nothing in it moves.

    Args:
        graph: prepared by torchao, exported in training mode.
        least: the smallest batch that the graph takes.
        settings: what `rebuild_prepared` needs, plain data; kept as `made`.
        single: whether batch statistics exist for a single sample.
        padded: how many times the arithmetic grows in int8 kernels; see `limbeck.compress.int8.layers.padding`.
    """

    def __init__(
        self, graph: fx.GraphModule, least: int, settings: Mapping[str, Any], single: bool, padded: float
    ) -> None:
        super().__init__()
        self.body = graph
        self.least = least
        self.made = dict(settings)
        self.single, self.padded = single, padded
        self.learns = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.learns != self.training:  # modes are put back flag by flag at times, without train()
            self._set(self.training)
        if self.training and not self.single and batch_size(kwargs or args[0]) == 1:
            raise ShapeError(
                "a training batch of 1 sample: BatchNorm after the pooling has a single value per channel and no "
                "variance; use another batch size, or drop the last batch"
            )
        return call(self.body, self.least, args, kwargs)

    def train(self, mode: bool = True) -> Prepared:
        """Set the mode: batch statistics, dropout and the following of ranges, or none of them."""
        for part in self.modules():
            part.training = mode
        self._set(mode)
        return self

    def _set(self, learns: bool) -> None:
        if self.learns != learns:
            set_graph(self.body, learns)
            self.learns = learns


def prepared(
    model: nn.Module,
    example: Any,
    calibration: Iterable[Any],
    *,
    skip: tuple[str, ...] = (),
    reduce_range: bool = False,
    batches: int | None = None,
) -> Prepared:
    """A network that is ready for quantization-aware training, with ranges from the calibration batches.

    Raises:
        HyperParameterError: there are no calibration batches: without ranges the first epoch learns from noise.
        LimbeckError: it cannot be exported, nothing in it can be quantized, or something runs in training only that would stay
            in the int8 network.
    """
    calibration = Batches(calibration, "the calibration batches")
    made = _made(model, {"skip": list(skip), "reduce_range": reduce_range}, example, compared=True)
    _measure(made, calibration, batches, example)
    return made.train(model.training)


def _require_plain_weights(model: nn.Module) -> None:
    """Refuse, before anything is trained, what torchao cannot convert afterwards: it folds normalisation into stored weights."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    wrapped = computed(model)
    if norms and wrapped:
        raise LimbeckError(
            f"the weights of {', '.join(wrapped[:4])} are computed (masks, weight norm), and BatchNorm cannot be folded into such "
            'weights after training: use mode "static", which writes them out, or write them out first '
            "(limbeck.compress.masking.settle; training brings masked weights back then)"
        )
    signs = [name for name, m in model.named_modules() if isinstance(m, KINDS) and not m.made["settled"]]
    if signs:
        raise LimbeckError(
            f"the weights of {', '.join(signs[:4])} are signs of others, and integers cannot be trained in their place: train the "
            'binary network, and use mode "static" then, which writes the signs out'
        )


def _require_momentum(model: nn.Module) -> None:
    """Refuse statistics that are means over all batches so far: by the count of batches, which no graph branches on."""
    means = [
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats and m.momentum is None
    ]
    if means:
        raise LimbeckError(
            f"momentum = None in {', '.join(means[:4])}: means over all batches so far cannot be learnt in int8, where the share of a new "
            'batch is a number of the graph; set momentum (torch\'s default is 0.1), or use mode "static", which learns nothing'
        )


def rebuild_prepared(model: nn.Module, settings: Mapping[str, Any], example: Any) -> Prepared:
    """A network of the build that `prepared` gave, into which its weights and ranges can be loaded.

    Args:
        model: the float network, or one of its build; its weights do not matter.  Stays as it is.
        settings: the attribute `made` of the network that was prepared.
        example: a batch of the same shape, but for its length.
    """
    made = _made(model, settings, example)
    _measure(made, [Batch(two_rows(example))], None, example)  # ranges per channel have no shape before
    return made.train(model.training)


def _made(model: nn.Module, settings: Mapping[str, Any], example: Any, *, compared: bool = False) -> Prepared:
    require_installed()
    require_unfinished(model, "Quantize")
    kept = left_alone(model, settings.get("skip", ()))
    require_finite(model)
    _require_plain_weights(model)
    _require_momentum(model)
    require_runs(model, example)
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    from limbeck.compress.int8.observers import quantizer

    chosen = quantizer(
        mode="qat", per_channel=True, observer="", reduce_range=bool(settings.get("reduce_range")), skip=kept
    )
    learner = copied(model)
    whole_norms(learner)
    _lift_zeros(learner)
    answer_plainly(learner, example)
    program, least = exported(learner.train(), example)
    graph = as_graph(program)
    mark_holders(graph, learner, kept)
    keep_apart(graph)
    require_foldable(graph)
    single, padded = _single(graph), padding(graph)
    _forget_counts(graph)
    if compared:
        require_rest(graph, learner, example)
    known = constants(graph)
    try:
        with quiet(), own_random_numbers(), few_patterns():
            graph = free_modes(prepare_qat_pt2e(graph, chosen))
    except Exception as error:  # of torchao's patterns: any kind
        raise LimbeckError(f"torchao cannot prepare {type(model).__name__} for training: {str(error)[:500]}") from error
    put_back(graph, known)
    require_left_alone(graph, kept)
    if not any(_is_rounding(part) for part in graph.modules()):
        raise LimbeckError("nothing was prepared: there is no convolution (1-D, 2-D) or linear layer left to quantize")
    remove_dead(graph)
    return Prepared(graph, least, settings, single, padded)


def _measure(made: Prepared, batches: Iterable[Batch], most: int | None, example: Any) -> None:
    """First ranges: the network rests, and only its roundings follow."""
    made.eval()
    for part in made.modules():
        if _is_rounding(part):
            part.training = True
    with own_random_numbers():
        calibrate(made, 1, batches, most, example, "quantization-aware training")


def converted(model: nn.Module, example: Any) -> Quantized:
    """The int8 network of a prepared one, whose BatchNorm is folded into the weights.

    Raises:
        LimbeckError: the network was not prepared.
    """
    if not isinstance(model, Prepared):
        raise LimbeckError(
            f"{type(model).__name__} was not prepared for quantization-aware training; Convert takes what Prepare made"
        )
    require_installed()
    require_finite(model)  # its ranges, which begin at infinity, are neither weights nor statistics
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    own = copied(model).eval()
    settle_constants(own.body)
    with quiet(), own_random_numbers(), torch.no_grad(), few_patterns():
        graph = free_modes(convert_pt2e(own.body))
    remove_dead(graph)
    return finished(graph, model.least, example, mode="qat", parameters=count(model), padded=model.padded)


def _is_rounding(part: nn.Module) -> bool:
    return type(part).__name__ == "Rounding"


def _lift_zeros(model: nn.Module) -> None:
    """torchao divides by BatchNorm's weight while it trains: an exact 0 becomes a number as good as 0."""
    for part in model.modules():
        weight = getattr(part, "weight", None)
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and isinstance(weight, Tensor):
            with torch.no_grad():
                weight.copy_(torch.where(weight == 0, torch.full_like(weight, _TINY), weight))


def _forget_counts(graph: fx.GraphModule) -> None:
    """Without ``num_batches_tracked += 1``, which nothing reads and which would count in evaluation, too."""
    for node in reversed(graph.graph.nodes):  # a normalisation that is called twice counts on from the first
        if node.target is not _aten.add_.Tensor or node.users:
            continue
        source = node.args[0]
        while isinstance(source, fx.Node) and source.target is _aten.add_.Tensor:
            source = source.args[0]
        if isinstance(source, fx.Node) and str(source.target).endswith("num_batches_tracked"):
            graph.graph.erase_node(node)
    graph.recompile()


def _single(graph: fx.GraphModule) -> bool:
    """Whether every BatchNorm has several values per channel even in a batch of 1."""
    for node in graph.graph.nodes:
        if node.target is _aten.batch_norm.default and node.args[5]:
            value = node.args[0].meta.get("val")
            if value is not None and value.shape[2:].numel() == 1:
                return False
    return True
