"""An implicit neural representation: a digit as a function of the place, enlarged and smooth.

Phantom gradient through two states of the solver with fixed-point correction, weight norm.

python benchmarks/programs/image.py anderson
"""

import math
import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torchdeq import get_deq
from torchdeq.norm import apply_norm, reset_norm

import andersonn_core.torchdeq_plugin  # noqa: F401  # the solvers whose names begin with lab_

SIDE = 24


class Cell(nn.Module):
    """f(z, x) = sin(W z + x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width, bias=False)

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:  # (places, width) each
        """Evaluate f."""
        return torch.sin(self.mix(z) + x)


class Image(nn.Module):
    """Sines of the place, equilibrium, linear."""

    def __init__(self, solver: str, width: int = 64) -> None:
        super().__init__()
        self.register_buffer("frequencies", 6.0 * torch.randn(2, width))
        self.encoder, self.cell = nn.Linear(2 * width, width), Cell(width)
        self.readout = nn.Linear(width, 1)
        apply_norm(self.cell, "weight_norm")
        self.deq = get_deq(
            core="indexing", n_states=2, grad=4, tau=0.7,
            f_solver=solver, f_max_iter=30, f_tol=1e-4, f_stop_mode="rel",
        )  # fmt: skip

    def forward(self, places: torch.Tensor) -> list[torch.Tensor]:  # (N, 2) -> (N,) each
        """The brightness at places, by each state."""
        reset_norm(self.cell)
        waves = places @ self.frequencies
        x = self.encoder(torch.cat([waves.sin(), waves.cos()], 1))
        states, _ = self.deq(lambda z: self.cell(z, x), torch.zeros_like(x))
        return [self.readout(state)[:, 0] for state in states]


def picture() -> tuple[torch.Tensor, torch.Tensor]:  # (N, 2), (N,)
    """Places in the unit square and the brightness there."""
    digit = torch.tensor(load_digits().images[3]).float()[None, None] / 16
    large = F.interpolate(digit, size=SIDE, mode="bicubic")
    line = (torch.arange(SIDE) + 0.5) / SIDE
    return torch.cartesian_prod(line, line), large.flatten()


def main(solver: str, seed: int = 0, steps: int = 150) -> float:
    """Train on half of the places; the peak signal-to-noise ratio on the other half, in dB."""
    places, brightness = picture()
    torch.manual_seed(seed)
    train, test = torch.randperm(len(places)).tensor_split(2)
    model = Image(solver)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        *first, last = (F.mse_loss(state, brightness[train]) for state in model(places[train]))
        loss = last + 0.5 * sum(first)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        error = F.mse_loss(model(places[test])[-1], brightness[test])
    return -10 * math.log10(float(error))


if __name__ == "__main__":
    print(main(*sys.argv[1:2]))
