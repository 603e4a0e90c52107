"""How much the loss changes when something is gone: measured, or by the first term of Taylor's series."""

from __future__ import annotations

from torch import Tensor

from limbeck.scores._checks import real, same_shape


def taylor(activation: Tensor, gradient: Tensor) -> Tensor:
    """``| mean over positions of z dC/dz |`` for each sample, then the mean over samples.

    Args:
        activation: z, ``[samples, channels, ...]``.
        gradient: dC/dz of each sample's own loss (no division by the batch size), of the same shape.

    Returns:
        ``[channels]``, zero or more.  See `unit_norm` for comparing layers.

    Raises:
        ShapeError: the shapes differ, or there are no channels.
        TensorTypeError, NonFiniteError: as in `l1`.

    Source:
        Molchanov, Tyree, Karras, Aila, Kautz: Pruning Convolutional Neural Networks for Resource Efficient Inference
        (ICLR 2017), section 2.2.

    >>> import torch
    >>> z = torch.tensor([[[[1.0, 2], [0, 1]]], [[[2.0, 0], [1, 1]]]])
    >>> g = torch.tensor([[[[0.1, -0.1], [0.2, 0.1]]], [[[0.2, 0.1], [0, -0.1]]]])
    >>> taylor(z, g)
    tensor([0.0375])
    """
    z = real("taylor", "activation", activation, dimensions=2)
    g = real("taylor", "gradient", gradient, dimensions=2)
    same_shape("taylor", activation=z, gradient=g)
    product = z * g
    return product.reshape(*product.shape[:2], -1).mean(2).abs().mean(0)


def unit_norm(scores: Tensor) -> Tensor:
    """The scores of a layer, divided by their Euclidean norm, so that layers can be compared.

    Args:
        scores: ``[channels]``.

    Returns:
        ``[channels]`` of norm 1; a layer of zeros stays zero.

    Raises:
        TensorTypeError, ShapeError, NonFiniteError: as in `l1`.

    Source:
        Molchanov et al. (ICLR 2017), section 2.2: layer-wise normalisation.

    >>> import torch
    >>> unit_norm(torch.tensor([3.0, 4.0]))
    tensor([0.6000, 0.8000])
    """
    x = real("unit_norm", "scores", scores)
    norm = x.double().norm()  # squares of float32 may be too small or too large for it
    return (x / norm).to(x.dtype) if bool(norm > 0) else x


def taylor_gate(gamma: Tensor, gamma_gradient: Tensor, beta: Tensor, beta_gradient: Tensor) -> Tensor:
    """``(gamma dC/dgamma + beta dC/dbeta)^2``: a gate behind the normalisation, closed.

    This is the first-order effect of removing the whole channel behind the normalisation.  The same score on the
    weights in front of it (`taylor_weight`) is zero up to rounding while batch statistics are used, whatever the
    channel is worth: a scale of the weights does not matter there.

    Args:
        gamma: scales, ``[channels]``.
        gamma_gradient: of the mean loss of a batch.
        beta: shifts, ``[channels]``.
        beta_gradient: of the same loss.

    Returns:
        ``[channels]``, zero or more; the mean over batches is the score of the paper.

    Raises:
        ShapeError: the shapes differ.
        TensorTypeError, NonFiniteError: as in `l1`.

    Source:
        Molchanov, Mallya, Tyree, Frosio, Kautz: Importance Estimation for Neural Network Pruning (CVPR 2019).

    >>> import torch
    >>> taylor_gate(torch.tensor([2.0]), torch.tensor([0.5]), torch.tensor([1.0]), torch.tensor([-0.4]))
    tensor([0.3600])
    """
    parts = {
        "gamma": real("taylor_gate", "gamma", gamma),
        "gamma_gradient": real("taylor_gate", "gamma gradient", gamma_gradient),
        "beta": real("taylor_gate", "beta", beta),
        "beta_gradient": real("taylor_gate", "beta gradient", beta_gradient),
    }
    same_shape("taylor_gate", **parts)
    return (parts["gamma"] * parts["gamma_gradient"] + parts["beta"] * parts["beta_gradient"]).square()


def taylor_weight(weight: Tensor, gradient: Tensor, *, together: bool = True) -> Tensor:
    """``(sum over the filter of w dC/dw)^2``, or with ``together=False`` the sum of the squares.

    With batch normalisation behind the layer, take the gradients in eval mode: with batch statistics the sum over a
    filter is zero (see `taylor_gate`), and the squared sum ranks rounding errors.

    Args:
        weight: ``[filters, ...]``.
        gradient: of the mean loss of a batch, of the same shape.
        together: square the sum (a filter goes as a whole), or sum the squares.

    Returns:
        ``[filters]``, zero or more; the mean over batches is the score of the paper.

    Raises:
        ShapeError: the shapes differ.
        TensorTypeError, NonFiniteError: as in `l1`.

    Source:
        Molchanov et al. (CVPR 2019).

    >>> import torch
    >>> w, g = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    >>> taylor_weight(w, g), taylor_weight(w, g, together=False)
    (tensor([1.]), tensor([13.]))
    """
    w = real("taylor_weight", "weight", weight, dimensions=2)
    g = real("taylor_weight", "gradient", gradient, dimensions=2)
    same_shape("taylor_weight", weight=w, gradient=g)
    product = (w * g).flatten(1)
    return product.sum(1).square() if together else product.square().sum(1)


def oracle(whole: Tensor, without: Tensor) -> Tensor:
    """The change of the mean loss, as measured: ``| mean(without) - mean(whole) |``.

    Args:
        whole: ``[samples]``, the losses of the whole network.
        without: ``[samples, ...]``, the losses of the same samples without the channels in question.

    Returns:
        ``[...]``, zero or more.

    Raises:
        ShapeError: the numbers of samples differ.
        TensorTypeError, NonFiniteError: as in `l1`.

    Source:
        Molchanov et al. (ICLR 2017), section 2.2: oracle-abs.

    >>> import torch
    >>> oracle(torch.tensor([1.0, 1.0]), torch.tensor([[1.0, 0.5], [2.0, 0.5]]))
    tensor([0.5000, 0.5000])
    """
    a, b = real("oracle", "losses of the whole", whole), real("oracle", "losses without", without)
    same_shape("oracle", whole=a, without=b.reshape(len(b), -1)[:, 0])
    return (b.mean(0) - a.mean()).abs()
