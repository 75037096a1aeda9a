"""What explains the phase diagrams: the prediction beside the measurement, and the roofline."""

from __future__ import annotations

from collections.abc import Sequence

import panel as pn
import torch

from andersonn_core.memory import cache_sizes, memory_line
from lab.figures.predicted import Predicted, hits
from lab.figures.roofs import Roofline
from lab.grid import Roofs
from lab.pages.card import Later, PlotCard, bokeh_pane
from lab.phase import Cell, Plan
from lab.theme import Palette


class PredictedCard(PlotCard[Predicted]):
    """Each cell's speed-up as its first quarter predicted it, and as it came."""

    title = "Predicted and measured"

    def __init__(self, colors: Palette) -> None:
        super().__init__(Predicted(colors))

    def show(self, cells: Sequence[Cell], here: Cell | None) -> None:
        """Draw the cells that are known."""
        self.plot.show(cells, here)
        good, total = hits(cells)
        words = [] if here is None or not here.prediction else [f"Here: {here.prediction}"]
        if total:
            words.append(f"{good} of {total} cells were predicted within 20 %.")
        elif cells:
            words.append("Nothing to compare yet: no cell where both methods meet the tolerance.")
        self.say(" ".join(words))


class RooflineCard(PlotCard[Roofline]):
    """The present map and mixing under this machine's measured roof; the memory planner."""

    title = "What this machine allows: roofline and memory"

    def __init__(self, colors: Palette) -> None:
        super().__init__(Roofline(colors))
        self.pane = Later(bokeh_pane(self.plot.figure, height=self.plot.figure.height))
        self.roofs: Roofs | None = None
        self.memory = ""

    def plan(self, plan: Plan) -> None:
        """Another setting: its memory is known before anything runs."""
        problem, method = plan.anderson.problem, plan.anderson.method
        dtype = getattr(torch, problem.dtype)
        size = problem.batch_size, problem.num_elements
        self.memory = memory_line(method, *size, dtype, cache_sizes())
        self._tell()

    def show(self, roofs: Roofs) -> None:
        """Draw what was measured."""
        self.roofs = roofs
        if roofs.machine is not None and roofs.map is not None and roofs.mixing is not None:
            self.plot.show(roofs.machine, [roofs.map, roofs.mixing])
        self.pane.show(roofs.machine is not None)
        self._tell()

    def _tell(self) -> None:
        roofs, words = self.roofs, [self.memory]
        if roofs is None:
            words.append("The roof is measured after the first cells.")
        elif roofs.map is None or roofs.mixing is None:
            words.append(f"No roofline: {roofs.refusal}")
        else:
            words += [roofs.map.sentence, roofs.mixing.sentence]
        self.say(" ".join(words))

    def __panel__(self) -> pn.viewable.Viewable:
        return self.boxed(self.pane)
