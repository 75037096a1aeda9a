"""Everything the README says is run: its Python, commands, tables, map and pictures."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
VERDICT = "^(Anderson is ahead|No crossover:|The crossover is not resolved:).*\\.$"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


# test_sharding.py runs the one that needs several processes.
PYTHON = [block for block in blocks("python") if "init_process_group" not in block]


def test_tables_are_those_of_the_code_and_of_the_last_measurements(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "assets")
    tables = importlib.import_module("readme_tables")
    assert tables.with_tables(README) == README


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_of_the_readme_runs_and_prints_what_it_says(number, tmp_path):
    printed = run([sys.executable, "-c", PYTHON[number]], tmp_path)
    if number == 0:  # who is ahead, and when, is for the machine and its load to say
        assert "0.7391" in printed and re.search(VERDICT, printed, re.M), printed
    elif number == 1:
        assert int(printed.split()[0]) <= 125
    elif number == 2:
        counts, radius = printed.splitlines()
        forward, backward = map(int, counts.split()[:2])
        assert 2 < forward < 40 and 2 < backward < 40 and "unconverged=0" in counts
        assert "tensor(" in radius
    elif number == 3:
        assert 0.1 < float(printed.split()[0]) <= 1 and "Phases(encode=" in printed
        assert "adjoint_unconverged" in printed
        assert list((tmp_path / "trainings" / "first").glob("step-*.safetensors"))
    elif number == 4:
        count, *medians, found = printed.splitlines()
        assert count == "16 {'CONVERGED'}" and any("anderson" in line for line in medians)
        assert found.startswith("{'method.window': ")
    else:
        auto, damped, sliding = printed.splitlines()
        assert int(auto.split()[0]) <= 20 and "True evaluation" in auto and "window" in auto
        for other in (damped, sliding):
            assert other.endswith("True") and int(other.split()[0]) > int(auto.split()[0])


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_commands_of_the_readme_run(tmp_path):
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("python -m")]
    assert len(commands) == 7
    (sweep,) = blocks("yaml")
    (tmp_path / "sweep.yaml").write_text(sweep)
    printed = [run([sys.executable, *command], tmp_path) for command in commands]
    table, agreement, trained, swept, listed, exported, card = printed
    assert "12 of 12 trials: 12 CONVERGED" in swept and "method.window" in listed
    assert "12 rows: sweep.csv" in exported and (tmp_path / "sweep.csv").exists()
    assert "python -m andersonn_core rerun row.json" in card and (tmp_path / "row.json").exists()
    assert "Anderson" in table and "Forward iteration" in table
    assert "agree" in agreement and "Test accuracy over 2 seeds" in trained


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    typed = re.findall(r"`make ([a-z-]+)", README) + re.findall(r"^make ([a-z-]+)", README, re.M)
    for target in set(typed):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_files_of_the_map_exist_and_none_is_missing():
    tree = README.split("## Map of the repository")[1].split("```")[1]
    named = set(re.findall(r"[\w/]+\.py", tree))
    for path in named:
        assert list((ROOT / "andersonn_core").rglob(Path(path).name)) or (ROOT / path).exists()
    modules = {path.name for path in (ROOT / "andersonn_core").glob("*.py")} - {"__init__.py"}
    assert modules <= {Path(path).name for path in named}, modules - named


def test_pictures_and_linked_files_exist():
    for path in re.findall(r"\]\(([\w/-]+\.\w+)\)", README):
        assert (ROOT / path).exists(), path
