"""The step that stays on the device: the same iterates as the host's, and no value read by it."""

import numpy as np
import pytest
import torch
from device_cases import drive, maps, rules_for

from andersonn_core import Anderson, solve
from andersonn_core.device import TorchKernels

SEEDS = [0, 1, 2]


@pytest.mark.parametrize("name", maps)
@pytest.mark.parametrize("restart", ["full", "never"])
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
    for column in ("relative_residual", "gain", "weight_norm", "condition", "depth"):
        ours, theirs = records[column][:length][early], getattr(history, column)[early]
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7, equal_nan=True)
    assert records.event[:length][early].equal(history.event[early])
    torch.testing.assert_close(found.answer, expected.z, rtol=1e-6, atol=1e-9)
