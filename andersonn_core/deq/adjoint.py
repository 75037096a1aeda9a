"""The equilibrium as a function of what is in it, by the implicit function theorem.

At z* = f(z*, p), with J = df/dz and an incoming gradient v = dL/dz*:

    dL/dp = (df/dp)^T u,   u = J^T u + v

so the backward pass is a linear fixed-point problem of its own (Bai, Kolter, Koltun, "Deep
equilibrium models", NeurIPS 2019). It is solved by any of our methods, and
differentiated, where a graph of the gradient is asked for, by the same theorem once more.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from andersonn_core.deq.sameness import check_reached, check_value
from andersonn_core.deq.tape import Cut, Products, Tape, TapedMap, hooks_of_others, leaf
from andersonn_core.results import SolveResult

Rows = Callable[[Tensor], Tensor]  # (B, n) -> (B, n)


class AdjointWarning(UserWarning):
    """A backward solve ended before its tolerance: the gradient is the best that it found."""


@dataclass(frozen=True)
class AdjointMap:
    """u -> J^T u + v, by a tape at z*."""

    transposed: Rows  # (B, n) -> (B, n)
    v: Tensor  # (B, n) in float32 at least
    narrow: torch.dtype  # of the tape
    tape_of: Callable[[Tensor], Tape] | None = None  # (A,): a new tape of some samples
    last: Rows | None = None  # in place of `transposed` at the answer

    def __call__(self, u: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """Evaluate the map."""
        return self._evaluate(self.transposed, u)

    def confirm(self, u: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """Evaluate the map at the answer."""
        return self._evaluate(self.last or self.transposed, u)

    def _evaluate(self, transposed: Rows, u: Tensor) -> Tensor:  # (B, n) -> (B, n)
        # not in place: where f hands its state on, the product is u itself
        return transposed(u.to(self.narrow)).to(self.v.dtype) + self.v

    @property
    def select(self) -> Callable[[Tensor], AdjointMap] | None:
        """Makes the map of some samples (A,), at the price of an evaluation of f for these."""
        return None if self.tape_of is None else self._select

    def _select(self, indices: Tensor) -> AdjointMap:  # (A,)
        assert self.tape_of is not None
        return AdjointMap(self.tape_of(indices).transposed, self.v[indices], self.narrow)


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
        self, transposed: Rows, v: Tensor, tape_of: Callable[[Tensor], Tape] | None = None,
        last: Rows | None = None,
    ) -> Tensor:  # fmt: skip  # (B, n) -> (B, n)
        """The solution in float32 at least; v itself for samples whose v is not finite."""
        wide = v.float() if v.dtype == torch.bfloat16 else v
        step = AdjointMap(transposed, wide, v.dtype, tape_of, last)
        fine = torch.isfinite(wide).all(1)  # (B,)
        if bool(fine.all()):
            return self._solved(step)
        warnings.warn(_not_finite(fine), AdjointWarning, stacklevel=2)
        u = self._solved(replace(step, v=torch.where(fine[:, None], wide, 0.0)))
        return torch.where(fine[:, None], u, wide)

    def _solved(self, step: AdjointMap) -> Tensor:  # (B, n)
        if self.start is None:
            return self.solve(step, step.v)
        start = self.start(step.v)
        usable = torch.isfinite(start).all(1, keepdim=True)
        return self.solve(step, torch.where(usable, start, step.v))


def _not_finite(fine: Tensor) -> str:  # (B,)
    return (
        "the gradient that reaches the equilibrium holds NaN or infinity in "
        f"{int((~fine).sum())} of {len(fine)} samples and is passed on there as it is: look for a "
        "loss that overflowed, or lower the learning rate."
    )


def attach(
    taped: TapedMap, z: Tensor, adjoint: Adjoint, check: Callable[[Tensor], None]
) -> Tensor:  # (B, n) -> (B, n)
    """The values of z, to the last bit, with the gradient of the equilibrium.

    `check(f(z))` may raise. Parameters are found in the graph of f(z).
    """
    tape = taped.at(z)
    check(tape.f_z)
    leaves, parameters = taped.leaves, tape.parameters(taped.leaves)
    outer, inner = [*taped.known, *parameters], [*leaves, *parameters]
    return _equilibrium(taped.f, adjoint, tape, leaves, outer, inner)


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
        value = tape.z.detach()
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
            tape_of = None if ctx.f is None else _Part(ctx.f, tape, leaves)
            products = Products(tape, [inner[number] for number in wanted])
            u = ctx.adjoint(tape.transposed, v, tape_of, products.both).to(v.dtype)
            found = products.at(u)
        places = dict(zip(wanted, found, strict=True))
        return (None,) * 5 + tuple(places.get(number) for number in range(len(outer)))


@dataclass(frozen=True)
class _Part:
    """Makes the tape of some samples at the same point."""

    f: Cut
    whole: Tape
    leaves: Sequence[Tensor]

    def __call__(self, indices: Tensor) -> Tape:  # (A,)
        """Evaluate f for these samples."""
        f, leaves = self.f.select(indices), [each.detach()[indices] for each in self.leaves]
        part = Tape.record(lambda z: f(z, leaves), leaf(self.whole.z[indices]))
        check_value(part.f_z, self.whole.f_z[indices])
        return part


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
    point, direction = leaf(value), leaf(v)
    tape = Tape.record(lambda z: ctx.f(z, inner[: ctx.num_leaves]), point)
    check_value(tape.f_z, f_z)
    check_reached(inner[ctx.num_leaves :], tape.parameters(()))
    solution = ctx.adjoint(tape.transposed, v.detach()).to(v.dtype)
    affine = Tape.record(
        lambda u: tape.transposed(u, create_graph=True) + direction, leaf(solution)
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
        with hooks_of_others(ctx.leaves):
            found = torch.autograd.grad(
                ctx.made, ctx.leaves, grads, retain_graph=True, allow_unused=True
            )
        return None, None, *found


def graft(z: Tensor, graph: Tensor, exact: bool = False) -> Tensor:  # (B, n), (B, n) -> (B, n)
    """The values of z, to the last bit, with the gradient of `graph`.

    No second derivative unless `exact`.
    """
    if not graph.requires_grad:
        return z
    value: Tensor = _Graft.apply(z, graph, exact)  # type: ignore[no-untyped-call]
    return value


class _Graft(torch.autograd.Function):
    """One tensor's values with another one's gradient."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, graph: Tensor, exact: bool) -> Tensor:
        """The values."""
        ctx.exact = exact
        return z.detach()

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[None, Tensor, None]:
        """The gradient."""
        if torch.is_grad_enabled() and not ctx.exact:
            refuse_twice()
        return None, v, None


def refuse_twice() -> None:
    """Raise: the derivative of an approximate gradient is not the equilibrium's second one."""
    raise RuntimeError(
        "this gradient is an approximation, and its derivative is not the second derivative of the "
        "equilibrium: use gradient='implicit', 'shine' or 'unrolled' where create_graph=True."
    )


def verdict(result: SolveResult) -> str:
    """One sentence on a backward solve that did not converge."""
    missing, batch = int((~result.converged).sum()), result.status.numel()
    worst = float(result.relative_residual[~result.converged].nan_to_num(torch.inf).max())
    return (
        f"the backward solve of {missing} of {batch} samples ended with a relative residual of up "
        f"to {worst:.2g} after {result.num_evals} evaluations: "
        "raise adjoint_max_iter, loosen adjoint_rtol, or penalize the Jacobian."
    )
