"""Running an exported network from its folder alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from limbeck.errors import ShapeError, TensorTypeError
from limbeck.export.checking import Runs, ran
from limbeck.export.deploy import read_deploy
from limbeck.export.targets import target


@dataclass(frozen=True)
class Opened:
    """An exported network that can be run.

    Attributes:
        folder: where it is.
        told: what its ``deploy.json`` says.
        run: inputs in a row in, logits out.
    """

    folder: Path
    told: Mapping[str, Any]
    run: Runs

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Logits for a batch.

        In whatever layout they lie in memory, and on whatever device.

        Raises:
            ShapeError: the inputs are not of the shape that ``deploy.json`` tells, or have no rows.
            TensorTypeError: they are not of the type that it tells, or no tensors.
            LimbeckError: the file does not run on them.
        """
        self._check(inputs)
        # Compiled files read the memory as rows of NCHW, whatever the strides say.
        return ran(self.run, [tensor.detach().cpu().contiguous() for tensor in inputs], "the file")

    def _check(self, inputs: Sequence[Tensor]) -> None:
        for tensor in inputs:
            if not isinstance(tensor, Tensor):
                raise TensorTypeError(f"{self.folder} takes tensors; got a {type(tensor).__name__}")
        wanted = [entry["shape"][1:] for entry in self.told["inputs"]]
        given = [list(tensor.shape[1:]) for tensor in inputs]
        if given != wanted:
            raise ShapeError(
                f"{self.folder} takes {', '.join(str(['batch', *shape]) for shape in wanted)}; "
                f"got {', '.join(str(list(tensor.shape)) for tensor in inputs) or 'nothing'}"
            )
        if len({tensor.shape[:1] for tensor in inputs}) != 1 or not inputs[0].dim() or not len(inputs[0]):
            raise ShapeError(
                "a batch has one row or more, and every input as many; got "
                + ", ".join(str(list(tensor.shape)) for tensor in inputs)
            )
        kinds = [entry["dtype"] for entry in self.told["inputs"]]
        types = [str(tensor.dtype).removeprefix("torch.") for tensor in inputs]
        if types != kinds:
            raise TensorTypeError(
                f"{self.folder} takes {', '.join(kinds)}; got {', '.join(types)}: convert them, as with .to(torch.{kinds[0]})"
            )


def open_export(folder: str | Path) -> Opened:
    """Open an exported network: the folder that `limbeck.export` made, wherever it is now.

    Raises:
        LimbeckError: it is none, its files were changed, or what runs them is not installed.
    """
    folder = Path(folder)
    told = read_deploy(folder)
    return Opened(folder, told, target(told["to"]).opener(folder, told))
