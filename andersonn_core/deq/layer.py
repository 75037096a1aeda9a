"""The deep equilibrium layer: z* = cell(z*, x), one layer that stands for infinitely many."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import InstanceOf
from torch import Tensor, nn

from andersonn_core.deq.adjoint import AdjointMap, AdjointWarning, verdict
from andersonn_core.deq.dropout import new_solve
from andersonn_core.deq.gradients import GRADIENTS, Found, GradientSpec, Implicit, Unrolled
from andersonn_core.deq.maps import CellMap, CutMap, held
from andersonn_core.deq.spectrum import Spectrum, spectrum
from andersonn_core.deq.starts import (
    check_rows,
    check_start,
    check_versions,
    versions_of,
    zeros_like,
)
from andersonn_core.deq.tape import TapedMap
from andersonn_core.deq.trees import change, tensors
from andersonn_core.deq.warm import WarmStart
from andersonn_core.driver import Driver, SolveKnobs, Step, Task
from andersonn_core.layout import StateLayout
from andersonn_core.methods import Anderson, MethodSpec
from andersonn_core.results import SolveResult
from andersonn_core.runcard import RunCard
from andersonn_core.solve import driver_for
from andersonn_core.specs import KnobError, Spec, knob

if TYPE_CHECKING:
    from andersonn_core.device.driver import DeviceDriver


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


class DEQ(nn.Module):
    """A layer whose output is the equilibrium z* = cell(z*, x) of each sample.

    `cell(z, x)` is any module or function; z is a tensor (B, ...), or a tuple or dict of them, x
    anything that holds tensors. The output is the iterate with the smallest relative residual, to
    the last bit. A gradient takes one more evaluation, with a tape ("phantom" one for each of its
    steps, "unrolled" all of them), and memory that does not depend on the number of evaluations
    (but for "unrolled").

    `last_forward` and `last_adjoint` are the results of the newest solves; `tally` counts samples
    that did not converge. A backward solve that ends early warns with `AdjointWarning` and gives
    the best gradient that it found. Raises KnobError before any evaluation for impossible knobs, a
    start of another shape than the cell's own, or an input without any start; ValueError if the
    cell changes shape or device of its state, or anything in place; RuntimeError where a gradient
    is asked for and the cell gave another value at the same point.

    Bai, Kolter, Koltun, "Deep equilibrium models", NeurIPS 2019.
    """

    last_forward: SolveResult | None
    last_adjoint: SolveResult | None
    on_step: Callable[[Step], None] | None  # sees every evaluation of a forward solve
    should_stop: Callable[[], bool] | None  # asked before every evaluation
    warns: bool  # of backward solves that end early; False: only `tally` and the results tell

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

    def forward(self, x: Any, z0: Any = None) -> Any:
        """The equilibria of x from z0; None: `cell.initial_state(x)`, or zeros like x."""
        if torch.compiler.is_compiling():  # as a decorator it would import torch's whole compiler
            return torch.compiler.disable(self._equilibria)(x, z0)
        return self._equilibria(x, z0)

    def _equilibria(self, x: Any, z0: Any) -> Any:
        warming = z0 is None and self.knobs.warm_start and self.training
        z0 = self._warm_start(x) if warming else self._start(x, z0)
        if self.knobs.compact:
            check_rows(x, next(tensors(z0)))
        f, versions = CellMap(self.cell, x), versions_of(x)
        if isinstance(self.cell, nn.Module):
            new_solve(self.cell)
        with held(self.cell):
            task, taped = self._forward_task(f, z0)
            driver = driver_for(task)
            result = self.last_forward = driver.run()
            check_versions(x, versions)
            self._count("forward", result)
            layout, rows = task.layout, driver.answer
            if warming:
                self.warm.learn(layout, rows, result)
            if torch.is_grad_enabled():
                found = self._found(taped, task, driver, result)
                del driver  # its window is as large as several tapes
                rows = self.knobs.gradient.attach(found)
            return change(layout.unpack(rows), Tensor.clone)  # the caller may change it

    def spectrum(self, x: Any, z: Any = None, **knobs: Any) -> Spectrum:
        """The spectrum of J = df/dz at z, by default at the equilibrium: see `spectrum`."""
        if z is None:
            with torch.no_grad():
                z = self(x)
        with held(self.cell), torch.enable_grad():
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
            return own(x) if own is not None else zeros_like(x)
        check_start(z0, None if own is None else own(x))
        return z0

    def _warm_start(self, x: Any) -> Any:
        cold = self._start(x, None)
        return self.warm.start(StateLayout.of(cold, 1), cold)

    def _forward_task(self, f: CellMap, z0: Any) -> tuple[Task, TapedMap]:
        """The solve, and the map that the gradient tapes, with the confirming evaluation if any."""
        gradient = self.knobs.gradient
        method = gradient.forward_method(self.knobs.method)
        task = self._task(f, z0, method, self.knobs.forward)
        cut = CutMap.now(f, task.layout)
        taped = TapedMap(cut, tuple(part for part in tensors(f.x) if part.requires_grad))
        tapes = torch.is_grad_enabled() and gradient.solves_adjoint
        confirming, lasting = taped if tapes else None, gradient.reads_state
        task = replace(task, on_step=self.on_step, confirming=confirming, lasting=lasting)
        return task, taped

    def _task(self, f: Any, z0: Any, method: MethodSpec, knobs: SolveKnobs) -> Task:
        record = knobs.to_dict() | {"problem": None, "map": type(self.cell).__qualname__}
        record |= {"method": method.to_dict()}
        layout = StateLayout.of(z0, knobs.batch_dims)
        card = RunCard.capture(record, None, None, layout.device)
        return Task(f, z0, layout, method, knobs, card, should_stop=self.should_stop)

    # -- the gradient -----------------------------------------------------------------------------

    def _found(
        self, taped: TapedMap, task: Task, driver: Driver | DeviceDriver, result: SolveResult
    ) -> Found:
        return Found(
            taped=taped,
            z=driver.answer,
            start=task.layout.join(*tensors(task.z0)),
            method=task.method,
            result=result,
            state=driver.state if task.lasting else None,
            solve_adjoint=self._solve_adjoint,
        )

    def _solve_adjoint(self, step: AdjointMap, start: Tensor) -> Tensor:  # (B, n) -> (B, n)
        knobs = self.knobs
        method = knobs.method if knobs.adjoint_method is None else knobs.adjoint_method
        task = replace(self._task(step, start, method, knobs.adjoint), confirming=step.confirm)
        result = self.last_adjoint = driver_for(task).run()
        self._count("adjoint", result)
        if self.warns and not bool(result.converged.all()):
            warnings.warn(verdict(result), AdjointWarning, stacklevel=2)
        u: Tensor = result.z
        return u

    # -- what is remembered -----------------------------------------------------------------------

    def _listen(self) -> None:
        self.on_step = self.should_stop = None
        self.warns = True

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


_NOT_COPIED = {
    "last_forward", "last_adjoint", "tally", "warm", "on_step", "should_stop", "warns",
}  # fmt: skip


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
    """The knobs; KnobError if they do not go together."""
    knobs.gradient.check(knobs.method)
    if knobs.compact and isinstance(knobs.gradient, Unrolled):
        raise KnobError(
            "gradient = 'unrolled' can't tape a solve with compact = True: leave compact at False, "
            "or use gradient='implicit'."
        )
    return knobs
