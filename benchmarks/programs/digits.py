"""A convolutional equilibrium classifier of handwritten digits, with the implicit gradient.

python benchmarks/programs/digits.py anderson
"""

import sys

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F
from torchdeq import get_deq

import andersonn_core.torchdeq_plugin  # noqa: F401  # the solvers whose names begin with lab_


class Cell(nn.Module):
    """f(z, x) = GN(ReLU(z + GN(x + conv(GN(ReLU(conv z))))))."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(4, inner)
        self.norm2 = nn.GroupNorm(4, channels)
        self.norm3 = nn.GroupNorm(4, channels)
        nn.init.normal_(self.conv1.weight, std=0.01)
        nn.init.normal_(self.conv2.weight, std=0.01)

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:  # (B, C, 8, 8) each
        """Evaluate f."""
        inner = self.norm1(F.relu(self.conv1(z)))
        return self.norm3(F.relu(z + self.norm2(x + self.conv2(inner))))


class Classifier(nn.Module):
    """Convolution, equilibrium, pooling, linear."""

    def __init__(self, solver: str, channels: int = 12, inner: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1), nn.GroupNorm(4, channels)
        )
        self.cell = Cell(channels, inner)
        self.readout = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * 4 * channels, 10))
        self.deq = get_deq(
            core="sliced", ift=True, f_solver=solver, b_solver=solver,
            f_max_iter=40, f_tol=1e-3, f_stop_mode="rel",
            b_max_iter=40, b_tol=1e-3, b_stop_mode="rel",
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:  # (B, 1, 8, 8) -> (B, 10)
        """The logits."""
        x = self.encoder(images)
        states, _ = self.deq(lambda z: self.cell(z, x), torch.zeros_like(x))
        return self.readout(states[-1])


def main(solver: str, seed: int = 0, epochs: int = 2, batch: int = 64) -> float:
    """Train; the part of the held-out digits that is read right."""
    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels, labels, test_size=360, stratify=labels, random_state=0)
    train_x, test_x = (torch.tensor(part).float().view(-1, 1, 8, 8) / 16 for part in parts[:2])
    train_y, test_y = (torch.tensor(part) for part in parts[2:])
    torch.manual_seed(seed)
    model = Classifier(solver)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(train_x)).split(batch):
            loss = F.cross_entropy(model(train_x[rows]), train_y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        return float((model(test_x).argmax(1) == test_y).float().mean())


if __name__ == "__main__":
    print(main(*sys.argv[1:2]))
