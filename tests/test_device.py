"""The step that stays on the device: the same iterates as the host's, and no value read by it."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from device_cases import Operations, drive, maps, rules_for

from andersonn_core import Anderson, solve
from andersonn_core.device import (
    LARGEST_WINDOW,
    NUMBERS,
    DeviceState,
    Rules,
    TorchKernels,
    interface,
    kernels_for,
)

RULES = Rules(window=3, ridge=1e-6, precision=1e-7, rtol=1e-3, max_iter=9)


@pytest.mark.parametrize("name", maps)
@pytest.mark.parametrize("restart", ["full", "never", "deflated"])
@pytest.mark.parametrize(("window", "mixing"), [(1, 1.0), (4, 1.0), (5, 0.7)])
def test_a_solve_on_the_device_is_the_hosts(name, restart, window, mixing):
    f, z0 = maps[name]()
    method = Anderson(window=window, mixing=mixing, restart=restart, fallback=False)
    knobs = {"rtol": 1e-9, "max_iter": 60}
    with np.errstate(all="ignore"):
        expected = solve(f, z0, method, **knobs)
    rules = rules_for(z0, method, **knobs)
    found = drive(TorchKernels(), *maps[name](), rules)
    history, records = expected.history, found.state.records
    length = len(history.residual)
    assert found.state.status.tolist() == expected.status.tolist()
    assert found.state.evals.tolist() == expected.sample_evals.tolist()
    early = slice(0, 12)  # rounding of 1e-16 grows with the iteration
    # After a deflated restart the host factors the columns in another order: other pivots.
    columns = "relative_residual", "gain", "weight_norm", "depth", "condition"
    for column in columns[: 4 if restart == "deflated" and window > 1 else 5]:
        ours, theirs = records[column][:length][early], getattr(history, column)[early]
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7, equal_nan=True)
    assert records.event[:length][early].equal(history.event[early])
    torch.testing.assert_close(found.answer, expected.z, rtol=1e-6, atol=1e-9)


def test_a_history_in_bfloat16_reaches_the_tolerance_of_float32_states():
    f, z0 = maps["affine"]()
    exact = drive(TorchKernels(), f, z0, replace(RULES, rtol=1e-13, max_iter=300)).answer
    narrow, rules = z0.float(), replace(RULES, rtol=1e-6, max_iter=300)
    found = drive(TorchKernels(), lambda z: f(z.double()).float(), narrow, rules, torch.bfloat16)
    assert found.state.dg.dtype is torch.bfloat16 and not found.state.status.any()
    assert ((found.answer - exact).norm(dim=1) / exact.norm(dim=1)).max() < 1e-4


def test_the_host_reads_no_value_but_whether_an_eigenproblem_converged():
    """Of restarts that keep directions: on a GPU these kernels don't get them."""
    f, z0 = maps["affine"]()
    method = Anderson(window=3, restart="deflated")
    with Operations() as seen:
        drive(TorchKernels(), f, z0, rules_for(z0, method, rtol=1e-9, max_iter=12))
    assert set(seen.waiting) == {"_linalg_eigh.default"}


def test_the_host_reads_no_value():
    f, z0 = maps["affine"]()
    rules = rules_for(z0, Anderson(window=3), rtol=1e-9, max_iter=12)
    with Operations() as seen:
        drive(TorchKernels(), f, z0, rules)
    assert len(seen.names) > 100 and not seen.waiting
    with Operations() as seen:  # the watch itself
        assert bool(z0.sum() == 0) and z0.nonzero().numel() == 0
    assert seen.waiting == ["_local_scalar_dense.default", "nonzero.default"]


@pytest.mark.parametrize("restart", ["full", "never", "deflated"])
def test_no_shape_and_no_branch_depends_on_a_value(restart):
    """Tensors of the device `meta` have no values: whatever needs one raises."""
    z = torch.empty(4, 9, device="meta")
    rules = rules_for(z, Anderson(window=3, restart=restart), **SHORT)
    found = drive(TorchKernels(), torch.tanh, z, rules, torch.bfloat16)
    assert found.answer.shape == z.shape
    with pytest.raises(RuntimeError, match="on meta tensors"):
        bool(found.state.status[0] == 0)


SHORT = {"rtol": 1e-3, "max_iter": 6}


def test_a_short_record_is_written_round_and_round():
    f, z0 = maps["affine"]()
    rules = rules_for(z0, Anderson(window=3), rtol=0.0, max_iter=7)
    states = []
    for rows in (7, 3):
        state = DeviceState.of(z0, rules, 1, rows)
        states.append(drive(TorchKernels(), f, z0, rules, state=state).state)
    whole, short = (state.records for state in states)
    for row, evaluation in enumerate((6, 4, 5)):
        assert torch.equal(
            short.numbers[:, row].nan_to_num(), whole.numbers[:, evaluation].nan_to_num()
        )
    assert whole["relative_residual"].shape == (7, len(z0)) and len(NUMBERS) == 6


@pytest.mark.parametrize(
    ("z", "rules", "rows", "ring", "message"),
    [
        (torch.zeros(2, 5), {"window": 6}, 9, None, "window = 6"),
        (torch.zeros(2, 5), {"window": -1}, 9, None, "window = -1"),
        (torch.zeros(2, 5), {"kept": 3}, 9, None, "kept = 3 is out of range: from 1 to .* = 2"),
        (torch.zeros(2, 5), {"kept": 1, "sliding": True}, 9, None, "kept = 1 .* that restart"),
        (torch.zeros(2, 5), {}, 0, None, "rows = 0"),
        (torch.zeros(2, 5), {}, 9, torch.float16, "history of torch.float16"),
        (torch.zeros(2, 5).double(), {}, 9, torch.bfloat16, "history of torch.bfloat16"),
        (torch.zeros(2, 5).half(), {}, 9, None, "states of torch.float16"),
    ],
)
def test_what_the_kernels_cannot_do_is_refused_before_any_work(z, rules, rows, ring, message):
    with pytest.raises(ValueError, match=message):
        DeviceState.of(z, replace(RULES, **rules), 1, rows, ring)


def test_who_does_the_work_is_said_with_a_reason(monkeypatch):
    cpu, cuda, mps = map(torch.device, ("cpu", "cuda", "mps"))
    assert isinstance(kernels_for(cpu, torch.float64, 5).kernels, TorchKernels)
    without = kernels_for(mps, torch.float32, 5)
    assert without.kernels is None and "mps has no float64" in without.reason
    assert kernels_for(cuda, torch.float16, 5).kernels is None
    wide = kernels_for(cuda, torch.float32, LARGEST_WINDOW + 1)
    assert isinstance(wide.kernels, TorchKernels) and "window = 32" in wide.reason
    monkeypatch.setattr(interface, "find_spec", lambda name: None)
    bare = kernels_for(cuda, torch.float32, 5)
    assert isinstance(bare.kernels, TorchKernels) and "triton is not installed" in bare.reason
    assert isinstance(kernels_for(cpu, torch.float32, 5, 2).kernels, TorchKernels)
    for window, word in ((5, "triton is not installed"), (LARGEST_WINDOW + 1, "window = 32")):
        deflated = kernels_for(cuda, torch.float32, window, 2)
        assert deflated.kernels is None and "deflated" in deflated.reason
        assert word in deflated.reason


def test_the_package_leaves_triton_alone():
    assert "andersonn_core.device.triton_kernels" not in sys.modules
