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
from andersonn_core.results import Event, Status

HERE = Path(__file__).resolve().parent
# What is not finite, or squares to zero in float64, takes another number or two, a mixing that
# changes two; restart="auto" looks at windows that are full, stopped samples' too.
MORE = ("broken", "tiny", "auto", "auto window and mixing", "auto on an affine map")
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


@pytest.mark.slow
@ranks
@cases
def test_a_step_sends_2m_plus_2_numbers_a_sample_at_once(ranks, name, sharded, capsys):
    found, method = sharded[ranks][0][name], CASES[name].method
    most = 2 * method.largest_window + 2
    numbers, calls = np.array(found["numbers"][:-1]) / BATCH, np.array(found["calls"][:-1])
    with capsys.disabled():
        print(
            f"\n{ranks} ranks, {name}: at most {8 * numbers.max():.0f} bytes a sample and step, "
            f"{8 * numbers.mean():.1f} on average; 16 (m + 1) = {8 * most}",
            end="",
        )
    assert (calls <= 6).all()
    if name not in MORE:
        folds = int(Event.RESTART) if getattr(method, "restart", "full") == "deflated" else 0
        usual = np.array([not (row & folds).any() for row in found["event"].numpy()])
        assert (numbers[usual] <= most).all() and (calls[usual] == 1).all()


@pytest.mark.slow
def test_what_ranks_are_told_about_bad_calls(folder):
    told, failed = zip(*(torch.load(folder / f"said-{rank}.pt") for rank in (0, 1)), strict=True)
    batch, dtype, knobs, nan = zip(*told, strict=True)
    assert all("batch sizes differ (3, 2)" in text for text in batch)
    assert all("dtypes differ (torch.float64, torch.float32)" in text for text in dtype)
    assert all("methods or knobs differ" in text for text in knobs)
    assert "rank 1 was refused: z0 holds NaN" in nan[0] and nan[1].startswith("z0 holds NaN")
    assert failed[1] == "RuntimeError: lost" and "RuntimeError" in failed[0]


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
