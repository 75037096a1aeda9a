"""A sweep from a file and from the command line is the sweep that Python says, and one row."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from andersonn_core import PROBLEMS, Anderson, Between, KnobError, RunCard, SolveSpec, Sweep
from andersonn_core import __main__ as cli
from andersonn_core.store import Store
from andersonn_core.sweeps.engines import Slurm
from andersonn_core.sweeps.file import SweepFile
from andersonn_core.sweeps.sweep import LARGE
from andersonn_core.yaml_text import parse_yaml, read_yaml

LINES = """
base:
  problem: {name: tanh, size: 16}
  method: {name: anderson}
  rtol: 1e-6
  max_iter: 300
axes:
  method.window: 1:4
  method.mixing: [0.5, 1]
seeds: 0:2
executor: serial
"""
SAID = Sweep(
    SolveSpec(problem=PROBLEMS["tanh"](size=16), method=Anderson(), rtol=1e-6, max_iter=300),
    {"method.window": range(1, 4), "method.mixing": [0.5, 1.0]},
    seeds=range(2),
)


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(LINES)
    return path


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "s.sqlite"


def swept(text: str) -> Sweep:
    return SweepFile.of(parse_yaml(text)).sweep()


def run(*arguments, answer: str | None = None) -> Result:
    words = [str(each) for each in arguments]
    return CliRunner().invoke(cli.app, words, input=answer, env={"COLUMNS": "200", "TERM": "dumb"})


def count(store: Path) -> int:
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute("SELECT count(*) FROM rows").fetchone()[0]


# -- YAML -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:16", "1:16"),  # YAML 1.1: 76
        ("01:30:00", "01:30:00"),  # 5400
        ("1e-3", 0.001),  # a text
        ("1.5E+2", 150.0),
        (".5", 0.5),
        ("-7", -7),
        ("+7", 7),
        ("010", 10),  # 8
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),  # 1000
        ("no", "no"),  # false
        ("on", "on"),
        ("true", True),
        ("~", None),
        ("", None),
        ("2026-11-22", "2026-11-22"),  # a date
        ("1.", 1.0),
        ("e5", "e5"),
        ("'1'", "1"),
        ("0.2~1.0", "0.2~1.0"),
    ],
)
def test_a_scalar_is_what_people_mean(text, value):
    found = parse_yaml(f"key: {text}")["key"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "the key 'a' is given twice, in the block at line 1"),
        ("x:\n  b: {c: 1, c: 2}", "the key 'c' is given twice, in the block at line 2"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: !mine 3", "could not determine a constructor"),
        ("a: [1, 2", "expected"),
        ("a: 1\n\tb: 2", "found character"),
        ("{[1, 2]: 3}", "key"),
        ("--- 1\n--- 2", "single document"),
    ],
)
def test_yaml_that_is_none_or_means_two_things_is_refused(text, words, tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(KnobError, match="sweep.yaml: ") as caught:
        read_yaml(path)
    assert words in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "s.yaml").write_bytes(b"\xff\xfe\x00base")
    with pytest.raises(KnobError, match=r"s\.yaml"):
        SweepFile.read(tmp_path / "s.yaml")
    with pytest.raises(KnobError, match="absent.yaml does not exist"):
        SweepFile.read(tmp_path / "absent.yaml")


# -- what a file says -----------------------------------------------------------------------------


def test_a_file_says_what_python_says(file):
    assert SweepFile.read(file).sweep().sweep_id == SAID.sweep_id


def test_intervals_in_a_file_are_those_of_python():
    text = LINES.replace("[0.5, 1]", "{between: [0.2, 1.0]}").replace(
        "1:4", "{between: [1, 9], log: true}"
    )
    found = swept(f"{text}samples: 8\nsampler: random\nsample_seed: 3\nrepeats: 2")
    axes = {"method.window": Between(1, 9, log=True), "method.mixing": Between(0.2, 1.0)}
    meant = Sweep(SAID.plan.base, axes, 2, range(2), samples=8, sampler="random", sample_seed=3)
    assert found.sweep_id == meant.sweep_id
    typed = swept(LINES.replace("[0.5, 1]", "0.2~1.0") + "samples: 8")
    assert typed.total == 3 * 8 * 2


def test_seeds_are_a_range_a_list_or_one():
    for text, seeds in (("0:3", (0, 1, 2)), ("[4, 2]", (4, 2)), ("7", (7,)), ("0,7", (0, 7))):
        assert swept(LINES.replace("seeds: 0:2", f"seeds: {text}")).plan.seeds == seeds


def test_names_stand_for_specs():
    short = "{base: {problem: tanh, method: picard}, axes: {method: [picard, anderson]}}"
    long = (
        "{base: {problem: {name: tanh}, method: {name: picard}},"
        "axes: {method: [{name: picard}, {name: anderson, window: 5}]}}"
    )
    assert swept(short).sweep_id == swept(long).sweep_id


def test_trainings_are_swept_from_a_file():
    found = swept("{kind: train, base: {epochs: 1}, axes: {learning_rate: [1e-3, 1e-2]}}")
    assert found.plan.kind == "train" and found.total == 2


def test_a_file_says_where_it_runs():
    told = SweepFile.of(parse_yaml("{base: {problem: tanh}, store: a.sqlite, workers: 3}"))
    assert (told.engine(), told.store, told.workers) == ("processes", "a.sqlite", 3)
    slurm = "executor: {slurm: {jobs: 8, walltime: 00:30:00, queue: gpu, memory: 8GB, gpus: 1}}"
    meant = Slurm(jobs=8, walltime="00:30:00", queue="gpu", memory="8GB", gpus=1)
    assert SweepFile.of(parse_yaml(slurm)).engine() == meant
    assert SweepFile.of(parse_yaml("executor: {slurm: }")).engine() == Slurm()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("axis: {method.window: 1:4}", "no key 'axis': did you mean 'axes'"),
        ("repeat: 3", "did you mean 'repeats'"),
        ("zzz: 3", "the keys are kind, base"),
        ("kind: solv", "kind = 'solv': it must be one of solve, train"),
        ("base: {problem: poison}", "unknown problem 'poison'"),
        ("base: {problem: tanh, metod: picard}", "metod"),
        ("base: {problem: tanh}\naxes: {method.wimdow: [1]}", "did you mean 'method.window'"),
        ("base: {problem: tanh}\naxes: {method.window: }", "window"),
        ("base: {problem: tanh}\naxes: {method.window: []}", "is empty"),
        ("base: {problem: tanh}\naxes: {method.window: {between: [1]}}", "between: [low, high]"),
        (
            "base: {problem: tanh}\naxes: {method.mixing: {between: [a, b]}}",
            "between: [low, high]",
        ),
        (
            "base: {problem: tanh}\naxes: {method.mixing: {between: [0.1, 1], log: maybe}}",
            "between: [low, high]",
        ),
        ("base: {problem: tanh}\naxes: [1, 2]", "axes = [1, 2] is not understood"),
        ("base: tanh", "base = 'tanh' is not understood"),
        ("base: {problem: tanh}\nseeds: zero", "seeds"),
        ("base: {problem: tanh}\nseeds: 0.5", "seeds"),
        ("base: {problem: tanh}\nrepeats: two", "repeats = 'two'"),
        ("base: {problem: tanh}\nsamples: many", "samples = 'many'"),
        ("- 1", "a sweep's file holds the keys"),
        ("", "a sweep's file holds the keys"),
        ("base: {problem: tanh}\nexecutor: {slurm: {jobs: 0}}", "jobs = 0"),
        ("base: {problem: tanh}\nexecutor: {slurm: {partition: gpu}}", "partition"),
        ("base: {problem: tanh}\nexecutor: {slurm: 4}", "Slurm: a record of knobs"),
        ("base: {problem: tanh}\nexecutor: {dask: 4}", "it has the key slurm"),
        ("base: {problem: tanh}\nworkers: two\nexecutor: processes", "workers = 'two'"),
        ("base: {problem: tanh}\nstore: 3", "store = 3 is not understood"),
        ("base: {problem: tanh}\nsample_seed: a", "sample_seed = 'a'"),
    ],
)
def test_what_a_file_cannot_mean_is_one_sentence_and_exit_code_2(text, words, file, store):
    file.write_text(text)
    answer = run("sweep", file)
    assert answer.exit_code == 2, answer.output
    assert answer.stderr.startswith("Error: ") and words in answer.stderr
    assert answer.stdout == "" and list(file.parent.iterdir()) == [file]


# -- the command line -----------------------------------------------------------------------------


def from_python(store: Path, file: Path) -> None:
    Sweep(SAID.plan.base, {"method.window": [2], "method.mixing": [0.5]}).run(
        "serial", store, progress=False
    )


def from_yaml(store: Path, file: Path) -> None:
    text = LINES.replace("1:4", "2:3").replace("[0.5, 1]", "0.5").replace("0:2", "0")
    file.write_text(text)
    assert run("sweep", file, "--store", store).exit_code == 0


def from_flags(store: Path, file: Path) -> None:
    base = ["--problem", "tanh", "--method", "anderson", "--executor", "serial"]
    knobs = {"problem.size": 16, "rtol": "1e-6", "max_iter": 300, "method.window": 2,
             "method.mixing": 0.5}  # fmt: skip
    sets = [word for name, value in knobs.items() for word in ("--set", f"{name}={value}")]
    answer = run("sweep", *base, *sets, "--store", store)
    assert answer.exit_code == 0, answer.output


WAYS = [from_python, from_yaml, from_flags]


@pytest.mark.parametrize("order", [WAYS, WAYS[::-1]])
def test_the_same_spec_from_every_way_is_one_spec_id_and_one_row(order, store, file):
    for way in order:
        way(store, file)
        assert count(store) == 1
    with Store(store, read_only=True) as opened:
        ids = {opened.members(sweep)["spec_id"].item() for sweep in opened.sweeps()["sweep"]}
    assert ids == {SAID.plan.base.replace(**{"method.window": 2, "method.mixing": 0.5}).spec_id}


def test_a_sweep_prints_its_points_and_where_its_rows_are(file, store):
    answer = run("sweep", file, "--store", store)
    assert answer.exit_code == 0, answer.output
    assert "12 of 12 trials: 12 CONVERGED." in answer.stdout and str(store) in answer.stdout
    assert "method.window" in answer.stdout
    again = json.loads(run("sweep", file, "--store", store, "--json").stdout)
    assert (again["sweep_id"], again["total"], len(again["rows"])) == (SAID.sweep_id, 12, 12)
    assert count(store) == 12


def test_options_come_before_what_the_file_says(file, store):
    sets = ["--set", "method.window=2:3", "--set", "method.mixing = 0.5", "--seeds", "4,5"]
    told = run("sweep", file, *sets, "--repeats", 2, "--store", store, "--json")
    rows = json.loads(told.stdout)["rows"]
    assert [(row["method.window"], row["seed"], row["repeat"]) for row in rows] == [
        (2, 4, 0), (2, 4, 1), (2, 5, 0), (2, 5, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "method.window"], "write NAME=1:16"),
        (["--set", "method.window="], "write NAME=1:16"),
        (["--set", "method.windw=1:3"], "did you mean 'method.window'"),
        (["--set", "method.window=1:500"], "window"),
        (["--seeds", "a"], "seeds"),
        (["--seeds", "0~1"], "seeds"),
        (["--repeats", "0"], "repeats = 0"),
        (["--executor", "threads"], 'it must be "serial"'),
        (["--executor", "processes", "--workers", "0"], "workers = 0"),
        (["--store", "absent/s.sqlite"], "does not exist"),
        (["--problem", "poison"], "unknown problem 'poison'"),
    ],
)
def test_options_that_cannot_be_are_one_sentence_and_exit_code_2(arguments, words, file, store):
    answer = run("sweep", file, "--store", store, *arguments)
    assert answer.exit_code == 2, answer.output
    assert words in answer.stderr and "Traceback" not in answer.stderr and not store.exists()


def test_without_a_file_a_problem_is_needed(store):
    answer = run("sweep", "--store", store)
    assert answer.exit_code == 2 and "no problem: give a file, or --problem" in answer.stderr


def test_a_large_grid_asks(file, store, monkeypatch):
    monkeypatch.setattr("andersonn_core.sweep_command.LARGE", 10)
    no = run("sweep", file, "--store", store, answer="n\n")
    assert no.exit_code == 1 and "Run 12 trials?" in no.stderr and not store.exists()
    nobody = run("sweep", file, "--store", store, answer="")
    assert nobody.exit_code == 1 and not store.exists()
    yes = run("sweep", file, "--store", store, answer="y\n")
    assert yes.exit_code == 0 and count(store) == 12
    told = run("sweep", file, "--store", store, "--yes")
    assert told.exit_code == 0 and "Run 12 trials?" not in told.stderr
    assert LARGE == 10_000


def test_a_sweep_that_was_stopped_shows_what_there_is_and_ends_with_130(file, store, monkeypatch):
    count_down = iter([False] * 5)
    monkeypatch.setattr(
        "andersonn_core.sweeps.engines.serial.Serial.run",
        _stopping(lambda: next(count_down, True)),
    )
    answer = run("sweep", file, "--store", store)
    assert answer.exit_code == 130 and "5 of 12 trials" in answer.stdout and count(store) == 5


def _stopping(stop):
    from andersonn_core.sweeps.engines.serial import Serial

    whole = Serial.run
    return lambda self, trials, should_stop: whole(self, trials, stop)


# -- store ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("kept") / "s.sqlite"
    SAID.run("serial", path, progress=False)
    return path


def test_store_list_names_the_sweeps(kept):
    (sweep,) = json.loads(run("store", "list", kept, "--json").stdout)["sweeps"]
    assert (sweep["sweep_id"], sweep["done"], sweep["total"]) == (SAID.sweep_id, 12, 12)
    assert sweep["axes"] == "method.window, method.mixing"
    table = run("store", "list", kept)
    assert table.exit_code == 0 and SAID.sweep_id in table.stdout


@pytest.mark.parametrize(("end", "read"), [(".csv", pd.read_csv), (".parquet", pd.read_parquet)])
def test_store_export_writes_the_rows(kept, tmp_path, end, read):
    to = tmp_path / f"rows{end}"
    answer = run("store", "export", kept, to, "--sweep", SAID.sweep_id[:4])
    assert answer.exit_code == 0 and answer.stdout == f"12 rows: {to}\n"
    frame = read(to)
    assert frame["method.window"].tolist() == [1] * 4 + [2] * 4 + [3] * 4
    assert set(frame["status"]) == {"CONVERGED"}


def test_store_card_saves_a_card_that_runs_again(kept, tmp_path):
    to = tmp_path / "card.json"
    assert run("store", "card", kept, 3, to).exit_code == 0
    assert RunCard.load(to).spec["problem"]["name"] == "tanh"
    again = run("rerun", to)
    assert again.exit_code == 0 and "agree" in again.stdout


def test_store_compare_says_what_differs(kept, tmp_path):
    other = tmp_path / "other.sqlite"
    Sweep(SAID.plan.base, {"method.window": [1, 2, 9], "method.mixing": [0.5]}).run(
        "serial", other, progress=False
    )
    told = json.loads(run("store", "compare", kept, other, "--json").stdout)
    assert told["differing"] == []
    assert told["sentence"].startswith(
        "2 trials are in both stores, 10 only in the first, 1 only in the second."
    )
    assert "agree in 2 of 2" in told["sentence"]
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("UPDATE rows SET num_evals = num_evals + 1 WHERE id = 1")
        connection.commit()
    answer = run("store", "compare", kept, other)
    assert "Trials that differ" in answer.stdout and "agree in 1 of 2" in answer.stdout


def test_store_check_reads_the_whole_file(kept, tmp_path):
    assert run("store", "check", kept).stdout == f"{kept} is sound.\n"
    broken = tmp_path / "s.sqlite"
    broken.write_bytes(kept.read_bytes()[:20_000])
    answer = run("store", "check", broken)
    assert answer.exit_code == 2 and "is damaged" in answer.stderr
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "absent.sqlite"], "does not exist"),
        (["check", "absent.sqlite"], "does not exist"),
        (["export", "KEPT", "rows.txt"], "must end in .csv or .parquet"),
        (["export", "KEPT", "absent/rows.csv"], "absent"),
        (["export", "KEPT", "rows.csv", "--sweep", "zzz"], "'zzz' is not one sweep"),
        (["card", "KEPT", "999", "card.json"], "row 999 is not in the store"),
        (["card", "KEPT", "1", "absent/card.json"], "absent"),
        (["compare", "KEPT", "absent.sqlite"], "does not exist"),
    ],
)
def test_what_store_cannot_do_is_one_sentence_and_exit_code_2(
    arguments, words, kept, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    answer = run("store", *[str(kept) if word == "KEPT" else word for word in arguments])
    assert answer.exit_code == 2, answer.output
    assert answer.stderr.startswith("Error: ") and words in answer.stderr
