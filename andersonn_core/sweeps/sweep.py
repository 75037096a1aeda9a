"""Sweep(base, axes).run(): one line, resumable, the same on a laptop and on a cluster."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from andersonn_core.solve import SolveSpec
from andersonn_core.specs import KnobError
from andersonn_core.sweeps.axes import Sampler, Sampling
from andersonn_core.sweeps.plan import Plan
from andersonn_core.training import TrainSpec

if TYPE_CHECKING:
    from andersonn_core.store import Store
    from andersonn_core.sweeps.best import Best
    from andersonn_core.sweeps.progress import OnProgress

LARGE = 10_000  # trials, above which `run` wants to be told yes
STORE = "sweeps.sqlite"


class Sweep:
    """A base spec, axes of knobs by dotted name, seeds and repeats.

    An axis is a list, a range, or an interval `Between(low, high)`; intervals are sampled together,
    at `samples` points. Raises KnobError for any value that no trial could be run with.
    """

    def __init__(
        self,
        base: SolveSpec | TrainSpec,
        axes: Mapping[str, Any] | None = None,
        repeats: int = 1,
        seeds: Sequence[int] = (0,),
        *,
        samples: int = 64,
        sampler: Sampler = "sobol",
        sample_seed: int = 0,
    ) -> None:
        sampling = Sampling(samples, sampler, sample_seed)
        self.plan = Plan(base, axes or {}, repeats, seeds, sampling)

    @property
    def total(self) -> int:
        """The number of trials."""
        return self.plan.total

    @property
    def sweep_id(self) -> str:
        """Content hash of base, axes, seeds and repeats."""
        return self.plan.sweep_id

    def __repr__(self) -> str:
        """The axes and the number of trials."""
        axes = ", ".join(f"{name}: {len(axis.values) or axis.interval}"
                         for name, axis in self.plan.axes.items())  # fmt: skip
        return f"Sweep({self.total} trials; {axes})"

    def run(
        self,
        executor: Any = "processes",
        store: str | Path | Store | None = STORE,
        *,
        workers: int | None = None,
        retry_failed: bool = False,
        yes: bool = False,
        progress: bool | OnProgress = True,
        should_stop: Callable[[], bool] | None = None,
    ) -> pd.DataFrame:
        """Run the trials that the store does not hold yet; all rows, one a trial.

        `executor`: see `engines.engine_for`; `store`: a file, or None to keep nothing; `yes`: run
        more than 10,000 trials. Whatever ends it early (`should_stop`, Ctrl-C, a crash), the rows
        that were done stay, and the same call goes on from there.

        Raises KnobError, StoreError, EngineError or CodeVersionError before any trial; the last
        three also later, for what happens then.
        """
        if self.total > LARGE and not yes:
            raise KnobError(
                f"the sweep has {self.total:,} trials, more than {LARGE:,}: shorten an axis, or "
                "say yes=True (--yes)."
            )
        from andersonn_core.sweeps.engines import engine_for
        from andersonn_core.sweeps.progress import shown
        from andersonn_core.sweeps.session import Session

        with ExitStack() as stack:
            opened = stack.enter_context(_opened(store))
            engine = stack.enter_context(engine_for(executor, workers))
            session = Session(self.plan, opened, engine, retry_failed)
            tell = stack.enter_context(shown(progress))
            session.run(tell, should_stop or (lambda: False))
            return session.frame()

    def best(
        self,
        trials: int = 50,
        objective: str = "num_evals",
        executor: Any = "processes",
        store: str | Path | Store | None = STORE,
        *,
        seed: int = 0,
        workers: int | None = None,
        progress: bool | OnProgress = True,
        should_stop: Callable[[], bool] | None = None,
    ) -> Best:
        """The point with the smallest median of `objective`, of `trials` that Optuna asks for.

        objective: "num_evals" or "seconds". A list is searched among its values, an interval
        everywhere. What the store holds is not run again.
        """
        if not isinstance(trials, int) or isinstance(trials, bool) or not 1 <= trials <= LARGE:
            raise KnobError(f"trials = {trials!r} is not allowed: it must be 1 to {LARGE:,}.")
        from andersonn_core.sweeps.best import Search, search
        from andersonn_core.sweeps.engines import engine_for
        from andersonn_core.sweeps.progress import shown

        asking = Search(self.plan, objective, seed)
        with ExitStack() as stack:
            opened = stack.enter_context(_opened(store))
            engine = stack.enter_context(engine_for(executor, workers))
            tell = stack.enter_context(shown(progress))
            return search(asking, trials, opened, engine, tell, should_stop or (lambda: False))


@contextmanager
def _opened(store: str | Path | Store | None) -> Iterator[Store]:
    from andersonn_core.store import Store

    if isinstance(store, Store):
        yield store
    elif store is not None:
        with Store(store) as opened:
            yield opened
    else:
        with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / STORE) as opened:
            yield opened
