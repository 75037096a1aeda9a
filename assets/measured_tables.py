"""The README's tables of measurements, each from the file its benchmark wrote."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from andersonn_core.training.regimes import REGIMES
from benchmarks.train import BESIDE, PEER

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHOWN = ("train_accuracy", "test_accuracy", "seconds", "growth", "evals", "fluctuation")


def training_block() -> str:
    """What `make bench-train` found: picture and numbers; what they say of claims: claims.py."""
    if not (RESULTS / "train.json").exists():
        return "`make bench-train` writes what it finds here."
    found = json.loads((RESULTS / "train.json").read_text())
    picture = "![Training in three regimes, forward iteration against Anderson](assets/regimes.png)"
    parts = [picture] if (ROOT / "assets" / "regimes.png").exists() else []
    return "\n\n".join([*parts, _training_table(found), _peer(found)])


def _training_table(found: dict[str, Any]) -> str:
    """One row a regime and measure; effects with their 95 % intervals over the seeds."""
    lines = ["| regime | measure | forward | Anderson | effect (95 %) |",
             "| --- | --- | --- | --- | --- |"]  # fmt: skip
    for name, regime in REGIMES.items():
        for row in found["regimes"][name]:
            if row["measure"] in SHOWN:
                unit = f" {row['unit']}" if row["unit"] else ""
                sign = "x" if row["kind"] == "ratio" else unit.replace("%", "points")
                effect = f"{row['effect']:.3g}{sign} ({row['low']:.3g} to {row['high']:.3g})"
                means = [f"{row[who]:.3g}{unit}" for who in ("forward", "anderson")]
                lines.append("| " + " | ".join([regime.label, row["label"], *means, effect]) + " |")
    return "\n".join(lines)


def _peer(found: dict[str, Any]) -> str:
    peer = found["peer"]
    first = [seed["to_enough"]["tolerance"] for seed in found["seeds"]]
    ours, theirs = (_span([each[who] for each in first]) for who in (BESIDE, PEER))
    (low, high), (worse, better) = peer["ratio_interval"], peer["accuracy_interval"]
    return (
        f"Epochs of ours (mixing 2) are {peer['ratio']:.2f} times shorter than torchdeq 0.1.0's on "
        f"the same cell at the same tolerances (95 %: {low:.2f} to {high:.2f}); test accuracy, "
        f"ours less theirs: {peer['accuracy_gain']:+.2f} points "
        f"(95 %: {worse:+.2f} to {better:+.2f}). Ours first reads 98 % of the test digits after "
        f"{ours} of training, theirs after {theirs}."
    )


def _span(seconds: list[float | None]) -> str:
    """From the first seed to the last; None: it never came."""
    came = [each for each in seconds if each is not None]
    never = len(seconds) - len(came)
    ends = f"{min(came):.0f} to {max(came):.0f} s" if came else "no time"
    return f"{ends} (never in {never} of {len(seconds)} seeds)" if never else ends


def memory_table() -> str:
    """Peak MiB of a training step, one row per gradient and cell that was measured."""
    rows = json.loads((RESULTS / "memory.json").read_text())["rows"]
    evals = list(rows[0]["peak_bytes"])
    head = f"| gradient | channels inside | {' | '.join(evals)} | |\n" + "| --- " * 8 + "|"
    return "\n".join([head, *(_memory_row(row, evals) for row in rows)])


def _memory_row(row: dict[str, Any], evals: list[str]) -> str:
    peaks = " | ".join(f"{row['peak_bytes'][k] / 2**20:.2f}" for k in evals)
    return f"| `{row['gradient']}` | {row['inner_channels']} | {peaks} | {row['verdict']} |"


def sweep_block() -> str:
    """What `make bench-sweep` found, as a sentence with the spread of each ratio."""
    if not (RESULTS / "sweep.json").exists():
        return "`make bench-sweep` writes what it finds here."
    found = json.loads((RESULTS / "sweep.json").read_text())
    gains, dask, cost, card = (found[name] for name in ("gains", "dask", "overhead", "card"))
    return (
        f"Measured on {card['date'][:10]}, {card['device']}, 2 cores (`make bench-sweep`): two "
        f"independent busy processes are {_ratio(gains['independent gain'])} times as fast as one, "
        f"and two workers of `processes` reach {_ratio(gains['ratios'])} of that; a Dask cluster "
        f"of two workers takes {_ratio(dask['ratios'])} of their time, with trials of "
        f"{dask['seconds of a trial']:.1f} s; a serial trial takes "
        f"{1e3 * cost['seconds of a trial']:.0f} ms beside its solve."
    )


def _ratio(values: list[float]) -> str:
    """The median with the smallest and the largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def plugin_table() -> str:
    """One row per torchdeq program and solver of ours, beside torchdeq's, as last measured."""
    if not (RESULTS / "plugin.json").exists():
        return "`make bench-plugin` writes what it finds here."
    head = (
        "| program | ours for torchdeq's | CPU seconds | speed-up (95 %) | evaluations | "
        "products with J^T | score | gain (95 %) |\n" + "| --- " * 8 + "|"
    )
    rows = []
    for record in json.loads((RESULTS / "plugin.json").read_text())["rows"]:
        solvers, unit = record["solvers"], record["score"]
        for name, found in solvers.items():
            if "counterpart" in found:
                pair = found, solvers[found["counterpart"]]
                rows.append(_plugin_row(record["program"], name, pair, unit))
    return "\n".join([head, *rows])


def _plugin_row(program: str, name: str, pair: tuple[dict, dict], unit: str) -> str:
    ours, _ = pair
    middle, low, high = ours["speedup"]
    digits = 3 if unit == "accuracy" else 1

    def both(figure: str, digits: int, mean: Callable[[list], float]) -> str:
        return " / ".join(f"{mean(found[figure]):.{digits}f}" for found in pair)

    cells = [
        program,
        f"`{name}` / `{ours['counterpart']}`",
        both("seconds", 1, statistics.median),
        f"{middle:.2f} ({low:.2f} to {high:.2f})",
        both("evaluations", 0, statistics.median),
        both("products", 0, statistics.median),
        f"{both('score', digits, statistics.fmean)} {unit}",
        "{:+.{d}f} ({:+.{d}f} to {:+.{d}f})".format(*ours["gain"], d=digits),
    ]
    return "| " + " | ".join(cells) + " |"
