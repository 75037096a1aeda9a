"""A graph equilibrium network: digits whose neighbors are alike, of which few have a label.

One graph, so one sample: (1, nodes, width). Spectral norm makes the map a contraction (as in Gu et
al., "Implicit graph neural networks", NeurIPS 2020); implicit gradient, torchdeq's default tests.

python benchmarks/programs/graph.py anderson
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torchdeq import get_deq
from torchdeq.norm import apply_norm, reset_norm

import andersonn_core.torchdeq_plugin  # noqa: F401  # the solvers whose names begin with lab_

NODES, NEIGHBORS, LABELED = 600, 6, 100


class Cell(nn.Module):
    """f(z, x) = tanh(A z W^T + x), A the graph's normalized adjacency matrix."""

    def __init__(self, adjacency: torch.Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency)
        self.mix = nn.Linear(width, width, bias=False)
        nn.init.orthogonal_(self.mix.weight)

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:  # (1, nodes, width) each
        """Evaluate f."""
        return torch.tanh(self.mix(self.adjacency @ z) + x)


class GraphNetwork(nn.Module):
    """Linear, equilibrium, linear."""

    def __init__(self, solver: str, adjacency: torch.Tensor, width: int = 32) -> None:
        super().__init__()
        self.encoder, self.cell = nn.Linear(64, width), Cell(adjacency, width)
        self.readout = nn.Linear(width, 10)
        norm = {"norm_type": "spectral_norm", "norm_no_scale": True, "norm_target_norm": 0.99}
        apply_norm(self.cell, args=norm)
        self.deq = get_deq(
            core="sliced", ift=True, f_solver=solver, b_solver=solver, f_max_iter=80, b_max_iter=80
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # (nodes, 64) -> (nodes, 10)
        """The logits of every node."""
        reset_norm(self.cell)
        x = self.encoder(features)[None]
        states, _ = self.deq(lambda z: self.cell(z, x), torch.zeros_like(x))
        return self.readout(states[-1])[0]


def neighbors(features: torch.Tensor) -> torch.Tensor:  # (nodes, 64) -> (nodes, nodes)
    """D^-1/2 (A + I) D^-1/2 of the graph that links each digit to those nearest to it."""
    nearest = torch.cdist(features, features).topk(NEIGHBORS + 1, largest=False).indices
    links = torch.zeros(NODES, NODES).scatter_(1, nearest, 1.0)
    links = torch.maximum(links, links.T)
    scale = links.sum(1).rsqrt()
    return scale[:, None] * links * scale


def main(solver: str, seed: int = 0, steps: int = 60) -> float:
    """Train with the labels of some; the part of the other nodes that is right."""
    torch.manual_seed(seed)
    digits = load_digits()
    chosen = torch.randperm(len(digits.target))[:NODES]
    features = torch.tensor(digits.data).float()[chosen] / 16
    labels = torch.tensor(digits.target)[chosen]
    model = GraphNetwork(solver, neighbors(features))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = F.cross_entropy(model(features)[:LABELED], labels[:LABELED])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return float((model(features).argmax(1) == labels)[LABELED:].float().mean())


if __name__ == "__main__":
    print(main(*sys.argv[1:2]))
