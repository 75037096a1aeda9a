"""Dropout that leaves a map a map: one mask per solve, the same at every evaluation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from andersonn_core.specs import KnobError


class VariationalDropout(nn.Module):
    """Dropout inside a cell whose mask stays as it is until `new_solve()`.

    y = z * mask / (1 - p),  mask ~ Bernoulli(1 - p), drawn along `dims` and shared along the others

    torch's own Dropout draws a new mask at every evaluation: there is no z = f(z) to find, and no
    solver converges. Here the mask is drawn at the first call after `new_solve()`, from torch's
    global generator, on the input's device in its dtype; the iterations, the evaluation with the
    tape and the adjoint solve then see the same function. The identity in eval mode and for p = 0.
    (Gal and Ghahramani, NeurIPS 2016; in equilibrium models: Bai, Kolter and Koltun, NeurIPS 2019.)

    Raises KnobError if p is not in [0, 1) or dims are not distinct integers; RuntimeError if the
    shape of the input changes within a solve: for instance the batch, as compaction does, or
    because one module serves two places of a cell.
    """

    def __init__(self, p: float = 0.1, dims: tuple[int, ...] = (0, 1)) -> None:
        """Drop with probability p; `dims` = (0, 1): each channel of each sample on its own."""
        super().__init__()
        if not 0 <= p < 1:
            raise KnobError(
                f"VariationalDropout.p = {p!r} is not allowed: it must be at least 0 and below 1. "
                "Typical values are 0 to 0.3."
            )
        if len(set(dims)) < len(dims) or not all(type(dim) is int for dim in dims):
            raise KnobError(
                f"VariationalDropout.dims = {dims!r} is not allowed: it must be a tuple of "
                "different dimensions. Typical are (0, 1), samples and channels."
            )
        self.p, self.dims = float(p), tuple(dims)
        self.new_solve()

    def new_solve(self) -> None:
        """Forget the mask; the next call draws another."""
        self._mask: Tensor | None = None
        self._shape: torch.Size | None = None

    def forward(self, z: Tensor) -> Tensor:  # (B, ...) -> (B, ...)
        """Apply the mask of this solve."""
        if not self.training or self.p == 0:
            return z
        if self._mask is None:
            self._mask, self._shape = self._draw(z), z.shape
        if z.shape != self._shape:
            raise RuntimeError(
                f"VariationalDropout drew its mask for a state of shape {tuple(self._shape or ())} "
                f"and now sees {tuple(z.shape)}: call new_solve() before another solve, use one "
                "module for each place in the cell, and solve without compaction."
            )
        return z * self._mask.to(z)

    @torch.no_grad()
    def _draw(self, z: Tensor) -> Tensor:
        """1 / (1 - p) or 0, of size 1 along the dimensions that share it."""
        if not all(-z.dim() <= dim < z.dim() for dim in self.dims):
            raise KnobError(
                f"VariationalDropout.dims = {self.dims} do not fit a state of shape "
                f"{tuple(z.shape)}: they must be between {-z.dim()} and {z.dim() - 1}."
            )
        drawn = {dim % z.dim() for dim in self.dims}
        shape = [size if dim in drawn else 1 for dim, size in enumerate(z.shape)]
        keep = 1 - self.p
        return torch.empty(shape, dtype=z.dtype, device=z.device).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        """The knobs, in print(cell)."""
        return f"p={self.p:g}, dims={self.dims}"


def new_solve(cell: nn.Module) -> None:
    """Tell every submodule that keeps something for the length of a solve that another begins."""
    for module in cell.modules():
        forget = getattr(module, "new_solve", None)
        if callable(forget):
            forget()
