"""The processes of a run: one, or several that share every batch.

The only module that imports Lightning Fabric, which finds devices, starts processes and carries
tensors between them.  Gradients are averaged here, not by a wrapper around a module, because a step
may run any of a phase's modules any number of times, and stop half-way.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import HyperParameterError

# Which process has which number is nothing to tell the user, in this process and in those it starts.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Team:
    """Where this process computes, and how it meets the others.

    Attributes:
        device: of this process.
        rank: its number, from 0.
        world: how many there are.
        fabric: the launched ``lightning_fabric.Fabric``; None for one process.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    fabric: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and speaks to the user."""
        return self.rank == 0

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes."""
        return value if self.world == 1 else self.fabric.all_reduce(value, reduce_op="sum")

    def gather(self, value: Tensor) -> Tensor:
        """The tensors of all processes, stacked: ``[world, ...]``."""
        stacked = value.new_zeros(self.world, *value.shape)
        stacked[self.rank] = value
        return self.total(stacked)

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            self.fabric.barrier()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by the mean over the processes.

        A parameter that no process has a gradient for keeps none, as it would in one process.
        """
        if self.world == 1:
            return
        wanted = [p for p in parameters if p.requires_grad]
        present = torch.tensor([p.grad is not None for p in wanted], dtype=torch.float32, device=self.device)
        used = [p for p, n in zip(wanted, self.total(present).tolist(), strict=True) if n > 0]
        if not used:
            return
        flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in used])
        flat = self.total(flat) / self.world
        for p, part in zip(used, flat.split([p.numel() for p in used]), strict=True):
            p.grad = part.view_as(p).clone()

    def average_buffers(self, modules: Iterable[nn.Module]) -> None:
        """Replace every floating-point buffer by the mean over the processes (running statistics, sums)."""
        if self.world == 1:
            return
        for module in modules:
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.total(buffer.clone()) / self.world)


def require_devices(accelerator: str, devices: int = 1) -> None:
    """Refuse an accelerator that this machine does not have, or more of them than it has.

    Raises:
        HyperParameterError: what was asked for, and what there is.
    """
    has = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if accelerator in has and devices > has[accelerator]:
        there = f"{has[accelerator] or 'no'} {accelerator} device{'s' if has[accelerator] > 1 else ''}"
        raise HyperParameterError(
            f"accelerator {accelerator!r} with {devices} device{'s' if devices > 1 else ''}: this machine has {there} "
            f"that torch {torch.__version__} can use; 'cpu' works everywhere"
        )


def alone(accelerator: str = "auto") -> Team:
    """A team of one process on the best device there is, or on the one named."""
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(accelerator)
    except RuntimeError as error:
        raise HyperParameterError(f"device = {accelerator!r}: 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'") from error
    require_devices(device.type, (device.index or 0) + 1)
    return Team(device)


def fabric_for(accelerator: str, devices: int) -> Any:
    """A Fabric for several processes on this machine; ``launch`` starts them."""
    from lightning_fabric import Fabric

    return Fabric(accelerator=accelerator, devices=devices, strategy="ddp_spawn")


def member(fabric: Any) -> Team:
    """This process's place in a launched Fabric."""
    return Team(fabric.device, fabric.global_rank, fabric.world_size, fabric)
