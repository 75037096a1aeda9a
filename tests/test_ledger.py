"""Verdicts on the published claim follow from intervals alone."""

import json
import math

import pandas as pd
import pytest

from andersonn_core.training.regimes import MEASURES, REGIMES, compared
from benchmarks.ledger import CLAIMS, ledger, overall, verdict

TIME = next(claim for claim in CLAIMS if claim.measure == "seconds")
TRAIN = next(claim for claim in CLAIMS if claim.measure == "train_accuracy")
CALM = next(claim for claim in CLAIMS if claim.measure == "fluctuation")


@pytest.mark.parametrize(
    ("claim", "low", "high", "expected"),
    [
        (TIME, 2.0, 3.0, "confirmed, but smaller"),
        (TIME, 7.0, 9.0, "confirmed"),
        (TIME, 0.5, 0.9, "refuted"),
        (TIME, 0.9, 1.1, "unresolved"),
        (TIME, math.nan, math.nan, "unresolved"),
        (TRAIN, 0.5, 2.0, "confirmed, but smaller"),
        (TRAIN, -2.0, -0.5, "refuted"),
        (TRAIN, -0.5, 0.5, "unresolved"),
        (CALM, -2.0, -0.5, "confirmed"),
        (CALM, 0.5, 2.0, "refuted"),
    ],
)
def test_a_verdict_is_what_the_interval_says(claim, low, high, expected):
    assert verdict(claim, low, high) == expected


def test_every_claim_is_asked_in_every_regime_in_which_it_can_be():
    row = {"forward": dict.fromkeys(MEASURES, 1.0), "anderson": dict.fromkeys(MEASURES, 2.0)}
    table = compared([row, row])
    entries = ledger(dict.fromkeys(REGIMES, table))
    assert len(entries) == 3 * 3 + 2 * 2
    asked = pd.DataFrame(entries)
    assert set(asked[asked.claim == TIME.text].regime) == {"equal tolerance", "equal cap"}
    assert set(asked[asked.claim == TIME.text].verdict) == {"refuted"}
    assert json.dumps(entries)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["confirmed", "confirmed, but smaller"], "confirmed"),
        (["refuted", "refuted"], "refuted"),
        (["confirmed", "unresolved"], "unresolved"),
        (["confirmed", "refuted"], "unresolved"),
        ([], "unresolved"),
    ],
)
def test_a_claim_without_a_regime_is_settled_where_all_regimes_agree(verdicts, expected):
    assert overall({"verdict": verdict} for verdict in verdicts) == expected
