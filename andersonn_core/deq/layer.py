"""The deep equilibrium layer: z* = cell(z*, x), one layer that stands for infinitely many."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import InstanceOf
from torch import Tensor, nn

from andersonn_core.deq.adjoint import AdjointMap, AdjointWarning, verdict
from andersonn_core.deq.dropout import new_solve
from andersonn_core.deq.gradients import GRADIENTS, Found, GradientSpec, Implicit
from andersonn_core.deq.parametrized import held_weights
from andersonn_core.deq.spectrum import Spectrum, spectrum
from andersonn_core.deq.trees import change, tensors
from andersonn_core.deq.warm import WarmStart
from andersonn_core.driver import Driver, SolveKnobs, Step
from andersonn_core.layout import StateLayout
from andersonn_core.methods import Anderson, MethodSpec
from andersonn_core.results import SolveResult
from andersonn_core.runcard import RunCard
from andersonn_core.specs import KnobError, Spec, knob


class EquilibriumKnobs(Spec):
    """The knobs of a deep equilibrium layer."""

    title: ClassVar[str] = "DEQ"

    method: InstanceOf[MethodSpec] = knob(Anderson(window=5), "Method of the forward solve.")
    rtol: float = knob(
        1e-3, "Tolerance of the forward solve.",
        minimum=0.0, maximum=1.0, typical=(1e-6, 1e-1), symbol="tol", log=True,
    )  # fmt: skip
    max_iter: int = knob(
        40, "Largest number of evaluations of the cell in a forward solve.",
        minimum=1, maximum=10_000_000, typical=(5, 200), symbol="K",
    )  # fmt: skip
    gradient: InstanceOf[GradientSpec] = knob(
        Implicit(), "How gradients go through the equilibrium, from GRADIENTS."
    )
    adjoint_method: InstanceOf[MethodSpec] | None = knob(
        None, "Method of the backward solve; None: as the forward solve."
    )
    adjoint_rtol: float | None = knob(
        None, "Tolerance of the backward solve; None: as the forward solve.",
        minimum=0.0, maximum=1.0, typical=(1e-6, 1e-1), log=True, none="as forward",
    )  # fmt: skip
    adjoint_max_iter: int | None = knob(
        None, "Largest number of evaluations in a backward solve; None: as the forward solve.",
        minimum=1, maximum=10_000_000, typical=(5, 200), none="as forward",
    )  # fmt: skip
    warm_start: bool = knob(
        False, "Start where the last equilibrium was, as long as that is measured to help."
    )
    compact: bool = knob(
        False, "Evaluate only unfinished samples once fewer than half of the batch still runs; "
        "x must then hold one row per sample in each of its tensors."
    )  # fmt: skip

    @property
    def forward(self) -> SolveKnobs:
        """The driver's knobs for the forward solve."""
        return SolveKnobs(rtol=self.rtol, max_iter=self.max_iter, compact=self.compact)

    @property
    def adjoint(self) -> SolveKnobs:
        """The driver's knobs for the backward solve."""
        rtol = self.rtol if self.adjoint_rtol is None else self.adjoint_rtol
        max_iter = self.adjoint_max_iter or self.max_iter
        return SolveKnobs(rtol=rtol, max_iter=max_iter, compact=self.compact)


@dataclass
class Tally:
    """What a layer has solved since it was made, counted in samples."""

    forward: int = 0
    forward_unconverged: int = 0
    adjoint: int = 0
    adjoint_unconverged: int = 0


@dataclass(frozen=True, eq=False)
class CellMap:
    """f(z) = cell(z, x) in the type of z, which autocast may have left."""

    cell: Callable[[Any, Any], Any]
    x: Any

    def __call__(self, z: Any) -> Any:
        """Evaluate f."""
        value = self.cell(z, self.x)
        dtype = next(tensors(z)).dtype
        return change(value, lambda part: part if part.dtype == dtype else part.to(dtype))

    def select(self, indices: Tensor) -> CellMap:  # (A,)
        """The map of some samples."""
        return CellMap(self.cell, change(self.x, lambda part: part[indices]))


@dataclass(frozen=True, eq=False)
class CutMap:
    """f on rows, with given tensors in place of those of x that require grad."""

    f: CellMap
    layout: StateLayout

    def __call__(self, z: Tensor, leaves: Sequence[Tensor]) -> Tensor:  # (B, n) -> (B, n)
        """Evaluate f; gradients flow through."""
        left, layout = iter(leaves), self.layout
        x = change(self.f.x, lambda part: next(left) if part.requires_grad else part)
        value = CellMap(self.f.cell, x)(layout.unpack(z))
        return layout.join(*tensors(layout.ordered(value)))

    def select(self, indices: Tensor) -> CutMap:  # (A,)
        """The map of some samples."""
        return CutMap(self.f.select(indices), self.layout)


class DEQ(nn.Module):
    """A layer whose output is the equilibrium z* = cell(z*, x) of each sample.

    `cell(z, x)` is any module or function; z is a tensor (B, ...), or a tuple or dict of them, x
    anything that holds tensors. The output is the iterate with the smallest relative residual, to
    the last bit; each gradient costs one more, taped, evaluation. The memory that training takes
    does not depend on the number of evaluations (but for gradient="unrolled").

    `last_forward` and `last_adjoint` are the results of the newest solves; `tally` counts samples
    that did not converge. A backward solve that ends early warns with `AdjointWarning` and gives
    the best gradient that it found. Raises KnobError for impossible knobs, a start of the wrong
    shape, or an input without any start.

    Bai, Kolter, Koltun, "Deep equilibrium models", NeurIPS 2019.
    """

    last_forward: SolveResult | None
    last_adjoint: SolveResult | None
    on_step: Callable[[Step], None] | None  # sees every evaluation of a forward solve
    should_stop: Callable[[], bool] | None  # asked before every evaluation

    def __init__(
        self,
        cell: Callable[[Any, Any], Any],
        method: MethodSpec = Anderson(window=5),  # noqa: B008  a frozen record
        *,
        rtol: float = 1e-3,
        max_iter: int = 40,
        gradient: str | GradientSpec = "implicit",
        adjoint_method: MethodSpec | None = None,
        adjoint_rtol: float | None = None,
        adjoint_max_iter: int | None = None,
        warm_start: bool = False,
        compact: bool = False,
        **misspelled: Any,
    ) -> None:
        super().__init__()
        if not callable(cell):
            raise KnobError(f"cell = {cell!r} is not callable: give a module cell(z, x) -> z.")
        self.cell = cell
        self._listen()
        self._forget()
        self.knobs = _checked(
            EquilibriumKnobs(
                method=method,
                rtol=rtol,
                max_iter=max_iter,
                gradient=_gradient(gradient),
                adjoint_method=adjoint_method,
                adjoint_rtol=adjoint_rtol,
                adjoint_max_iter=adjoint_max_iter,
                warm_start=warm_start,
                compact=compact,
                **misspelled,
            )
        )

    def change(self, **knobs: Any) -> None:
        """Change knobs from the next call on; nothing changes if one of them is refused."""
        if "gradient" in knobs:
            knobs["gradient"] = _gradient(knobs["gradient"])
        self.knobs = _checked(self.knobs.replace(**knobs))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Any, z0: Any = None) -> Any:
        """The equilibria of x from z0; None: `cell.initial_state(x)`, or zeros like x."""
        warming = z0 is None and self.knobs.warm_start and self.training
        z0 = self._warm_start(x) if warming else self._start(x, z0)
        f = CellMap(self.cell, x)
        with self._held():
            driver = self._solve(f, z0, self.knobs.method, self.knobs.forward, self.on_step)
            result = self.last_forward = driver.run()
            self._count("forward", result)
            if warming:
                self.warm.learn(driver.layout, driver.answer, result)
            if not torch.is_grad_enabled():
                return result.z
            return self._with_gradient(f, z0, driver, result)

    def spectrum(self, x: Any, z: Any = None, **knobs: Any) -> Spectrum:
        """The spectrum of J = df/dz at z, by default at the equilibrium: see `spectrum`."""
        if z is None:
            with torch.no_grad():
                z = self(x)
        with self._held(), torch.enable_grad():
            return spectrum(CellMap(self.cell, x), z, **knobs)

    def extra_repr(self) -> str:
        """The knobs in one line."""
        knobs = self.knobs
        return (
            f"method={knobs.method!r}, rtol={knobs.rtol:g}, max_iter={knobs.max_iter}, "
            f"gradient={knobs.gradient.name!r}"
        )

    # -- the forward solve ------------------------------------------------------------------------

    def _start(self, x: Any, z0: Any) -> Any:
        own = getattr(self.cell, "initial_state", None)
        if z0 is None:
            return own(x) if own is not None else _zeros_like(x)
        if own is not None:
            _check_shapes(z0, own(x))
        return z0

    def _warm_start(self, x: Any) -> Any:
        cold = self._start(x, None)
        return self.warm.start(StateLayout.of(cold, 1), cold)

    def _held(self) -> AbstractContextManager[None]:
        """The cell as one map during a solve: masks drawn anew once, weights made once."""
        if not isinstance(self.cell, nn.Module):
            return nullcontext()
        new_solve(self.cell)
        return held_weights(self.cell)

    def _solve(
        self,
        f: Any,
        z0: Any,
        method: MethodSpec,
        knobs: SolveKnobs,
        on_step: Callable[[Step], None] | None = None,
    ) -> Driver:
        record = knobs.to_dict() | {"problem": None, "map": type(self.cell).__qualname__}
        record |= {"method": method.to_dict()}
        device = next(tensors(z0)).device
        card = RunCard.capture(record, None, None, device)
        return Driver(f, z0, method, knobs, card, on_step, self.should_stop)

    # -- the gradient -----------------------------------------------------------------------------

    def _with_gradient(self, f: CellMap, z0: Any, driver: Driver, result: SolveResult) -> Any:
        layout = driver.layout
        known = [part for part in tensors(f.x) if part.requires_grad]
        found = Found(
            cut=CutMap(f, layout),
            z=driver.answer,
            start=layout.pack(z0),
            known=tuple(known),
            method=driver.method,
            result=result,
            state=driver.state,
            solve_adjoint=self._solve_adjoint,
        )
        return layout.unpack(self.knobs.gradient.attach(found))

    def _solve_adjoint(self, step: AdjointMap, start: Tensor) -> Tensor:  # (B, n) -> (B, n)
        knobs = self.knobs
        method = knobs.adjoint_method or knobs.method
        result = self.last_adjoint = self._solve(step, start, method, knobs.adjoint).run()
        self._count("adjoint", result)
        if not bool(result.converged.all()):
            warnings.warn(verdict(result), AdjointWarning, stacklevel=2)
        u: Tensor = result.z
        return u

    # -- what is remembered -----------------------------------------------------------------------

    def _listen(self) -> None:
        self.on_step = self.should_stop = None

    def _forget(self) -> None:
        self.last_forward = self.last_adjoint = None
        self.tally = Tally()
        self.warm = WarmStart()

    def _count(self, solve: str, result: SolveResult) -> None:
        batch, missing = result.status.numel(), int((~result.converged).sum())
        setattr(self.tally, solve, getattr(self.tally, solve) + batch)
        name = f"{solve}_unconverged"
        setattr(self.tally, name, getattr(self.tally, name) + missing)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles begin without results of other solves."""
        return {key: value for key, value in self.__dict__.items() if key not in _NOT_COPIED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._listen()
        self._forget()


_NOT_COPIED = {"last_forward", "last_adjoint", "tally", "warm", "on_step", "should_stop"}


def _gradient(gradient: str | GradientSpec) -> GradientSpec:
    if isinstance(gradient, GradientSpec):
        return gradient
    if isinstance(gradient, str) and gradient in GRADIENTS:
        return GRADIENTS[gradient]()
    near = difflib.get_close_matches(str(gradient), GRADIENTS, n=1)
    remedy = f"did you mean {near[0]!r}?" if near else "the default is 'implicit'."
    raise KnobError(
        f"DEQ.gradient = {gradient!r} is not allowed: it must be one of {', '.join(GRADIENTS)}, or "
        f"one of their specs; {remedy}"
    )


def _checked(knobs: EquilibriumKnobs) -> EquilibriumKnobs:
    """The knobs, with the method as the gradient needs it; KnobError if they do not go together."""
    knobs.gradient.check(knobs.method)
    return knobs.replace(method=knobs.gradient.forward_method(knobs.method))


def _zeros_like(x: Any) -> Tensor:
    """Zeros of the input's shape; in float32 where x has less than bfloat16's range."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise KnobError(
            "DEQ needs a start: x is not one floating-point tensor, so that zeros like x are no "
            "state. Pass z0, or give the cell a method initial_state(x)."
        )
    return torch.zeros_like(x, dtype=torch.float32 if x.dtype == torch.float16 else x.dtype)


def _check_shapes(z0: Any, own: Any) -> None:
    given, expected = ([tuple(part.shape) for part in tensors(tree)] for tree in (z0, own))
    if given != expected:
        raise KnobError(
            f"z0 has shape {_words(given)}, but the cell's state has shape {_words(expected)} for "
            "this input: pass z0 of that shape, or leave it out."
        )


def _words(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))
