"""Numbers kept for each row of a data set."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Remember(nn.Module):
    """Keeps for each row of a data set what was first given for it, and gives that back ever after.

    ``forward(rows, values)`` returns what is kept for these rows; for a row that has nothing yet, its values, which in
    train mode are kept from then on.  Rows that come twice in their first batch keep the mean.

    The buffers hold sums and counts, so that adding, or averaging, those of several processes keeps what each of them
    has seen.

    Args:
        rows: how many rows the data set has; each row number is below it.
        columns: how many numbers belong to a row.
        device: where the buffers are.

    Example:
        >>> memory = Remember(3, 2).train()
        >>> _ = memory(torch.tensor([2]), torch.tensor([[0.5, 0.5]]))
        >>> memory(torch.tensor([0, 2]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        tensor([[1.0000, 0.0000],
                [0.5000, 0.5000]])
    """

    count: Tensor
    total: Tensor

    def __init__(self, rows: int, columns: int, *, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(rows, device=device))
        self.register_buffer("total", torch.zeros(rows, columns, device=device))

    def forward(self, rows: Tensor, values: Tensor) -> Tensor:
        rows = rows.to(self.count.device)  # the engine leaves row numbers where they were
        values = values.detach().to(self.total.dtype)
        if self.training:
            new = (self.count[rows] == 0).to(self.total.dtype)  # no branch, which would make the host wait
            self.count.index_add_(0, rows, new)
            self.total.index_add_(0, rows, new.unsqueeze(1) * values)
        count = self.count[rows].unsqueeze(1)
        return torch.where(count > 0, self.total[rows] / count, values)
