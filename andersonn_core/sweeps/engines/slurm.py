"""Trials as jobs of a SLURM cluster, which dask-jobqueue starts and ends."""

from __future__ import annotations

from typing import Any, ClassVar

from andersonn_core.specs import Spec, knob
from andersonn_core.sweeps.engines.base import Engine


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

    def cluster(self) -> Any:
        """A dask_jobqueue.SLURMCluster without jobs yet."""
        from dask_jobqueue.slurm import SLURMCluster

        return SLURMCluster(
            cores=1, processes=1, job_cpu=self.cores, memory=self.memory, walltime=self.walltime,
            queue=self.queue, account=self.account,
            job_extra_directives=[f"--gres=gpu:{self.gpus}"] if self.gpus else [],
            job_script_prologue=["export OMP_NUM_THREADS=1", *self.setup.splitlines()],
            scheduler_options={"dashboard_address": ":0"},  # 8787 may be another cluster's
            **({} if self.python is None else {"python": self.python}),  # type: ignore[arg-type]
        )  # fmt: skip

    def job_script(self) -> str:
        """The script of one job, as SLURM's sbatch gets it."""
        cluster = self.cluster()
        try:
            return str(cluster.job_script())
        finally:
            cluster.close()

    def engine(self) -> Engine:
        """An engine on the jobs, which are asked for now and ended with it."""
        from andersonn_core.sweeps.engines.dask import Dask

        cluster = self.cluster()
        cluster.scale(jobs=self.jobs)
        return Dask(cluster, owned=cluster)
