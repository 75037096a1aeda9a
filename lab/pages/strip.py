"""The strip below the curves: where a step's time goes, each sample's way, CPU against GPU."""

from __future__ import annotations

from andersonn_core.words import ratio_text
from lab.figures.bars import PartBars
from lab.figures.heatmap import MOST_RESTARTS, HeatMap
from lab.live import Live
from lab.pages.card import PlotCard
from lab.theme import Palette
from lab.words import marks


class TimeSplit(PlotCard[PartBars]):
    """The map's seconds beside those of the mixing, part by part."""

    title = "Where an Anderson step's time goes"

    def __init__(self, colors: Palette) -> None:
        super().__init__(PartBars(colors))

    def show(self, live: Live) -> None:
        """Show a finished run."""
        result = live.results["anderson"]
        history = result.history
        parts = {"map": history.map_seconds, **history.part_seconds}
        count = max(result.num_evals, 1)
        self.plot.show(
            {key: max(float(values.sum()), 0.0) / count for key, values in parts.items()}
        )
        if live.crossing is not None:
            ratio = ratio_text(live.crossing.mixing_penalty)
            self.say(f"Mixing penalty: one mixing step costs {ratio} the map.")


class SampleMap(PlotCard[HeatMap]):
    """Each sample's residual over the evaluations."""

    title = "Each sample on its way (Anderson)"

    def __init__(self, colors: Palette) -> None:
        super().__init__(HeatMap(colors))

    def show(self, live: Live) -> None:
        """Show a finished run."""
        result = live.results["anderson"]
        self.plot.show(result, live.tolerance)
        parts = ["A row ends where its sample stopped.", marks(result.diagnostics, MOST_RESTARTS)]
        if result.status.numel() > 1:
            slowest, needed = int(result.sample_evals.argmax()), int(result.sample_evals.max())
            parts.append(f"Slowest: sample {slowest + 1}, {needed} evaluations.")
        self.say(" ".join(part for part in parts if part))
