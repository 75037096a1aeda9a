"""The claim ledger says what its evidence says, and every committed run card can be run again."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from andersonn_core import KnobError, RunCard, rerun
from andersonn_core.rerun import spec_of

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "assets"
CARDS = [path for path in sorted(ASSETS.rglob("*.json")) if path.parent.name != "recordings"]
ENTRY = """
papers:
  one: {title: A paper, read: nothing}
claims:
  - id: first
    paper: one
    known_from: abstract
    claim: It is so.
    published: in words
    verdict: unresolved
    why: Nobody looked.
    needs: a look
"""


@pytest.fixture(scope="module")
def claims() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ASSETS)
        return importlib.import_module("claims")


@pytest.fixture(scope="module")
def book(claims):
    return claims.read_claims(claims.CLAIMS_FILE.read_text())


def numbers(name: str) -> dict:
    return RunCard.load(ASSETS / "cards" / f"{name}.json").summary


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_committed_card_can_be_run_again_and_agrees(path):
    card = RunCard.load(path)
    try:
        report = rerun(card)
    except KnobError as error:  # a device that this machine lacks
        spec = spec_of(card)
        device = getattr(spec, "device", None) or spec.problem.device
        assert device != "cpu", error
        pytest.skip(f"made on {card.device}: {error}")
    assert report.agrees, f"{report.sentence} If that is meant: python assets/cards.py {path.stem}"


def test_every_card_is_made_by_the_script_and_of_the_spec_it_has(monkeypatch):
    monkeypatch.syspath_prepend(ASSETS)
    specs = importlib.import_module("cards").SPECS
    assert {path.stem for path in CARDS} == set(specs)
    for path in CARDS:
        assert spec_of(RunCard.load(path)) == specs[path.stem], path.stem


def test_the_papers_of_the_project_have_claims(book):
    numbers = {paper.arxiv for paper in book.papers.values()}
    assert {"2410.19460", "2407.19724", "2110.14813", "2107.01739"} <= numbers
    assert {claim.verdict for claim in book.claims} <= {"confirmed", "refuted", "unresolved"}


def test_every_card_and_file_of_the_ledger_is_there_and_every_card_is_used(book):
    named = {each.path for claim in book.claims for each in claim.evidence}
    assert all((ROOT / path).is_file() for path in named)
    cards = {path.relative_to(ROOT) for path in CARDS}
    assert cards <= named
    makefile = (ROOT / "Makefile").read_text()
    commands = {each.command for claim in book.claims for each in claim.evidence
                if hasattr(each, "command")}  # fmt: skip
    for command in commands:
        assert f"\n{command.removeprefix('make ')}:" in makefile, command


def test_verdicts_of_measured_claims_are_those_of_their_intervals(book, claims):
    measured = [claim for claim in book.claims if claim.measure is not None]
    assert {claim.measure for claim in measured} == {claim.measure for claim in claims.CLAIMS}
    for claim in measured:
        assert claim.verdict == claim.measured_verdict, claim.id
        assert all(entry["here"] in claim.sentence for entry in claim.entries)


def test_sentences_hold_the_numbers_of_their_evidence(book):
    by_id = {claim.id: claim for claim in book.claims}
    for claim in book.claims:
        assert "{" not in claim.sentence, claim.id
    evals = numbers("poisson-anderson")["num_evals"]
    assert f" {evals} evaluations of the map" in by_id["kaust-matrix-free"].sentence


# -- what the verdicts by run cards rest on -------------------------------------------------------


def test_the_crossover_claim_is_what_the_cards_and_the_seconds_say():
    forward, anderson = numbers("digits-forward"), numbers("digits-anderson")
    assert forward["status"] == anderson["status"] == {"CONVERGED": 16}
    assert 2 * anderson["num_evals"] < forward["num_evals"]
    loose = numbers("digits-loose-forward"), numbers("digits-loose-anderson")
    assert loose[0]["num_evals"] == loose[1]["num_evals"]
    rows = json.loads((ROOT / "benchmarks" / "results" / "wall.json").read_text())["rows"]
    for row in rows:  # dearer steps on every map, whoever wins
        each = {name: min(row["seconds"][name]) / row["evaluations"][name]
                for name in ("forward", "Anderson 5")}  # fmt: skip
        assert each["Anderson 5"] > each["forward"], row["case"]
    digits = next(row["seconds"] for row in rows if row["case"] == "digits_deq")
    assert max(digits["Anderson 5"]) < min(digits["forward"])
    assert numbers("newton-forward")["status"] == {"CONVERGED": 16}
    assert numbers("newton-anderson")["status"]["DIVERGED"] > 8


def test_the_theorem_on_affine_maps_is_what_the_cards_say():
    assert numbers("divergent-forward")["status"] == {"DIVERGED": 1}
    exact = numbers("divergent-anderson")
    assert exact["status"] == {"CONVERGED": 1} and exact["num_evals"] == 8 + 2
    assert exact["relative_residual"]["worst"] < 1e-12


def test_the_training_cards_are_of_equal_tolerance_and_differ_in_evaluations():
    forward, anderson = numbers("training-forward"), numbers("training-anderson")
    assert forward["steps"] == anderson["steps"]
    assert abs(forward["loss"] - anderson["loss"]) < 0.01
    assert 2 * anderson["evals"] < forward["evals"]


# -- what the loader refuses ----------------------------------------------------------------------


def test_a_whole_entry_is_read(claims):
    assert claims.read_claims(ENTRY).claims[0].sentence == "Nobody looked."


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("verdict: unresolved", "verdict: open", "'confirmed', 'refuted' or 'unresolved'"),
        ("verdict: unresolved", "verdict: confirmed", "first is confirmed without evidence"),
        ("    needs: a look\n", "", "says what it needs"),
        ("paper: one", "paper: two", "each claim is of a paper"),
        (
            "needs: a look",
            "needs: a look\n    evidence: [{card: none}]",
            "there is no assets/cards",
        ),
        ("needs: a look", "needs: a look\n    measure: seconds", "does not know this measure"),
        ("why: Nobody looked.", "why: '{measured}'", "says {measured}"),
        ("needs: a look", "needs: 3", "needs"),
        ("needs: a look", "neds: a look", "neds"),
    ],
)
def test_an_entry_that_is_not_whole_is_refused(claims, old, new, words):
    with pytest.raises(ValueError, match=words):
        claims.read_claims(ENTRY.replace(old, new))


def test_an_id_that_is_used_twice_is_refused(claims):
    entry = ENTRY.partition("claims:\n")[2]
    with pytest.raises(ValueError, match="used twice: first"):
        claims.read_claims(ENTRY + entry)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ENTRY + "claims: []\n", "the key 'claims' is given twice"),
        (ENTRY.replace("needs: a look", "needs: a look\n    needs: two"), "'needs' is given twice"),
        (ENTRY.replace("a look", "!!python/object/apply:os.getcwd []"), "could not determine"),
    ],
)
def test_keys_given_twice_and_tags_that_run_code_are_refused(claims, text, words):
    with pytest.raises(ValueError, match=words):
        claims.read_claims(text)


def test_a_number_that_the_evidence_lacks_is_refused(claims):
    text = ENTRY.replace("why: Nobody looked.", "why: '{digits-forward.evals}'")
    text += "    evidence: [{card: digits-forward}]\n"
    with pytest.raises(ValueError, match="first: its evidence holds no"):
        claims.read_claims(text).claims[0].sentence  # noqa: B018
