"""A solve on the device takes the driver's steps, and the host waits for none of them."""

import numpy as np
import pytest
import torch
from device_cases import Operations, affine, broken, stubborn, tanh

from andersonn_core import (
    PROBLEMS,
    Anderson,
    Broyden,
    Event,
    Picard,
    Status,
    reading_iterates,
    solve,
)
from andersonn_core.deq import KeptIterates
from andersonn_core.device import Choice, driver
from andersonn_core.device.driver import DeviceDriver, obstacle
from andersonn_core.device.looks import LAG
from andersonn_core.device.torch_kernels import TorchKernels
from andersonn_core.driver import Driver, SolveKnobs, Task
from andersonn_core.layout import StateLayout
from andersonn_core.runcard import RunCard

METHODS = {
    "full": Anderson(),
    "sliding, damped": Anderson(restart="never", mixing=0.7),
    "one difference": Anderson(window=1),
    "no fallback": Anderson(window=8, regularization=1e-12, fallback=False),
    "forward": Picard(),
    "forward, damped": Picard(mixing=0.6),
    "no differences": Anderson(window=0),
    "slow directions": Anderson(restart="deflated"),
    "slow directions, damped": Anderson(restart="deflated", window=6, mixing=0.7),
    "one direction": Anderson(restart="deflated", window=2, kept=1, fallback=False),
    "two directions": Anderson(restart="deflated", window=3, kept=2),
    "all but one": Anderson(restart="deflated", window=6, kept=5),
    "no room for directions": Anderson(restart="deflated", window=1),
}


def on_device(f, z0, method, on_step=None, should_stop=None, **knobs):
    card = RunCard.capture({}, None, None, torch.device("cpu"))
    layout, driven = StateLayout.of(z0, 1), SolveKnobs(**knobs)
    return DeviceDriver(Task(f, z0, layout, method, driven, card, on_step, should_stop))


def task_for(f, z0, method=None, knobs=None, **rest):
    card = RunCard.capture({}, None, None, torch.device("cpu"))
    method, knobs = method or Anderson(), knobs or SolveKnobs()
    return Task(f, z0, StateLayout.of(z0, 1), method, knobs, card, **rest)


def problem(name, **knobs):
    built = PROBLEMS[name](dtype="float64", **knobs).build()
    return built.f, built.z0


MAPS = {
    "affine": affine,
    "tanh": tanh,
    "poisson": lambda: problem("poisson", size=16),
    "bratu": lambda: problem("bratu", size=12),
    "chandrasekhar": lambda: problem("chandrasekhar"),
    "broken": broken,
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("name", MAPS)
def test_iterates_counts_and_history_are_the_driver_s(name, method):
    knobs = {"rtol": 1e-7, "max_iter": 120}
    expected = solve(*MAPS[name](), method, **knobs)
    found = on_device(*MAPS[name](), method, **knobs).run()
    assert found.status.tolist() == expected.status.tolist()
    assert found.sample_evals.tolist() == expected.sample_evals.tolist()
    assert found.num_evals == expected.num_evals == len(found.history.residual)
    assert 0 <= found.diagnostics.pop("surplus_evals") <= LAG
    assert found.diagnostics == expected.diagnostics
    torch.testing.assert_close(found.z, expected.z, rtol=1e-6, atol=1e-8, equal_nan=True)
    for column in ("relative_residual", "residual", "depth", "mixing", "running", "event"):
        one, other = (getattr(each.history, column) for each in (found, expected))
        early = slice(0, 7)  # later, rounding has grown
        torch.testing.assert_close(
            one[early].double(), other[early].double(), rtol=1e-5, atol=0, equal_nan=True
        )
    torch.testing.assert_close(
        found.relative_residual, expected.relative_residual, rtol=0.2, atol=0, equal_nan=True
    )


def test_no_iteration_waits_for_the_device():
    f, z0 = tanh()
    driver = on_device(f, z0, Anderson(), rtol=0.0, max_iter=50)
    driver._go_on(1)
    with Operations() as seen:
        for evaluation in range(2, 10):
            driver._go_on(evaluation)
            driver.looks.begin(evaluation)
    assert seen.names and not seen.waiting


def test_steps_are_told_in_order_once_and_at_most_so_late():
    (f, z0), calls, told = affine(), [0], []

    def counted(z):
        calls[0] += 1
        return f(z)

    def listen(step):
        told.append(step.evaluation)
        assert calls[0] - step.evaluation <= LAG
        with pytest.raises(RuntimeError, match="under way"):
            step.z()

    result = on_device(counted, z0, Anderson(), listen, rtol=1e-9, max_iter=200).run()
    assert told == list(range(1, result.num_evals + 1))
    assert calls[0] == result.num_evals + result.diagnostics["surplus_evals"]


@pytest.mark.parametrize("allowed", [0, 1, 2, 3, 5, 8])
def test_a_cancelled_solve_returns_its_best_iterate(allowed):
    f, z0 = tanh()
    left = iter([False] * allowed + [True])
    result = on_device(f, z0, Anderson(), None, lambda: next(left), rtol=0.0).run()
    assert result.num_evals == allowed
    assert (result.status == Status.CANCELLED).all()
    if allowed:
        true = (f(result.z) - result.z).norm(dim=1) / f(result.z).norm(dim=1)
        torch.testing.assert_close(result.relative_residual, true)
        assert (true <= result.history.relative_residual.amin(0) * (1 + 1e-9)).all()


def test_an_exception_of_the_map_passes_with_what_is_known():
    (f, z0), calls = affine(), [0]

    def failing(z):
        calls[0] += 1
        if calls[0] == 6:
            raise ArithmeticError("six")
        return f(z)

    with pytest.raises(ArithmeticError, match="six") as caught:
        on_device(failing, z0, Anderson(), rtol=0.0).run()
    assert caught.value.partial_result.num_evals == 5


def test_samples_that_circle_go_on_with_plain_steps():
    (f, z0), knobs = stubborn(), {"rtol": 1e-5, "max_iter": 600}
    found = on_device(f, z0, Anderson(), **knobs).run()
    alone = on_device(f, z0, Anderson(fallback=False), **knobs).run()
    assert found.converged.all() and not alone.converged.all()
    assert found.diagnostics["fallbacks"] >= 1
    assert found.diagnostics["plain_steps"] >= 30


LAUNCHES, FOLDING = ("advance", "solve", "mix"), ("iterate_products", "directions", "fold")


class Launches(TorchKernels):
    """Kernels that count as one operation each, as the fused ones are."""

    def __init__(self, seen):
        self.seen = seen

    def __getattribute__(self, name):
        work = super().__getattribute__(name)
        if name not in LAUNCHES + FOLDING:
            return work

        def launch(*arguments):
            before = len(self.seen.names)
            work(*arguments)
            self.seen.names[before:] = [name]

        return launch


@pytest.mark.parametrize("fallback", [True, False])
@pytest.mark.parametrize("restart", ["full", "deflated"])
def test_an_iteration_takes_few_operations(restart, fallback, capsys):
    """All but the map's: launches, copies to the host, masks."""
    seen, calls = Operations(), []

    def f(z):
        before = len(seen.names)
        value = torch.tanh(z) + 1
        del seen.names[before:]
        calls.append(before)
        return value

    knobs = SolveKnobs(rtol=0.0, max_iter=60)
    task = task_for(f, torch.zeros(3, 40), Anderson(restart=restart, fallback=fallback), knobs)
    driver = DeviceDriver(task, Launches(seen))
    with seen:
        driver.run()
    views = "view", "select", "slice", "unsqueeze", "alias", "detach"  # no work for the device
    found = [
        [name for name in seen.names[first:last] if not name.startswith(views)]
        for first, last in zip(calls[4:-4], calls[5:-3], strict=True)
    ]
    with capsys.disabled():
        longest = max(found, key=len)
        print(f"\n{len(longest)} operations at most, {np.mean([*map(len, found)]):.1f} on average:",
              ", ".join(longest))  # fmt: skip
    launched = {*LAUNCHES, *(FOLDING if restart == "deflated" else ())}
    assert all(launched == {*LAUNCHES, *FOLDING} & set(each) for each in found)
    assert all(len(each) <= 12 for each in found)


def test_a_sample_without_progress_stalls_at_most_so_late():
    def answer(run):
        calls = [0]

        def wavering(z):  # sample 0 moves to and fro by 1 for ever, wherever it is
            calls[0] += 1
            return torch.stack((z[0] + (-1.0) ** calls[0], 0.5 * z[1] + 1))

        z0 = torch.full((2, 3), 10.0, dtype=torch.float64)
        return run(wavering, z0, Anderson(window=1, fallback=False), rtol=1e-9, max_iter=200)

    expected = answer(solve)
    found = answer(lambda *given, **knobs: on_device(*given, **knobs).run())
    assert expected.status.tolist() == [Status.STALLED, Status.CONVERGED]
    assert found.status.tolist() == expected.status.tolist()
    late = found.sample_evals - expected.sample_evals
    assert 0 <= late[0] <= LAG and late[1] == 0
    torch.testing.assert_close(found.z, expected.z)


def test_half_states_are_stepped_in_float32():
    f, z0 = affine()
    half = z0.to(torch.bfloat16)
    result = on_device(lambda z: f(z.double()).to(z.dtype), half, Anderson(), rtol=0.02).run()
    assert result.z.dtype is torch.bfloat16 and result.converged.all()


def test_what_needs_the_host_is_said(monkeypatch):
    def why(method=None, knobs=None, **rest):
        return obstacle(task_for(None, torch.zeros(2, 9), method, knobs, **rest)).lower()

    assert why() == why(Picard()) == why(knobs=SolveKnobs(profile=True)) == ""
    assert why(Anderson(restart="deflated")) == ""
    for method, word in (
        (Broyden(), "broyden"), (Anderson(window="auto"), "'auto'"),
        (Anderson(restart="auto"), "restart"), (Anderson(mixing="auto"), "'auto'"),
        (Anderson(period=2), "period = 2"), (Anderson(max_growth=2.0), "max_growth"),
    ):  # fmt: skip
        assert word in why(method)
    assert "compact" in why(knobs=SolveKnobs(compact=True))
    assert "gradient" in why(lasting=True) and "ranks" in why(shards="some")
    assert why(on_step=print) == "" and "iterates" in why(on_step=KeptIterates((1,)))
    assert "iterates" in why(on_step=reading_iterates(lambda step: step.z()))
    monkeypatch.setattr(driver, "kernels_for", lambda *shape: Choice(None, f"not of {shape[2:]}"))
    assert why(Anderson(restart="deflated", window=4)) == "not of (4, 2)"


NARROW = Anderson(history="bfloat16")


def test_a_history_in_bfloat16_converges_nearly_as_fast_to_a_true_residual():
    built = PROBLEMS["bratu"](size=16, batch_size=3).build()
    knobs = {"rtol": 1e-5, "max_iter": 300}
    f, z0 = built.f, built.z0
    assert z0.dtype is torch.float32
    driver = on_device(f, z0, NARROW, **knobs)
    found, exact = driver.run(), on_device(f, z0, Anderson(), **knobs).run()
    assert driver.state.dg.dtype is torch.bfloat16
    assert found.converged.all() and found.num_evals <= 1.25 * exact.num_evals
    residual = (f(found.z) - found.z).flatten(1).norm(dim=1) / f(found.z).flatten(1).norm(dim=1)
    torch.testing.assert_close(found.relative_residual.float(), residual, rtol=1e-3, atol=0)
    assert found.diagnostics["history_overflows"] == 0


def test_a_history_that_overflows_is_counted_and_goes_on_in_float32():
    """||dg||_max = 1.5 * 2.265e38 is a float32 but no bfloat16."""
    offset = torch.tensor([[1.0], [2.265e38]]).expand(2, 6)
    driver = on_device(lambda z: -0.5 * z + offset, torch.zeros(2, 6), NARROW, rtol=1e-6)
    result = driver.run()
    assert result.converged.all() and driver.state.dg.dtype is torch.float32
    torch.testing.assert_close(result.z, offset / 1.5)
    assert 1 <= result.diagnostics["history_overflows"] <= LAG
    assert (result.history.event[:, 0] & int(Event.OVERFLOW) == 0).all()
    assert "evaluation 2 was too large for a history in bfloat16" in result.notes[-1]
    wide = on_device(*affine(), NARROW)
    assert wide.state.dg.dtype is torch.float64 and "kept in float64" in wide.notes[-1]
    result = solve(*affine(), NARROW)
    assert result.notes[0].startswith("the history is kept in the state's type, not in bfloat16")


def test_a_profiled_solve_tells_the_kernels_apart():
    f, z0 = affine()
    history = on_device(f, z0, Anderson(), rtol=1e-9, profile=True).run().history
    parts = history.part_seconds
    assert list(parts) == ["gram", "solve", "mix", "bookkeeping"]
    assert all((seconds >= 0).all() and seconds.sum() > 0 for seconds in parts.values())
    torch.testing.assert_close(sum(parts.values()), history.method_seconds)


def test_an_empty_batch_is_solved_at_once():
    result = on_device(lambda z: z, torch.zeros(0, 3), Anderson()).run()
    assert result.num_evals == 0 and result.z.shape == (0, 3)
    assert not np.any(result.status.numpy())


@pytest.mark.parametrize("driver", ["host", "device"])
def test_a_device_that_is_lost_in_the_middle_is_what_the_error_says(driver):
    """After such an error every call fails: there is no partial result, and a note says so."""
    f, z0 = affine()
    calls, lost = [0], "CUDA error: unspecified launch failure"

    def failing(z):
        calls[0] += 1
        if calls[0] >= 5:
            raise RuntimeError(lost)
        return f(z)

    made = on_device(failing, z0, Anderson(), rtol=0.0) if driver == "device" else None
    task = task_for(failing, z0, Anderson(), SolveKnobs(rtol=0.0))
    made = made or Driver(task)

    def unpack(rows):
        raise RuntimeError("CUDA error: device not ready")

    object.__setattr__(made.layout, "unpack", unpack)
    with pytest.raises(RuntimeError, match="unspecified launch failure") as caught:
        made.run()
    assert not hasattr(caught.value, "partial_result")
    assert caught.value.__notes__ == [
        "There is no partial result: RuntimeError: CUDA error: device not ready"
    ]
    assert solve(f, z0).converged.all()  # another solve is not concerned
