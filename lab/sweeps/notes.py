"""The sentences under the views' titles: how to read them, and what a hand can do."""

from __future__ import annotations

from lab.sweeps import heat, parallel, raster, scatter
from lab.sweeps.shown import Shown

MARKINGS = (
    "Hatched: none converged; corner: not all did; dot: not computed yet. Drag to select, click to "
    "open a cell's middle trial."
)


def notes(shown: Shown) -> dict[str, str]:
    """A sentence for each view but the curves, which tell their own."""
    column = shown.quantity.column
    what = "fraction of the trials that converged"
    if column:
        unit = " in ms" if column.endswith("seconds") else ""
        what = f"median {shown.quantity.label}{unit} of the converged trials"
    counted = ", as a picture of how many lie where" if shown.trials.count > raster.MANY else ""
    return {
        heat.NAME: f"{what[0].upper()}{what[1:]}. {MARKINGS}",
        scatter.NAME: f"Circles: converged{counted}. Above the dashed line: did not converge.",
        parallel.NAME: (
            f"Colors{' as in the heat map' if column else ' by status'}. Drag along an axis to "
            "select an interval; click it to take that back."
        ),
    }
