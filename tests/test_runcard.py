import dataclasses
import json
import os
import re

import pytest
import torch
from synthetic import synthetic

import andersonn_core
from andersonn_core import Anderson, KnobError, RunCard, SolveSpec, solve
from andersonn_core.problems import Affine
from andersonn_core.runcard import code_hash, rerun

SPEC = SolveSpec(problem=Affine(size=10, batch_size=3), method=Anderson(window=3), rtol=1e-5)


@pytest.fixture(scope="module")
def card() -> RunCard:
    return SPEC.run().card


def changed(card: RunCard, **numbers: object) -> RunCard:
    return dataclasses.replace(card, summary=card.summary | numbers)


def test_a_card_records_what_ran_on_what_and_what_came_out(card):
    assert card.spec == SPEC.to_dict()
    assert (card.spec_id, card.seed, card.threads) == (SPEC.spec_id, 0, 1)
    assert card.versions["torch"] == torch.__version__
    assert card.versions["andersonn_core"] == andersonn_core.__version__
    assert card.code_hash == code_hash()
    assert card.device and card.device != "cpu"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", card.date)
    result = SPEC.run()
    assert card.summary["num_evals"] == result.num_evals
    assert card.summary["status"] == {"CONVERGED": 3}
    assert card.summary["sample_evals"]["worst"] == int(result.sample_evals.max())
    assert card.summary["relative_residual"]["worst"] == float(result.relative_residual.max())


def test_json_and_files_give_the_same_card_back(card, tmp_path):
    assert RunCard.from_json(card.to_json()) == card
    card.save(tmp_path / "card.json")
    assert RunCard.load(tmp_path / "card.json") == card
    assert SolveSpec.from_dict(card.spec) == SPEC


def test_the_json_is_canonical(card):
    text = card.to_json()
    assert text == json.dumps(json.loads(text), sort_keys=True)


def test_numbers_that_are_not_finite_are_null_in_the_summary():
    result = synthetic([float("nan")])
    summary = result.card.with_summary(dataclasses.replace(result)).summary
    assert summary["relative_residual"] == {"median": None, "worst": None}
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"spec": {}}', "not json", '"text"', "null", "{" * 9]
)
def test_text_that_is_no_card_is_refused(text):
    with pytest.raises(ValueError, match="this is not a run card"):
        RunCard.from_json(text)


@pytest.mark.parametrize(
    ("name", "value"), [("threads", "many"), ("threads", True), ("spec", None), ("summary", [])]
)
def test_a_card_with_a_field_of_the_wrong_kind_is_refused(card, name, value):
    record = json.loads(card.to_json()) | {name: value}
    with pytest.raises(ValueError, match=f"its {name} is"):
        RunCard.from_json(json.dumps(record))


def test_a_map_of_the_users_own_is_recorded_by_its_name():
    card = solve(torch.cos, torch.ones(2, 1)).card
    assert card.spec["problem"] is None and card.spec_id is None
    assert card.spec["map"].endswith("cos")
    with pytest.raises(ValueError, match="map given as code"):
        rerun(card)


def test_a_rerun_agrees_with_itself_and_seconds_are_shown_but_not_judged(card):
    report = rerun(card)
    assert report.agrees
    assert report.differences == ()
    assert report.sentence == "All 7 numbers agree (residuals within 0.001)."
    verdicts = {number.name: number.agrees for number in report.numbers}
    assert verdicts["map_seconds"] is None and verdicts["method_seconds"] is None
    assert rerun(changed(card, map_seconds=1e9)).agrees


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ("num_evals", 999),
        ("status", {"CONVERGED": 2, "STALLED": 1}),
        ("sample_evals_digest", "0" * 16),
        ("relative_residual", {"median": 1e-9, "worst": 1e-9}),
        ("relative_residual", {"median": None, "worst": None}),
    ],
)
def test_a_changed_number_is_found_and_named(card, number, value):
    report = rerun(changed(card, **{number: value}))
    assert not report.agrees
    assert f"These numbers differ: {number}" in report.sentence


def test_residuals_agree_within_the_stated_tolerance(card):
    residual = {name: value * 1.01 for name, value in card.summary["relative_residual"].items()}
    near = changed(card, relative_residual=residual)
    assert not rerun(near).agrees
    assert rerun(near, residual_rtol=0.1).agrees


def test_other_circumstances_are_named_as_possible_reasons(card):
    other = dataclasses.replace(
        changed(card, num_evals=1),
        code_hash="old",
        device="Another CPU",
        versions=card.versions | {"torch": "2.0.0"},
        data_hashes={"digits": "abc"},
    )
    sentence = rerun(other).sentence
    for reason in ("torch version was 2.0.0", "code was old", "device was Another CPU"):
        assert reason in sentence
    assert "data digits was abc, is absent" in sentence


def test_a_rerun_uses_the_threads_of_the_card_and_puts_them_back(card):
    before = torch.get_num_threads()
    report = rerun(dataclasses.replace(card, threads=2))
    assert report.card.threads == min(2, os.cpu_count())
    assert torch.get_num_threads() == before


def test_a_card_without_numbers_or_with_impossible_knobs_is_refused(card):
    with pytest.raises(ValueError, match="no numbers to compare"):
        rerun(dataclasses.replace(card, summary={}))
    impossible = json.loads(card.to_json())["spec"]
    impossible["method"]["window"] = -1
    with pytest.raises(KnobError, match="window"):
        rerun(dataclasses.replace(card, spec=impossible))


def test_data_hashes_travel_with_the_card():
    card = RunCard.capture({}, None, None, torch.device("cpu"), {"weights": "abc"})
    assert RunCard.from_json(card.to_json()).data_hashes == {"weights": "abc"}
