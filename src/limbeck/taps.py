"""Windows on a network's inner tensors, returned as part of its output.

A *tap* is the path of a module, as `named_modules` spells it: "layer3", "features.12.relu".  It
gives what that module returns; "fc:in" gives what goes into it (the pooled features, for most
classifiers).  `Tapped` wraps a model so that it returns a `Seen`: its own output together with the
tapped tensors.  Because they are part of the output, `torch.compile` and several processes see them
as well.  A tap that does not exist, does not run, or runs twice is a `TapError`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.attention import plain_attention
from limbeck.errors import TapError, unknown
from limbeck.hooks import hooked
from limbeck.phase import Seen


class _Stop(Exception):
    """Ends a forward whose output nobody reads, once the last tap has been seen."""


def call(model: nn.Module, inputs: Any) -> Any:
    """Run a model: a mapping becomes its keyword arguments, anything else its one argument."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def takes_any(model: nn.Module) -> bool:
    """Whether the forward is written with ``*args``, which torch.export wants described otherwise."""
    try:
        kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    except ValueError:  # TorchScript has no signature
        return False
    return inspect.Parameter.VAR_POSITIONAL in kinds


def original(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile``'s wrapper, or the model itself."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def title(model: nn.Module) -> str:
    """What to call a network in a message: its name in the zoo, or its class."""
    model = original(model)
    return str(getattr(model, "zoo_name", None) or type(model).__name__)


def find(model: nn.Module, tap: str) -> tuple[nn.Module, bool]:
    """The module that a tap names, and whether its input is meant.

    Raises:
        TapError: no such module; the message has near names.
    """
    path, _, side = tap.partition(":")
    modules = {name: module for name, module in model.named_modules() if name}
    if path not in modules:
        raise TapError(unknown("layer", path, modules, title(model)))
    if side not in ("", "in", "out"):
        raise TapError(f"tap {tap!r}: after the colon comes 'in' or 'out', not {side!r}")
    return modules[path], side == "in"


def _tensor(value: Any, tap: str) -> Tensor:
    """The tensor in what a module returned: itself, the first of a tuple, the first of a mapping."""
    if isinstance(value, Tensor):
        return value
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    for part in inside:
        if isinstance(part, Tensor):
            return part
    raise TapError(f"tap {tap!r} gave a {type(value).__name__} with no tensor in it; tap a module inside it")


class Tapped(nn.Module):
    """A model that returns a `Seen`.

    The wrapped model is called with a batch's ``inputs`` (a mapping becomes keyword arguments).  Its
    parameters stay its own; `close` takes the hooks away.  Hooks are set here, before anything is
    compiled, so that a compiled `Tapped` carries its taps; a model that came compiled is unwrapped,
    and `Tapped.was_compiled` says so.

    Args:
        model: any module.
        taps: which taps to return, maybe none.
        example: inputs for one dry forward (eval mode, no gradient), which checks every tap and finds
            those that a later module changes in place; only these are then copied.  Without it, every
            tap is copied.
        stop: end the forward at the last tap; the output is then None.

    Raises:
        TapError: a tap does not exist, did not run, ran twice, or gave no tensor.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> seen = Tapped(net, ["1"])(torch.zeros(5, 4))
        >>> seen.output.shape, seen.taps["1"].shape
        (torch.Size([5, 2]), torch.Size([5, 3]))
    """

    def __init__(self, model: nn.Module, taps: Sequence[str] = (), *, example: Any = None, stop: bool = False) -> None:
        super().__init__()
        self.was_compiled = original(model) is not model
        self.model = original(model)
        wanted = (taps,) if isinstance(taps, str) else tuple(taps)
        for tap in wanted:
            if not isinstance(tap, str):
                raise TapError(f"a tap is the path of a module, as text; {tap!r} is a {type(tap).__name__}")
        self.taps = tuple(dict.fromkeys(wanted))
        self.stop = stop and bool(self.taps)
        self._seen: dict[str, Tensor] = {}
        self._versions: dict[str, tuple[Tensor, int]] = {}
        self._open = False
        self._copied = set(self.taps)
        # A part that was compiled in place would hide hooks set after it first ran.
        self._compiled_parts = [
            (m, m._compiled_call_impl) for m in self.model.modules() if m._compiled_call_impl is not None
        ]
        for module, _ in self._compiled_parts:
            module._compiled_call_impl = None
        self._handles = []
        try:
            for tap in self.taps:
                module, before = find(self.model, tap)
                if before:
                    self._handles.append(module.register_forward_pre_hook(self._before(tap), with_kwargs=True))
                else:
                    self._handles.append(module.register_forward_hook(self._after(tap)))
            if example is not None:
                self._rehearse(example)
        except BaseException:  # the model must not keep the hooks of a window that never was
            self.close()
            raise

    def _record(self, tap: str, value: Any) -> None:
        if not self._open:
            return
        if tap in self._seen:
            raise TapError(
                f"tap {tap!r} ran twice in one forward of {title(self.model)} "
                "(the module is used in several places); tap a module that runs once"
            )
        tensor = _tensor(value, tap)
        self._seen[tap] = tensor.clone() if tap in self._copied else tensor
        if not torch.compiler.is_compiling():
            self._versions[tap] = (tensor, _version(tensor))
        if self.stop and len(self._seen) == len(self.taps):
            raise _Stop

    def _after(self, tap: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._record(tap, output)

        return hook

    def _before(self, tap: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._record(tap, (*args, *kwargs.values()))

        return hook

    def _rehearse(self, example: Any) -> None:
        stop, self.stop = self.stop, False
        self._copied = set()
        with quiet(self.model), _awake(self.model):
            self._versions = {}
            self._run(example)
        self._copied = self._overwritten()
        self._versions = {}
        self.stop = stop

    def _overwritten(self) -> set[str]:
        """The taps whose tensors were changed in place after they had been seen."""
        return {tap for tap, (tensor, version) in self._versions.items() if _version(tensor) != version}

    def _run(self, inputs: Any) -> Seen:
        self._seen, self._open = {}, True
        # Hooks have to see every part, and tensors: without the fast path of torch's transformer layers, which compiling never takes.
        plain = self.taps and not torch.compiler.is_compiling()
        try:
            with plain_attention() if plain else nullcontext():
                output = call(self.model, inputs)
        except _Stop:
            output = None
        finally:
            self._open = False
            seen, self._seen = self._seen, {}
        missing = [tap for tap in self.taps if tap not in seen]
        if missing:
            raise TapError(
                f"tap {', '.join(map(repr, missing))} did not run in the forward of {title(self.model)}; "
                "the module exists, but this forward does not call it. Those that ran: "
                f"{', '.join(seen) or 'none of the taps'}"
            )
        return Seen(output, {tap: seen[tap] for tap in self.taps})

    def forward(self, inputs: Any) -> Seen:
        seen = self._run(inputs)
        if not torch.compiler.is_compiling():
            lost = self._overwritten() - self._copied
            self._versions = {}
            if lost:
                raise TapError(
                    f"tap {', '.join(map(repr, sorted(lost)))} was overwritten by a later layer of {title(self.model)}, "
                    "in training mode only; turn inplace=True off there, or tap another layer"
                )
        return seen

    def close(self) -> None:
        """Take the hooks away, and leave the model as it came."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for module, compiled in self._compiled_parts:
            module._compiled_call_impl = compiled
        self._compiled_parts = []

    def __enter__(self) -> Tapped:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place; inference tensors do not count."""
    return 0 if tensor.is_inference() else tensor._version


@contextmanager
def _awake(model: nn.Module) -> Iterator[None]:
    """Dropouts that overwrite their input do so in training mode only: a rehearsal has to let them."""
    drops = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.inplace]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()), enabled=bool(drops)):
        for module in drops:
            module.training = True
        yield


@contextmanager
def quiet(model: nn.Module) -> Iterator[nn.Module]:
    """Eval mode without gradients; every module's mode is as before at the end, errors included."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def capture(model: nn.Module, *taps: str) -> Iterator[dict[str, Tensor]]:
    """Taps for a training loop of your own.

    After each forward of the model, the mapping holds that forward's tapped tensors, with their
    gradient history.  Inside the block a compiled model runs uncompiled, since hooks that were set
    after compiling would not fire.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> with capture(net, "1") as seen:
        ...     _ = net(torch.zeros(5, 4))
        ...     print(tuple(seen["1"].shape))
        (5, 3)
    """
    inner = original(model)
    window = Tapped(inner, taps)
    seen: dict[str, Tensor] = {}

    def begin(module: nn.Module, args: Any) -> None:
        seen.clear()
        window._seen, window._open = {}, True

    def end(module: nn.Module, args: Any, output: Any) -> None:
        window._open = False
        window._versions = {}
        missing = [tap for tap in taps if tap not in window._seen]
        if missing:
            raise TapError(f"tap {', '.join(map(repr, missing))} did not run in the forward of {title(inner)}")
        seen.update(window._seen)
        window._seen = {}

    handles = [inner.register_forward_pre_hook(begin), inner.register_forward_hook(end)]
    try:
        with hooked(handles), torch.compiler.set_stance("force_eager"):
            yield seen
    finally:
        window.close()


def look(model: nn.Module, inputs: Any, taps: Sequence[str]) -> Seen:
    """One dry forward in eval mode without gradients; modes, buffers and hooks are as before."""
    with Tapped(model, taps) as window, quiet(window.model):
        return window(inputs)


def shapes(model: nn.Module, inputs: Any, taps: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of the tapped tensors, batch dimension first, from one dry forward."""
    return {tap: tuple(value.shape) for tap, value in look(model, inputs, taps).taps.items()}
