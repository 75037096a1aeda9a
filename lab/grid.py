"""Phase diagrams computed beside the page: cell after cell, in the background, cancellable.

The newest plan wins. A cell that fails harms no other, a cell that was computed is remembered, and
between two evaluations everybody else's run goes first.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from andersonn_core import KnobError, SolveResult, SolveSpec, Status, Step
from andersonn_core.cache import Cache
from andersonn_core.machine import Machine, measure_machine
from andersonn_core.roofline import Roof, rooflines
from lab.controls import judge_size
from lab.phase import Cell, Plan, Setting, Spread, leaders, measured, spread
from lab.pool import Pool, Slot
from lab.pump import Pump
from lab.runner import BUSY, POOL, PRESENCE_SECONDS, WALL_LIMIT
from lab.tasks import sentence, spec_task

SLOWEST = 4.0  # times forward iteration's seconds: a cell that takes longer is cut off
LEAST_SECONDS = 0.25  # after which a cell may be cut off
FRONT = 3  # cells that are measured anew to find the best of them
REPEATS = 5  # pairs of runs for an interval
MOST_REPEAT_SECONDS = 8.0  # of all pairs; at least FEWEST are run
FEWEST = 3
SHORT = 0.06  # seconds: runs that take less together are too short to be timed once
SHORT_REFERENCE = 1.0  # the same for forward iteration, to which a hundred cells are compared
FRESH = 4.0  # seconds after which forward iteration is timed again
MOST_AGAIN = 0.1  # of all time, at most, goes into that
WARM_UP = 4  # evaluations before it is timed
HOLD = 0.3  # seconds for which news wait for more: a browser paints both maps anew

NO_REFERENCE = f"Forward iteration alone took longer than {WALL_LIMIT:.0f} s."


@dataclass(frozen=True)
class Reference:
    """A run of forward iteration, and when it was made (monotonic seconds)."""

    result: SolveResult
    made: float


@dataclass(frozen=True)
class Roofs:
    """Map and mixing of one setting under the roof of this machine."""

    machine: Machine | None = None
    map: Roof | None = None
    mixing: Roof | None = None
    refusal: str = ""  # why there are none, in a sentence


@dataclass(frozen=True)
class News:
    """What came out since the last news of the newest plan."""

    plan: Plan
    cells: dict[Setting, Cell] = field(default_factory=dict)
    spreads: dict[Setting, Spread] = field(default_factory=dict)
    roof: Roofs | None = None  # of the present setting
    winner: Setting | None = None  # of the window x mixing map, from repeated runs
    done: int = 0
    total: int = 0
    seconds_left: float = math.nan
    ended: bool = False  # nothing more will come
    stopped: bool = False  # with `ended`: before all cells were done
    error: str = ""  # one plain sentence: nothing was computed


CELLS: Cache[Cell] = Cache(8 * 2**20)
SPREADS: Cache[Spread] = Cache(2**20)
ROOFS: Cache[Roofs] = Cache(2**20)
REFERENCES: Cache[Reference] = Cache(32 * 2**20)


class Stopped(Exception):
    """The plan was superseded or stopped, or its visitor has left."""


@dataclass(eq=False)
class Sweep:
    """One plan under way."""

    plan: Plan
    slot: Slot
    stopped: bool = False
    looked: float = 0.0  # when it was last asked whether the visitor is there
    done: int = 0
    costs: dict[int, list[float]] = field(default_factory=dict)  # wall seconds by batch size
    failed: dict[int, Exception] = field(default_factory=dict)  # references that could not be had
    left: list[int] = field(default_factory=list)  # batch sizes of the cells to come
    cells: dict[Setting, Cell] = field(default_factory=dict)
    news: News | None = None

    def stop(self) -> None:
        """Ask it to end after its present evaluation."""
        self.stopped = True
        self.slot.leave()

    def seconds_left(self) -> float:
        """About how long the rest takes: as the cells of the nearest batch size, scaled."""
        known = {size: sum(each) / len(each) for size, each in self.costs.items()}
        if not known:
            return math.nan
        total = 0.0
        for size in self.left:
            near = min(known, key=lambda other, size=size: abs(other - size))
            total += known[near] * max(1.0, size / near)
        return total


class Grid:
    """One visitor's phase diagrams; news arrive in `publish` on the thread of `schedule`."""

    def __init__(
        self,
        publish: Callable[[News], None],
        schedule: Callable[[Callable[[], None]], Any],
        present: Callable[[], bool] = lambda: True,
        pool: Pool = POOL,
    ) -> None:
        self._publish, self._present, self._pool = publish, present, pool
        self._pump = Pump(self._emit, schedule)
        self._lock = threading.RLock()
        self._sweep: Sweep | None = None
        self._closed = False

    # -- what the page calls --------------------------------------------------------------------

    def start(self, plan: Plan) -> None:
        """Compute this plan instead of whatever is computed now; what is known comes at once."""
        with self._lock:
            if self._closed:
                return
            self._drop()
            sweep = self._sweep = Sweep(plan, Slot(self._pool.slots, background=True))
        if not self._pool.submit(lambda: self._work(sweep)):
            self._tell(sweep, urgent=True, ended=True, stopped=True, error=BUSY)

    def cancel(self) -> None:
        """Stop; what was computed stands."""
        with self._lock:
            if self._sweep is not None:
                self._sweep.stop()

    def drop(self) -> None:
        """Stop, and say nothing more about it."""
        with self._lock:
            self._drop()

    def close(self) -> None:
        """Stop and publish nothing any more: the visitor has left."""
        with self._lock:
            self._closed = True
            self._drop()
        self._pump.close()

    def _drop(self) -> None:
        if self._sweep is not None:
            self._sweep.stop()
            self._sweep = None

    # -- in a thread ----------------------------------------------------------------------------

    def _work(self, sweep: Sweep) -> None:
        """Compute a plan to its end, whatever happens in it."""
        error = ""
        try:
            self._compute(sweep)
        except Stopped:
            sweep.stopped = True
        except Exception as unforeseen:
            error = sentence(unforeseen)
        self._tell(sweep, urgent=True, ended=True, stopped=sweep.stopped, error=error)

    def _compute(self, sweep: Sweep) -> None:
        """Level by level; the present cell's interval after the first lattice, the best ones last.

        The best of a hundred single runs was lucky, too: those in front run again.
        """
        levels = sweep.plan.settings()
        sweep.left = [each.batch_size for level in levels for each in level]
        for number, level in enumerate(levels):
            for setting in level:
                self._one(sweep, setting)
            if number == 1:
                self._repeat(sweep, sweep.cells[sweep.plan.here])
                self._raise_roof(sweep)
        mine = [each for each in sweep.cells if sweep.plan.on_map("mixing", each)]
        front = leaders((sweep.cells[each] for each in mine), FRONT)
        spreads = {cell.setting: self._repeat(sweep, cell) for cell in front}
        factors = {each: spread.speedup for each, spread in spreads.items() if spread is not None}
        if front:
            winner = max(factors, key=lambda each: factors[each], default=front[0].setting)
            self._tell(sweep, winner=winner)

    def _one(self, sweep: Sweep, setting: Setting) -> None:
        """One cell, from memory or computed."""
        try:
            forward, anderson = sweep.plan.specs(setting)
            judge_size((forward, anderson))
            key = spec_task(anderson).key
            cell = CELLS.get(key)
            if cell is None:
                cell = self._solve(sweep, setting, forward, anderson)
                CELLS.put(key, cell)
        except Stopped:
            raise
        except BaseException as error:  # a map may raise anything; its neighbors go on
            if sweep.stopped:
                raise Stopped from error
            cell = Cell(setting, error=sentence(error))
        sweep.left.remove(setting.batch_size)
        sweep.done += 1
        sweep.cells[setting] = cell
        self._tell(sweep, urgent=sweep.done == 1, cells={setting: cell})

    def _solve(
        self, sweep: Sweep, setting: Setting, forward: SolveSpec, anderson: SolveSpec
    ) -> Cell:
        reference = self._reference(sweep, forward)
        most = min(max(SLOWEST * reference.seconds, LEAST_SECONDS), WALL_LIMIT)
        began = time.perf_counter()
        result = self._steady(sweep, anderson, most, SHORT)
        cost = time.perf_counter() - began
        sweep.costs.setdefault(setting.batch_size, []).append(cost)
        cell = measured(setting, reference, result, anderson.rtol)
        return replace(cell, memory=sweep.plan.bytes_at(setting))

    def _reference(self, sweep: Sweep, forward: SolveSpec) -> SolveResult:
        """Forward iteration's run of a batch size, not much older than the cell beside it.

        A shared machine is slow for a while and fast again: what is compared must be of one time.
        """
        size, key = forward.problem.batch_size, spec_task(forward).key
        if size in sweep.failed:
            raise sweep.failed[size]
        known, now = REFERENCES.get(key), time.monotonic()
        if known is not None and now - known.made < max(FRESH, known.result.seconds / MOST_AGAIN):
            return known.result
        try:
            short = 0.0 if known is not None else SHORT_REFERENCE
            if known is None:
                self._run(sweep, forward.replace(max_iter=WARM_UP), WALL_LIMIT)
            result = self._steady(sweep, forward, WALL_LIMIT, short)
            if bool((result.status == int(Status.CANCELLED)).any()):
                raise KnobError(NO_REFERENCE)
        except Exception as error:
            sweep.failed[size] = error
            raise
        REFERENCES.put(key, Reference(result, now))
        return result

    def _repeat(self, sweep: Sweep, cell: Cell) -> Spread | None:
        """The interval of a cell's S, from runs of its own; None where S is no number."""
        if not cell.converged or cell.bound or not math.isfinite(cell.speedup):
            return None
        specs = sweep.plan.specs(cell.setting)
        key = spec_task(specs[1]).key
        known = SPREADS.get(key)
        if known is None:
            pairs, end = [], time.perf_counter() + MOST_REPEAT_SECONDS
            while len(pairs) < (REPEATS if time.perf_counter() < end else FEWEST):
                pairs.append([self._run(sweep, spec, WALL_LIMIT) for spec in specs])
            known = spread(*zip(*pairs, strict=True))
            SPREADS.put(key, known)
        self._tell(sweep, spreads={cell.setting: known})
        return known

    def _raise_roof(self, sweep: Sweep) -> None:
        """The present setting's map and mixing beside what the machine allows, measured once."""
        anderson = sweep.plan.anderson
        if sweep.cells[sweep.plan.here].error:
            return
        key = spec_task(anderson).key
        roofs = ROOFS.get(key)
        if roofs is None:
            try:
                result = self._run(sweep, anderson, WALL_LIMIT)
                problem = spec_task(anderson).build()
                with sweep.slot:
                    machine = measure_machine()
                    roofs = Roofs(machine, *rooflines(problem.f, problem.z0, result, machine))
            except Stopped:
                raise
            except Exception as error:
                told = str(error) if isinstance(error, ValueError) else sentence(error)
                roofs = Roofs(refusal=told)
            ROOFS.put(key, roofs)
        self._tell(sweep, roof=roofs)

    def _steady(
        self, sweep: Sweep, spec: SolveSpec, most_seconds: float, short: float
    ) -> SolveResult:
        """The solve of middle time of a few, where they are so short that their times scatter."""
        results: list[SolveResult] = []
        spent = 0.0
        while not results or (spent < short and len(results) < FEWEST):
            results.append(self._run(sweep, spec, most_seconds))
            spent += results[-1].seconds
        return sorted(results, key=lambda result: result.seconds)[(len(results) - 1) // 2]

    def _run(self, sweep: Sweep, spec: SolveSpec, most_seconds: float) -> SolveResult:
        """One solve, cut off after so many seconds of its own clock; Stopped if nobody wants it."""
        task, spent = spec_task(spec), [0.0]

        def on_step(step: Step) -> None:
            spent[0] = step.seconds

        def should_stop() -> bool:
            sweep.slot.turn()
            self._look(sweep)
            return sweep.stopped or spent[0] > most_seconds

        with sweep.slot:
            if not sweep.stopped:
                result = task.solve(task.build(), on_step, should_stop)
        if sweep.stopped:
            raise Stopped
        return result

    def _look(self, sweep: Sweep) -> None:
        """Stop if nobody is there any more."""
        now = time.perf_counter()
        if now - sweep.looked > PRESENCE_SECONDS:
            sweep.looked = now
            if not self._present() or not threading.main_thread().is_alive():
                sweep.stop()

    def _tell(self, sweep: Sweep, urgent: bool = False, **news: Any) -> None:
        """Add to the news of the newest plan."""
        with self._lock:
            if self._sweep is not sweep:
                return
            old = sweep.news or News(sweep.plan)
            for name in ("cells", "spreads"):
                news[name] = getattr(old, name) | news.get(name, {})
            total = sweep.done + len(sweep.left)
            sweep.news = replace(
                old, done=sweep.done, total=total, seconds_left=sweep.seconds_left(), **news
            )
        self._pump.request(urgent, HOLD)

    # -- on the document's thread ---------------------------------------------------------------

    def _emit(self) -> bool:
        """Publish what is new, if anything."""
        with self._lock:
            sweep = self._sweep
            news = None if sweep is None else sweep.news
            if news is None:
                return False
            sweep.news = None
        self._publish(news)
        return True
