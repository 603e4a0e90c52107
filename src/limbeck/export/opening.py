"""Running an exported network from its folder alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from limbeck.errors import ShapeError
from limbeck.export.checking import Runs
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

        Raises:
            ShapeError: the inputs are not of the shape that ``deploy.json`` tells.
        """
        self._check(inputs)
        return self.run([tensor.cpu() for tensor in inputs])

    def _check(self, inputs: Sequence[Tensor]) -> None:
        wanted = [entry["shape"][1:] for entry in self.told["inputs"]]
        given = [list(tensor.shape[1:]) for tensor in inputs]
        if given != wanted:
            raise ShapeError(
                f"{self.folder} takes {', '.join(str(['batch', *shape]) for shape in wanted)}; "
                f"got {', '.join(str(list(tensor.shape)) for tensor in inputs) or 'nothing'}"
            )


def open_export(folder: str | Path) -> Opened:
    """Open an exported network: the folder that `limbeck.export` made, wherever it is now.

    Raises:
        LimbeckError: it is none, its files were changed, or what runs them is not installed.
    """
    folder = Path(folder)
    told = read_deploy(folder)
    return Opened(folder, told, target(told["to"]).opener(folder, told))
