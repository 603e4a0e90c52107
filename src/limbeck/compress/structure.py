"""How a compressed network differs in build from the one that it was made of, as plain data, and the way back.

Weights alone cannot say that a convolution lost channels or became two.  So a run keeps, beside the weights of a compressed
network, what `describe` says; `rebuild` makes from it and from the network before a module that those weights fit.
Nothing is unpickled, and no class is named that is not torch's own layer or limbeck's.
"""

from __future__ import annotations

import base64
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from limbeck.errors import LimbeckError
from limbeck.models.swap import copied, refer_anew
from limbeck.randomness import own_random_numbers

FORMAT = 1
_TRUSTED = ("torch.nn.", "limbeck.compress.", "limbeck.models.")
_INTERNAL = set(vars(nn.Module()))
_PLAIN = (bool, int, float, str, type(None))

# Module of the network after -> its first path, and the module there in the one before; None where it is new.
_Met = dict[nn.Module, tuple[str, nn.Module | None]]


def describe(before: nn.Module, after: nn.Module) -> dict[str, Any]:
    """Where ``after`` is built otherwise than ``before``.

    Returns:
        Plain data: ``{"format": 1, "changes": {module path: change}}``, and under "frozen" the parameters that are not
        trained, if there are any.

    Raises:
        LimbeckError: a module cannot be described: it is new, neither torch's nor limbeck's.
    """
    with own_random_numbers():  # a mask that is learned draws whenever its weight is looked at
        told: dict[str, Any] = {"format": FORMAT, "changes": dict(_changes(before, after, "", {}))}
    frozen = [name for name, parameter in after.named_parameters() if not parameter.requires_grad]
    return {**told, "frozen": frozen} if frozen else told


def rebuild(before: nn.Module, told: Mapping[str, Any]) -> nn.Module:
    """A network of the described build; its weights are still to be loaded.

    Args:
        before: the network that the compressor was given, or one of its build.  Stays as it is.
        told: what `describe` said.

    Raises:
        LimbeckError: the description is of another format, or does not fit the network.
    """
    if told.get("format") != FORMAT:
        raise LimbeckError(f"this structure has format {told.get('format')!r}; this version of limbeck reads {FORMAT}")
    model = copied(before)
    if told["changes"]:
        no_longer_of_the_zoo(model)
    others: dict[nn.Module, nn.Module] = {}
    for path, change in told["changes"].items():
        try:
            with own_random_numbers():
                model = _apply(model, path, change, others)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise LimbeckError(
                f"the structure does not fit {type(before).__name__} at {path or 'the model itself'!r}: {error}; "
                "it was made for another network"
            ) from error
    refer_anew(model, others)
    frozen = set(told.get("frozen", ()))
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return model


def no_longer_of_the_zoo(model: nn.Module) -> None:
    """What the zoo would build by this network's name is not this network any more; what it was made of stays known."""
    if (told := getattr(model, "zoo_options", None)) is not None:
        object.__setattr__(model, "zoo_origin", told)
        object.__setattr__(model, "zoo_options", None)


# -- saying ----------------------------------------------------------------------------------------


def _changes(before: nn.Module | None, after: nn.Module, path: str, met: _Met) -> Iterator[tuple[str, dict[str, Any]]]:
    """What differs here and further in; ``met`` is filled with the modules that were come upon."""
    if after in met:
        first, there = met[after]
        if there is None or there is not before:  # else it stands at both paths in the network before, too
            yield path, {"same": first}
        return
    if before is None or not _of_one_build(before, after):
        yield path, {"new": _spec(after, path)}
        yield from _repeated(after, path, met)
        return
    met[after] = (path, before)
    change: dict[str, Any] = {}
    mine, theirs = attributes(after), attributes(before)
    if differing := {key: value for key, value in mine.items() if key not in theirs or theirs[key] != value}:
        change["attributes"] = differing
    shapes, wrapped = _tensors(after), _parametrized(after, path)
    if wrapped != _parametrized(before, path):
        change["parametrized"] = wrapped
    if shapes != _tensors(before) or "parametrized" in change:
        change["tensors"] = shapes
    gone = [name for name in before._modules if name not in after._modules and name != "parametrizations"]
    if gone:
        change["gone"] = gone
    if change:
        yield path, change
    for name, child in _children(after):
        yield from _changes(before._modules.get(name), child, _joined(path, name), met)


def _repeated(new: nn.Module, path: str, met: _Met) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where in a new module stand modules that were come upon already."""
    met[new] = (path, None)
    for name, child in _children(new):
        here = _joined(path, name)
        if child in met:
            yield here, {"same": met[child][0]}
        else:
            yield from _repeated(child, here, met)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _of_one_build(before: nn.Module, after: nn.Module) -> bool:
    return _kind(before) is _kind(after) and getattr(before, "made", None) == getattr(after, "made", None)


def _kind(module: nn.Module) -> type:
    """The class that its author wrote; parametrizing a module gives it one of its own, and so does torch.fx every graph."""
    if isinstance(module, fx.GraphModule):
        return fx.GraphModule  # compressors change the parts of a graph, and never its code
    return type(module).__mro__[1] if parametrize.is_parametrized(module) else type(module)


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module._modules.items():
        if child is not None and not (name == "parametrizations" and parametrize.is_parametrized(module)):
            yield name, child


def attributes(module: nn.Module) -> dict[str, Any]:
    """What of a module's attributes is plain data; lists and tuples are told apart, since torch does."""
    return {
        key: _packed(value)
        for key, value in vars(module).items()
        if key not in _INTERNAL and key != "made" and _plain(value)
    }


def _plain(value: Any) -> bool:
    return type(value) in _PLAIN or (type(value) in (list, tuple) and all(_plain(item) for item in value))


def _packed(value: Any) -> Any:
    if type(value) is tuple:
        return {"tuple": [_packed(item) for item in value]}
    return [_packed(item) for item in value] if type(value) is list else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple(_unpacked(item) for item in value["tuple"])
    return [_unpacked(item) for item in value] if isinstance(value, list) else value


def _tensors(module: nn.Module) -> dict[str, Any]:
    """The module's own parameters and buffers: shape and type; None where a name holds nothing (no bias).

    Buffers that a file of weights does not hold come with their values.
    """
    found: dict[str, Any] = {}
    hidden = list(module.parametrizations) if parametrize.is_parametrized(module) else list[str]()  # type: ignore[arg-type]
    for part, tensors in (("parameter", module._parameters), ("buffer", module._buffers)):
        for name, value in tensors.items():
            if name not in hidden:
                aside = name in module._non_persistent_buffers_set
                if value is None:
                    found[name] = None
                else:
                    form = [list(value.shape), str(value.dtype)]
                    found[name] = [f"{part}, not kept", *form, _bytes(value)] if aside else [part, *form]
    for name in hidden:
        value = getattr(module, name)
        found[name] = ["parameter", list(value.shape), str(value.dtype)]
    return found  # in the module's order, which is that of an optimizer's state


def _bytes(value: torch.Tensor) -> str:
    """The values of a tensor as text."""
    return base64.b64encode(bytes(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())).decode()


def _valued(like: torch.Tensor, text: str) -> torch.Tensor:
    """A tensor with the values that `_bytes` made a text of; shape, type and device of another."""
    flat = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8).view(like.dtype)
    return flat.reshape(like.shape).to(like.device)


def _parametrized(module: nn.Module, path: str) -> dict[str, Any]:
    if not parametrize.is_parametrized(module):
        return {}
    lists: Any = module.parametrizations
    return {name: [_spec(one, f"{path}.{name}") for one in chain] for name, chain in lists.items()}


def _spec(module: nn.Module, path: str) -> dict[str, Any]:
    """Everything about a new module but the values of its tensors."""
    kind = _kind(module)
    name = f"{kind.__module__}:{kind.__qualname__}"
    if not name.startswith(_TRUSTED):
        raise LimbeckError(
            f"{path}: a new {kind.__name__} cannot be kept in a run: compressors may put in layers of torch.nn and of limbeck only"
        )
    if (made := getattr(module, "made", None)) is not None:
        return {"class": name, "made": dict(made), "training": module.training}
    spec = {
        "class": name,
        "attributes": attributes(module),
        "tensors": _tensors(module),
        "training": module.training,
        "children": {child_name: _spec(child, f"{path}.{child_name}") for child_name, child in _children(module)},
    }
    wrapped = _parametrized(module, path)
    return {**spec, "parametrized": wrapped} if wrapped else spec


# -- building --------------------------------------------------------------------------------------


def _apply(model: nn.Module, path: str, change: Mapping[str, Any], others: dict[nn.Module, nn.Module]) -> nn.Module:
    """The model with a change made to it; modules that went are put in ``others``, with what came for them."""
    if "new" in change:
        return _placed(model, path, _made(change["new"]), others)
    if "same" in change:
        return _placed(model, path, model.get_submodule(change["same"]), others)
    module = model.get_submodule(path) if path else model
    for name in change.get("gone", ()):
        del module._modules[name]
    for key, value in change.get("attributes", {}).items():
        setattr(module, key, _unpacked(value))
    if "parametrized" in change and parametrize.is_parametrized(module):
        module.__class__ = _kind(module)
        names = [str(name) for name in module._modules.pop("parametrizations")]  # type: ignore[union-attr]
        for name in names:
            module.register_parameter(name, None)
    if "tensors" in change:
        _put_tensors(module, change["tensors"])
    if "parametrized" in change:
        _parametrize(module, change["parametrized"])
    return model


def _placed(model: nn.Module, path: str, new: nn.Module, others: dict[nn.Module, nn.Module]) -> nn.Module:
    if not path:
        return new
    outer, _, name = path.rpartition(".")
    parts = model.get_submodule(outer)._modules
    old = parts.get(name)
    if old is not None:
        others[old] = new
    parts[name] = new
    return model


def _class(name: str) -> Any:
    if not name.startswith(_TRUSTED):
        raise LimbeckError(f"the structure names {name!r}, which is neither a layer of torch.nn nor limbeck's")
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _made(spec: Mapping[str, Any]) -> nn.Module:
    kind = _class(spec["class"])
    if "made" in spec:
        return kind(**spec["made"]).train(spec.get("training", True))
    module = kind.__new__(kind)
    nn.Module.__init__(module)  # its own would ask for arguments, and draw random numbers
    for key, value in spec["attributes"].items():
        setattr(module, key, _unpacked(value))
    _put_tensors(module, spec["tensors"])
    for name, child in spec["children"].items():
        module._modules[name] = _made(child)
    module.training = spec["training"]
    _parametrize(module, spec.get("parametrized", {}))
    return module


def _put_tensors(module: nn.Module, tensors: Mapping[str, Any]) -> None:
    """Parameters and buffers of these shapes, zero where they had another, as they were where they had not.

    Buffers that no file of weights holds get the values that are told.
    """
    for name, told in tensors.items():
        if told is None:
            part = module._buffers if name in module._buffers else module._parameters
            part[name] = None
            continue
        part, shape, dtype, *values = told
        old = getattr(module, name, None)
        if old is not None and list(old.shape) == shape and str(old.dtype) == dtype and not values:
            continue
        device = old.device if isinstance(old, torch.Tensor) else None
        value = torch.zeros(shape, dtype=getattr(torch, dtype.removeprefix("torch.")), device=device)
        if values and value.numel():
            value = _valued(value, values[0])
        if part == "parameter":
            trained = old.requires_grad if isinstance(old, nn.Parameter) else value.is_floating_point()
            module._parameters[name] = nn.Parameter(value, requires_grad=trained)
        else:
            module.register_buffer(name, value, persistent=part == "buffer")
    for name in [*module._parameters, *module._buffers]:
        if name not in tensors:
            module._parameters.pop(name, None)
            module._buffers.pop(name, None)


def _parametrize(module: nn.Module, wrapped: Mapping[str, Any]) -> None:
    for name, chain in wrapped.items():
        for spec in chain:
            parametrize.register_parametrization(module, name, _made(spec), unsafe=True)
