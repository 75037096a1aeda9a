"""A state over 1, 2 and 4 gloo ranks against the same solve by one process with the whole state."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import shard_cases
import torch
import torch.distributed as dist
from shard_cases import BATCH, CASES, CUTS

from andersonn_core import IDR, Anderson, Auto, Broyden, KnobError, ShortRecurrence, solve
from andersonn_core.kernels import rows_for
from andersonn_core.results import Event, Status
from andersonn_core.sharding import Shards

HERE = Path(__file__).resolve().parent
# What is not finite, or squares to zero in float64, takes another number or two, a mixing that
# changes two; restart="auto" looks at windows that are full, stopped samples' too.
MORE = ("broken", "tiny", "auto", "auto window and mixing", "auto on an affine map")
DEFLATED = [
    name for name, case in CASES.items()
    if getattr(case.method, "restart", "full") == "deflated"
]  # fmt: skip
ranks = pytest.mark.parametrize("ranks", CUTS)
cases = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the ranks of all groups left what they found and were told."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(HERE / "shard_cases.py"), str(folder)],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def whole():
    return {name: shard_cases.found(case) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def sharded(folder):
    return {
        ranks: [torch.load(folder / f"{rank}-of-{ranks}.pt") for rank in range(ranks)]
        for ranks in CUTS
    }


def joined(parts):
    return torch.cat(parts, dim=1)


def size(values):  # (B, R, C) -> (B,)
    return values.abs().amax((1, 2))


@pytest.mark.slow
@ranks
@cases
def test_the_ranks_take_the_steps_of_one_process(ranks, name, sharded, whole):
    parts, one = [found[name] for found in sharded[ranks]], whole[name]
    for part in parts:
        assert part["num_evals"] == one["num_evals"]
        for what in ("sample_evals", "status", "event"):
            assert torch.equal(part[what], one[what]), what
        # all ranks decide from the same bits
        for what in ("residual", "error_estimate"):
            assert torch.equal(part[what].nan_to_num(-1), parts[0][what].nan_to_num(-1))
    rounding = 1e-4 if CASES[name].dtype == torch.float32 else 1e-9
    for point, own in zip(
        one["seen"], zip(*(part["seen"] for part in parts), strict=True), strict=True
    ):
        assert (size(joined(own) - point) <= rounding * size(point)).all()
    answer = joined([part["z"] for part in parts])
    close = max(CASES[name].knobs.get("rtol", 0), rounding)
    fine = one["status"] == Status.CONVERGED
    assert (size(answer - one["z"])[fine] <= 100 * close * size(one["z"])[fine]).all()


def sent(found):
    """The numbers a sample of each all-reduce, evaluation by evaluation, but the solve's end."""
    return [[numbers / BATCH for numbers in calls] for calls in found["sent"][:-1]]


@pytest.mark.slow
@ranks
@cases
def test_a_step_sends_2m_plus_2_numbers_a_sample_at_once(ranks, name, sharded, capsys):
    found, method = sharded[ranks][0][name], CASES[name].method
    most, calls = 2 * method.largest_window + 2, sent(found)
    numbers = np.array([sum(row) for row in calls])
    with capsys.disabled():
        print(
            f"\n{ranks} ranks, {name}: at most {8 * numbers.max():.0f} bytes a sample and step, "
            f"{8 * numbers.mean():.1f} on average, all-reduces: {max(map(len, calls))} or fewer; "
            f"16 (m + 1) = {8 * most}",
            end="",
        )
    if name in MORE:
        assert max(map(len, calls)) <= 5
    elif name not in DEFLATED:
        assert [len(row) for row in calls] == [1] * len(calls) and (numbers <= most).all()


@pytest.mark.slow
@ranks
@pytest.mark.parametrize("name", DEFLATED)
def test_a_deflated_restart_sends_one_small_message_more(ranks, name, sharded, capsys):
    """The triangle of m x m products goes with the norms, where a step's rows don't go yet."""
    found, method = sharded[ranks][0][name], CASES[name].method
    calls, restarted = sent(found), (found["event"] & Event.RESTART).any(1).tolist()
    step, residuals = 2 * method.window + 2, method.least_squares == "residuals"
    slots = method.window + residuals
    small = slots * (slots + 1) // 2 + (slots + 2 if residuals else 2)
    restarts = [row for row, is_restart in zip(calls, restarted, strict=True) if is_restart]
    with capsys.disabled():
        print(f"\n{ranks} ranks, {name}: bytes at restarts {np.array(restarts[0]) * 8}", end="")
    assert len(restarts) > 5
    assert all(row[0] == small and row[1] <= step and len(row) == 2 for row in restarts)
    *steps, last = [row for row, is_restart in zip(calls, restarted, strict=True) if not is_restart]
    assert all(len(row) == 1 and row[0] <= step for row in steps)
    assert len(last) == 1 and last[0] <= small  # converged where a restart would have come


@pytest.mark.slow
def test_what_ranks_are_told_about_bad_calls(folder):
    told, failed = zip(*(torch.load(folder / f"said-{rank}.pt") for rank in (0, 1)), strict=True)
    batch, dtype, knobs, nan = zip(*told, strict=True)
    assert all("batch sizes differ (3, 2)" in text for text in batch)
    assert all("dtypes differ (torch.float64, torch.float32)" in text for text in dtype)
    assert all("methods or knobs differ" in text for text in knobs)
    assert "rank 1 was refused: z0 holds NaN" in nan[0] and nan[1].startswith("z0 holds NaN")
    assert failed[1] == "RuntimeError: lost" and "RuntimeError" in failed[0]


def test_sums_that_may_wait_go_with_the_next_message(alone, monkeypatch):
    wire = shard_cases.Wire()
    monkeypatch.setattr(dist, "all_reduce", wire)
    rows = rows_for(torch.zeros(2, 3), Shards(alone, (), 0))
    first, second = rows.later(lambda: np.eye(2)), rows.later(lambda: np.ones(3))
    assert wire.sent == [[]]
    assert rows.total(np.array([5.0])).tolist() == [5.0]
    assert wire.sent == [[1 + 4 + 3]]
    assert first().tolist() == np.eye(2).tolist() and second().tolist() == [1, 1, 1]
    third = rows.later(lambda: np.zeros((1, 2)))  # asked for before anything else is sent
    assert third().shape == third().shape == (1, 2)
    assert wire.sent == [[8, 2]]


# refused before any communication


def test_a_group_needs_an_initialized_torch_distributed():
    with pytest.raises(KnobError, match="init_process_group"):
        solve(torch.cos, torch.zeros(1, 3), group=object())


@pytest.fixture
def alone(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/s", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_what_is_no_group_or_cannot_be_sharded_is_refused(alone):
    with pytest.raises(KnobError, match="is no process group"):
        solve(torch.cos, torch.zeros(1, 3), group="world")
    for method in (Auto(), Broyden(), IDR(), ShortRecurrence(), Anderson(least_squares="qr")):
        with pytest.raises(KnobError, match="use "):
            solve(torch.cos, torch.zeros(1, 3), method, group=alone)
    for knobs in ({"compact": True}, {"should_stop": lambda: False}):
        with pytest.raises(KnobError, match=next(iter(knobs))):
            solve(torch.cos, torch.zeros(1, 3), group=alone, **knobs)


def test_every_form_of_a_state_can_be_sharded(alone):
    for start in (torch.zeros(2, 3), {"a": torch.zeros(2, 3), "b": torch.zeros(2, 1, 2)}):
        f = torch.cos if isinstance(start, torch.Tensor) else lambda z: {k: z[k].cos() for k in z}
        result = solve(f, start, group=alone)
        assert bool(result.converged.all()) and result.card.spec["ranks"] == 1
    nothing = solve(torch.cos, torch.zeros(2, 0), group=alone)
    assert nothing.z.shape == (2, 0) and nothing.num_evals == 1


# the README's example


@pytest.mark.slow
def test_the_example_of_the_readme_runs_on_two_processes(tmp_path):
    readme = (HERE.parent / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S)
    file = tmp_path / "poisson.py"
    file.write_text(next(block for block in blocks if "init_process_group" in block))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        str(file),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.split("\n"))[1:]
    assert [line.split()[:2] for line in lines] == [["rank", "0:"], ["rank", "1:"]]
    assert lines[0].split(":")[1] == lines[1].split(":")[1]
