"""One of two processes that train every method together; run by test_every_method.py.

python one_of_two.py RANK MEETING OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "methods")]

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from engine_small import Seeking, conv_net, state  # noqa: E402
from method_table import adds_up, make, widths  # noqa: E402

from limbeck import catalog  # noqa: E402
from limbeck.engine.loop import fit  # noqa: E402
from limbeck.engine.team import Team  # noqa: E402
from limbeck.settings import Optimizer, Training  # noqa: E402

METHODS = [entry.name for entry in catalog.METHODS if adds_up(entry.name)]


def train(name, team):
    """The learners' weights after two epochs, in networks without batch statistics."""
    models = {role: conv_net(width, norm=False, seed=i) for i, (role, width) in enumerate(widths(name).items())}
    with torch.no_grad():
        for role, model in models.items():
            if role.startswith("teacher"):
                model.fc.weight *= 10
    plain = Optimizer(lr=0.02, momentum=0.0, nesterov=False, weight_decay=0.0)
    training = Training(epochs=2, batch_size=6, optimizer=plain)
    fit(make(name), models, Seeking(multi=name == "sigmoid_kd"), training=training, team=team, classes=3)
    return {role: state(model) for role, model in models.items()}


class Gloo:
    """What the engine needs of Fabric."""

    def all_reduce(self, value, reduce_op):
        assert reduce_op == "sum"
        found = value.clone()
        dist.all_reduce(found)
        return found

    def barrier(self):
        dist.barrier()


def main(rank, meeting, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    found = {name: train(name, Team(torch.device("cpu"), rank, 2, Gloo())) for name in METHODS}
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        torch.save(found, out)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
