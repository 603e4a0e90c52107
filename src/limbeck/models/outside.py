"""Networks of torchvision and timm, always untrained."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown, unknown


def build(name: str, classes: int, channels: int, size: int, options: Mapping[str, Any]) -> nn.Module:
    """ "torchvision:NAME" or "timm:NAME", with fresh weights.

    Raises:
        NameUnknown: the library has no such network for classification.
        HyperParameterError: the network refuses an option, the size or the channels.
        LimbeckError: timm is not installed.
    """
    library, _, model = name.partition(":")
    return {"torchvision": _torchvision, "timm": _timm}[library](model, classes, channels, size, dict(options))


def _torchvision(name: str, classes: int, channels: int, size: int, options: dict[str, Any]) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise NameUnknown(unknown("network", name, known, "torchvision"))
    if name.startswith("vit_"):  # its position embedding has a fixed size
        options.setdefault("image_size", size)
    if name in ("googlenet", "inception_v3"):  # else they warn that the start may change one day
        options.setdefault("init_weights", True)
        options.setdefault("aux_logits", False)
    model = _tried(
        f"torchvision:{name}", torchvision.models.get_model, name, options, weights=None, num_classes=classes
    )
    if channels != 3:
        _replace_first(model, name, channels)
    return model


def _timm(name: str, classes: int, channels: int, size: int, options: dict[str, Any]) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise LimbeckError(f"network 'timm:{name}' needs timm: pip install 'limbeck[timm]'") from error
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise NameUnknown(unknown("network", name, known, "timm"))
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is not None and config.fixed_input_size:
        options.setdefault("img_size", size)
    fixed = {"pretrained": False, "num_classes": classes, "in_chans": channels}
    return _tried(f"timm:{name}", timm.create_model, name, options, **fixed)


def _tried(full: str, make: Any, name: str, options: Mapping[str, Any], **fixed: Any) -> nn.Module:
    """Call the library; what it says about the options becomes our error."""
    if clash := sorted(set(fixed) & set(options)):
        raise HyperParameterError(
            f"option {clash[0]!r} of network {full!r} is set by limbeck (classes, in_channels; weights come from 'weights')"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about defaults of theirs; a recipe's author can do nothing about them
            return make(name, **fixed, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        given = ", ".join(f"{k}={v!r}" for k, v in options.items()) or "no options"
        raise HyperParameterError(f"network {full!r} cannot be built with {given}: {error}") from error


def _replace_first(model: nn.Module, name: str, channels: int) -> None:
    """Give the first convolution, which expects three channels, another number of them and a fresh start."""
    first = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
    if first is None or first.in_channels != 3 or first.groups != 1:
        raise HyperParameterError(
            f"in_channels = {channels!r}: 'torchvision:{name}' takes 3 channels and no other number"
        )
    first.in_channels = channels
    first.weight = nn.Parameter(first.weight.new_empty(first.out_channels, channels, *first.kernel_size))
    first.reset_parameters()
