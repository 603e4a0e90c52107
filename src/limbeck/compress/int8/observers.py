"""What measures ranges, what rounds in training, and which layers: torchao's, with four changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional
from torchao.quantization.pt2e import (
    FusedMovingAvgObsFakeQuantize,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
)
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    _skip_annotate,
    get_default_x86_inductor_quantization_config,
)

# The smallest scale.  torchao's settings for x86 have 2**-12, a limit that XNNPACK has: weights below 0.03 and activations below
# 0.06 would get fewer than 8 bits with it.  The kernels here take scales as float32 (tests/compress/test_quantize_kernels.py).
_EPS = torch.finfo(torch.float32).eps


class OneScale(PerChannelMinMaxObserver):
    """One scale for a whole weight, written once per channel: the kernels know no other form."""

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        scale, zero = super().calculate_qparams()
        return scale.max().expand_as(scale).clone(), zero


def _now(metadata: Any, version: Any) -> dict[str, Any]:
    """Weights in a safetensors file do not say of which version they are; torchao takes them for ancient ones, and
    overwrites the smallest scale with another.
    """
    return {**(metadata or {}), "version": version}


class Range(MovingAverageMinMaxObserver):
    """The range of a tensor, as a moving average that loads as it was stored."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *a: Any, **k: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, _now(local_metadata, self._version), *a, **k)


class Ranges(MovingAveragePerChannelMinMaxObserver):
    """The same for each channel."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *a: Any, **k: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, _now(local_metadata, self._version), *a, **k)


class Rounding(FusedMovingAvgObsFakeQuantize):
    """Fake quantization that follows the ranges in training only: a measurement must not change the network."""

    def forward(self, X: Tensor) -> Tensor:
        x = X.float()  # ranges under autocast, too
        if self.training and not self.is_per_channel:
            return super().forward(x).to(X.dtype)
        if self.training:
            with torch.no_grad():
                super().forward(x)
                self._symmetric()
        low, high = self.activation_post_process.quant_min, self.activation_post_process.quant_max
        if self.is_per_channel:
            out = torch.fake_quantize_per_channel_affine(x, self.scale, self.zero_point, self.ch_axis, low, high)
        else:
            out = torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, low, high)
        return out.to(X.dtype)

    def _symmetric(self) -> None:
        """Scales from zero for channels whose weights have one sign, as for all others, in place.

        torch lets these begin at their smallest number, with a zero point that no kernel knows (torch 2.15).
        """
        low, high = self.activation_post_process.min_val, self.activation_post_process.max_val
        least, most = self.activation_post_process.quant_min, self.activation_post_process.quant_max
        whole = torch.maximum(low / least, high / most).clamp(min=_EPS)
        self.scale.copy_(torch.where(self.zero_point == 0, self.scale, whole))
        self.zero_point.zero_()

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """What was trained with: the observer would divide by 127.5 where the rounding divides by 127."""
        return self.scale, self.zero_point


class Layers(X86InductorQuantizer):
    """Convolutions of rows (1-D) like those of pictures: torchao takes them where a ReLU follows, and leaves none out by name."""

    def _annotate_conv2d(self, gm: fx.GraphModule, quantization_config: Any, filter_fn: Any = None) -> None:
        super()._annotate_conv2d(gm, quantization_config, filter_fn)
        for node in gm.graph.find_nodes(op="call_function", target=torch.ops.aten.conv1d.default):
            if not _skip_annotate([node], filter_fn):
                self._annotate_conv_node_helper(node, True, quantization_config)


def quantizer(
    *, mode: str, per_channel: bool, observer: str, reduce_range: bool, skip: tuple[str, ...]
) -> X86InductorQuantizer:
    """torchao's quantizer with these settings."""
    qat = mode == "qat"
    config = get_default_x86_inductor_quantization_config(
        is_qat=qat, is_dynamic=mode == "dynamic", reduce_range=reduce_range
    )
    act: Any = config.input_activation
    weight: Any = config.weight
    if qat:
        act = replace(act, observer_or_fake_quant_ctr=Rounding.with_args(observer=Range, eps=_EPS))
        weight = replace(weight, observer_or_fake_quant_ctr=Rounding.with_args(observer=Ranges, eps=_EPS))
    else:
        seen = (
            PlaceholderObserver if mode == "dynamic" else MinMaxObserver if observer == "minmax" else HistogramObserver
        )
        act = replace(act, observer_or_fake_quant_ctr=seen.with_args(eps=_EPS))
        weight = replace(weight, observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=_EPS))
    if not per_channel:
        weight = replace(weight, observer_or_fake_quant_ctr=OneScale.with_args(eps=_EPS))
    made = Layers()
    for name in skip:
        made.set_module_name_qconfig(name, None)
    chosen = replace(config, input_activation=act, output_activation=act, weight=weight)
    if mode == "dynamic":  # a convolution would be rounded, too, but there is no kernel for it
        return made.set_function_type_qconfig(functional.linear, chosen)
    return made.set_global(chosen)
