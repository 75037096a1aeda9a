"""Small contracting cells for tests of the deep equilibrium layer, and an equilibrium by a loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from andersonn_core import DEQ, Anderson
from andersonn_core.cells import DenseCell

EXACT = {"rtol": 1e-12, "max_iter": 400}  # float64: both solves to the last digits but three


def dense(width: int = 4, inputs: int = 3, scale: float = 0.5) -> DenseCell:
    """A float64 cell that contracts; `scale` on torch's own weights of the state."""
    torch.manual_seed(0)
    cell = DenseCell(inputs, width).double()
    with torch.no_grad():
        cell.state.weight.mul_(scale / torch.linalg.matrix_norm(cell.state.weight, 2))
    return cell


def inputs(batch: int = 2, size: int = 3, seed: int = 1) -> Tensor:  # (B, size) float64
    """A random input that requires grad."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, size, generator=generator, dtype=torch.float64)
    return x.requires_grad_()


class Pair(nn.Module):
    """Two states of different ranks, (B, 3) and (B, 2, 2), that depend on each other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 3).double()
        self.second = nn.Linear(3, 4).double()

    def forward(self, z: tuple[Tensor, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = z
        new_a = (0.5 * self.first(b.flatten(1)) + x).tanh()
        new_b = (0.5 * self.second(a)).sin().view(-1, 2, 2) + 0.1 * b * x[:, :1, None]
        return new_a, new_b

    def initial_state(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.new_zeros(len(x), 3), x.new_zeros(len(x), 2, 2)


class Named(Pair):
    """The same states by name; the value has its keys in another order than the start."""

    def forward(self, z: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        a, b = super().forward((z["a"], z["b"]), x)
        return {"b": b, "a": a}

    def initial_state(self, x: Tensor) -> dict[str, Tensor]:
        return dict(zip("ab", super().initial_state(x), strict=True))


class Rated(nn.Module):
    """Samples of different stiffness: the first column of x is a factor on the map."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = dense(scale=0.95)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return x[:, :1] * self.cell(z, x[:, 1:])

    def initial_state(self, x: Tensor) -> Tensor:
        return self.cell.initial_state(x[:, 1:])


def rated(batch: int = 16) -> Tensor:  # (B, 4)
    """An input for `Rated`: three quarters of the samples are easy."""
    x = inputs(batch, 4).detach()
    x[:, 0] = torch.linspace(0.05, 0.3, batch)
    x[3 * batch // 4 :, 0] = 1.0
    return x.requires_grad_()


class Calls(nn.Module):
    """A cell that counts its calls and the samples in them."""

    def __init__(self, cell: Any) -> None:
        super().__init__()
        self.cell, self.calls, self.samples = cell, 0, 0

    def forward(self, z: Any, x: Any) -> Any:
        self.calls += 1
        self.samples += len(z)
        return self.cell(z, x)

    def initial_state(self, x: Any) -> Any:
        return self.cell.initial_state(x)


def layer(cell: Any, gradient: Any = "implicit", **knobs: Any) -> DEQ:
    """A layer that solves to the last digits."""
    return DEQ(cell, **({"method": Anderson(window=5)} | EXACT | {"gradient": gradient} | knobs))


def equilibrium(cell: Any, x: Any, z: Any, evals: int = 200) -> Any:
    """Plain forward iteration; autograd sees all of it where it is on."""
    for _ in range(evals):
        z = cell(z, x)
    return z


def gradients(loss: Tensor, *wanted: Tensor, **options: Any) -> tuple[Tensor, ...]:
    """torch's gradients, zeros where there is no dependence."""
    return torch.autograd.grad(loss, wanted, materialize_grads=True, **options)


def flat(state: Any) -> Tensor:  # (B, n)
    """A tensor, tuple or dict of them as rows."""
    parts = tuple(part for _, part in sorted(state.items())) if isinstance(state, dict) else state
    parts = parts if isinstance(state, tuple | dict) else (state,)
    return torch.cat([part.flatten(1) for part in parts], 1)
