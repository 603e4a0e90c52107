"""Networks that answer with an object: a program, and its file, know tensors in tuples, lists and dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, treespec_dumps

from limbeck.compress.answers import output_of


def answer_plainly(model: nn.Module, example: Any) -> None:
    """Make a network whose answer no file can hold answer with `plain` of it, by a hook, in place."""
    if not _can_be_kept(output_of(model, example)):
        model.register_forward_hook(lambda module, args, output: plain(output))


def plain(output: Any) -> Any:
    """The same tensors in tuples, lists and dictionaries: of a named tuple, of the attributes of an object.

    A named tuple whose ``logits`` are not its first becomes a dictionary, in which they are found.

    >>> from types import SimpleNamespace
    >>> plain(SimpleNamespace(logits=1.0, more=[2.0, SimpleNamespace(z=3.0)]))
    {'logits': 1.0, 'more': [2.0, {'z': 3.0}]}
    """
    if isinstance(output, tuple):
        names = getattr(output, "_fields", ())
        if "logits" in names[1:]:
            return {name: plain(part) for name, part in zip(names, output, strict=True)}
        return tuple([plain(part) for part in output])
    if isinstance(output, list):
        return [plain(part) for part in output]
    if isinstance(output, Mapping):
        return {key: plain(part) for key, part in output.items()}
    if _is_leaf(output) or not hasattr(output, "__dict__"):
        return output
    return {key: plain(part) for key, part in vars(output).items()}


def _can_be_kept(output: Any) -> bool:
    leaves, form = tree_flatten(output)
    try:
        treespec_dumps(form)
    except Exception:  # a kind of container that torch writes to no file
        return False
    return all(map(_is_leaf, leaves))


def _is_leaf(part: Any) -> bool:
    return part is None or isinstance(part, (Tensor, int, float, str))
