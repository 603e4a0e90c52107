"""Which values of a network belong to which channel: found out by watching one forward.

Every output channel of a convolution or linear layer gets a number, a *label*, and so does every input channel and every
channel of a BatchNorm.  While the network runs, each activation is accompanied by a tensor of its own shape that holds,
for each value, the label of the channel it comes from.  Whatever only moves values (reshaping, concatenation, splitting,
shuffling, padding) is done to the labels as it is done to the values.  Whatever combines two values (a sum of branches, a
gate) makes their labels one.  A layer that reads values makes their labels one with those of its input channels.  In
the end, equal labels are what can only go together.

Nothing here knows names of networks or of their modules; an operation that is not understood makes the channels that go
in stay (`Ledger.fix`), which is always right and costs only what might have been removed.
"""

from __future__ import annotations

from limbeck.compress.pruning.labels.follow import Watcher
from limbeck.compress.pruning.labels.ledger import Key, Ledger
from limbeck.compress.pruning.labels.reading import whole_groups
from limbeck.compress.pruning.labels.watch import Watch

__all__ = ["Key", "Ledger", "Watch", "Watcher", "whole_groups"]
