import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from andersonn_core import METHODS, PROBLEMS, RunCard
from andersonn_core import __main__ as cli
from andersonn_core.driver import SolveKnobs
from andersonn_core.report import option_name

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("solve", "affine", "--size", "12", "--batch-size", "3")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "200", "TERM": "dumb"})


def solved(*arguments: str) -> dict:
    """What `solve --json` prints, read back."""
    answer = run(*QUICK, *arguments, "--json")
    assert answer.exit_code == 0, answer.output
    assert answer.stderr == ""
    return json.loads(answer.stdout)


def test_solve_prints_both_methods_the_crossover_and_the_split_of_the_time():
    answer = run(*QUICK)
    assert answer.exit_code == 0
    for text in ("Forward iteration", "Anderson", "median", "evals", "3 CONVERGED"):
        assert text in answer.stdout
    for part in ("map", "Gram row", "solve", "mix", "bookkeeping"):
        assert part in answer.stdout
    assert "Seconds are thread CPU time on" in answer.stdout
    assert answer.stdout.rstrip().endswith(".")


def test_the_command_of_the_readme_works_as_a_program():
    command = ["solve", "digits_deq", "--window", "5", "--rtol", "1e-2", "--batch-size", "4"]
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-m", "andersonn_core", *command, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    assert json.loads(answer.stdout)["runs"][1]["converged"] == 4


def test_json_holds_the_runs_the_split_the_crossover_and_the_cards():
    record = solved()
    assert set(record) == {"runs", "split", "crossover", "cards", "interrupted"}
    assert [row["method"] for row in record["runs"]] == ["picard", "anderson"]
    assert {"evaluations_median", "evaluations_worst", "seconds", "status"} <= set(
        record["runs"][0]
    )
    parts = [row["part"] for row in record["split"]["Anderson"]]
    assert parts == ["map", "gram", "solve", "mix", "bookkeeping"]
    assert record["crossover"]["sentence"].endswith(".")
    assert record["interrupted"] is False
    card = RunCard.from_json(json.dumps(record["cards"]["Anderson"]))
    assert card.spec["problem"]["size"] == 12


def test_options_reach_the_knobs_of_the_problem_the_method_and_the_driver():
    options = "--batch-size 2 --dtype float64 --mixing .8 --restart never --no-fallback"
    options += " --regularization none --rtol 1e-5 --max-iter 50 --compact"
    spec = solved(*options.split())["cards"]["Anderson"]["spec"]
    problem, method = spec["problem"], spec["method"]
    assert (problem["batch_size"], problem["dtype"]) == (2, "float64")
    assert (method["mixing"], method["restart"], method["fallback"]) == (0.8, "never", False)
    assert method["regularization"] is None
    assert (spec["rtol"], spec["max_iter"], spec["compact"]) == (1e-5, 50, True)


def test_what_is_not_given_has_the_default_of_the_spec():
    spec = solved()["cards"]["Anderson"]["spec"]
    assert spec["method"] == METHODS["anderson"]().to_dict()
    expected = PROBLEMS["affine"](size=12, batch_size=3).to_dict()
    assert spec["problem"] == expected


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_knob_is_an_option_and_no_two_knobs_share_one(name):
    answer = run("solve", name, "--help")
    assert answer.exit_code == 0
    specs = [PROBLEMS[name], SolveKnobs, *METHODS.values()]
    for spec in specs:
        for knob in spec.knobs():
            assert option_name(knob) in answer.stdout
    of_methods = {knob for method in METHODS.values() for knob in method.knobs()}
    groups = [set(PROBLEMS[name].knobs()), set(SolveKnobs.knobs()), of_methods]
    assert len(set().union(*groups)) == sum(len(group) for group in groups)
    assert not set().union(*groups) & set(vars(cli.Settings()))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--windw", "3"], "--window"),
        (["--window", "five"], "Give an integer, such as 5"),
        (["--window", "-1"], "Anderson.window (m) = -1 is not allowed: it must be 0 to 100"),
        (["--window", "2.5"], "Give an integer, such as 2"),
        (["--mixing", "nan"], "Anderson.mixing (beta) = nan is not allowed"),
        (["--rtol", "2"], "rtol (tol) = 2 is not allowed: it must be 0 to 1"),
        (["--dtype", "float46"], "Did you mean 'float64'?"),
        (["--method", "andersen"], "must be one of picard, anderson, auto, short_rec"),
        (["--aggregate", "mean"], "must be one of median, p95, all"),
        (["--method", "broyden", "--no-fallback"], "Broyden has no knob 'fallback'"),
        (["--device", "abacus"], "this machine has cpu"),
        (["--repeats", "0"], "--repeats"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, words):
    answer = run(*QUICK, *arguments)
    assert answer.exit_code == 2
    assert words in answer.stderr
    assert "Traceback" not in answer.output
    assert answer.stdout == ""


def test_an_unknown_problem_or_method_is_answered_with_the_known_ones():
    answer = run("solve", "digts_deq")
    assert answer.exit_code == 2 and "digits_deq" in answer.stderr
    answer = run("problems", "digts_deq")
    assert answer.exit_code == 2 and "must be one of digits_deq" in answer.stderr


def test_repeats_give_the_crossover_an_interval():
    point = solved("--spectral-radius", "0.99", "--repeats", "3")["crossover"]
    assert point["kind"] != "at" or None not in point["seconds_interval"]


def test_forward_iteration_can_be_compared_with_itself():
    names = [row["run"] for row in solved("--method", "picard", "--mixing", "0.5")["runs"]]
    assert names == ["Forward iteration", "Forward iteration as given"]


def test_failures_of_the_numerics_are_advice_and_not_an_error():
    answer = run("solve", "rotation")
    assert answer.exit_code == 0
    assert "Only Anderson converges" in answer.stdout
    assert "Forward iteration, STALLED: The best residual no longer improves" in answer.stdout


def test_threads_are_what_the_option_says_and_are_put_back():
    assert solved("--threads", "2")["cards"]["Anderson"]["threads"] == 2
    assert torch.get_num_threads() == 1


def test_a_saved_card_can_be_rerun_and_a_changed_number_is_found(tmp_path):
    path = tmp_path / "card.json"
    assert run(*QUICK, "--card", str(path)).exit_code == 0
    answer = run("rerun", str(path))
    assert answer.exit_code == 0
    assert "All 7 numbers agree" in answer.stdout
    card = RunCard.load(path)
    more = card.summary | {"num_evals": card.summary["num_evals"] + 1}
    dataclasses.replace(card, summary=more).save(path)
    answer = run("rerun", str(path))
    assert answer.exit_code == 1
    assert "These numbers differ: num_evals." in answer.stdout
    answer = run("rerun", str(path), "--json")
    assert answer.exit_code == 1
    assert json.loads(answer.stdout)["agrees"] is False


def test_a_card_that_cannot_be_read_or_written_is_one_sentence(tmp_path):
    answer = run("rerun", str(tmp_path / "none.json"))
    assert answer.exit_code == 2 and "No such file or directory" in answer.stderr
    (tmp_path / "text.json").write_text("text")
    answer = run("rerun", str(tmp_path / "text.json"))
    assert answer.exit_code == 2 and "this is not a run card" in answer.stderr
    answer = run(*QUICK, "--card", str(tmp_path / "no" / "folder.json"))
    assert answer.exit_code == 2 and "No such file or directory" in answer.stderr


@pytest.mark.parametrize(("command", "table"), [("problems", PROBLEMS), ("methods", METHODS)])
def test_the_lists_show_every_knob_with_its_default_and_range(command, table):
    text = run(command).stdout
    for name, spec in table.items():
        assert name in text
        for knob in spec.knobs():
            assert option_name(knob) in text
    one = next(iter(table))
    assert run(command, one).stdout.strip() in text


@pytest.mark.parametrize("first", [True, False])
def test_ctrl_c_shows_what_is_known_and_exits_with_130(monkeypatch, first):
    """The signal comes at the fifth evaluation of the first or of the second method."""
    stopped = "Forward iteration" if first else "Anderson"

    @contextmanager
    def interrupting() -> Iterator[object]:
        def watch(label: str) -> object:
            def on_step(step: object) -> None:
                if label == stopped and step.evaluation == 5:
                    signal.raise_signal(signal.SIGINT)

            return on_step

        yield watch

    monkeypatch.setattr(cli, "_progress", interrupting)
    before = signal.getsignal(signal.SIGINT)
    answer = run(*QUICK, "--spectral-radius", "0.99")
    assert answer.exit_code == 130
    assert "3 CANCELLED" in answer.stdout
    assert ("Anderson" in answer.stdout) is not first
    assert ("a run was stopped before its end" in answer.stdout) is not first
    assert signal.getsignal(signal.SIGINT) is before


def test_the_command_line_loads_no_library_of_the_dashboard():
    heavy = "panel bokeh holoviews param scipy sklearn matplotlib".split()
    code = "import sys, andersonn_core.__main__\n"
    code += f"print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
