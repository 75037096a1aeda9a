"""What differs between two run cards, name by name and in a sentence."""

import dataclasses
import json

import pytest
from train_cases import tiny
from typer.testing import CliRunner

from andersonn_core import Anderson, Picard, RunCard, SolveSpec, diff_cards
from andersonn_core import __main__ as cli
from andersonn_core.card_diff import ABSENT, OUTCOME, WHAT, WHERE
from andersonn_core.problems import Affine

SPEC = SolveSpec(problem=Affine(size=10, batch_size=3), method=Anderson(window=3), rtol=1e-5)


@pytest.fixture(scope="module")
def card() -> RunCard:
    return SPEC.run().card


def names(first: RunCard, second: RunCard) -> dict[str, tuple]:
    return {d.name: (d.first, d.second) for d in diff_cards(first, second).differences}


def test_a_card_does_not_differ_from_itself(card):
    for each in (card, tiny(epochs=1).run().card):
        diff = diff_cards(each, RunCard.from_json(each.to_json()))
        assert diff.differences == () and diff.sentence.startswith("Nothing differs")


def test_a_second_run_of_the_same_differs_in_seconds_alone(card):
    diff = diff_cards(card, SPEC.run().card)
    assert {each.part for each in diff.differences} <= {"seconds"}
    assert diff.sentence.startswith("The same was run: knobs, seed and data. Code,")
    assert diff.sentence.endswith("The numbers are the same, seconds aside.")


def test_a_knob_is_named_as_a_sweep_names_its_axis(card):
    other = SPEC.replace(**{"method.window": 4}).run().card
    assert names(card, other)["spec.method.window"] == (3, 4)
    sentence = diff_cards(card, other).sentence
    assert sentence.startswith("The runs differ in method.window. ")
    assert "These numbers differ: " in sentence and "num_evals" in sentence


def test_another_seed_is_named_once(card):
    other = SPEC.replace(**{"problem.seed": 5}).run().card
    assert diff_cards(card, other).sentence.startswith("The runs differ in problem.seed. ")


def test_knobs_that_one_of_them_lacks_are_absent(card):
    other = SPEC.replace(method=Picard()).run().card
    found = names(card, other)
    assert found["spec.method.name"] == ("anderson", "picard")
    assert found["spec.method.window"] == (3, ABSENT)
    assert diff_cards(card, other).sentence.startswith("The runs differ in method.name. ")


@pytest.mark.parametrize(
    ("field", "value", "part", "name"),
    [
        ("seed", 7, "seed", "seed"),
        ("code_hash", "old", "code", "code_hash"),
        ("device", "Another CPU", "device", "device"),
        ("threads", 8, "threads", "threads"),
        ("versions", {"torch": "2.0.0"}, "versions", "versions.torch"),
        ("data_hashes", {"digits": "abc"}, "data", "data_hashes.digits"),
        ("summary", {"num_evals": 1}, "numbers", "summary.num_evals"),
        ("summary", {"status": {"STALLED": 3}}, "numbers", "summary.status"),
        ("summary", {"map_seconds": 1e9}, "seconds", "summary.map_seconds"),
        ("spec", {"rtol": 0.5}, "knobs", "spec.rtol"),
    ],
)
def test_every_part_of_a_card_is_compared(card, field, value, part, name):
    old = getattr(card, field)
    new = old | value if isinstance(value, dict) else value
    diff = diff_cards(card, dataclasses.replace(card, **{field: new}))
    assert [(each.part, each.name) for each in diff.differences] == [(part, name)]
    assert part in (*WHAT, *WHERE, *OUTCOME)
    assert diff.of(part) == diff.differences


def test_dates_are_no_difference(card):
    later = dataclasses.replace(card, date="2030-01-01T00:00:00+00:00")
    assert not diff_cards(card, later).differences


def test_numbers_without_a_reason_are_called_so(card):
    other = dataclasses.replace(card, summary=card.summary | {"num_evals": 1})
    sentence = diff_cards(card, other).sentence
    assert sentence.endswith("differ, for no reason that the cards tell: num_evals.")


def run(*arguments: object):
    return CliRunner().invoke(
        cli.app, [*map(str, arguments)], env={"COLUMNS": "200", "TERM": "dumb"}
    )


def test_the_command_line_lists_and_says_it(card, tmp_path):
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    card.save(one)
    SPEC.replace(**{"method.window": 4}).run().card.save(other)
    answer = run("diff", one, other)
    assert answer.exit_code == 1 and "spec.method.window" in answer.stdout
    assert answer.stdout.rstrip().endswith(".") and "The runs differ in" in answer.stdout
    record = json.loads(run("diff", one, other, "--json").stdout)
    assert record["sentence"].startswith("The runs differ in method.window")
    window = next(d for d in record["differences"] if d["name"] == "spec.method.window")
    assert window == {"part": "knobs", "name": "spec.method.window", "first": 3, "second": 4}
    same = run("diff", one, one)
    assert same.exit_code == 0 and same.stdout.startswith("Nothing differs")


def test_the_command_line_names_the_card_that_was_altered(card, tmp_path):
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    card.save(one)
    other.write_text(card.to_json().replace('"threads": 1', '"threads": 2'))
    for command in (("diff", one, other), ("rerun", other)):
        answer = run(*command)
        assert answer.exit_code == 2 and "Traceback" not in answer.stderr
        assert "other.json: this run card was altered" in answer.stderr


def test_the_command_line_reruns_a_training(tmp_path):
    path = tmp_path / "card.json"
    tiny(epochs=1).run().card.save(path)
    answer = run("rerun", path)
    assert answer.exit_code == 0, answer.output
    assert "weights_digest" in answer.stdout and "numbers agree" in answer.stdout
