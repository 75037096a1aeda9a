import copy
import dataclasses
import functools
import json
import operator
import re
from collections.abc import Iterator

import pytest
import torch
from synthetic import synthetic
from train_cases import tiny

import andersonn_core
from andersonn_core import AlteredCardError, Anderson, RunCard, SolveResult, SolveSpec, solve
from andersonn_core.problems import Affine
from andersonn_core.runcard import code_hash
from andersonn_core.seal import sealed

SPEC = SolveSpec(problem=Affine(size=10, batch_size=3), method=Anderson(window=3), rtol=1e-5)
REMOVED = object()


@pytest.fixture(scope="module")
def card() -> RunCard:
    return SPEC.run().card


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
    "text",
    [
        "",
        "[]",
        "{}",
        '{"spec": {}}',
        "not json",
        '"text"',
        "null",
        "{" * 9,
        "[" * 99_999,
        '{"seed": NaN}',
    ],
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
        RunCard.from_json(json.dumps(sealed(record)))


def places(record: object, path: tuple = ()) -> Iterator[tuple]:
    """The path of every leaf."""
    if isinstance(record, dict) and record:
        for key, value in record.items():
            yield from places(value, (*path, key))
    else:
        yield path


def with_leaf(record: dict, path: tuple, value: object) -> str:
    """The JSON of a copy in which one leaf is another; REMOVED takes it away."""
    altered = copy.deepcopy(record)
    inner = altered
    for key in path[:-1]:
        inner = inner[key]
    if value is REMOVED:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(altered)


def others(value: object) -> list:
    """Values that a leaf might be altered to: near ones, of other kinds, none."""
    if isinstance(value, bool):
        return [not value, int(value), None]
    if isinstance(value, int | float):
        near = [value + 1, -value or 2, float(value)]
        return [str(value), None, *(each for each in near if repr(each) != repr(value))]
    if isinstance(value, str):
        return [value + " ", value[:-1], "", 0]
    return [0, "", {"more": 1}]


@pytest.mark.parametrize("make", [lambda: SPEC.run().card, lambda: tiny(epochs=1).run().card])
def test_an_altered_card_is_caught_whichever_leaf_it_is(make):
    record = json.loads(make().to_json())
    leaves = list(places(record))
    assert len(leaves) > 30
    for path in leaves:
        value = functools.reduce(operator.getitem, path, record)
        for other in [*others(value), REMOVED]:
            text = with_leaf(record, path, other)
            # at the top a leaf that is missing makes it no card at all
            kind = ValueError if other is REMOVED and len(path) == 1 else AlteredCardError
            with pytest.raises(kind, match="run card"):
                RunCard.from_json(text)
    RunCard.from_json(json.dumps(record, indent=3))


def test_an_altered_card_says_what_to_do_and_names_its_file(card, tmp_path):
    path = tmp_path / "better.json"
    path.write_text(card.to_json().replace('"num_evals": ', '"num_evals": 1'))
    with pytest.raises(AlteredCardError, match="better.json: this run card was altered.*again"):
        RunCard.load(path)


def test_a_card_without_its_digest_is_refused_in_words(card):
    record = json.loads(card.to_json())
    del record["sha256"]
    with pytest.raises(ValueError, match="has no sha256 of its content.*Run its spec again"):
        RunCard.from_json(json.dumps(record))


def test_a_key_given_twice_is_refused(card):
    """Python would read the second value, and a person the first."""
    twice = card.to_json().replace('"threads": 1', '"threads": 8, "threads": 1')
    with pytest.raises(ValueError, match="not a run card: the key 'threads' is given twice"):
        RunCard.from_json(twice)


def test_bytes_that_are_no_text_are_no_card(tmp_path):
    (tmp_path / "card.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="card.json: this is not a run card"):
        RunCard.load(tmp_path / "card.json")


def test_a_saved_result_brings_its_card_and_a_changed_card_is_caught(tmp_path):
    result = SPEC.run()
    result.save(tmp_path / "result.pt")
    assert SolveResult.load(tmp_path / "result.pt").card == result.card
    record = torch.load(tmp_path / "result.pt", weights_only=True)
    record["card"] = record["card"].replace('"threads": 1', '"threads": 2')
    torch.save(record, tmp_path / "result.pt")
    with pytest.raises(AlteredCardError):
        SolveResult.load(tmp_path / "result.pt")


def test_a_map_of_the_users_own_is_recorded_by_its_name():
    card = solve(torch.cos, torch.ones(2, 1)).card
    assert card.spec["problem"] is None and card.spec_id is None
    assert card.spec["map"].endswith("cos")


def test_data_hashes_travel_with_the_card():
    card = RunCard.capture({}, None, None, torch.device("cpu"), {"weights": "abc"})
    assert RunCard.from_json(card.to_json()).data_hashes == {"weights": "abc"}
