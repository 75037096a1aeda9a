"""Dask and SLURM: who may join, what is refused, what SLURM is handed."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest
import torch
from distributed import Client

from andersonn_core import KnobError, Sweep
from andersonn_core.runcard import code_version
from andersonn_core.store import Store
from andersonn_core.sweeps import trial as trial_module
from andersonn_core.sweeps.engines import EngineError, Slurm, dask
from andersonn_core.sweeps.trial import CodeVersionError
from tests.kill_cases import ENVIRONMENT, PATIENCE, ROOT, scheduler, until, workers
from tests.sweep_cases import QUICK, numbers, quick_sweep, quietly


@pytest.fixture
def without_us(tmp_path):
    """The environment of a program that can't import the package, wherever it is installed."""
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "andersonn_core.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'andersonn_core'\")\n"
    )
    return ENVIRONMENT | {"PYTHONPATH": str(tmp_path / "nothing")}


@pytest.mark.slow
def test_an_address_and_a_client_give_the_rows_of_this_process(tmp_path, dask_cluster):
    here = numbers(quietly(quick_sweep(), tmp_path / "here.sqlite"))
    by_address = quietly(quick_sweep(), tmp_path / "a.sqlite", dask_cluster)
    assert numbers(by_address).equals(here)
    with Client(dask_cluster, set_as_default=False) as client:
        by_client = quietly(quick_sweep(), tmp_path / "c.sqlite", client)
        assert numbers(by_client).equals(here)
        assert client.submit(sum, [1, 2]).result() == 3  # it stays its owner's


@pytest.fixture(scope="module")
def bare_scheduler(tmp_path_factory):
    """A scheduler without workers."""
    with scheduler(tmp_path_factory.mktemp("scheduler")) as (address, _):
        yield address


def test_a_scheduler_that_nobody_started_is_told_soon_and_nothing_is_written(tmp_path):
    start = time.monotonic()
    with pytest.raises(KnobError, match="no scheduler answers there within 10 s.*dask scheduler"):
        quietly(quick_sweep(), tmp_path / "s.sqlite", "tcp://127.0.0.1:1")
    assert time.monotonic() - start < 20 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["tcp://", "tcp://127.0.0.1:nine", "tls://127.0.0.1:1"])
def test_an_address_that_is_none_is_told(address, tmp_path, monkeypatch):
    monkeypatch.setattr(dask, "REACHED", 1.0)
    with pytest.raises(KnobError, match="no scheduler answers"):
        quietly(quick_sweep(), tmp_path / "s.sqlite", address)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_scheduler_without_workers_is_told(tmp_path, bare_scheduler, monkeypatch):
    monkeypatch.setattr(dask, "FIRST_WORKER", 1.0)
    with pytest.raises(EngineError, match="no worker.*dask worker"):
        quietly(quick_sweep(), tmp_path / "s.sqlite", bare_scheduler)


@pytest.mark.slow
def test_a_worker_without_the_package_is_told(tmp_path, bare_scheduler, without_us):
    with workers(bare_scheduler, tmp_path, environment=without_us):
        with pytest.raises(EngineError, match="can't import.*No module named 'andersonn_core'"):
            quietly(quick_sweep(), tmp_path / "s.sqlite", bare_scheduler)


@pytest.mark.slow
def test_a_scheduler_without_the_package_is_told(tmp_path, without_us):
    with scheduler(tmp_path, environment=without_us) as (address, _), workers(address, tmp_path):
        with pytest.raises(EngineError, match="scheduler or a worker can't import"):
            quietly(quick_sweep(), tmp_path / "s.sqlite", address)
    with Store(tmp_path / "s.sqlite") as store:
        assert len(store.members(1)) == 0


@pytest.fixture
def other_code(tmp_path):
    """The environment of a program that has other sources of the package."""
    shutil.copytree(ROOT / "andersonn_core", tmp_path / "other" / "andersonn_core")
    with (tmp_path / "other" / "andersonn_core" / "solve.py").open("a") as file:
        file.write("# newer\n")
    return ENVIRONMENT | {"PYTHONPATH": str(tmp_path / "other")}


@pytest.mark.slow
def test_a_worker_with_other_code_is_refused_also_where_it_joins_later(
    tmp_path, bare_scheduler, other_code
):
    endless = Sweep(QUICK, {}, repeats=10_000)
    store, joined = tmp_path / "s.sqlite", []
    words = f"runs anderson-lab .*, the driver {re.escape(code_version())}: install the same"

    with workers(bare_scheduler, tmp_path, name="good"):

        def tell(now):
            if now.done and not joined:
                joined.append(workers(bare_scheduler, tmp_path, other_code, name="other"))
                joined[0].__enter__()

        with pytest.raises(CodeVersionError, match=words):
            endless.run(bare_scheduler, store, progress=tell)
        with Store(store) as opened:
            rows = opened.members(1)
        assert 0 < len(rows) < 10_000 and set(rows["code"]) == {code_version()}
        assert set(rows["status"]) == {"CONVERGED"}

        with pytest.raises(CodeVersionError, match=words):  # now before any trial
            quietly(quick_sweep(), tmp_path / "t.sqlite", bare_scheduler)
        with Store(tmp_path / "t.sqlite") as opened:
            assert len(opened.sweeps()) == 0
        joined[0].__exit__(None, None, None)


# -- SLURM ----------------------------------------------------------------------------------------

SCRIPT = """\
#!/usr/bin/env bash

#SBATCH -J dask-worker
#SBATCH -p gpu
#SBATCH -A me
#SBATCH -n 1
#SBATCH --cpus-per-task=2
#SBATCH --mem=3G
#SBATCH -t 00:30:00
#SBATCH --gres=gpu:1
export OMP_NUM_THREADS=1
module load python
source env/bin/activate
python3 -m distributed.cli.dask_worker ADDRESS --name dummy-name --nthreads 1 \
--memory-limit 2.79GiB --nanny --death-timeout 60
"""


def test_the_job_script_says_what_the_knobs_say():
    slurm = Slurm(
        jobs=3, cores=2, memory="3GB", walltime="00:30:00", queue="gpu", account="me", gpus=1,
        setup="module load python\nsource env/bin/activate", python="python3",
    )  # fmt: skip
    script = re.sub(r"tcp://[\d.:]+", "ADDRESS", slurm.job_script())
    assert script.strip() == SCRIPT.strip()
    plain = Slurm().job_script()
    assert "--gres" not in plain and "-p " not in plain and "-A " not in plain
    assert f"{sys.executable} -m distributed.cli.dask_worker" in plain


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"jobs": 0}, "jobs = 0"),
        ({"cores": "two"}, "cores = 'two'"),
        ({"memory": "lots"}, "memory = 'lots' is not understood: write it like 4GB"),
        ({"memory": ""}, "memory = ''"),
        ({"walltime": "an hour"}, "walltime = 'an hour' is not understood"),
        ({"walltime": "1:2:3:4"}, "walltime"),
        ({"queue": "gpu\n#SBATCH --uid=0"}, "queue"),
        ({"account": ""}, "account"),
        ({"gpus": -1}, "gpus = -1"),
        ({"partition": "gpu"}, "partition"),
    ],
)
def test_jobs_that_slurm_would_not_take_are_refused(knobs, words):
    with pytest.raises(KnobError) as caught:
        Slurm.from_dict(knobs)
    assert words in str(caught.value)


@pytest.mark.parametrize("walltime", ["90", "30:00", "01:00:00", "2-12:00", "2-12:00:00"])
def test_times_as_slurm_writes_them(walltime):
    assert Slurm(walltime=walltime).walltime == walltime


def test_without_slurm_a_sweep_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KnobError, match="no sbatch on this machine"):
        quietly(quick_sweep(), tmp_path / "s.sqlite", Slurm())
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A cluster of this machine: sbatch starts a copy of the script, scancel ends it.

    A copy, as SLURM's own does: the file is removed when sbatch has answered.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    commands = {
        "sbatch": f"cp $1 {folder}/job.sh\n"
        f"setsid bash {folder}/job.sh > {folder}/log 2>&1 & echo $! >> {folder}/jobs\n"
        "echo Submitted batch job $!",
        "scancel": f"echo $1 >> {folder}/cancelled; kill -- -$1",
    }
    for name, lines in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{lines}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


@pytest.mark.slow
def test_a_sweep_by_slurm_asks_for_its_jobs_and_ends_them(tmp_path, slurm, monkeypatch):
    monkeypatch.setattr(dask, "FIRST_WORKER", 120.0)  # a job that never starts is a failure here
    frame = quietly(quick_sweep(), tmp_path / "s.sqlite", Slurm(jobs=1))
    assert numbers(frame).equals(numbers(quietly(quick_sweep(), tmp_path / "here.sqlite")))
    jobs = (slurm / "jobs").read_text().split()
    assert len(jobs) == 1
    until(lambda: not os.path.exists(f"/proc/{jobs[0]}") or cancelled(slurm, jobs[0]), "its end")


def cancelled(folder, job: str) -> bool:
    return (folder / "cancelled").exists() and job in (folder / "cancelled").read_text().split()


# -- GPUs -----------------------------------------------------------------------------------------

TAKE_TURNS = """
import sys, time
from pathlib import Path
import torch
from andersonn_core.sweeps import trial
trial.device_name = lambda device: f"pretended {device.type} {sys.argv[2]}"
log = open(sys.argv[1], "a", buffering=1)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(5):
    with trial._alone_on(torch.device("cuda", 0)):
        log.write("in\\n")
        time.sleep(0.02)
        log.write("out\\n")
"""


def test_a_gpu_runs_one_trial_at_a_time_whatever_processes_want_it(tmp_path):
    log, device = tmp_path / "log", tmp_path.name
    command = [sys.executable, "-c", TAKE_TURNS, log, device]
    both = [subprocess.Popen(command, env=ENVIRONMENT, text=True, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE) for _ in range(2)]  # fmt: skip
    for each in both:
        assert each.stdout.readline() == "ready\n"
    for each in both:
        each.stdin.write("go\n")
        each.stdin.flush()
    assert [each.wait(PATIENCE) for each in both] == [0, 0]
    for each in both:
        each.stdin.close()
        each.stdout.close()
    assert log.read_text().split() == ["in", "out"] * 10


def test_a_lock_that_another_user_made_can_be_taken(tmp_path):
    path = tmp_path / "lock"
    path.touch(0o444)
    with trial_module.locked(path):
        pass


def test_the_cpu_needs_no_lock(monkeypatch):
    monkeypatch.setattr(trial_module, "locked", None)
    with trial_module._alone_on(torch.device("cpu")):
        pass
