"""Binary networks as bytes: one bit for each binary weight."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from limbeck.compress.binary import functions as f
from limbeck.compress.binary.layers import KINDS
from limbeck.errors import LimbeckError, NonFiniteError, ShapeError, WeightsError
from limbeck.models.weights import stored
from limbeck.taps import title

_BITS, _SCALE = ".signs", ".scale"


def pack(model: nn.Module) -> bytes:
    """The weights of a binary network as a safetensors file.

    Each binary weight is one bit (``NAME.signs``: uint8, eight in a byte, 1 for +1, row after row, the last byte filled with
    zeros); forms with a scale have one number per filter (``NAME.scale``).  All other parameters and buffers are stored as they are.
    The latent weights are not in it: the network can be used, and not trained on from where it was.

    Raises:
        LimbeckError: no layer is binary.
        NonFiniteError: a binary weight is NaN or infinite.

    >>> from limbeck.compress.binary import BinaryLinear
    >>> data = pack(BinaryLinear(in_features=16, out_features=8, bias=False, form="bwn"))
    >>> sorted((name, len(tensor)) for name, tensor in load(data).items())
    [('weight.scale', 8), ('weight.signs', 16)]
    """
    held, binary = stored(model), _binary(model)
    if not binary:
        raise LimbeckError(f"{title(model)} has no binary layer to pack; limbeck.save_weights stores real ones")
    for name, scaled in binary.items():
        weight = held.pop(name)
        if not bool(torch.isfinite(weight).all()):
            raise NonFiniteError(f"{name} is non-finite: a sign would hide that")
        held[name + _BITS] = torch.from_numpy(pack_signs(f.sign(weight)))
        if scaled:
            held[name + _SCALE] = f.filter_scale(weight)
    return save(held, {"format": "pt"})


def unpack(data: bytes, model: nn.Module) -> nn.Module:
    """A copy of a binary network, filled from what `pack` made of one of its build.

    It computes what the packed network computed, to the last bit; its latent weights are the signs, times their scale.

    Raises:
        WeightsError: the bytes are no such file, or were made of another network.

    >>> from limbeck.compress.binary import BinaryLinear
    >>> one, other = (BinaryLinear(in_features=16, out_features=8, form="xnor").eval() for _ in range(2))
    >>> x = torch.randn(4, 16)
    >>> torch.equal(unpack(pack(one), other)(x), one(x))
    True
    """
    try:
        found = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"these {len(data):,} bytes cannot be read as a safetensors file: {error}") from error
    new = copy.deepcopy(model)
    wanted, binary, state = stored(new), _binary(new), dict[str, Tensor]()
    expected = {
        name
        for own in wanted
        for name in ([own] if own not in binary else [own + _BITS, *([own + _SCALE] if binary[own] else [])])
    }
    if expected != set(found):
        missing, extra = sorted(expected - set(found)), sorted(set(found) - expected)
        raise WeightsError(
            f"the packed file does not fit {title(model)}: missing {', '.join(missing[:4]) or 'nothing'}; "
            f"unexpected {', '.join(extra[:4]) or 'nothing'}"
        )
    for name, mine in wanted.items():
        if name in binary:
            bits, scale = found[name + _BITS], found.get(name + _SCALE)
            fits = bits.numel() == (mine.numel() + 7) // 8 and (scale is None or scale.numel() == mine.shape[0])
            value = _signs(bits, scale, mine.shape) if fits else bits
        else:
            value = found[name]
        if value.shape != mine.shape:
            raise WeightsError(
                f"the packed file does not fit {title(model)}: {name} {list(mine.shape)} in the network, "
                f"{list(value.shape)} in the file"
            )
        state[name] = value
    with torch.no_grad():
        everything = new.state_dict()
        for name, value in state.items():
            everything[name].copy_(value)
    return new


def packed_bytes(model: nn.Module) -> int:
    """How long the file of `pack` is: its signs, scales and real tensors, and the table of contents.

    >>> from limbeck.compress.binary import BinaryLinear
    >>> 128 * 128 // 8 < packed_bytes(BinaryLinear(in_features=128, out_features=128, bias=False, form="bwn")) < 3000
    True
    """
    return len(pack(model))


def pack_signs(signs: Tensor) -> np.ndarray:
    """Signs as bits, eight in a byte, the first in the highest place.

    >>> pack_signs(torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0, 1.0])).tolist()
    [177, 128]
    """
    return np.packbits((signs.detach().flatten() > 0).cpu().numpy())


def unpack_signs(bits: np.ndarray, n: int) -> Tensor:
    """The first ``n`` signs of packed ones, in float32.

    >>> unpack_signs(np.array([176], dtype=np.uint8), 5)
    tensor([ 1., -1.,  1.,  1., -1.])
    """
    return torch.from_numpy(np.unpackbits(bits, count=n).astype(np.float32) * 2 - 1)


def packed_dot(a: np.ndarray, b: np.ndarray, n: int) -> int:
    """The dot product of two packed rows of ``n`` signs: ``n`` less twice the number of places where they differ.

    This is what a processor would do instead of multiplying: XOR, and count the ones.

    Raises:
        ShapeError: the rows have another number of bytes than ``n`` signs need.

    >>> one, other = torch.tensor([1.0, -1, 1, 1, -1]), torch.tensor([1.0, 1, -1, 1, -1])
    >>> packed_dot(pack_signs(one), pack_signs(other), 5), int(one @ other)
    (1, 1)
    """
    if not len(a) == len(b) == (n + 7) // 8:
        raise ShapeError(f"{n} signs take {(n + 7) // 8} bytes; these rows have {len(a)} and {len(b)}")
    return n - 2 * int(np.unpackbits(np.bitwise_xor(a, b), count=n).sum())


def _signs(bits: Tensor, scale: Tensor | None, shape: Sequence[int]) -> Tensor:
    signs = unpack_signs(bits.numpy(), int(np.prod(shape))).reshape(tuple(shape))
    return signs if scale is None else signs * scale.reshape(-1, *[1] * (len(shape) - 1))


def _binary(model: nn.Module) -> dict[str, bool]:
    """Binary weights by their names in the state, and whether they have a scale; a shared layer counts once."""
    return {
        f"{name}.weight" if name else "weight": part.made["form"] != "bnn"
        for name, part in model.named_modules()
        if isinstance(part, KINDS)
    }
