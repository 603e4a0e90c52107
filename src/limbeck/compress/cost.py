"""What a model costs: parameters, arithmetic, bytes, and time that was measured."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.batches import batch_size
from limbeck.errors import LimbeckError
from limbeck.models.macs import as_found, count_macs, to_eval
from limbeck.models.weights import packed, storable
from limbeck.processor import bf16_unit, processor_name
from limbeck.settings import require


@dataclass(frozen=True)
class Cost:
    """The size of a model.

    Attributes:
        parameters: how many numbers are trained; a tied parameter counts once.  Of a quantized network, as many as
            the one that it was made of has.
        macs: multiply-accumulates of one sample (convolutions, linear layers, matrix products).
        bytes: length of its safetensors file, parameters and buffers; of a quantized network, of its program's file; of
            a binary one, of its packed file (`limbeck.compress.binary.pack`), which has a bit for a binary weight.
    """

    parameters: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class Latency:
    """How long a forward took, in milliseconds per batch.

    Attributes:
        batch: samples per forward.
        median_ms, p10_ms, p90_ms: of the forwards that counted.
        n: how many counted.
        threads: CPU threads of torch.
        clock: "process_time" (CPU time of this process: what other processes take is not in it), "cuda events", or
            "perf_counter" with a wait for the device.
        device: where it ran, in words.
    """

    batch: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    n: int
    threads: int
    clock: str
    device: str


def cost(model: nn.Module, inputs: Any) -> Cost:
    """Parameters, MACs per sample and bytes of a model, which is left as it was found.

    Args:
        model: any module.
        inputs: a batch as the model takes it, on the model's device; a mapping becomes keyword arguments.

    >>> cost(nn.Linear(8, 4), torch.zeros(3, 8)).macs
    32
    """
    unique = {id(p): p.numel() for p in model.parameters()}
    return Cost(
        getattr(model, "float_parameters", None) or sum(unique.values()), count_macs(model, inputs), file_bytes(model)
    )


def is_program(model: nn.Module) -> bool:
    """Whether this is a quantized program, which knows its own file and its own fast form; asked without importing it."""
    return type(model).__name__ == "Quantized" and type(model).__module__ == "limbeck.compress.int8.program"


def file_bytes(model: nn.Module) -> int:
    """How long the file is in which this network is handed over; a network with a file of its own kind knows it."""
    if is_program(model):
        return cast(Any, model).file_bytes()
    if any(type(part).__module__ == "limbeck.compress.binary.layers" for part in model.modules()):
        from limbeck.compress.binary import packed_bytes

        return packed_bytes(model)
    if storable(model):
        return len(packed(model))
    with io.BytesIO() as file:  # of another library's kind, which only torch's own file can hold
        torch.save(model.state_dict(), file)
        return file.tell()


def latency(models: Mapping[str, nn.Module], inputs: Any, *, repeats: int = 50, warmup: int = 5) -> dict[str, Latency]:
    """Measured time of a forward, in evaluation mode, on one CPU thread.

    The models take turns, in another order every time, so that a slow moment of the machine meets all of them; compare the numbers of one call
    with each other and not with those of another.  Everything is put back afterwards, even after an error: modes,
    buffers, the number of threads.

    Args:
        models: by name, all on the device of the inputs.
        inputs: a batch as the models take it; a mapping becomes keyword arguments.
        repeats: forwards of each model that count.
        warmup: forwards of each model before those.

    Raises:
        HyperParameterError: `repeats` below 1 or `warmup` below 0.
        LimbeckError: no model, or no batch in `inputs`.

    >>> latency({"a": nn.Linear(8, 4)}, torch.zeros(3, 8), repeats=3)["a"].n
    3
    """
    require(repeats >= 1, "repeats", repeats, "1 or more")
    require(warmup >= 0, "warmup", warmup, "0 or more")
    if not models:
        raise LimbeckError("there is no model to time; give a mapping of at least one")
    batch = batch_size(inputs)
    device = _device(inputs)
    timed, clock = _clock(device)
    spent: dict[str, list[float]] = {name: [] for name in models}
    with as_found(*models.values()), one_thread(), torch.inference_mode():
        for model in models.values():
            to_eval(model)
        order = list(models.items())
        dice = random.Random(0)
        for turn in range(warmup + repeats):
            dice.shuffle(order)  # what runs before a network leaves caches to it: not always the same one
            for name, model in order:
                ms = timed(lambda model=model: model(**inputs) if isinstance(inputs, Mapping) else model(inputs))
                if turn >= warmup:
                    spent[name].append(ms)
    where = _words(device)
    return {name: _summary(batch, ms, clock, where) for name, ms in spent.items()}


def _summary(batch: int, ms: list[float], clock: str, where: str) -> Latency:
    low, middle, high = (float(q) for q in np.percentile(ms, (10, 50, 90)))
    return Latency(batch, middle, low, high, len(ms), 1, clock, where)


def _device(inputs: Any) -> torch.device:
    parts = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    return next(part.device for part in parts if isinstance(part, Tensor) and part.ndim)


def _clock(device: torch.device) -> tuple[Callable[[Callable[[], object]], float], str]:
    """A function that runs something and says how many milliseconds it took, and what that clock is called."""
    if device.type == "cpu":
        return _by(time.process_time, lambda: None), "process_time"
    if device.type == "cuda":
        return _by_events(device), "cuda events"
    return _by(time.perf_counter, lambda: torch.accelerator.synchronize(device)), "perf_counter"


def _by(now: Callable[[], float], wait: Callable[[], None]) -> Callable[[Callable[[], object]], float]:
    def timed(run: Callable[[], object]) -> float:
        wait()
        start = now()
        run()
        wait()
        return (now() - start) * 1000

    return timed


def _by_events(device: torch.device) -> Callable[[Callable[[], object]], float]:
    def timed(run: Callable[[], object]) -> float:
        with torch.cuda.device(device):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start.record()
            run()
            end.record()
            end.synchronize()
            return start.elapsed_time(end)

    return timed


def _words(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        known = processor_name(), torch.backends.cpu.get_cpu_capability(), bf16_unit()
        return f"cpu ({', '.join(filter(None, known))})"
    return str(device)


@contextmanager
def one_thread() -> Iterator[None]:
    """One CPU thread inside.  What is timed so is compiled so: torch compiles anew for another number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
