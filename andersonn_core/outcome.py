"""From the history of a solve to its result: the answer's residuals, counts, the error estimate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from andersonn_core.arrays import Floats
from andersonn_core.results import Event, History, SolveResult, Status
from andersonn_core.runcard import RunCard

COUNTED = {
    "restarts": Event.RESTART,
    "fallbacks": Event.FALLBACK,
    "rejects": Event.REJECT,
    "drops": Event.DROP,
    "plain_steps": Event.PLAIN,
    "deflations": Event.DEFLATE,
    "probes": Event.PROBE,
    "heavy_weights": Event.HEAVY,
    "filtered_steps": Event.FILTER,
    "history_overflows": Event.OVERFLOW,
}


def result_of(
    z: Any,
    status: Any,  # (B,) int8 of Status
    history: History,
    card: RunCard,
    *,
    stretch: Floats,  # (B,) see MethodState.amplification
    notes: tuple[str, ...],
    counted: Mapping[str, int],
    confirmed_from: int = 0,
) -> SolveResult:
    """The result of a solve that ended with `z` in the user's structure."""
    residual, relative = _of_answer(history, status, confirmed_from)
    result = SolveResult(
        z=z,
        status=torch.from_numpy(status),
        num_evals=len(history.residual),
        sample_evals=history.sample_evals,
        relative_residual=relative,
        history=history,
        diagnostics=_counts(history) | dict(counted),
        error_estimate=residual * _stretch(history, torch.from_numpy(stretch)),
        card=card,
        notes=notes,
    )
    result.card = card.with_summary(result)
    return result


def attach_partial(error: BaseException, make: Callable[[], Any]) -> None:
    """Give an exception that ends a run the partial result, or a note on why there is none."""
    try:
        error.partial_result = make()  # type: ignore[attr-defined]
    except Exception as lost:  # of a device that is gone, say: the first error is the one to tell
        error.add_note(f"There is no partial result: {type(lost).__name__}: {lost}")


def _stretch(history: History, stretch: Tensor) -> Tensor:  # (B,)
    """About ||(I - J)^-1||; forward iteration knows it from its rate r: mixing / (1 - r)."""
    rows, evals = history.residual, len(history.residual)
    if evals < 2:
        return stretch
    last = (history.sample_evals - 1).clamp(min=1)[None, :]
    rate = (rows.gather(0, last) / rows.gather(0, last - 1))[0]
    own = history.mixing.gather(0, last - 1)[0] / (1 - rate).clamp(min=0)
    return torch.where(torch.isnan(stretch), own, stretch)


def _of_answer(history: History, status: Any, start: int) -> tuple[Tensor, Tensor]:  # (B,), (B,)
    """Residual and relative residual of the answer: the converged row, else the best one.

    Once the whole batch was evaluated to confirm (row `start`), only what the whole map said
    counts.
    """
    rows, residual = history.relative_residual[start:], history.residual[start:]
    if not len(rows):
        nothing = rows.new_full((rows.shape[1],), torch.nan)
        return nothing, nothing
    shown = ~torch.isnan(rows)
    newest = (shown * torch.arange(len(rows))[:, None]).amax(0)
    best = rows.nan_to_num(nan=torch.inf).argmin(0)
    row = torch.where(torch.from_numpy(status == Status.CONVERGED), newest, best)[None, :]
    return residual.gather(0, row)[0], rows.gather(0, row)[0]


def _counts(history: History) -> dict[str, int]:
    return {name: int(((history.event & int(flag)) != 0).sum()) for name, flag in COUNTED.items()}
