"""The sentences about recorded numbers: their settings, and who was ahead from where on."""

from __future__ import annotations

from collections.abc import Sequence

from andersonn_core.record.crossing import DeviceCrossover
from andersonn_core.record.curves import ResidualCurve
from andersonn_core.words import residual_text, seconds_text
from lab.theme import LABELS

OFFER = "beside it: the recorded GPU run"
DEVICES = {False: "CPU", True: "GPU"}
WALLS = {"picard": "forward_wall_seconds", "anderson": "anderson_wall_seconds"}


def curves_line(curves: Sequence[ResidualCurve], tolerance: float) -> str:
    """The settings of recorded curves, and what they don't do."""
    first = curves[0]
    window = next((curve.window for curve in curves if curve.window is not None), None)
    parts = [f"batch size {first.batch_size}", first.dtype]
    parts += [f"window {window}"] if window is not None else []
    parts += [f"solved to {residual_text(first.rtol)}, at most {first.max_iter} evaluations"]
    drawn = f", drawn down to {residual_text(tolerance)}" if tolerance > first.rtol else ""
    return (
        f"Green, with a dot in each dash: {', '.join(parts)}{drawn}; {first.clock}, the middle one "
        f"of {first.repeats} {'run' if first.repeats == 1 else 'runs'}. A recording stays as it is "
        "when controls move."
    )


def crossover_lines(rows: Sequence[DeviceCrossover]) -> str:
    """From which batch size the GPU is ahead, and where Anderson overtakes, on each device."""
    by_method = {name: _gpu_ahead(rows, name) for name in WALLS}
    if len(set(by_method.values())) == 1:
        by_method = {"either method": by_method["anderson"]}
    parts = [f"With {LABELS.get(name, name)} {rest}" for name, rest in by_method.items() if rest]
    parts += [_overtakes([row for row in rows if row.gpu is gpu], gpu) for gpu in DEVICES]
    return " ".join(part for part in parts if part)


def settings_line(rows: Sequence[DeviceCrossover]) -> str:
    """How the crossovers were recorded."""
    first, clocks = rows[0], dict.fromkeys(row.clock for row in rows)
    return (
        f"{first.dtype}, window {first.window}, tolerance {residual_text(first.rtol)}, medians and "
        f"quartiles of {first.repeats} pairs of runs. Left: wall seconds from the call to the "
        f"answer, in which all samples have stopped. Right: by each device's own clock "
        f"({', '.join(clocks)}), for half of the samples. Sliders don't move a recording."
    )


def sooner(rows: Sequence[DeviceCrossover], name: str) -> dict[int, float]:
    """By batch size: the CPU's seconds over the GPU's, 1 where their quartiles overlap."""
    found: dict[int, float] = {}
    wall = WALLS[name]
    by_place = {(row.batch_size, row.gpu): vars(row) for row in rows}
    for size in sorted({row.batch_size for row in rows}):
        cpu, gpu = by_place.get((size, False)), by_place.get((size, True))
        if cpu is None or gpu is None:
            continue
        apart = cpu[f"{wall}_low"] > gpu[f"{wall}_high"] or gpu[f"{wall}_low"] > cpu[f"{wall}_high"]
        found[size] = cpu[wall] / gpu[wall] if apart else 1.0
    return found


def _gpu_ahead(rows: Sequence[DeviceCrossover], name: str) -> str:
    """From which batch size on the GPU's solve takes less time than the CPU's, after "With ..."."""
    factors = sooner(rows, name)
    if not factors:
        return ""
    sizes, ahead = list(factors), [size for size in factors if factors[size] > 1]
    head = "the GPU is ahead of the CPU"
    if ahead == sizes:
        return f"{head} at every recorded batch size, from {sizes[0]} to {sizes[-1]}."
    if not ahead:
        return f"{head} at no recorded batch size, from {sizes[0]} to {sizes[-1]}."
    if ahead == sizes[-len(ahead) :]:
        return f"{head} from batch size {ahead[0]} on."
    return f"{head} at batch size {', '.join(map(str, ahead))}."


def _overtakes(rows: Sequence[DeviceCrossover], gpu: bool) -> str:
    """Where Anderson overtakes forward iteration on one device."""
    if not rows:
        return ""
    ordered = sorted(rows, key=lambda row: row.batch_size)
    told: dict[str, list[int]] = {}
    for row in ordered:
        told.setdefault(ahead(row), []).append(row.batch_size)
    parts = [f"{what} at batch size {', '.join(map(str, sizes))}" for what, sizes in told.items()]
    return f"On the {DEVICES[gpu]}, Anderson is ahead: {'; '.join(parts)}."


def ahead(row: DeviceCrossover) -> str:
    """When Anderson is ahead for good: "after 21 ms", "never", "not resolved"."""
    if row.kind == "at" and row.seconds is not None:
        return f"after {seconds_text(row.seconds)}"
    return {
        "from the start": "from the start", "none": "never",
        "only the challenger converges": "as the only one that converges",
    }.get(row.kind, row.kind)  # fmt: skip
