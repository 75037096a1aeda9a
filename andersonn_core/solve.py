"""The two doors to the driver: `solve` for anybody's map, `SolveSpec` for a rerunnable record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import InstanceOf

from andersonn_core.driver import Driver, SolveKnobs, Step, Task
from andersonn_core.layout import StateLayout
from andersonn_core.methods import METHODS, Anderson, MethodSpec
from andersonn_core.problems import PROBLEMS
from andersonn_core.problems.base import Problem, ProblemSpec
from andersonn_core.results import SolveResult
from andersonn_core.runcard import RunCard
from andersonn_core.sharding import Shards, check_group
from andersonn_core.specs import KnobError, Spec, knob

if TYPE_CHECKING:
    from andersonn_core.device.driver import DeviceDriver

LAUNCHED_AHEAD = frozenset({"cuda"})  # devices that work while the host launches what comes next


class SolveSpec(SolveKnobs):
    """A problem, a method and the driver's knobs: one rerunnable solve."""

    title: ClassVar[str] = "SolveSpec"

    problem: InstanceOf[ProblemSpec] = knob(doc="The fixed-point problem, from PROBLEMS.")
    method: InstanceOf[MethodSpec] = knob(Anderson(), "The method, from METHODS.")

    _tables: ClassVar[Mapping[str, Mapping[str, type[Spec]]]] = {
        "problem": PROBLEMS,
        "method": METHODS,
    }

    def run(
        self,
        on_step: Callable[[Step], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        problem: Problem | None = None,
    ) -> SolveResult:
        """Build the problem and solve it; the result's card can be rerun.

        `problem` is what `self.problem.build()` gave before, to save building it again.
        """
        problem = self.problem.build() if problem is None else problem
        layout, hashes = StateLayout.of(problem.z0, self.batch_dims), self.problem.data_hashes()
        record, seed = self.to_dict(), self.problem.seed
        card = RunCard.capture(record, self.spec_id, seed, layout.device, hashes)
        f, z0 = problem.f, problem.z0
        return driver_for(Task(f, z0, layout, self.method, self, card, on_step, should_stop)).run()


def solve(
    f: Callable[[Any], Any],
    z0: Any,  # tensor (B, ...), NumPy array, or a tuple or dict of them
    method: MethodSpec = Anderson(),  # noqa: B008  a frozen record
    *,
    rtol: float = 1e-6,
    atol: float = 0.0,
    max_iter: int = 200,
    batch_dims: int = 1,
    on_step: Callable[[Step], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    compact: bool = False,
    profile: bool = False,
    capture: bool = False,
    group: Any = None,  # torch.distributed.ProcessGroup
    **misspelled: Any,
) -> SolveResult:
    """Find z = f(z) for each sample; stop a sample when ||f(z) - z|| <= atol + rtol ||f(z)||.

    The returned z is, per sample, an iterate at which f was evaluated: the one that met the
    tolerance, otherwise the one with the smallest relative residual. `error_estimate` is its
    residual times the largest ||dz|| / ||dg|| that the method saw, a lower bound of ||(I - J)^-1||:
    an estimate, not a bound. f sees a buffer that later evaluations use again: a map that keeps its
    argument must clone it.

    With a group each rank gives its own part (B, n_rank) of the elements, none is allowed, and f
    maps it to its own part of f(z): all ranks take the steps that one would with the whole state,
    with one all-reduce of at most 2 m + 2 numbers a sample and step (see sharding.py for what else
    is sent). Give all ranks the same knobs. Where f raises on one rank the others wait for it until
    the group's timeout, or until its process ends: choose a short timeout.

    Raises KnobError before any evaluation for a misspelled or impossible knob or a start that is
    not finite floating-point numbers; ValueError at the first evaluation if f changes shape, dtype
    or device. An exception of f itself passes through with the partial result as its
    `partial_result`, unless the device failed and gives none.
    """
    if not isinstance(method, MethodSpec):
        raise KnobError(
            f"method = {method!r} is not a method: give one of {', '.join(METHODS)}, "
            "e.g. Anderson()."
        )
    if not callable(f):
        raise KnobError(f"f = {f!r} is not callable: give a function z -> f(z).")
    knobs = SolveKnobs(
        rtol=rtol, atol=atol, max_iter=max_iter, batch_dims=batch_dims, compact=compact,
        profile=profile, capture=capture, **misspelled,
    )  # fmt: skip
    name = f"{getattr(f, '__module__', '')}.{getattr(f, '__qualname__', type(f).__qualname__)}"
    record = knobs.to_dict() | {"problem": None, "map": name, "method": method.to_dict()}
    if group is None:
        layout, shards = StateLayout.of(z0, batch_dims), None
    else:
        layout, shards = _agreed(group, z0, method, knobs, should_stop)
        record["ranks"] = len(shards.parts)
    card = RunCard.capture(record, None, None, layout.device)
    task = Task(f, z0, layout, method, knobs, card, on_step, should_stop, shards)
    return driver_for(task).run()


def driver_for(task: Task) -> Driver | DeviceDriver:
    """On a GPU one that never waits for it, where the knobs allow that; else step by step."""
    device = task.layout.device.type
    if device in LAUNCHED_AHEAD:
        from andersonn_core.device.driver import DeviceDriver, obstacle

        reason = obstacle(task)
        if not reason:
            return DeviceDriver(task)
        notes = [f"every step waits for the host: {reason}"]
    else:
        reason, notes = f"a solve on {device} is not launched ahead", []
    if task.knobs.capture:
        notes.append(f"not captured: {reason}")
    if getattr(task.method, "history", "state") != "state":
        notes.append(f"the history is kept in the state's type, not in bfloat16: {reason}")
    driver = Driver(task)
    driver.notes = (*notes, *driver.notes)
    return driver


def _agreed(
    group: Any,
    z0: Any,
    method: MethodSpec,
    knobs: SolveKnobs,
    should_stop: Callable[[], bool] | None,
) -> tuple[StateLayout, Shards]:
    """This rank's part and all ranks' parts; a bad start on one rank is an error on all."""
    check_group(group)
    # refused before any communication: what ranks could not decide alike
    problem = method.shard_problem()
    if knobs.compact:
        problem = "compact=True needs a map of some samples: solve with compact=False."
    if should_stop is not None:
        problem = "should_stop could differ between the ranks: bound the solve by max_iter."
    if problem is not None:
        raise KnobError(f"a solve with a group: {problem}")
    return Shards.agree(group, z0, knobs.batch_dims, knobs.to_json() + method.to_json())
