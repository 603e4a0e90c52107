"""Low rank: layers as products of smaller ones, chosen by error, by arithmetic, or by what stands out of the noise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from limbeck.errors import HyperParameterError
from limbeck.settings import Presets, finite, names_of, require, require_choice, require_whole

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Factorize:
    """Linear layers and convolutions as rows of smaller ones, from the weights alone.

    A linear layer, and a convolution without a window, becomes two by singular values.  A convolution with a window
    becomes one of: a small one with the window and a 1x1 ("svd"), the same with another 1x1 before it ("tucker":
    Tucker-2, Kim et al., ICLR 2016), a column and a row ("spatial": Jaderberg et al., BMVC 2014), or a few kernels per
    channel and a 1x1 ("dominant": the dominant kernels of DK2PNet, Wang et al., ECCV 2016).

    Give exactly one of `energy`, `rank`, `macs` and `vbmf`.  A layer is left alone, and named in the findings, where no
    split needs less arithmetic, where little would be saved (see `layers`), where the split that was measured is hardly
    faster, and where exchanging it could break the network (shared or parametrized weights, hooks, weights read from
    outside).  What is left should be trained on.

    Attributes:
        energy: the part of the sum of squares of each layer's weights to keep, in (0, 1]: the squared relative error
            is 1 less this.  Default: not given.
        rank: a whole number from 1 (for "tucker" of both sides, for "dominant" of kernels per channel), or a part of
            the full rank in (0, 1).  Per group of a grouped convolution.  Default: not given.
        macs: the part of the network's multiply-accumulates to keep, in (0, 1); found with the same energy for every
            layer.  Default: not given.
        vbmf: ranks by empirical variational Bayesian matrix factorization: what stands out of the noise.  Default off.
        weaken: moves the ranks of `vbmf` towards the full ones, in [0, 1]: ``rank + weaken (full - rank)``.  Default 0.
        kind: of convolutions with a window: "auto", "svd", "tucker", "spatial" or "dominant" (with which other layers
            are left alone).  "auto" compares kinds at the wanted energy, by time if `measured`, else by arithmetic; with
            `rank` or `vbmf` it is Tucker-2.  Called ``variant`` in a recipe.  Default "auto".
        layers: names of layers, or of modules that hold them; none: all.  With `energy` and `macs` a layer is left alone
            where a split would save less than a fifth of what the average of them has, of arithmetic and of weights,
            as with a classifier of few classes; one that is called by its own name here is split nevertheless.
        ignore: names of layers, or of modules that hold them, to be left alone.
        measured: time each layer against its split, on this machine and at the example's shape, and leave alone what
            is not 5 % faster.  With "auto" and `energy` all kinds are timed, and the fastest is taken, or the cheapest of
            those that are as fast; with `macs` the cheapest that is faster.  What comes out depends on the machine.
            Default on.
        batch: samples in the measured batch, 1 or more; none: as many as the example has.
        recalibrate: whether the statistics of BatchNorm layers are estimated anew, on the calibration batches, if there
            are any and a layer was split: a network of low rank can be at chance before.  Default on.

    Raises:
        HyperParameterError: no target or several, or a setting outside its range.

    >>> Factorize(energy=0.9, kind="tucker", ignore=("fc",)).measured
    True
    """

    energy: float | None = None
    rank: int | float | None = None
    macs: float | None = None
    vbmf: bool = False
    weaken: float = 0.0
    kind: Literal["auto", "svd", "tucker", "spatial", "dominant"] = "auto"
    layers: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    measured: bool = True
    batch: int | None = None
    recalibrate: bool = True

    presets: ClassVar[Presets] = {
        "paper": {"vbmf": True, "kind": "tucker"},  # Kim et al. 2016: Tucker-2 with the ranks of VBMF in one shot
    }

    def __post_init__(self) -> None:
        given = [name for name in ("energy", "rank", "macs") if getattr(self, name) is not None]
        require(isinstance(self.vbmf, bool), "vbmf", self.vbmf, "True or False")
        given += ["vbmf"] if self.vbmf else []
        if len(given) != 1:
            raise HyperParameterError(
                f"{' and '.join(given) or 'nothing'} given: exactly one of energy, rank, macs and vbmf says how far to go, "
                "such as energy=0.9"
            )
        if self.energy is not None:
            require(finite(self.energy) and 0 < self.energy <= 1, "energy", self.energy, "a part to keep, in (0, 1]")
        if self.rank is not None:
            whole = isinstance(self.rank, int) and not isinstance(self.rank, bool)
            fine = self.rank >= 1 if whole else isinstance(self.rank, float) and 0 < self.rank < 1
            require(fine, "rank", self.rank, "a whole number, 1 or more, or a part of the full rank in (0, 1)")
        if self.macs is not None:
            require(finite(self.macs) and 0 < self.macs < 1, "macs", self.macs, "a part to keep, in (0, 1)")
        require(finite(self.weaken) and 0 <= self.weaken <= 1, "weaken", self.weaken, "in [0, 1]")
        require(self.vbmf or self.weaken == 0, "weaken", self.weaken, "only together with vbmf")
        require_choice("kind", self.kind, ("auto", "svd", "tucker", "spatial", "dominant"))
        require(
            not (self.vbmf and self.kind == "dominant"),
            "kind",
            self.kind,
            "vbmf finds ranks of whole layers, not kernels per channel; give energy, rank or macs with it",
        )
        for field in ("layers", "ignore"):
            object.__setattr__(self, field, names_of(field, getattr(self, field)))
        for name in ("measured", "recalibrate"):
            require(isinstance(getattr(self, name), bool), name, getattr(self, name), "True or False")
        if self.batch is not None:
            require_whole(batch=self.batch)
            require(self.batch >= 1, "batch", self.batch, "1 or more, or nothing at all")

    def __call__(self, model: nn.Module, *, example: Any, calibration: Iterable[Any] = ()) -> nn.Module:
        """A new network with factorized layers; see `limbeck.compress.lowrank.layers.split` for what stands in it.

        Args:
            model: stays as it is, bit for bit.
            example: a batch as the model takes it, on its device; a mapping becomes keyword arguments.
            calibration: batches for BatchNorm's statistics, where `recalibrate` is on; else not looked at.

        Raises:
            NameUnknown: `layers` or `ignore` name what the network does not have.
            HyperParameterError: `layers` names what cannot be factorized, or `macs` cannot be reached.
            NonFiniteError: a weight, or the output on the example, is not finite.
            LimbeckError: the network has no linear layers and convolutions, or does not run any more.
        """
        from limbeck.compress.lowrank.apply import factorized

        return factorized(model, example, calibration, self)
