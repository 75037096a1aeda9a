"""A card's spec, run again: what agrees, what differs, and why that may be."""

import dataclasses
import json
import os

import pytest
import torch
from train_cases import tiny

from andersonn_core import (
    PROBLEMS,
    Anderson,
    KnobError,
    Picard,
    RunCard,
    SolveSpec,
    TrainResult,
    TrainSpec,
    solve,
)
from andersonn_core.problems import Affine
from andersonn_core.rerun import LOSS_RTOL, rerun, spec_of
from andersonn_core.training import BatchDone, Control, TrainEvent

SPEC = SolveSpec(problem=Affine(size=10, batch_size=3), method=Anderson(window=3), rtol=1e-5)


@pytest.fixture(scope="module")
def card() -> RunCard:
    return SPEC.run().card


@pytest.fixture(scope="module")
def trained() -> TrainResult:
    return tiny().run()


def changed(card: RunCard, **numbers: object) -> RunCard:
    return dataclasses.replace(card, summary=card.summary | numbers)


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


def test_residuals_far_below_the_tolerance_agree():
    """What a direct method leaves is rounding: other instructions leave another residual."""
    spec = SPEC.replace(problem=Affine(size=3, dtype="float64"), rtol=1e-6)
    exact = spec.run().card
    assert exact.summary["relative_residual"]["worst"] < 1e-3 * spec.rtol
    twice = {name: 2 * value for name, value in exact.summary["relative_residual"].items()}
    assert rerun(changed(exact, relative_residual=twice)).agrees


def test_other_circumstances_are_named_as_possible_reasons(card):
    other = dataclasses.replace(
        changed(card, num_evals=1),
        code_hash="old",
        device="Another CPU",
        versions=card.versions | {"torch": "2.0.0"},
        data_hashes={"digits": "abc"},
    )
    sentence = rerun(other).sentence
    for reason in ("torch was 2.0.0", "code was old", "device was Another CPU"):
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


def test_a_map_of_the_users_own_cannot_be_rerun():
    with pytest.raises(ValueError, match="map given as code.*cos"):
        rerun(solve(torch.cos, torch.ones(2, 1)).card)


def test_a_card_of_a_program_names_its_settings():
    told = RunCard.capture({"benchmark": "wall"}, None, None, torch.device("cpu"))
    with pytest.raises(ValueError, match="no solve and no training.*benchmark"):
        rerun(told)


def test_data_that_are_not_the_same_are_a_difference_that_is_judged():
    weights = SolveSpec(problem=PROBLEMS["digits_deq"](batch_size=2), rtol=1e-2).run().card
    assert rerun(weights).agrees
    other = dict(weights.data_hashes)
    name = next(iter(other))
    report = rerun(dataclasses.replace(weights, data_hashes=other | {name: "0" * 64}))
    assert not report.agrees
    assert f"These numbers differ: data {name}." in report.sentence


def test_a_card_says_which_kind_of_spec_it_holds(card, trained):
    assert spec_of(card) == SPEC
    assert spec_of(trained.card) == tiny() and isinstance(spec_of(trained.card), TrainSpec)


# -- trainings ------------------------------------------------------------------------------------


def test_a_training_run_again_has_the_same_bits(trained):
    report = rerun(RunCard.from_json(trained.card.to_json()))
    judged = {number.name: number.agrees for number in report.numbers}
    assert report.agrees and report.differences == ()
    wanted = {"steps", "epochs", "evals", "weights_digest", "loss", "test_accuracy", "reason"}
    assert all(judged[name] for name in wanted)
    assert all(judged[f"data {name}"] for name in trained.card.data_hashes)
    assert judged["train_seconds"] is None and judged["clock"] is None
    assert report.sentence == (
        f"All {sum(each is not None for each in judged.values())} numbers agree (evaluations "
        "within 5%, loss within 5% or 0.01, accuracies within 2 points)."
    )


@pytest.mark.parametrize("name", ["steps", "epochs", "evals", "weights_digest", "loss"])
def test_a_number_of_a_training_that_differs_is_found(trained, name):
    value = trained.card.summary[name]
    wrong = "0" * 16 if isinstance(value, str) else value * 2
    report = rerun(changed(trained.card, **{name: wrong}))
    assert not report.agrees
    assert report.sentence.startswith(f"These numbers differ: {name}. Code, versions")


def test_bits_are_judged_only_where_nothing_that_rounds_differs(trained):
    loss = trained.card.summary["loss"] * (1 + LOSS_RTOL / 2)
    numbers = {"weights_digest": "0" * 16, "loss": loss}
    elsewhere = dataclasses.replace(changed(trained.card, **numbers), code_hash="old")
    report = rerun(elsewhere)
    assert report.agrees
    assert {n.name: n.agrees for n in report.numbers}["weights_digest"] is None
    assert "The circumstances differ: code was old, is " in report.sentence


def test_fewer_threads_train_to_the_stated_tolerance(monkeypatch):
    torch.set_num_threads(2)
    try:
        card = tiny().run().card
    finally:
        torch.set_num_threads(1)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    report = rerun(card)
    assert report.agrees, report.sentence
    assert "threads was 2, is 1" in report.sentence


def test_knobs_that_were_changed_while_it_trained_are_changed_again():
    control = Control()

    def on_event(event: TrainEvent) -> None:
        if isinstance(event, BatchDone) and event.step == 2:
            control.change(method=Picard(), learning_rate=1e-4)
        elif isinstance(event, BatchDone) and event.step == 4:
            control.change(mixing=0.8)

    result = tiny().run(on_event, control=control)
    assert [change["step"] for change in result.changes] == [3, 5]
    report = rerun(RunCard.from_json(result.card.to_json()))
    assert report.agrees, report.sentence
    assert report.card.summary["changes"] == result.changes
    assert tiny().run().weights_digest != result.weights_digest


def test_a_run_without_an_end_of_its_own_is_refused(card):
    stopped = tiny().run(should_stop=lambda: True).card
    with pytest.raises(ValueError, match="reason: stopped"):
        rerun(stopped)
    with pytest.raises(ValueError, match="reason: seconds"):
        rerun(tiny(seconds=1e-3).run().card)
    with pytest.raises(ValueError, match="was cancelled"):
        rerun(SPEC.run(should_stop=lambda: True).card)
