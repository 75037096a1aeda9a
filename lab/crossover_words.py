"""The sentences of the Crossover page: plain text, escaped where shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from andersonn_core.words import ratio_text, seconds_text
from lab.phase import Cell, Spread
from lab.words import steps

QUESTION = "When does mixing pay for itself, on this map, this batch, this device?"
THEORY = (
    "An Anderson step needs fewer evaluations of the map but costs time of its own: a row of the "
    "Gram matrix, a small solve, and the mixing of the stored steps. The speed-up is "
    "S = (N_forward / N_Anderson) / (1 + mixing time / map time). The dearer the map, the smaller "
    "that penalty; the wider the window, the fewer evaluations and the larger the penalty. Where "
    "the history outgrows a cache, mixing slows down."
)


def headline(cell: Cell | None, spread: Spread | None) -> str:
    """Whether mixing pays at the present setting."""
    if cell is None:
        return "Solving the present setting by both methods ..."
    if cell.error:
        return "The present setting could not be solved."
    if not cell.converged:
        return _without_anderson(cell)
    if math.isinf(cell.speedup):
        return (
            "Only Anderson gets there, so mixing pays however much it costs: "
            f"{cell.evaluations:.0f} evaluations, {seconds_text(cell.seconds)}."
        )
    if cell.bound and cell.speedup <= 1:
        return (
            f"Only Anderson gets there: {cell.evaluations:.0f} evaluations, "
            f"{seconds_text(cell.seconds)}; forward iteration runs out of evaluations before."
        )
    if cell.bound:
        return (
            f"Mixing pays here: at least {ratio_text(cell.speedup)} as fast as forward iteration, "
            "which is still on its way when its evaluations run out."
        )
    return _compared(cell, spread)


def _without_anderson(cell: Cell) -> str:
    start = f"With {steps(cell.setting.window)} at mixing {cell.setting.mixing:g} Anderson"
    if math.isfinite(cell.forward_evaluations):
        return (
            f"Here mixing does not pay: forward iteration needs {cell.forward_evaluations:.0f} "
            f"evaluations. {start} does not get there ({cell.how})."
        )
    return f"Neither method gets there with these settings. {start}: {cell.how}."


def _compared(cell: Cell, spread: Spread | None) -> str:
    """Both converge: the factor, with its interval once there is one."""
    if cell.setting.window == 0:
        return (
            f"With a window of 0 nothing is remembered: this is forward iteration at mixing "
            f"{cell.setting.mixing:g}, {ratio_text(cell.speedup)} as fast as without."
        )
    if spread is None:
        return _factor(cell.speedup)
    if not spread.resolved:
        return "Not resolved here: with mixing the solve takes about as long as without."
    return _factor(spread.speedup)


def _factor(speedup: float) -> str:
    if speedup > 1:
        return f"Mixing pays here: the solve is {ratio_text(speedup)} as fast as forward iteration."
    slower = ratio_text(1 / speedup)
    return f"Here forward iteration wins: with mixing the solve takes {slower} as long."


def certainty(cell: Cell | None, spread: Spread | None) -> str:
    """How sure the headline's factor is."""
    if cell is None or not cell.converged or cell.bound or not math.isfinite(cell.speedup):
        return ""
    return f"S = {spread_text(cell, spread)}."


def spread_text(cell: Cell, spread: Spread | None) -> str:
    """S with its interval: "2.3x (95 %: 1.9x to 2.6x, 5 runs)"."""
    if spread is None:
        return f"{ratio_text(cell.speedup)} in one run"
    interval = f"{ratio_text(spread.low)} to {ratio_text(spread.high)}"
    return f"{ratio_text(spread.speedup)} (95 %: {interval}, {spread.runs} runs)"


def verdict(
    cell: Cell | None,
    spread: Spread | None,
    best: Cell | None,
    best_spread: Spread | None,
    complete: bool,
) -> str:
    """How sure that is, what mixing costs here, and where it pays most."""
    parts = [certainty(cell, spread)]
    if cell is not None and cell.converged and cell.setting.window:
        parts.append(f"One mixing step costs {ratio_text(cell.penalty)} the map{_ahead(cell)}.")
    if best is not None and cell is not None and best.setting == cell.setting:
        parts.append(f"No other cell is better{'' if complete else ' so far'}.")
    elif best is not None:
        parts.append(_best(best, best_spread, complete))
    return " ".join(part for part in parts if part)


def _ahead(cell: Cell) -> str:
    if 0 < cell.crossover < math.inf:
        return f"; Anderson is ahead after {seconds_text(cell.crossover)}"
    return "; Anderson is ahead from the start" if cell.crossover == 0 else ""


def _best(best: Cell, spread: Spread | None, complete: bool) -> str:
    place = f"window {best.setting.window} at mixing {best.setting.mixing:g}"
    scope = "" if complete else " so far"
    if not math.isfinite(best.speedup) or best.bound:
        return f"Fastest{scope}: {place}, {seconds_text(best.seconds)}."
    told = f"{place}: {spread_text(best, spread)}"
    if best.speedup <= 1 or (spread is not None and spread.high < 1):
        head = "No window pays; the least is lost" if complete else "Least lost so far"
        return f"{head} at {told}."
    if spread is not None and not spread.resolved:
        return f"Not even the best cell clearly pays, {told}."
    return f"Best{scope}: {told}."


def batches(cells: Sequence[Cell]) -> str:
    """At which batch sizes mixing pays at the present window and mixing, from single runs."""
    unclear = [cell for cell in cells if cell.bound and cell.speedup <= 1]  # it might, or not
    known = [cell for cell in cells if cell.how and cell not in unclear]
    pays = [cell.setting.batch_size for cell in known if cell.converged and cell.speedup > 1]
    if len(known) < 2 or not known[0].setting.window:
        return ""
    sizes = [cell.setting.batch_size for cell in known]
    if len(pays) == len(known):
        return f"With this window it pays at every batch size from {sizes[0]} to {sizes[-1]}."
    if not pays:
        return f"With this window it pays at no batch size from {sizes[0]} to {sizes[-1]}."
    if pays == sizes[-len(pays) :]:
        return f"With this window it pays from batch size {pays[0]} on."
    listed = ", ".join(map(str, pays))
    return f"With this window it pays at batch size {listed}, of {sizes[0]} to {sizes[-1]}."


def progress(done: int, total: int, seconds_left: float) -> str:
    """Where the computation is: "34 of 96 cells, about 5 s left"."""
    left = "" if math.isnan(seconds_left) else f", about {_rounded(seconds_left)} left"
    return f"{done} of {total} cells{left}"


def _rounded(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{round(seconds / 60)} min"


def summary(cells: Iterable[Cell], stopped: bool, total: int) -> str:
    """What was computed, when nothing more comes."""
    known = list(cells)
    lost = sum(not cell.converged and not cell.error for cell in known)
    failed = sum(bool(cell.error) for cell in known)
    head = f"Stopped after {len(known)} of {total} cells" if stopped else f"{len(known)} cells"
    parts = [head]
    parts += [f"{lost} do not converge"] if lost else []
    parts += [f"{failed} could not be computed"] if failed else []
    return ", ".join(parts) + "."
