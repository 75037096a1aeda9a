"""Forward iteration or Anderson, whichever falls faster by the second: both are measured online.

Auto begins with plain steps, which cost next to nothing, and forecasts how many it would take. It
tries Anderson as soon as a trial could not cost more than a small part of that, and keeps it while
its residual falls faster by the second than forward iteration's did. The choice depends on measured
seconds: on another machine, or at another hour, it may be another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Floats
from andersonn_core.cost_model import mixing_seconds
from andersonn_core.methods.base import MethodSpec, StepDiagnostics, mixing_knob
from andersonn_core.methods.keepers import Newest
from andersonn_core.methods.windowed import Settings, WindowState
from andersonn_core.specs import knob

FIRST = 3  # evaluations before the first forecast
BUDGET = 0.05  # a trial may cost this part of the plain steps taken and still to come
DEARER = 4  # a mixing step is taken for at least so many plain ones before one was measured
TRUST = 4  # a forecast counts up to so many times the evaluations that it was made from
NEVER = 2**62  # an evaluation that no solve reaches
SLOWER = 0.85  # Anderson is given up below this part of forward iteration's speed


@dataclass
class Pilot:
    """What was measured of a solve so far, and what is done about it."""

    window: int
    mixing_guess: float  # seconds of a mixing step before one was measured
    maps: list[float] = field(default_factory=list)  # seconds
    plain: list[float] = field(default_factory=list)  # seconds of plain steps
    mixed: list[float] = field(default_factory=list)  # seconds of mixing steps
    began: int = 0  # the evaluation with which the present kind of steps began
    plain_rate: Floats | float = 0.0  # (B,) decay of the residual's logarithm per plain step
    plain_speed: float = 0.0  # and per second, of the samples that go on
    mixed_speed: float = 0.0
    look_again: int = FIRST
    used: int = 0  # mixing steps after which Anderson's speed was last doubted
    notes: list[str] = field(default_factory=list)

    def observe(self, state: AutoState, map_seconds: float, method_seconds: float) -> None:
        """Take the newest times; switch where it pays."""
        self.maps.append(map_seconds)
        (self.plain if state.resting else self.mixed).append(method_seconds)
        now = len(self.maps)
        if now < self.look_again:
            return
        if state.resting:
            self.look_again = now + max(2, now // 3)
            self._try(state, now)
        else:
            self._compare(state, now)

    def _try(self, state: AutoState, now: int) -> None:
        """Begin with Anderson if a trial is cheap beside what is to come; or go on with it."""
        plain, taken = _typical(self.plain), now - self.began - 1
        step = _typical(self.maps) + plain
        cost = (self.window + 2) * max(self._mixing(plain) - plain, 0.0) / step
        if not self.mixed and cost > BUDGET * (1 + TRUST) * now:
            return  # whatever the forecast would say
        rate = self._rate(state, taken // 2 if self.mixed else min(taken, max(4, now // 4)))
        self.plain_rate, self.plain_speed = rate, self._mean(state, rate) / step
        if self.mixed:
            if self.plain_speed * SLOWER < self.mixed_speed:
                self._wake(state, now, f"goes on with Anderson: {self._fast}")
            return
        left = self._left(state, self._mean(state, rate))
        if cost <= BUDGET * (now + min(left, TRUST * now)):
            ahead = f"about {_number(left)} forward evaluations are left"
            self._wake(state, now, f"tries Anderson: {ahead}, and a trial costs {cost:.2g} of them")

    def _wake(self, state: AutoState, now: int, why: str) -> None:
        state.wake()
        self.began, self.used = now, max(2 * self.used, self.window + 3)
        self.look_again = now + self.used
        self._note(now, why)

    def _compare(self, state: AutoState, now: int) -> None:
        """Measure plain steps again if Anderson falls more slowly by the second than they did.

        Not more than a few of them, since late in a solve both may have become slow; and ever more
        rarely.
        """
        rate = self._rate(state, min(now - self.began - 1, 2 * (self.window + 1)))
        map_seconds = _typical(self.maps)
        self.mixed_speed = self._mean(state, rate) / (map_seconds + _typical(self.mixed))
        # Of the same samples: those that are left are often slow by either kind of steps.
        before = self._mean(state, self.plain_rate)
        self.plain_speed = before / (map_seconds + _typical(self.plain))
        if self.mixed_speed >= SLOWER * self.plain_speed:
            if self.used == self.window + 3:
                self._note(now, f"keeps Anderson: {self._fast}")
            self.used *= 2
            self.look_again = now + self.used
            return
        state.sleep()
        self.began, self.look_again = now, now + self.window + 2
        self._note(now, f"goes back to forward iteration: Anderson is {self._fast}")

    @property
    def _fast(self) -> str:
        return f"{_ratio(self.mixed_speed, self.plain_speed)} as fast by the second"

    def _mixing(self, plain: float) -> float:
        """Seconds of a mixing step; before one was measured at least DEARER plain ones."""
        return _typical(self.mixed) if self.mixed else max(self.mixing_guess, DEARER * plain)

    def _rate(self, state: WindowState, back: int) -> Floats:  # (B,)
        """The mean decay per evaluation of each sample's log residual."""
        scores, back = state.progress.scores, max(back, 1)
        rate: Floats = np.log(scores[-1 - back] / scores[-1]) / back
        return rate

    def _mean(self, state: WindowState, rate: Floats | float) -> float:  # (B,)
        """Of the samples that go on."""
        going_on = state.progress.scores[-1] > state.rtol
        rates = np.broadcast_to(rate, going_on.shape)[going_on]
        return float(rates.mean()) if len(rates) else math.inf

    def _left(self, state: WindowState, rate: float) -> float:
        """Plain steps until the slowest sample meets the tolerance, at this rate."""
        far = float(np.nanmax(state.progress.scores[-1]))
        if state.rtol <= 0 or not rate > 0 or not far > 0:
            return math.inf
        return max(math.log(far / state.rtol), 0.0) / rate

    def _note(self, now: int, what: str) -> None:
        self.notes.append(f"evaluation {now}: {what}")


def _typical(seconds: list[float]) -> float:
    """The median of the last few; all would take longer than a small map."""
    last = sorted(seconds[-5:])
    return last[len(last) // 2]


def _ratio(a: float, b: float) -> str:
    return f"{a / b:.2g} times" if b > 0 else "infinitely many times"


def _number(count: float) -> str:
    return f"{count:.0f}" if math.isfinite(count) else "endlessly many"


@dataclass
class AutoState(WindowState):
    """Anderson's window, which rests while plain steps are taken."""

    pilot: Pilot | None = None
    resting: bool = True

    def wake(self) -> None:
        """Take Anderson's steps from now on."""
        self.resting = False
        self.fallback.since[:] = len(self.progress.best) - 1

    def sleep(self) -> None:
        """Take plain steps from now on."""
        self.resting = True
        self.forget(np.ones(len(self.count), np.bool_))

    def rest(self, z: Tensor, f_z: Tensor) -> Tensor:  # (B, n), (B, n) -> (B, n)
        """A plain step, which costs no more than forward iteration's."""
        if self.norms is None:
            self.measure(z, f_z)
        self.timer.lap("mix")
        self.last_z, self.g, self.last_g = z, self.last_g, self.g
        self.norms, self.evaluation, self.steps = None, self.evaluation + 1, self.steps + 1
        # As forward iteration records it: a window's record would take longer to stack.
        self.diagnostics = StepDiagnostics(self.plain_step.event, self.mixing)
        if self.settings.mixing == 1.0:
            return self.target(z).copy_(f_z)
        return torch.lerp(z, f_z, self.settings.mixing, out=self.target(z))

    def notes(self) -> tuple[str, ...]:
        """What was tried, kept and given up."""
        return tuple(self.pilot.notes) if self.pilot else ()


class Auto(MethodSpec):
    """Forward iteration that takes up Anderson where it pays, by measured seconds."""

    name: ClassVar[str] = "auto"
    label: ClassVar[str] = "Auto"
    looks: ClassVar[bool] = True

    window: int = knob(
        5, "Past differences that each step of Anderson combines, where it is used.",
        minimum=1, maximum=100, typical=(1, 20), symbol="m",
    )  # fmt: skip
    mixing: float = mixing_knob()

    def memory_vectors(self, n: int) -> int:
        """Two rings, two residuals, two iterates, the fallback's best."""
        return 2 * min(self.window, n) + 5

    def init(self, z: Tensor) -> AutoState:  # (B, n)
        """An empty window that rests."""
        settings = Settings(window=self.window, mixing=self.mixing, fallback=True)
        state = AutoState.of(z, settings, Newest())
        assert isinstance(state, AutoState)
        guess = mixing_seconds(len(z), z.shape[1], self.window, z.element_size())
        state.pilot = Pilot(self.window, guess)
        return state

    def step(self, state: AutoState, z: Tensor, f_z: Tensor) -> Tensor:
        """A plain step, or Anderson's (B, n)."""
        return state.rest(z, f_z) if state.resting else state.advance(z, f_z)

    def observe(self, state: AutoState, map_seconds: float, method_seconds: float) -> None:
        """Let the pilot know."""
        if state.pilot is not None:
            state.pilot.observe(state, map_seconds, method_seconds)
