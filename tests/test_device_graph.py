"""Captured steps: the same solve with f's own code run a few times only, or a reason why not."""

import pytest
import torch
from device_cases import Recorded, affine, stubborn, tanh

from andersonn_core import Anderson, KnobError, Picard, SolveResult, Status, solve
from andersonn_core.device.driver import DeviceDriver
from andersonn_core.device.graph import WARM_UP, Graph
from andersonn_core.device.looks import EVERY, LAG
from andersonn_core.driver import SolveKnobs, Task
from andersonn_core.layout import StateLayout
from andersonn_core.results import Event
from andersonn_core.runcard import RunCard

METHODS = {
    "full": Anderson(),
    "even window, damped": Anderson(window=4, mixing=0.8, restart="never"),
    "one difference": Anderson(window=1),
    "forward": Picard(mixing=0.9),
}


def captured(f, z0, method, record=Recorded, on_step=None, should_stop=None, **knobs):
    card = RunCard.capture({}, None, None, torch.device("cpu"))
    told = SolveKnobs(**({"capture": True} | knobs))
    task = Task(f, z0, StateLayout.of(z0, 1), method, told, card, on_step, should_stop)
    return DeviceDriver(task, capture=record)


class Counted:
    """A map that knows how often its Python ran."""

    def __init__(self, f):
        self.f, self.calls = f, 0

    def __call__(self, z):
        self.calls += 1
        return self.f(z)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("case", [affine, tanh])
def test_a_captured_solve_is_the_same_and_runs_no_python_of_f(case, method):
    f, z0 = case()
    knobs = {"rtol": 1e-9, "max_iter": 75}
    plain = captured(f, z0, method, None, **knobs | {"capture": False}).run()
    counted = Counted(f)
    found = captured(counted, z0, method, **knobs).run()
    assert plain.num_evals > 12
    assert counted.calls == WARM_UP + EVERY + (plain.num_evals == 75)  # an odd one at the end
    assert torch.equal(found.z, plain.z) and found.status.equal(plain.status)
    for name in ("relative_residual", "residual", "gain", "condition", "depth", "event"):
        ours, theirs = getattr(found.history, name), getattr(plain.history, name)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    assert found.diagnostics == plain.diagnostics
    assert found.notes[-1] == "captured: 2 evaluations with their steps in one graph"


def test_deflated_restarts_depend_on_nothing_that_changes_between_replays():
    """The work itself is run anew: torch's eigenproblems are not for a graph."""
    f, z0 = tanh()
    knobs = {"rtol": 1e-9, "max_iter": 75}
    method = Anderson(restart="deflated")
    plain = captured(f, z0, method, None, **knobs | {"capture": False}).run()
    found = captured(f, z0, method, lambda work: work, **knobs).run()
    assert plain.num_evals > 12 and (plain.history.event & Event.DEFLATE).any()
    assert torch.equal(found.z, plain.z) and found.status.equal(plain.status)
    assert found.history.event.equal(plain.history.event)


def test_replayed_evaluations_have_whole_seconds_and_no_split(tmp_path):
    f, z0 = tanh()
    result = captured(f, z0, Anderson(), rtol=0.0, max_iter=21, profile=True).run()
    history = result.history
    split = ~history.method_seconds.isnan()
    assert split.nonzero().flatten().tolist() == [0, 1, 20]  # warm-up, and the odd one at the end
    assert (history.map_seconds > 0).all() and history.part_seconds == {}
    whole = float(history.map_seconds.sum() + history.method_seconds.nansum())
    assert result.seconds == pytest.approx(whole) and whole > 0
    assert (history.seconds.diff() > 0).all()
    result.save(tmp_path / "one.pt")
    again = SolveResult.load(tmp_path / "one.pt")
    assert again.history.method_seconds.isnan().equal(~split) and again.seconds == result.seconds


def test_a_half_precision_state_is_captured_in_its_own_memory():
    f, z0 = affine()
    narrow = z0.to(torch.bfloat16)

    def half(z):
        return f(z.double()).to(z.dtype)

    knobs = {"rtol": 0.02, "max_iter": 40}
    plain = captured(half, narrow, Anderson(), None, capture=False, **knobs)
    found = captured(half, narrow, Anderson(), **knobs).run()
    expected = plain.run()
    assert found.converged.all() and torch.equal(found.z, expected.z)


def waiting(z):
    return z * (0.5 if float(z.sum()) > 1e30 else 0.4) + 1


def test_a_map_that_waits_for_the_device_is_not_captured_and_the_reason_is_said():
    f, z0 = Counted(waiting), affine()[1]
    expected = solve(waiting, z0, Anderson(), rtol=1e-9)
    found = captured(f, z0, Anderson(), rtol=1e-9).run()
    assert found.converged.all() and found.num_evals == expected.num_evals
    torch.testing.assert_close(found.z, expected.z)
    (note,) = found.notes[-1:]
    assert note.startswith("not captured, every step was launched by itself: RuntimeError: ")
    assert "not permitted when stream is capturing" in note
    assert f.calls == found.num_evals + found.diagnostics["surplus_evals"] + 1  # the attempt


def test_the_first_error_of_a_broken_capture_is_the_one_that_is_said():
    def capture(work):
        try:
            raise ArithmeticError("the cause\nand its trace")
        finally:
            raise RuntimeError("capture failed due to a previous error")

    graph = Graph(lambda: None, EVERY, capture)
    assert graph.replay(WARM_UP + 1, 99) is None
    assert graph.note.endswith("ArithmeticError: the cause")
    assert graph.replay(WARM_UP + 3, 99) is None  # tried once
    try:  # what the caller was about is no cause
        raise KeyError("the caller's")
    except KeyError:
        graph = Graph(lambda: None, EVERY, capture)
        graph.replay(WARM_UP + 1, 99)
    assert graph.note.endswith("ArithmeticError: the cause")


def test_an_error_of_the_map_while_it_is_captured_is_raised_by_its_next_call():
    (f, z0), calls = affine(), [0]

    def failing(z):
        calls[0] += 1
        if calls[0] > 2:
            raise ArithmeticError("three")
        return f(z)

    with pytest.raises(ArithmeticError, match="three") as caught:
        captured(failing, z0, Anderson(), rtol=0.0).run()
    partial = caught.value.partial_result
    assert partial.num_evals == 2 and (partial.status == Status.CANCELLED).all()
    residual = (f(partial.z) - partial.z).norm(dim=1) / f(partial.z).norm(dim=1)
    torch.testing.assert_close(partial.relative_residual, residual)


def test_plain_steps_of_a_fallback_are_made_outside_of_the_graph():
    (f, z0), knobs = stubborn(), {"rtol": 1e-5, "max_iter": 300}
    expected = captured(f, z0, Anderson(), None, **knobs | {"capture": False})
    counted = Counted(f)
    found, expected = captured(counted, z0, Anderson(), **knobs).run(), expected.run()
    assert expected.diagnostics["fallbacks"] >= 1
    assert found.status.equal(expected.status) and torch.equal(found.z, expected.z)
    assert WARM_UP + EVERY + 30 < counted.calls < found.num_evals


@pytest.mark.parametrize("allowed", [0, 1, 2, 3, 4, 7])
def test_a_captured_solve_stops_when_asked(allowed):
    f, z0 = tanh()
    left = iter([False] * allowed + [True])
    result = captured(f, z0, Anderson(), Recorded, None, lambda: next(left), rtol=0.0).run()
    # asked before each of the first two, then before each replay
    assert result.num_evals == min(allowed, WARM_UP) + EVERY * max(allowed - WARM_UP, 0)
    assert (result.status == Status.CANCELLED).all()


def test_steps_are_told_once_in_order_at_most_so_late():
    (f, z0), told = affine(), []
    result = captured(f, z0, Anderson(), Recorded, lambda step: told.append(step), rtol=1e-9).run()
    assert [step.evaluation for step in told] == list(range(1, result.num_evals + 1))
    assert all(a.seconds < b.seconds for a, b in zip(told, told[1:], strict=False))
    assert 0 <= result.diagnostics["surplus_evals"] <= LAG


def test_where_nothing_can_be_captured_the_solve_says_so():
    f, z0 = affine()
    result = solve(f, z0, Anderson(), capture=True)
    assert result.converged.all()
    assert result.notes[0] == "not captured: a solve on cpu is not launched ahead"
    with pytest.raises(KnobError, match="capture = True replays work of one shape"):
        solve(f, z0, Anderson(), capture=True, compact=True)
