"""Our methods as solvers of torchdeq: importing this module registers them by name.

    import andersonn_core.torchdeq_plugin
    deq = torchdeq.get_deq(f_solver="lab_anderson", b_solver="lab_anderson", ift=True)

The names are lab_ with a name of METHODS, and lab_deflated: see `SOLVERS`; none of torchdeq's own
is replaced. Their options go where those of torchdeq's solvers go, into `solver_kwargs` of a call,
by torchdeq's names or by ours. What torchdeq asks for means:

    stop_mode="abs"   atol = tol, rtol = 0:           ||f(z) - z|| <= tol
    stop_mode="rel"   rtol = tol:                     ||f(z) - z|| <= tol ||f(z)||, or <= 1e-9 tol
    m                 window = m - 1: it counts iterates, we count their differences
    tau               mixing
    lam               regularization, relative to the lengths of the differences, so that the unit
                      of z does not matter; torchdeq adds lam to the Gram matrix as it is
    LBFGS_thres       window, of Broyden's method

Norms are over all elements of a sample, as in torchdeq, and samples go on together until each has
met the test; torchdeq goes on until all meet it in the same evaluation. z is a point at which f was
evaluated, with that point's residual, where torchdeq's forward iteration and Anderson return its
image.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from andersonn_core.arrays import Flags
from andersonn_core.driver import Driver, SolveKnobs, Step, Task
from andersonn_core.layout import StateLayout
from andersonn_core.methods import METHODS, Anderson, Broyden, MethodSpec
from andersonn_core.results import RUNNING, SolveResult
from andersonn_core.runcard import RunCard
from andersonn_core.specs import KnobError

try:
    from torchdeq.solver import register_solver
    from torchdeq.solver.stat import SolverStat
except ImportError as error:
    raise ImportError(
        "andersonn_core.torchdeq_plugin gives torchdeq our methods, and torchdeq is not installed: "
        "pip install torchdeq==0.1.0"
    ) from error

FLOOR = 1e-9  # torchdeq adds it to ||f(z)|| in a relative residual
NOT_HERE = {  # options of torchdeq's solvers; False asks for nothing
    "return_final": "z is the best point; with tol=0 all evaluations are made",
    "ls": "Broyden's method makes no line search",
}

Answer = tuple[Tensor, list[Tensor], SolverStat]


@dataclass(frozen=True)
class Solver:
    """A method with the arguments and the answer of torchdeq's solvers.

    The answer is z; the best points after so many evaluations, one for each entry of `indexing`;
    and torchdeq's statistics: `abs_lowest`, `rel_lowest` (B,) are the residuals of z, `nstep` (B,)
    the evaluation that found them, `abs_trace`, `rel_trace` (B, max_iter) those of every evaluation
    from x0 on, filled up with the residual of z as torchdeq does. None of it has a gradient.

    A sample whose start is not finite, or that was never seen to have a finite residual, comes back
    as NaN: nothing else would tell the optimizer or the loss scaler. Raises KnobError for options
    that do not exist or cannot be, ValueError for a map that changes shape or its argument, and
    RuntimeError in a backward pass with create_graph=True, whose derivative torchdeq gets wrong.
    """

    name: str
    method: MethodSpec

    def __call__(
        self,
        func: Callable[[Tensor], Tensor],
        x0: Tensor,  # (B, ...); (B,) is B numbers, () is one
        max_iter: int = 50,
        tol: float = 1e-3,
        stop_mode: str = "abs",
        indexing: Sequence[int] | None = None,
        **options: Any,
    ) -> Answer:
        """Solve z = func(z) for each sample."""
        _refuse_second_derivative()
        method, (rtol, atol) = self._method(options), _stop_test(tol, stop_mode)
        max_iter, wanted = operator.index(max_iter), _evaluations(indexing)
        if max_iter == 0 or not x0.numel():
            start = x0.detach()
            return start, [start] * len(wanted), _nothing_found(start, max_iter)
        knobs = SolveKnobs(
            rtol=rtol, atol=atol, max_iter=max_iter, batch_dims=min(x0.dim(), 1)
        )  # fmt: skip
        f = Map(func, x0.dtype, *_autocast(x0.device.type))
        start, lost = f.start(x0)
        best = BestSoFar(start, [k for k in wanted if k < max_iter])
        with torch.autocast(x0.device.type, enabled=False):
            result = self._solve(f, start, method, knobs, best)
        row = _row_of_answer(result)
        lost |= ~result.history.residual.gather(0, row)[0].isfinite().to(lost.device)
        points = {k: f.answer(z, lost) for k, z in best.states.items()}
        z = f.answer(result.z, lost)
        return z, [points.get(k, z) for k in wanted], _statistics(result, row, max_iter)

    def _solve(
        self, f: Map, start: Tensor, method: MethodSpec, knobs: SolveKnobs, best: BestSoFar
    ) -> SolveResult:
        record = knobs.to_dict() | {"problem": None, "map": self.name, "method": method.to_dict()}
        card = RunCard.capture(record, None, None, start.device)
        together = Together(knobs.rtol, knobs.atol)
        endless = knobs.replace(rtol=0.0, atol=0.0)
        layout = StateLayout.of(start, knobs.batch_dims)
        task = Task(f, start, layout, method, endless, card, best if best.at else None, together)
        driver = together.driver = Driver(task)
        driver.state.rtol = knobs.rtol
        return driver.run()

    def _method(self, options: dict[str, Any]) -> MethodSpec:
        """The method with the options of a call."""
        given = dict(options)
        for option, instead in NOT_HERE.items():
            if given.pop(option, False):
                raise KnobError(f"{self.name} has no option {option!r}: {instead}.")
        count = "LBFGS_thres" if isinstance(self.method, Broyden) else "m"
        names = {count: "window", "tau": "mixing", "lam": "regularization"}
        names = {theirs: ours for theirs, ours in names.items() if ours in self.method.knobs()}
        knobs = {names.get(option, option): value for option, value in given.items()}
        if len(knobs) < len(given):
            raise KnobError(f"{self.name}: {', '.join(given)} hold two values for one knob.")
        if type(given.get("m")) is int and "window" in knobs:
            knobs["window"] = given["m"] - 1
        try:
            return self.method.replace(**knobs) if knobs else self.method
        except KnobError as refusal:
            told = ", ".join(f"{theirs} is its {ours}" for theirs, ours in names.items())
            told = told.replace("m is its window,", "m is its window + 1,")
            raise KnobError(f"{self.name}: {refusal} (Of torchdeq's options, {told}.)") from None


@dataclass(frozen=True)
class Map:
    """f in the type that a solve works in: float32 for a half-precision start."""

    func: Callable[[Tensor], Tensor]
    dtype: torch.dtype  # of x0
    kind: str  # of device
    narrow: torch.dtype | None  # that autocast was on with when the solver was called

    def __call__(self, z: Tensor) -> Tensor:  # (B, ...) -> (B, ...)
        """Evaluate f as torchdeq's solver would: under autocast where that was on."""
        with self._casting():
            value = self.func(z.to(self.dtype))
        return value.to(z.dtype) if isinstance(value, Tensor) else value

    def _casting(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.narrow is None else torch.autocast(self.kind, self.narrow)

    def start(self, x0: Tensor) -> tuple[Tensor, Tensor]:  # (B, ...) -> (B, ...), (B,)
        """A finite start, and the samples that have none of their own."""
        wide = x0.detach().to(torch.float32 if self.dtype is torch.float16 else self.dtype)
        lost = ~wide.reshape(x0.shape[0] if x0.dim() else 1, -1).isfinite().all(1)
        return wide.masked_fill(_beside(lost, wide), 0.0), lost

    def answer(self, z: Tensor, lost: Tensor) -> Tensor:  # (B, ...), (B,) -> (B, ...)
        """A point in the type of x0, NaN for samples about which nothing is known."""
        return z.to(self.dtype).masked_fill(_beside(lost, z), torch.nan)


@dataclass
class Together:
    """Ends a solve once each sample has met the test: a `should_stop` for a driver.

    f sees the whole batch until the slowest sample is done. To freeze the others as soon as they
    meet the test would save nothing, and programs that train with a loose tolerance rely on what
    they gain until then.
    """

    rtol: float
    atol: float
    driver: Driver | None = None
    met: Flags | bool = False  # (B,)

    def __call__(self) -> bool:
        """Look at the newest evaluation."""
        assert self.driver is not None
        recorder = self.driver.recorder
        if not recorder.residual:
            return False
        residual, relative = recorder.residual[-1], recorder.relative[-1]
        here = (residual <= self.atol) | (relative <= self.rtol)
        self.met = self.met | here
        return bool((self.met | (self.driver.referee.status != RUNNING)).all())


class BestSoFar:
    """Copies the best points after some numbers of evaluations: an `on_step` for a driver.

    Best is, as for the answer of a solve, the smallest relative residual.
    """

    def __init__(self, start: Tensor, at: Sequence[int]) -> None:  # (B, ...)
        self.best, self.at = start, frozenset(at)
        self.last = max(at, default=0)
        self.lowest: Tensor | float = torch.inf  # (B,)
        self.states: dict[int, Tensor] = {}  # (B, ...) each

    def __call__(self, step: Step) -> None:
        """Look at an evaluation."""
        if step.evaluation > self.last:
            return
        score = step.relative_residual
        taken = score < self.lowest
        self.lowest = torch.where(taken, score, self.lowest)
        here = _beside(taken.to(self.best.device), self.best)
        self.best = torch.where(here, step.z(), self.best)
        if step.evaluation in self.at:
            self.states[step.evaluation] = self.best


def _beside(samples: Tensor, z: Tensor) -> Tensor:  # (B,), (B, ...) -> (B, 1, ...)
    return samples.reshape((-1, *[1] * (z.dim() - 1)) if z.dim() else ())


def _stop_test(tol: float, stop_mode: str) -> tuple[float, float]:
    """The rtol and atol with which our stop test is torchdeq's."""
    if stop_mode == "abs":
        return 0.0, tol
    if stop_mode == "rel":
        return tol, FLOOR * tol
    raise KnobError(f"stop_mode = {stop_mode!r} is not allowed: it must be 'abs' or 'rel'.")


def _evaluations(indexing: Sequence[int] | None) -> list[int]:
    wanted = [operator.index(k) for k in indexing or ()]
    if min(wanted, default=1) < 1:
        raise KnobError(
            f"indexing = {indexing!r} is not allowed: it holds numbers of evaluations, 1 or above."
        )
    return wanted


def _autocast(kind: str) -> tuple[str, torch.dtype | None]:
    return kind, torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _refuse_second_derivative() -> None:
    """Raise inside backward(create_graph=True).

    torchdeq solves for the gradient off the tape, so that it would be differentiated as a constant
    in z* (torchdeq 0.1.0, grad.py, IFTGrad).
    """
    inside = torch.is_grad_enabled() and torch._C._current_graph_task_id() != -1
    if inside:
        raise RuntimeError(
            "torchdeq's implicit gradient has no second derivative, and create_graph=True asks for "
            "one: use andersonn_core.DEQ, whose implicit gradient has it, or do without."
        )


# -- torchdeq's statistics, in the type of the start and on its device -----------------------------


def _row_of_answer(result: SolveResult) -> Tensor:  # (1, B)
    """The evaluation, from 0, at which z was found."""
    return (result.history.relative_residual == result.relative_residual).long().argmax(0)[None, :]


def _statistics(result: SolveResult, row: Tensor, max_iter: int) -> SolverStat:  # (1, B)
    like = result.z.float() if result.z.dtype is torch.bfloat16 else result.z
    told: dict[str, Tensor] = {"nstep": row[0] + 1}
    for name, seen in (
        ("abs", result.history.residual),
        ("rel", result.history.relative_residual),
    ):
        lowest = seen.gather(0, row)  # (1, B)
        rest = lowest.expand(max_iter - len(seen), -1)
        told[f"{name}_lowest"] = lowest[0]
        told[f"{name}_trace"] = torch.cat([seen.where(~seen.isnan(), lowest), rest]).T
    return SolverStat({name: values.to(like) for name, values in told.items()})


def _nothing_found(start: Tensor, max_iter: int) -> SolverStat:  # (B, ...)
    """Without an evaluation no residual is known."""
    batch = start.shape[0] if start.dim() else 1
    unknown = start.new_full((batch, max_iter), torch.inf)
    lowest = start.new_full((batch,), torch.inf)
    return SolverStat(
        abs_lowest=lowest, rel_lowest=lowest, abs_trace=unknown, rel_trace=unknown,
        nstep=torch.zeros_like(lowest),
    )  # fmt: skip


SOLVERS = {
    solver.name: solver
    for solver in (
        *(Solver(f"lab_{name}", method()) for name, method in METHODS.items()),
        Solver("lab_deflated", Anderson(window=10, restart="deflated")),
    )
}

for _name, _solver in SOLVERS.items():
    register_solver(_name, _solver)
