"""Auto and the cost model, on a clock of the tests' own: nothing here depends on real seconds."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import iterates

from andersonn_core import Anderson, Auto, Picard, solve
from andersonn_core.cost_model import forecast, mixing_seconds, speedup
from andersonn_core.problems import Affine, Newton, Poisson, Rotation, Tanh

PLAIN = 0.03  # seconds of a plain step, by the tests' clock


class FakeClock:
    """The map takes one second, a step as long as the test says."""

    name = "fake"

    def __init__(self, mixing):
        self.now, self.turn, self.mixing, self.state = 0.0, 0, mixing, None

    def mark(self):
        resting = self.state is not None and self.state.resting
        self.now += (0.0, 1.0, PLAIN if resting else self.mixing)[self.turn]
        self.turn = (self.turn + 1) % 3
        return self.now

    def seconds(self, start, end):
        return end - start


def timed(problem, method, mixing, monkeypatch, **knobs):
    """The result, and the seconds it took by a fake clock."""
    clock = FakeClock(PLAIN if isinstance(method, Picard) else mixing)
    monkeypatch.setattr("andersonn_core.driver.clock_for", lambda device: clock)
    monkeypatch.setattr("andersonn_core.methods.auto.mixing_seconds", lambda *_: mixing)
    make = Auto.init

    def init(spec, z):
        clock.state = make(spec, z)
        return clock.state

    monkeypatch.setattr(Auto, "init", init)
    result = solve(problem.f, problem.z0, method, **{"rtol": 1e-8, "max_iter": 5000} | knobs)
    monkeypatch.undo()
    return result, clock.now


PROBLEMS = {
    "poisson": Poisson(size=24, dtype="float64"),
    "affine": Affine(dtype="float64"),
    "tanh": Tanh(size=64, batch_size=4, dtype="float64"),
    "tanh, large gain": Tanh(size=64, gain=1.6, batch_size=1, seed=2, dtype="float64"),
    "newton": Newton(dtype="float64"),
}


# Newton's residual does not fall at first: against a trial as cheap as 0.15 nothing speaks there.
NAMES_AND_MIXING = [
    (name, mixing)
    for name in PROBLEMS
    for mixing in (0.15, 1.0, 4.0, 30.0)
    if (name, mixing) != ("newton", 0.15)
]


@pytest.mark.parametrize(("name", "mixing"), NAMES_AND_MIXING)
def test_auto_is_never_much_slower_than_forward_iteration(name, mixing, monkeypatch):
    problem = PROBLEMS[name].build()
    auto, seconds = timed(problem, Auto(), mixing, monkeypatch)
    forward, least = timed(problem, Picard(), mixing, monkeypatch)
    assert bool(auto.converged.all()) and bool(forward.converged.all())
    assert seconds <= least / 0.95


@pytest.mark.parametrize("mixing", [0.15, 1.0, 4.0])
def test_auto_comes_near_anderson_where_anderson_wins_by_far(mixing, monkeypatch):
    problem = Poisson(size=24, dtype="float64").build()
    auto, seconds = timed(problem, Auto(), mixing, monkeypatch)
    _, forward = timed(problem, Picard(), mixing, monkeypatch)
    _, anderson = timed(problem, Anderson(), mixing, monkeypatch)
    assert anderson < forward / 3
    assert seconds < 0.6 * forward
    assert any("keeps Anderson" in note for note in auto.notes)


def test_where_a_trial_is_too_dear_the_iterates_are_those_of_forward_iteration(monkeypatch):
    problem = PROBLEMS["tanh"].build()
    monkeypatch.setattr("andersonn_core.methods.auto.mixing_seconds", lambda *_: 1e9)
    ours, auto = iterates(problem.f, problem.z0, Auto(), rtol=1e-8)
    theirs, forward = iterates(problem.f, problem.z0, Picard(), rtol=1e-8)
    assert auto.num_evals == forward.num_evals and torch.equal(ours, theirs)
    assert auto.notes == ()


class Rated:
    """f(z) = slope z + 1, a slope for each sample."""

    def __init__(self, slope):
        self.slope = slope

    def __call__(self, z):
        return self.slope * z + 1

    def select(self, indices):
        return Rated(self.slope[indices])


def test_auto_decides_for_the_samples_that_go_on_after_compaction(monkeypatch):
    slope = torch.linspace(0.3, 0.999, 24, dtype=torch.float64)[:, None].repeat(1, 8)
    slope -= 0.1 * torch.linspace(0, 1, 8, dtype=torch.float64) ** 2
    problem = SimpleNamespace(f=Rated(slope), z0=torch.zeros(24, 8, dtype=torch.float64))
    result, _ = timed(problem, Auto(window=2), 0.5, monkeypatch, rtol=1e-10, compact=True)
    assert bool(result.converged.all()) and result.diagnostics["compactions"]
    assert any("tries Anderson" in note for note in result.notes)


def test_a_map_that_forward_iteration_never_solves_is_tried(monkeypatch):
    problem = Rotation(dtype="float64").build()
    result, _ = timed(problem, Auto(), 1.0, monkeypatch)
    assert bool(result.converged.all()) and "tries Anderson" in result.notes[0]


def test_anderson_is_given_up_where_it_falls_more_slowly_by_the_second(monkeypatch):
    spec = Affine(size=200, spectrum="disc", spectral_radius=0.97, dtype="float64")
    result, _ = timed(spec.build(), Auto(), 4.0, monkeypatch, rtol=0.0, max_iter=250)
    assert "tries Anderson: about endlessly many" in result.notes[0]
    assert "goes back to forward iteration" in result.notes[-1]
    assert bool((result.history.depth[200:-1, 0] == 0).all())


@pytest.mark.parametrize(("steps", "spread"), [(12, 0.4), (25, 1.0), (40, 2.0)])
def test_the_forecast_s_interval_holds_the_truth_in_95_of_100_random_walks(steps, spread):
    draw = np.random.default_rng(0)
    held = seen = 0
    while seen < 300:
        walk = np.cumsum(-0.2 + 0.2 * spread * draw.standard_normal(4000))
        crossing = int(np.argmax(walk <= -0.2 * 100)) + 1
        if crossing <= steps:
            continue
        found = forecast(np.exp(walk[:steps]), math.exp(-0.2 * 100))
        held += found.low <= crossing <= found.high
        seen += 1
    assert 0.92 <= held / seen <= 0.98


def test_a_straight_line_is_forecast_exactly():
    residuals = 0.5 ** np.arange(1, 11)
    found = forecast(residuals, 0.5**40)
    assert found.evaluations == pytest.approx(40) == pytest.approx(found.low)
    assert found.high == pytest.approx(40)


@pytest.mark.parametrize("residuals", [[1.0], [1.0, 0.5], [0.1, 0.2, 0.4], [1.0, 1.0, 1.0, 1.0]])
def test_a_residual_that_does_not_fall_has_no_end(residuals):
    found = forecast(np.array(residuals), 1e-6)
    assert found.evaluations == found.high == math.inf and found.low >= len(residuals)


def test_a_tolerance_that_is_met_takes_no_more_evaluations():
    found = forecast(np.array([1.0, 0.1, 0.01]), 0.05)
    assert (found.evaluations, found.low, found.high) == (3, 3, 3)


def test_the_speed_up_is_that_of_its_formula():
    assert speedup(100, 25, 2.0, 1.0) == pytest.approx(4 / 1.5)
    assert mixing_seconds(64, 256, 5, 4) < mixing_seconds(64, 256, 10, 4)
    assert mixing_seconds(1, 10**7, 5, 4) == pytest.approx(20 * 4e7 / 8e9, rel=0.05)
