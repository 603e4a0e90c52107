"""Binary networks: weights, and maybe activations, that are +1 or -1.

This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from limbeck.settings import Presets, names_of, require, require_choice, require_whole

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Binarize:
    """A copy of a network whose inner layers compute with signs, to be trained further (BNN, XNOR-Net).

    Convolutions and linear layers become `limbeck.compress.binary.BinaryConv` and ``BinaryLinear``, under their old names.
    Their real weights stay the trained parameters; forwards use the signs, and gradients go straight through them.
    ``form`` says what is binary::

        bnn    sign(W),          sign(BatchNorm(x))
        bwn    alpha * sign(W),  x                               alpha = mean |W| of a filter
        xnor   alpha * sign(W),  K * sign(BatchNorm(x))          K = mean of |BatchNorm(x)| under the window

    A network that was just made binary knows next to nothing: train it, best from the network that it was made of (`KD`).
    `limbeck.compress.binary.pack` stores a bit per binary weight, ``settle`` writes the signs out for export.  Nothing gets faster:
    signs are computed as floating-point numbers.

    Attributes:
        form: "bnn" (Courbariaux et al., arXiv 1602.02830), "bwn" or "xnor" (Rastegari et al., arXiv 1603.05279).
            Default "xnor" (the most accurate whose activations are binary, too).
        ends: the first and the last layer become binary, too; the first keeps its real input.  Default False
            (XNOR-Net, section 4.1; BNN has them binary).
        keep: paths of further layers, or of whole parts, that stay real.  Default none.
        fewest: layers whose filters have fewer weights stay real, such as depthwise convolutions: 2 or more.  Default 16
            (with a scale of 32 bits per filter, that is 3 bits per weight).
        stochastic: in training, the sign of an input x is drawn, +1 with probability ``clip((x + 1) / 2, 0, 1)``; form "bnn"
            only.  Default False (BNN, section 1.1: the harder one to compute).

    Raises:
        HyperParameterError: a setting is outside its range.
        NameUnknown: a layer in ``keep`` does not exist.
        NonFiniteError: a weight is NaN or infinite.
        LimbeckError: no layer can become binary, or the network is binary already.

    >>> Binarize("bnn", ends=True)
    Binarize(form='bnn', ends=True, keep=(), fewest=16, stochastic=False)
    """

    form: Literal["bnn", "bwn", "xnor"] = "xnor"
    _: KW_ONLY
    ends: bool = False
    keep: tuple[str, ...] = ()
    fewest: int = 16
    stochastic: bool = False

    presets: ClassVar[Presets] = {
        "paper": {"form": "xnor", "ends": False},  # Rastegari et al., section 4.1
        "bwn": {"form": "bwn", "ends": False},
        "bnn": {"form": "bnn", "ends": True},  # Courbariaux et al.: but for the first input, all is binary
    }

    def __post_init__(self) -> None:
        require_choice("form", self.form, ("bnn", "bwn", "xnor"))
        for name in ("ends", "stochastic"):
            value = getattr(self, name)
            require(isinstance(value, bool), name, value, "True or False")
        object.__setattr__(self, "keep", names_of("keep", self.keep))
        require_whole(fewest=self.fewest)
        require(self.fewest >= 2, "fewest", self.fewest, "2 or more: of a single weight its scale is the whole")
        require(
            not self.stochastic or self.form == "bnn",
            "stochastic",
            self.stochastic,
            f"only form 'bnn' draws signs, and this is {self.form!r}",
        )

    def __call__(self, model: nn.Module, *, example: Any, calibration: Iterable[Any] = ()) -> nn.Module:
        """The network with binary layers; the given one stays as it is.

        Args:
            model: any module.
            example: a batch as the model takes it, on its device.
            calibration: batches from which the BatchNorms take their first statistics; without any they begin at 0 and 1.
        """
        from limbeck.compress.binary.change import binarize

        return binarize(
            model,
            example,
            calibration,
            form=self.form,
            ends=self.ends,
            keep=self.keep,
            fewest=self.fewest,
            stochastic=self.stochastic,
        )
