"""The equilibrium as a function of what is in it, by the implicit function theorem.

At z* = f(z*, p), with J = df/dz and an incoming gradient v = dL/dz*:

    dL/dp = (df/dp)^T u,   u = J^T u + v

so the backward pass is a linear fixed-point problem of its own (Bai, Kolter, Koltun, "Deep
equilibrium models", NeurIPS 2019, theorem 1). It is solved by any of our methods, and
differentiated, where a graph of the gradient is asked for, by the same theorem once more.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from andersonn_core.deq.tape import Tape
from andersonn_core.results import SolveResult

Rows = Callable[[Tensor], Tensor]  # (B, n) -> (B, n)
DRIFT = 1e3  # rounding errors by which f may differ at the same point, where it is a function


class AdjointWarning(UserWarning):
    """A backward solve ended before its tolerance: the gradient is the best that it found."""


class Cut(Protocol):
    """A map on rows whose input's tensors are handed in: z (B, n), leaves -> (B, n)."""

    def __call__(self, z: Tensor, leaves: Sequence[Tensor]) -> Tensor:
        """Evaluate f."""
        ...

    def select(self, indices: Tensor) -> Cut:  # (A,)
        """The map of some samples."""
        ...


@dataclass(frozen=True)
class AdjointMap:
    """u -> J^T u + v, by a tape at z*."""

    transposed: Rows  # (B, n) -> (B, n)
    v: Tensor  # (B, n) in float32 at least
    narrow: torch.dtype  # of the tape
    tape_of: Callable[[Tensor], Tape] | None = None  # (A,): a new tape of some samples

    def __call__(self, u: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """Evaluate the map."""
        return self.transposed(u.to(self.narrow)).to(self.v.dtype).add_(self.v)

    def select(self, indices: Tensor) -> AdjointMap:  # (A,)
        """The map of some samples, which costs an evaluation of f for these."""
        assert self.tape_of is not None
        tape = self.tape_of(indices)
        return AdjointMap(tape.transposed, self.v[indices], self.narrow)


@dataclass(frozen=True)
class Adjoint:
    """How u = J^T u + v is solved.

    `solve(map, start)` runs a method to its tolerance; `start(v)` is where it begins, v itself by
    default; `exact` is False for a fixed number of terms: its derivative is another one.
    """

    solve: Callable[[AdjointMap, Tensor], Tensor]
    start: Rows | None = None
    exact: bool = True

    def __call__(
        self, transposed: Rows, v: Tensor, tape_of: Callable[[Tensor], Tape] | None = None
    ) -> Tensor:  # (B, n) -> (B, n)
        """U, in float32 at least; v where v is not finite, since nothing can be solved then."""
        if not bool(torch.isfinite(v).all()):
            warnings.warn(
                "the gradient that reaches the equilibrium holds NaN or infinity and is passed on "
                "as it is: look for a loss that overflowed, or lower the learning rate.",
                AdjointWarning,
                stacklevel=2,
            )
            return v
        wide = v.float() if v.dtype == torch.bfloat16 else v
        start = wide if self.start is None else self.start(wide)
        return self.solve(AdjointMap(transposed, wide, v.dtype, tape_of), start)


def attach(
    f: Cut, z: Tensor, adjoint: Adjoint, known: Sequence[Tensor]
) -> Tensor:  # (B, n), (B, n) -> (B, n)
    """Z with the gradient of the equilibrium; f is evaluated once more, with a tape.

    Its value is z to the last bit. f gets leaves in place of `known`, tensors that may have long
    graphs of their own; parameters are found in the graph.
    """
    leaves = [_leaf(tensor) for tensor in known]
    tape = Tape.record(lambda point: f(point, leaves), _leaf(z))
    parameters = tape.parameters(leaves)
    return _equilibrium(f, adjoint, tape, leaves, [*known, *parameters], [*leaves, *parameters])


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def _equilibrium(f: Cut | None, adjoint: Adjoint, tape: Tape, leaves: Sequence[Tensor],
                 outer: Sequence[Tensor], inner: Sequence[Tensor]) -> Tensor:  # fmt: skip
    if not outer:
        return tape.z.detach()
    value: Tensor = _Equilibrium.apply(f, adjoint, tape, leaves, inner, *outer)  # type: ignore[no-untyped-call]
    return value


class _Equilibrium(torch.autograd.Function):
    """z*, whose backward solves the adjoint equation and applies (df/dp)^T.

    `outer` are the tensors that the result depends on, `inner` what stands for them on the tape.
    """

    @staticmethod
    def forward(
        ctx: Any, f: Cut | None, adjoint: Adjoint, tape: Tape, leaves: Sequence[Tensor],
        inner: Sequence[Tensor], *outer: Tensor,
    ) -> Tensor:  # fmt: skip
        """Keep the tape, which is freed with the graph; the value is z."""
        ctx.f, ctx.adjoint, ctx.num_leaves = f, adjoint, len(leaves)
        value = tape.z.detach().clone()
        ctx.save_for_backward(value, tape.z, tape.f_z, *inner, *outer)
        ctx.set_materialize_grads(False)
        return value

    @staticmethod
    def backward(ctx: Any, v: Tensor | None) -> tuple[Tensor | None, ...]:
        """Solve for u; the products with df/dp of the tensors that want one."""
        value, z, f_z, *both = ctx.saved_tensors
        inner, outer = both[: len(both) // 2], both[len(both) // 2 :]
        wants = ctx.needs_input_grad[5:]
        if v is None or not any(wants):
            return (None,) * (5 + len(outer))
        wanted = [number for number, needs in enumerate(wants) if needs]
        if torch.is_grad_enabled():
            found = _twice(ctx, value, f_z, v, inner, outer, wanted)
        else:
            tape = Tape(z, f_z)
            leaves = inner[: ctx.num_leaves]
            u = ctx.adjoint(tape.transposed, v, _Part(ctx.f, z, leaves)).to(v.dtype)
            found = tape.gradients([inner[number] for number in wanted], u)
        places = dict(zip(wanted, found, strict=True))
        return (None,) * 5 + tuple(places.get(number) for number in range(len(outer)))


@dataclass(frozen=True)
class _Part:
    """Makes the tape of some samples at the same point."""

    f: Cut | None
    z: Tensor  # (B, n)
    leaves: Sequence[Tensor]

    def __call__(self, indices: Tensor) -> Tape:  # (A,)
        """Evaluate f for these samples."""
        assert self.f is not None
        f, leaves = self.f.select(indices), [leaf.detach()[indices] for leaf in self.leaves]
        return Tape.record(lambda z: f(z, leaves), _leaf(self.z[indices]))


def _twice(
    ctx: Any, value: Tensor, f_z: Tensor, v: Tensor, inner: Sequence[Tensor],
    outer: Sequence[Tensor], wanted: Sequence[int],
) -> tuple[Tensor | None, ...]:  # fmt: skip  # (B, n), (B, n), (B, n)
    """The gradient with a graph of its own: u is an equilibrium, too, of a map that is affine in u.

    It is computed from leaves, and `_Reconnect` hands its derivative on to the tensors that they
    stand for: z* itself, v, and what f depends on.
    """
    if not ctx.adjoint.exact:
        refuse_twice()
    point, direction = _leaf(value), _leaf(v)
    tape = Tape.record(lambda z: ctx.f(z, inner[: ctx.num_leaves]), point)
    now, before = tape.f_z.detach(), f_z.detach()
    tolerance = DRIFT * torch.finfo(now.dtype).eps * float(before.abs().max())
    if not torch.allclose(now, before, rtol=0.0, atol=tolerance):
        raise RuntimeError(
            "the cell gave another value at the same point, so a second derivative would be wrong: "
            "use VariationalDropout instead of dropout, or put the cell into eval mode."
        )
    solution = ctx.adjoint(tape.transposed, v.detach()).to(v.dtype)
    affine = Tape.record(
        lambda u: tape.transposed(u, create_graph=True) + direction, _leaf(solution)
    )
    ends = affine.parameters(())
    u = _equilibrium(None, ctx.adjoint, affine, (), ends, ends)
    found = tape.gradients([inner[number] for number in wanted], u, create_graph=True)
    leaves, meant = [point, direction, *inner], [value, v, *outer]
    made = [gradient for gradient in found if gradient is not None and gradient.requires_grad]
    linked = iter(_Reconnect.apply(made, leaves, *meant))  # type: ignore[no-untyped-call]
    return tuple(
        next(linked) if gradient is not None and gradient.requires_grad else gradient
        for gradient in found
    )


class _Reconnect(torch.autograd.Function):
    """Tensors that were computed from leaves, as functions of what the leaves stand for."""

    @staticmethod
    def forward(
        ctx: Any, made: Sequence[Tensor], leaves: Sequence[Tensor], *meant: Tensor
    ) -> tuple[Tensor, ...]:
        """The same values."""
        ctx.made, ctx.leaves = made, leaves
        return tuple(tensor.detach() for tensor in made)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The derivative by the leaves' own graph."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                "third derivatives of an equilibrium are not available: do without create_graph in "
                "the second one."
            )
        return (
            None,
            None,
            *torch.autograd.grad(ctx.made, ctx.leaves, grads, retain_graph=True, allow_unused=True),
        )


def refuse_twice() -> None:
    """Raise: the derivative of an approximate gradient is not the equilibrium's second one."""
    raise RuntimeError(
        "this gradient is an approximation, and its derivative is not the second derivative of the "
        "equilibrium: use gradient='implicit', 'shine' or 'unrolled' where create_graph=True."
    )


def verdict(result: SolveResult) -> str:
    """One sentence on a backward solve that did not converge."""
    missing, batch = int((~result.converged).sum()), result.status.numel()
    return (
        f"the backward solve of {missing} of {batch} samples ended with a relative residual of up "
        f"to {float(result.relative_residual.max()):.2g} after {result.num_evals} evaluations: "
        "raise adjoint_max_iter, loosen adjoint_rtol, or penalize the Jacobian."
    )
