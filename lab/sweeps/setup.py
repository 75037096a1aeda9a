"""What a visitor chooses for a sweep: axes as text, seeds, repeats; on the sliders' solve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from andersonn_core import SolveSpec, Sweep
from andersonn_core.specs import KnobError
from andersonn_core.sweeps.axes import dotted_names
from andersonn_core.sweeps.file import axis_from, seeds_from
from lab.controls import judge_size

MOST_AXES = 4
MOST_TRIALS = 5000
ASK = 500  # trials, above which a second press is wanted
NO_AXIS = ""
FIRST = {"method.window": "1:9", "method.mixing": "0.6,0.8,1"}
UNFIT = ("problem.device", "problem.dtype", "profile", "capture", "compact", "batch_dims")


@dataclass(frozen=True)
class SweepSetup:
    """Axes by name, each as text; seeds and repeats."""

    axes: Mapping[str, str] = field(default_factory=lambda: dict(FIRST))
    seeds: str = "0:2"
    repeats: int = 1

    def sweep(self, base: SolveSpec) -> Sweep:
        """The sweep; raises KnobError that names the axis and says what to do."""
        axes = {name: axis_from(name, text) for name, text in self.axes.items()}
        if not axes:
            raise KnobError("choose at least one axis.")
        sweep = Sweep(base, axes, self.repeats, self._seeds())
        if sweep.total > MOST_TRIALS:
            raise KnobError(
                f"{sweep.total:,} trials are more than the {MOST_TRIALS:,} that this page runs: "
                "shorten an axis, or run it from a terminal into the same folder."
            )
        for _, _, spec in sweep.plan.trials():
            judge_size([spec])
        return sweep

    def _seeds(self) -> Sequence[int]:
        try:
            found: Sequence[int] = seeds_from(axis_text(self.seeds))
        except ValueError:
            raise KnobError(f"seeds = {self.seeds!r}: give numbers, such as 0:3 or 0,7.") from None
        return found


def axis_text(text: str) -> str:
    """The text as it was typed, without what surrounds it."""
    return text.strip()


def axis_choices(base: SolveSpec) -> list[str]:
    """The knobs of the sliders' solve that can be axes here."""
    names = dotted_names(base)
    plain = [name for name in names if name not in UNFIT and name not in ("problem", "method")]
    return sorted(plain, key=lambda name: (name.partition(".")[0] not in ("method",), name))
