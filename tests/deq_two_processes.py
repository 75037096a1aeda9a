"""What test_deq_training_tools.py runs under torchrun: each rank a half of one batch.

Rank 0 writes what it found to the file that it is given: the averaged gradients, the evaluations
of each rank, who waited for whom, and what happens with a parameter that is not used.
"""

import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from deq_cases import dense, inputs
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from andersonn_core import DEQ, Anderson
from andersonn_core.deq import Balance


class Model(nn.Module):
    """Encoder, equilibrium, and a parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(3, 3).double()
        self.deq = DEQ(dense(scale=0.9), Anderson(window=3), rtol=1e-11, max_iter=300)
        self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.deq(self.encoder(x)).square().sum(1).mean()


def batch() -> Tensor:  # (8, 3)
    """Four samples near zero, then four that take more evaluations."""
    return inputs(8).detach() * torch.tensor([1e-3] * 4 + [10.0] * 4).double()[:, None]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        name.removeprefix("module."): parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def message(act: Callable[[], None]) -> str:
    try:
        act()
    except RuntimeError as error:
        return str(error)
    return ""


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.set_num_threads(1)
    half = batch()[4 * rank : 4 * rank + 4]
    model = DistributedDataParallel(Model(), find_unused_parameters=True)
    balance = Balance(model.module.deq)
    for _ in range(2):  # the second pass would hang or fail if the first left anything undone
        model.zero_grad(set_to_none=True)
        model(half).backward()
        balance.step()
    found = gradients(model)
    deq = model.module.deq
    counts = torch.tensor([deq.last_forward.num_evals, deq.last_adjoint.num_evals])
    everyone = [torch.zeros_like(counts) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, counts)
    report = balance.report()
    strict = DistributedDataParallel(Model())
    strict(half).backward()
    refusal = message(lambda: strict(half).backward())
    if rank == 0:
        results = {"gradients": found, "evals": everyone, "refusal": refusal}
        torch.save(results | {"balance": report.frame.to_dict("list")}, sys.argv[1])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
