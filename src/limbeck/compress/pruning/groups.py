"""Channels that can only go together, as plain data: the common tongue of graph, scores, selection and surgery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Side = Literal["out", "in", "norm"]


@dataclass(frozen=True)
class Member:
    """One slice of a module that goes with the channels of a group.

    Attributes:
        module: its path in the model.  For a parameter that belongs to no convolution, linear layer or BatchNorm (a
            layer scale, a position embedding, the slopes of a PReLU, a weight matrix that a module of another kind
            multiplies with) the path of the parameter, such as "act.weight".
        side: "out": output channels of a convolution or linear layer, "in": its input channels, "norm": the channels of
            a BatchNorm or of a parameter that is added or multiplied.  A convolution from which whole groups go, as a
            depthwise one, is there once, as "out".
        index: for each channel of the group, which indices of that side it takes: several behind a flattening, or where
            channels are tied.  Indices count over all groups of a grouped convolution.
        dim: which dimension of the parameter, where `module` names a parameter; 0 otherwise.
    """

    module: str
    side: Side
    index: tuple[tuple[int, ...], ...]
    dim: int = 0


@dataclass(frozen=True)
class Group:
    """Channels that can be removed, each of them on its own, but each from all members at once.

    Attributes:
        name: of the leading layer, the first that produces them; with "#2" and so on behind it where the channels of
            one layer belong to several groups.
        size: how many channels.
        members: the leader first, then the others in the order in which the network runs.
    """

    name: str
    size: int
    members: tuple[Member, ...]

    def of(self, side: Side) -> tuple[Member, ...]:
        """The members with this side, in order.

        >>> Group("a", 1, (Member("a", "out", ((0,),)), Member("b", "in", ((0,),)))).of("in")[0].module
        'b'
        """
        return tuple(member for member in self.members if member.side == side)
