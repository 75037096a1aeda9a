"""What of a published claim these measurements confirm, refute, or leave unresolved.

The claim is that of Al Dajani and Keyes (arXiv 2410.19460): a DEQ on CIFAR-10 trained with Anderson
instead of forward iteration. Verdicts follow from the 95 % intervals over seeds alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import pandas as pd

from andersonn_core.training.regimes import REGIMES


@dataclass(frozen=True)
class Claim:
    """A published pair of numbers, as the effect that `regimes.compared` tells."""

    text: str
    published: str
    measure: str
    effect: float  # Anderson - forward in points, or forward / Anderson
    neutral: float  # the effect of no difference
    sign: int = 1  # -1: smaller is the claim


CLAIMS = [
    Claim("training accuracy is higher", "64.7 -> 96.3 %", "train_accuracy", 31.6, 0.0),
    Claim("test accuracy is higher", "64.2 -> 79.1 %", "test_accuracy", 14.9, 0.0),
    Claim("training takes less time", "12,000 -> 1,400 s, 8.6x", "seconds", 8.6, 1.0),
    Claim("test accuracy fluctuates less", "in words", "fluctuation", 0.0, 0.0, -1),
    Claim("time per epoch grows more than forward iteration's", "in words", "growth", 1.0, 1.0, -1),
]
OPEN = (
    "CIFAR-10, GPUs, 50 epochs, and the paper's own window, tolerance and cap, which it does not "
    "give; energy, which nobody measured"
)


@dataclass(frozen=True)
class Entry:
    """One claim in one regime."""

    claim: str
    published: str
    regime: str
    here: str
    verdict: str  # confirmed, confirmed but smaller, refuted, unresolved


def verdict(claim: Claim, low: float, high: float) -> str:
    """What an interval of the effect says of a claim; NaN ends, from one seed, say nothing."""
    size = claim.sign * (claim.effect - claim.neutral)
    near, far = sorted(claim.sign * (end - claim.neutral) for end in (low, high))
    if near > 0:
        return "confirmed, but smaller" if far < size else "confirmed"
    return "refuted" if far < 0 else "unresolved"


def overall(entries: Iterable[Mapping[str, str]]) -> str:
    """Of a claim that names no regime: the verdict of all of them, or unresolved."""
    words = {entry["verdict"].split(",")[0] for entry in entries}
    return words.pop() if len(words) == 1 else "unresolved"


def ledger(tables: Mapping[str, pd.DataFrame]) -> list[dict[str, str]]:
    """Every claim in every regime in which it can be asked."""
    entries = []
    for claim in CLAIMS:
        for name, table in tables.items():
            if claim.measure in ("seconds", "growth") and REGIMES[name].of_time:
                continue  # the time is given there
            row = table.set_index("measure").loc[claim.measure]
            sign = "x" if row["kind"] == "ratio" else " points"
            here = f"{row['effect']:.2f}{sign} ({row['low']:.2f} to {row['high']:.2f})"
            said = verdict(claim, row["low"], row["high"])
            entries.append(Entry(claim.text, claim.published, REGIMES[name].label, here, said))
    return [asdict(entry) for entry in entries]
