"""Where trials run: in this process, in processes of this machine, or on a Dask cluster."""

from __future__ import annotations

from typing import Any

from andersonn_core.specs import KnobError
from andersonn_core.sweeps.engines.base import Engine
from andersonn_core.sweeps.engines.processes import Processes
from andersonn_core.sweeps.engines.serial import Serial
from andersonn_core.sweeps.engines.slurm import Slurm
from andersonn_core.sweeps.errors import EngineError

__all__ = ["Engine", "EngineError", "Processes", "Serial", "Slurm", "engine_for"]

SCHEMES = ("tcp://", "tls://", "ucx://", "ws://", "wss://", "inproc://")


def engine_for(executor: Any, workers: int | None = None) -> Engine:
    """The engine that `executor` names.

    "serial", "processes", the address of a Dask scheduler ("tcp://host:8786"), a Dask client or
    cluster, or `Slurm(...)`. Raises KnobError for anything else.
    """
    if executor == "serial":
        return Serial()
    if executor == "processes":
        return Processes(workers)
    if isinstance(executor, Slurm):
        return executor.engine()
    if isinstance(executor, str) and executor.startswith(SCHEMES) or hasattr(executor, "scheduler"):
        from andersonn_core.sweeps.engines.dask import Dask

        return Dask(executor)
    raise KnobError(
        f'executor = {executor!r} is not allowed: it must be "serial", "processes", the address of '
        'a Dask scheduler ("tcp://host:8786"), a Dask client or cluster, or Slurm(...).'
    )
