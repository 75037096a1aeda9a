"""Trials as jobs of a SLURM cluster, which dask-jobqueue starts and ends."""

from __future__ import annotations

import re
import shutil
from typing import Any, ClassVar, Self

from pydantic import model_validator

from andersonn_core.specs import KnobError, Spec, knob
from andersonn_core.sweeps.engines.base import Engine

# What SLURM takes, so that a mistake is told now, and not by sbatch, or by a job that never starts.
NAME = (r"[\w.,:@/+-]+", "gpu")
TEXTS = {
    "memory": (r"\d+(\.\d+)? ?[KMGT]i?B", "4GB"),
    "walltime": (r"(\d+-)?\d{1,2}:\d{2}(:\d{2})?|\d+", "01:30:00, or 2-12:00 for 2.5 days"),
    "queue": NAME,
    "account": NAME,
}


class Slurm(Spec):
    """Jobs that each start one worker; `job_script()` is what SLURM is handed."""

    title: ClassVar[str] = "Slurm"

    jobs: int = knob(4, "Jobs that run at once.", minimum=1, maximum=10_000, typical=(1, 64))
    cores: int = knob(
        1, "Cores of a job; its worker runs one trial at a time on one torch thread.",
        minimum=1, maximum=1024, typical=(1, 8),
    )  # fmt: skip
    memory: str = knob("4GB", "Memory of a job.")
    walltime: str = knob("01:00:00", "Time after which SLURM ends a job.")
    queue: str | None = knob(None, "Partition; None: the cluster's own choice.", none="default")
    account: str | None = knob(None, "Account that pays; None: the user's own.", none="default")
    gpus: int = knob(0, "GPUs of a job.", minimum=0, maximum=16, typical=(0, 1))
    setup: str = knob("", "Shell commands that come first, such as those that load Python.")
    python: str | None = knob(
        None, "Python of the workers; None: this one, by its path.", none="this one"
    )

    @model_validator(mode="after")
    def _check_texts(self) -> Self:
        for name, (pattern, example) in TEXTS.items():
            value = getattr(self, name)
            if value is not None and not re.fullmatch(pattern, value):
                raise ValueError(f"{name} = {value!r} is not understood: write it like {example}.")
        return self

    def cluster(self) -> Any:
        """A dask_jobqueue.SLURMCluster without jobs yet."""
        from dask_jobqueue.slurm import SLURMCluster

        return SLURMCluster(
            cores=1, processes=1, job_cpu=self.cores, memory=self.memory, walltime=self.walltime,
            queue=self.queue, account=self.account,
            job_extra_directives=[f"--gres=gpu:{self.gpus}"] if self.gpus else [],
            job_script_prologue=["export OMP_NUM_THREADS=1", *self.setup.splitlines()],
            scheduler_options={"dashboard_address": ":0"},  # the usual port may be taken
            **({} if self.python is None else {"python": self.python}),
        )  # fmt: skip

    def job_script(self) -> str:
        """The script of one job, as SLURM's sbatch gets it."""
        cluster = self.cluster()
        try:
            return str(cluster.job_script())
        finally:
            cluster.close()

    def engine(self) -> Engine:
        """An engine on the jobs, which are asked for with its first use and ended with it."""
        from andersonn_core.sweeps.engines.dask import Dask

        if not shutil.which("sbatch"):
            raise KnobError(
                "executor = Slurm(...): there is no sbatch on this machine. Run it where SLURM "
                "takes jobs, such as the cluster's login node."
            )
        return Dask(self.cluster(), jobs=self.jobs)
