"""Forward iteration or Anderson, whichever falls faster by the second: both are measured online.

Auto begins with plain steps, which cost next to nothing, and forecasts how many it would take. It
tries Anderson as soon as a trial could not cost more than a small part of that, and keeps it while
its residual falls faster by the second than forward iteration's did. The choice depends on measured
seconds: on another machine, or at another hour, it may be another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from statistics import median_high as median
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Floats
from andersonn_core.cost_model import mixing_seconds
from andersonn_core.kernels import Progress, rows_for
from andersonn_core.methods.base import (
    MethodSpec,
    MethodState,
    StepDiagnostics,
    Times,
    mixing_knob,
    no_event,
)
from andersonn_core.methods.keepers import Newest
from andersonn_core.methods.settings import Settings
from andersonn_core.methods.windowed import WindowState
from andersonn_core.specs import knob

FIRST = 3  # evaluations before the first forecast
BUDGET = 0.05  # a trial may cost this part of the plain steps taken and still to come
DEARER = 4  # a mixing step is taken for at least so many plain ones before one was measured
TRUST = 4  # a forecast counts up to so many times the evaluations that it was made from
PAUSE = 4  # a look that was too early is repeated after so many times its evaluations, at most
SEEN = 5  # evaluations whose times are looked at
SLOWER = 0.85  # Anderson is given up below this part of forward iteration's speed


@dataclass
class Pilot:
    """What was measured of a solve so far, and what is done about it."""

    window: int
    mixing_guess: float  # seconds of a mixing step before one was measured
    plain_rate: Floats  # (B,) decay of the residual's logarithm per plain step
    map_seconds: float = math.nan  # typical
    plain_seconds: float = math.nan  # of a plain step
    mixed_seconds: float | None = None  # of a mixing step
    began: int = 0  # the evaluation with which the present kind of steps began
    plain_speed: float = 0.0  # and per second, of the samples that go on
    mixed_speed: float = 0.0
    used: int = 0  # mixing steps after which Anderson's speed was last doubted
    notes: list[str] = field(default_factory=list)

    def select(self, indices: Tensor) -> Pilot:  # (A,)
        """What is known of some samples."""
        return replace(self, plain_rate=self.plain_rate[indices.cpu().numpy()])

    def observe(self, state: AutoState, times: Times) -> None:
        """Look at the newest times; switch where it pays."""
        now = state.evaluation
        self.map_seconds, step = map(median, zip(*times(min(SEEN, now - self.began)), strict=True))
        if state.resting:
            self.plain_seconds, state.look_at = step, now + max(2, now // 3)
            self._try(state, now)
        else:
            self.mixed_seconds = step
            self._compare(state, now, step)

    def _try(self, state: AutoState, now: int) -> None:
        """Begin with Anderson if a trial is cheap beside what is to come; or go on with it."""
        step, taken = self.map_seconds + self.plain_seconds, now - self.began - 1
        cost = (self.window + 2) * max(self._mixing - self.plain_seconds, 0.0) / step
        cheap = cost / (BUDGET * (1 + TRUST))  # evaluations: before, no forecast allows a trial
        tried = self.mixed_seconds is not None
        if not tried and cheap > now:
            state.look_at = max(state.look_at, min(math.ceil(cheap), PAUSE * now))
            return
        rate = self._rate(state, taken // 2 if tried else min(taken, max(4, now // 4)))
        decay = self._mean(state, rate)
        self.plain_rate, self.plain_speed = rate, decay / step
        if tried:
            if self.plain_speed * SLOWER < self.mixed_speed:
                self._wake(state, now, f"goes on with Anderson: {self._fast}")
            return
        left = self._left(state, decay)
        if left <= TRUST * now:  # only another rate would change what this forecast says
            state.look_at = 2 * now
        if cost <= BUDGET * (now + min(left, TRUST * now)):
            ahead = f"about {_number(left)} forward evaluations are left"
            self._wake(state, now, f"tries Anderson: {ahead}, and a trial costs {cost:.2g} of them")

    def _wake(self, state: AutoState, now: int, why: str) -> None:
        state.wake()
        self.began, self.used = now, max(2 * self.used, self.window + 3)
        state.look_at = now + self.used
        self._note(now, why)

    def _compare(self, state: AutoState, now: int, mixed: float) -> None:
        """Measure plain steps again if Anderson falls more slowly by the second than they did.

        Not more than a few of them, since late in a solve both may have become slow; and ever more
        rarely.
        """
        rate = self._rate(state, min(now - self.began - 1, 2 * (self.window + 1)))
        self.mixed_speed = self._mean(state, rate) / (self.map_seconds + mixed)
        # Of the same samples: those that are left are often slow by either kind of steps.
        before = self._mean(state, self.plain_rate)
        self.plain_speed = before / (self.map_seconds + self.plain_seconds)
        if self.mixed_speed >= SLOWER * self.plain_speed:
            if self.used == self.window + 3:
                self._note(now, f"keeps Anderson: {self._fast}")
            self.used *= 2
            state.look_at = now + self.used
            return
        state.sleep()
        self.began, state.look_at = now, now + self.window + 2
        self._note(now, f"goes back to forward iteration: Anderson is {self._fast}")

    @property
    def _fast(self) -> str:
        return f"{_ratio(self.mixed_speed, self.plain_speed)} as fast by the second"

    @property
    def _mixing(self) -> float:
        """Seconds of a mixing step; before one was measured at least DEARER plain ones."""
        guess = max(self.mixing_guess, DEARER * self.plain_seconds)
        return guess if self.mixed_seconds is None else self.mixed_seconds

    def _rate(self, state: MethodState, back: int) -> Floats:  # (B,)
        """The mean decay per evaluation of each sample's log residual."""
        scores, back = state.progress.scores, max(back, 1)
        rate: Floats = np.log(scores[-1 - back] / scores[-1]) / back
        return rate

    def _mean(self, state: MethodState, rate: Floats) -> float:  # (B,)
        """Of the samples that go on."""
        going_on = state.progress.scores[-1] > state.rtol
        rates = rate[going_on]
        return float(rates.sum()) / len(rates) if len(rates) else math.inf

    def _left(self, state: MethodState, rate: float) -> float:
        """Plain steps until the slowest sample meets the tolerance, at this rate."""
        far = float(np.fmax.reduce(state.progress.scores[-1]))  # NaN only where all are
        if state.rtol <= 0 or not rate > 0 or not far > 0:
            return math.inf
        return max(math.log(far / state.rtol), 0.0) / rate

    def _note(self, now: int, what: str) -> None:
        self.notes.append(f"evaluation {now}: {what}")


def _ratio(a: float, b: float) -> str:
    return f"{a / b:.2g} times" if b > 0 else "infinitely many times"


def _number(count: float) -> str:
    return f"{count:.0f}" if math.isfinite(count) else "endlessly many"


@dataclass
class AutoState(MethodState):
    """Forward iteration's workspace, and Anderson's once that is tried."""

    plain_step: StepDiagnostics
    pilot: Pilot
    settings: Settings
    last_z: Tensor  # (B, n) the point before, whose residual is g while it rests
    anderson: WindowState | None = None
    resting: bool = True
    evaluation: int = 0
    look_at: int = FIRST  # the evaluation

    def looks(self) -> bool:
        """Not at every evaluation: a look costs time, too."""
        return self.evaluation >= self.look_at

    def residual(self, z: Tensor, f_z: Tensor) -> tuple[Floats, Floats]:  # (B, n) -> (B,), (B,)
        """Where it belongs: Anderson's window may want it."""
        return super().residual(z, f_z) if self.resting else self._awake.residual(z, f_z)

    def wake(self) -> None:
        """Take Anderson's steps from now on."""
        self.resting = False
        if self.anderson is None:
            self.anderson = WindowState.of(self.last_z, self.settings, Newest())
        anderson = self.anderson
        anderson.progress, anderson.targets = self.progress, self.targets
        anderson.timer = self.timer
        anderson.evaluation = anderson.steps = self.evaluation
        anderson.last_z = self.last_z
        anderson.last_g.copy_(self.g)
        anderson.fallback.since[:] = len(self.progress.best) - 1

    def sleep(self) -> None:
        """Take plain steps from now on."""
        self.resting, self.targets = True, self._awake.targets
        self.diagnostics = self.plain_step
        self._awake.forget(np.ones(len(self.diagnostics.event), np.bool_))

    def rest(self, z: Tensor, f_z: Tensor) -> Tensor:  # (B, n), (B, n) -> (B, n)
        """A plain step, which costs no more than forward iteration's."""
        if self.norms is None:
            self.measure(z, f_z)
        self.timer.lap("mix")
        self.last_z = z
        if self.settings.mixing == 1.0:
            return self.target(z).copy_(f_z)
        return torch.lerp(z, f_z, self.settings.mixing, out=self.target(z))

    def advance(self, z: Tensor, f_z: Tensor) -> Tensor:  # (B, n), (B, n) -> (B, n)
        """A step of Anderson's."""
        anderson = self._awake
        anderson.norms = self.norms
        z_next = anderson.advance(z, f_z)
        self.diagnostics = anderson.diagnostics
        return z_next

    @property
    def _awake(self) -> WindowState:
        assert self.anderson is not None
        return self.anderson

    def select(self, indices: Tensor) -> AutoState:  # (A,)
        """The workspace of some samples."""
        chosen = super().select(indices)
        chosen.last_z = self.last_z[indices]
        if chosen.anderson is not None:
            chosen.anderson.progress = chosen.progress
        return chosen

    def notes(self) -> tuple[str, ...]:
        """What was tried, kept and given up."""
        return tuple(self.pilot.notes)

    def amplification(self) -> Floats | None:  # (B,)
        """Anderson's, if it was tried."""
        return None if self.anderson is None else self.anderson.amplification()


class Auto(MethodSpec):
    """Forward iteration that takes up Anderson where it pays, by measured seconds."""

    name: ClassVar[str] = "auto"
    label: ClassVar[str] = "Auto"

    window: int = knob(
        5, "Past differences that each step of Anderson combines, where it is used.",
        minimum=1, maximum=100, typical=(1, 20), symbol="m",
    )  # fmt: skip
    mixing: float = mixing_knob()

    def memory_vectors(self, n: int) -> int:
        """Two rings, residuals of either kind of steps, two iterates, the fallback's best."""
        return 2 * min(self.window, n) + 6

    def init(self, z: Tensor) -> AutoState:  # (B, n)
        """As forward iteration's; nothing of Anderson's until it is tried."""
        plain = StepDiagnostics(no_event(z), np.full(len(z), self.mixing))
        settings = Settings(window=self.window, mixing=self.mixing, fallback=True)
        guess = mixing_seconds(len(z), z.shape[1], self.window, z.element_size())
        return AutoState(
            plain, torch.empty_like(z), rows_for(z), Progress.of(len(z)),
            plain_step=plain, pilot=Pilot(self.window, guess, np.zeros(len(z))), settings=settings,
            last_z=z,
        )  # fmt: skip

    def step(self, state: AutoState, z: Tensor, f_z: Tensor) -> Tensor:
        """A plain step, or Anderson's (B, n)."""
        z_next = state.rest(z, f_z) if state.resting else state.advance(z, f_z)
        state.norms, state.evaluation = None, state.evaluation + 1
        return z_next

    def observe(self, state: AutoState, times: Times) -> None:
        """Let the pilot know."""
        state.pilot.observe(state, times)
