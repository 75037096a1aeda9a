"""Who waits for whom when several ranks train an equilibrium model together.

Under DistributedDataParallel a step ends on all ranks when the slowest has its gradients. Solves
differ in length with their samples: what the other ranks wait is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch.distributed as dist

from andersonn_core.arrays import Floats
from andersonn_core.deq.layer import DEQ
from andersonn_core.results import SolveResult
from andersonn_core.specs import KnobError
from andersonn_core.words import percent_text, seconds_text

COLUMNS = ("forward_evals", "adjoint_evals", "solve_seconds")


class Balance:
    """Notes the solves of some layers at every step, without any communication before `report`.

    Call `step()` once a batch, behind the backward pass, on every rank:

        balance = Balance(model.deq)
        for x, y in loader:
            loss_of(parallel(x), y).backward()
            balance.step()
            optimizer.step()
        print(balance.report())

    Raises KnobError without a layer.
    """

    def __init__(self, *layers: DEQ) -> None:
        if not layers or not all(isinstance(layer, DEQ) for layer in layers):
            raise KnobError("Balance needs at least one DEQ layer: Balance(model.deq).")
        self._layers = layers
        self._seen: list[SolveResult | None] = [None] * len(layers)
        self._rows: list[tuple[float, ...]] = []

    def step(self) -> None:
        """Take the newest solves; RuntimeError if a layer had none since the last step."""
        newest = [layer.last_forward for layer in self._layers]
        if any(new is None or new is old for new, old in zip(newest, self._seen, strict=True)):
            raise RuntimeError(
                "a layer solved nothing since the last step: call step() once a batch, behind the "
                "backward pass."
            )
        forward = [result for result in newest if result is not None]
        found = (layer.last_adjoint for layer in self._layers)
        adjoint = [result for result in found if result is not None]  # some gradients have none
        seconds = sum(_seconds(result) for result in (*forward, *adjoint))
        self._rows.append((_evals(forward), _evals(adjoint), seconds))
        self._seen = newest

    def report(self, group: dist.ProcessGroup | None = None) -> BalanceReport:
        """What all ranks of the group noted; every rank calls it and gets the same.

        Without torch.distributed it tells of this process alone. Raises ValueError if ranks noted
        different numbers of steps, or none.
        """
        rows = np.array(self._rows).reshape(-1, len(COLUMNS))
        if not dist.is_initialized():
            return balance_of([rows])
        ranks: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(ranks, rows, group=group)
        return balance_of(ranks)


@dataclass(frozen=True)
class BalanceReport:
    """What each rank did and waited, in the mean or sum over the steps.

    `frame`: rank, steps, forward_evals and adjoint_evals (means per step), solve_seconds,
    waited_seconds, slowest (steps in which the others waited for it).
    """

    frame: pd.DataFrame

    @property
    def waited(self) -> float:
        """The part of all ranks' time that was spent waiting, 0 to 1."""
        solved, waited = self.frame["solve_seconds"].sum(), self.frame["waited_seconds"].sum()
        return float(waited / (solved + waited)) if solved + waited > 0 else 0.0

    def __str__(self) -> str:
        frame = self.frame
        steps, total = int(frame["steps"].iloc[0]), float(frame["solve_seconds"].sum())
        if len(frame) == 1:
            return f"One rank solved for {seconds_text(total)} in {steps} steps and waited for none"
        worst = frame.loc[frame["slowest"].idxmax()]
        return (
            f"{len(frame)} ranks solved for {seconds_text(total)} in {steps} steps and waited for "
            f"the slowest during {percent_text(self.waited)} of their time; rank "
            f"{worst['rank']:.0f} was the slowest in {worst['slowest']:.0f} steps"
        )


def balance_of(ranks: Sequence[Floats]) -> BalanceReport:  # (S, 3) each
    """From every rank's COLUMNS per step: in step s rank r waits max_q t_qs - t_rs.

    Raises ValueError if the ranks have different numbers of steps, or none.
    """
    steps = [len(rows) for rows in ranks]
    if len(set(steps)) > 1 or not steps[0]:
        raise ValueError(
            f"the ranks noted {', '.join(map(str, steps))} steps: call Balance.step() once a batch "
            "on every rank, and at least once."
        )
    table = np.stack(ranks)  # (R, S, 3)
    seconds = table[:, :, 2]
    slowest = np.bincount(seconds.argmax(0), minlength=len(ranks))
    return BalanceReport(
        pd.DataFrame(
            {
                "rank": np.arange(len(ranks)),
                "steps": steps,
                "forward_evals": table[:, :, 0].mean(1),
                "adjoint_evals": table[:, :, 1].mean(1),
                "solve_seconds": seconds.sum(1),
                "waited_seconds": (seconds.max(0) - seconds).sum(1),
                "slowest": slowest,
            }
        )
    )


def _evals(results: Sequence[SolveResult]) -> float:
    return float(sum(result.num_evals for result in results))


def _seconds(result: SolveResult) -> float:
    history = result.history
    return float(history.map_seconds.sum() + history.method_seconds.sum())
