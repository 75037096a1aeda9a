"""`python -m andersonn_core train`: a thin door to TrainSpec."""

import json

import pytest
import torch
from train_cases import TINY
from typer.testing import CliRunner

from andersonn_core import GRADIENTS, METHODS, RunCard
from andersonn_core import __main__ as cli
from andersonn_core.report import option_name
from andersonn_core.train_command import KNOBS, Settings
from andersonn_core.training import TrainResult, TrainSpec

QUICK = [text for name, value in (TINY | {"epochs": 1}).items()
         for text in (option_name(name), str(value))]  # fmt: skip


def run(*arguments):
    return CliRunner().invoke(
        cli.app, ["train", *map(str, arguments)], env={"COLUMNS": "200", "TERM": "dumb"}
    )


def test_seeds_are_trained_into_a_folder_with_results_and_cards(tmp_path):
    answer = run("digits", *QUICK, "--seeds", "0-1", "--folder", tmp_path, "--window", 3)
    assert answer.exit_code == 0, answer.output
    assert "finished" in answer.stdout and "Test accuracy over 2 seeds" in answer.stdout
    folder = next(tmp_path.iterdir())
    for seed in (0, 1):
        result = TrainResult.load(folder / f"seed-{seed}" / "result.pt")
        assert result.spec.seed == seed and result.spec.method == METHODS["anderson"](window=3)
        assert result.spec.spec_id == folder.name
        card = RunCard.load(folder / f"seed-{seed}" / "card.json")
        assert card.summary["weights_digest"] == result.weights_digest
    again = run("digits", *QUICK, "--seeds", "0-1", "--folder", tmp_path, "--window", 3)
    assert again.exit_code == 2 and "resume" in again.stderr
    more = run("digits", *QUICK, "--seeds", "0-2", "--folder", tmp_path, "--window", 3,
               "--resume", "--json")  # fmt: skip
    record = json.loads(more.stdout)
    assert more.stderr == "" and set(record["cards"]) == {"0", "1", "2"}
    assert record["cards"]["1"]["summary"]["weights_digest"] == card.summary["weights_digest"]


def test_methods_and_gradients_are_given_by_name_with_their_knobs(tmp_path):
    answer = run(
        "digits", *QUICK, "--method", "picard", "--gradient", "phantom", "--tau", 0.25,
        "--adjoint-method", "idr", "--folder", tmp_path, "--threads", torch.get_num_threads(),
        "--train-images", 20, "--json",
    )  # fmt: skip
    (card,) = json.loads(answer.stdout)["cards"].values()
    spec = TrainSpec.from_dict(card["spec"])
    assert (spec.method.name, spec.adjoint_method.name) == ("picard", "idr")
    assert spec.gradient == GRADIENTS["phantom"](tau=0.25) and spec.train_images == 20


def test_every_knob_has_one_option_and_no_setting_is_called_like_one():
    answer = run("digits", "--help")
    names = [name for group in KNOBS.values() for name in group]
    assert len(names) == len(set(names)) and not set(names) & set(vars(Settings()))
    assert all(option_name(name) in answer.stdout for name in names)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seeds", "a"], "0-4,7"),
        (["--method", "andersen"], "--method andersen"),
        (["--gradient", "none"], "--gradient none"),
        (["--batch-size", "0"], "batch_size"),
        (["--cifar10", "x"], "train cifar10"),
        (["--train-images", "5000"], "there are 1437"),
    ],
)
def test_misuse_is_one_sentence_and_exit_code_two(tmp_path, options, words):
    answer = run("digits", "--folder", tmp_path, *options)
    assert answer.exit_code == 2 and words in answer.stderr and "Traceback" not in answer.stderr


def test_missing_cifar10_says_what_to_do(tmp_path):
    answer = run("cifar10", "--cifar10", tmp_path, "--folder", tmp_path)
    assert answer.exit_code == 2 and "Fetch https" in answer.stderr
