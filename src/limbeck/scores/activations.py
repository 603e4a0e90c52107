"""What a channel says on real data: how often nothing, and how much on average."""

from __future__ import annotations

from torch import Tensor

from limbeck.scores._checks import real


def apoz(activations: Tensor) -> Tensor:
    """The average percentage of zeros of each channel; here *high* means "remove first".

    Args:
        activations: ``[samples, channels, ...]`` after a ReLU.  Before it, or after functions such as GELU, hardly any
            value is exactly zero, and the score says nothing.

    Returns:
        ``[channels]``, a part in [0, 1].

    Raises:
        TensorTypeError, ShapeError, NonFiniteError: as in `l1`.

    Source:
        Hu, Peng, Tai, Tang: Network Trimming (arXiv 1607.03250), section 3.1.

    >>> import torch
    >>> apoz(torch.tensor([[[0.0, 1, 0, 2], [0, 0, 0, 3]], [[1, 0, 0, 0], [0, 0, 0, 0]]]))
    tensor([0.6250, 0.8750])
    """
    x = real("apoz", "activations", activations, dimensions=2)
    return (x == 0).to(x.dtype).transpose(0, 1).flatten(1).mean(1)


def apoz_threshold(values: Tensor) -> float:
    """Where network trimming cuts a layer: neurons whose APoZ is above its mean plus one standard deviation go.

    Args:
        values: ``[channels]``, what `apoz` gave.

    Returns:
        The mean plus one standard deviation (of all values, no Bessel correction).

    Raises:
        TensorTypeError, ShapeError, NonFiniteError: as in `l1`.

    Source:
        Hu et al. (arXiv 1607.03250).

    >>> import torch
    >>> round(apoz_threshold(torch.tensor([0.9, 0.2, 0.3, 0.25, 0.35], dtype=torch.float64)), 8)
    0.65495098
    """
    x = real("apoz_threshold", "values", values).double()
    return float(x.mean() + x.std(correction=0))


def mean_activation(activations: Tensor) -> Tensor:
    """The mean of each channel over samples and positions: a yardstick for the other scores.

    Args:
        activations: ``[samples, channels, ...]``.

    Returns:
        ``[channels]``.

    Raises:
        TensorTypeError, ShapeError, NonFiniteError: as in `l1`.

    Source:
        Molchanov, Tyree, Karras, Aila, Kautz: Pruning Convolutional Neural Networks for Resource Efficient Inference
        (ICLR 2017), section 2.2.

    >>> import torch
    >>> mean_activation(torch.tensor([[[1.0, 3.0], [0.0, 0.0]]]))
    tensor([2., 0.])
    """
    return real("mean_activation", "activations", activations, dimensions=2).transpose(0, 1).flatten(1).mean(1)
