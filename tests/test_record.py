"""A recording: whole in every section, within its budget, on few libraries, refused if altered."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from andersonn_core import PROBLEMS, Anderson, Picard, SolveSpec, TrainSpec, solve
from andersonn_core.compiling import UNCOMPILED
from andersonn_core.curves import residual_bands
from andersonn_core.data import load_digits
from andersonn_core.device import graph
from andersonn_core.kernels.torch_rows import TorchRows
from andersonn_core.record import sections as all_sections
from andersonn_core.record import solves as solve_section
from andersonn_core.record import steps as step_section
from andersonn_core.record.__main__ import main
from andersonn_core.record.budget import WHOLE, Budget
from andersonn_core.record.correctness import compared, largest_difference
from andersonn_core.record.file import read, write
from andersonn_core.record.sections import SECTIONS, record, run_section
from andersonn_core.record.settings import Settings
from andersonn_core.record.steps import Case, Found, Meter, ours
from andersonn_core.record.summary import summary
from andersonn_core.record.timings import Timing
from andersonn_core.seal import AlteredError
from andersonn_core.training.inference import forward_passes
from andersonn_core.weights import load_digits_network
from lab.recordings import NO_GPU_AND_NO_RECORDING, look

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
QUICK = Settings(CPU, quick=True)
# A machine with a GPU may have torch, triton, numpy, pandas, scipy, scikit-learn, pydantic alone.
BLOCKED = "typer rich tqdm numba safetensors pooch psutil panel bokeh holoviews param torchdeq"
RECORD = f"""
import runpy, sys
sys.modules.update(dict.fromkeys("{BLOCKED}".split()))
sys.argv[0] = "record"
runpy.run_module("andersonn_core.record", run_name="__main__")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, str]:
    """A quick recording on the CPU, made without the libraries that may be missing."""
    folder = tmp_path_factory.mktemp("recordings")
    command = [sys.executable, "-c", RECORD, "--device", "cpu", "--quick", "--folder", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.json")
    return path, done.stdout


def test_every_section_has_rows_of_plain_numbers_and_words(made):
    content = read(made[0])
    assert list(content["sections"]) == list(SECTIONS)
    for name, section in content["sections"].items():
        assert section["rows"] and section["ended"] == WHOLE and not section["failed"], name
        plain = (str, int, float, bool, list, type(None))
        assert all(isinstance(value, plain) for row in section["rows"] for value in row.values())


def test_it_runs_without_the_optional_libraries_and_says_so(made):
    content, printed = read(made[0]), made[1]
    assert content["environment"]["libraries"]["torch"] == torch.__version__
    assert UNCOMPILED in content["notes"] and UNCOMPILED in printed
    assert "Recorded on a CPU: there is no GPU in these numbers." in content["notes"]
    assert all(name in printed for name in SECTIONS) and str(made[0]) in printed


def test_the_dashboard_reads_its_timings_and_shows_no_cpu_as_a_gpu(made):
    found, content = look(made[0].parent), read(made[0])
    (recording,) = found.recordings
    kept = [Timing(**row) for row in content["runs"]["tanh"]["rows"]]
    assert list(recording.runs["tanh"]) == kept and not recording.gpu
    assert [(row.method, row.batch_size) for row in kept] == [
        ("picard", 1), ("anderson", 1), ("picard", 4), ("anderson", 4),
    ]  # fmt: skip
    assert 2 in [row["window"] for row in content["sections"]["timing"]["rows"]]
    assert recording.gpu_timings("tanh") == recording.gpu_curves("tanh") == []
    assert recording.crossovers_of("digits_deq") == []
    assert found.missing("tanh") == NO_GPU_AND_NO_RECORDING


@pytest.fixture
def without_numba(monkeypatch):
    """Solves as on the machine that recorded."""
    for module in ("driver", "kernels.rows"):
        monkeypatch.setattr(f"andersonn_core.{module}.has_numba", lambda: False)


def test_a_recorded_curve_is_the_median_of_the_solve_that_anybody_can_repeat(made, without_numba):
    rows = read(made[0])["sections"]["curves"]["rows"]
    assert [(row["problem"], row["method"]) for row in rows] == [
        ("tanh", "picard"), ("tanh", "anderson"),
    ]  # fmt: skip
    for row, method in zip(rows, (Picard(), Anderson()), strict=True):
        spec = SolveSpec(problem=PROBLEMS["tanh"](), method=method)
        assert (row["batch_size"], row["rtol"]) == (spec.problem.batch_size, spec.rtol)
        result = spec.run()
        assert row["evals"] == len(row["seconds_at"]) == result.num_evals
        assert row["residual_at"] == residual_bands(result)["median"].tolist()
        assert row["status"] == f"{spec.problem.batch_size} CONVERGED"
        assert row["seconds_at"] == sorted(row["seconds_at"]) and row["seconds_at"][0] > 0
        assert row["seconds_at"][-1] <= row["solve_seconds"]


def test_a_recorded_crossover_tells_when_each_method_had_its_answer(made):
    rows = read(made[0])["sections"]["crossover"]["rows"]
    assert [row["batch_size"] for row in rows] == [1, 16]
    for row in rows:
        for name in ("forward", "anderson"):
            wall = [row[f"{name}_wall_seconds{end}"] for end in ("_low", "", "_high")]
            assert wall == sorted(wall) and wall[0] > 0
            assert row[f"{name}_converged"] == row["batch_size"]
        low, high = row["speedup_interval"]
        assert low <= row["speedup"] <= high and row["anderson_evals"] < row["forward_evals"]


def test_the_device_and_the_cpu_agree(made):
    for row in read(made[0])["sections"]["correctness"]["rows"]:
        assert row["same_evals"] and row["same_status"]
        assert row["answer_difference"] == row["early_residual_difference"] == 0.0


def test_a_recording_ends_with_what_it_says_in_words(made):
    assert "Answers in float64: 4 of 4 solves with the CPU's counts and status" in made[1]
    assert re.search(r"A step of 64 x 256: [\d.]+ ms, [\d.]+ % of a copy's rate\.", made[1])
    assert re.search(r"A solve of 4 digits, ours: [\d.]+ m?s\.", made[1])
    content = read(made[0])
    case, ours = "64 x 256", {"step_seconds": 1e-5, "step_seconds_low": 8e-6}
    ours |= {"step_seconds_high": 1.25e-5, "fraction_of_copy_bandwidth": 0.5}
    times = {"step_seconds": 2e-4, "step_seconds_low": 1.5e-4, "step_seconds_high": 2.4e-4}
    wall = {f"anderson_wall_seconds{end}": 1.0 for end in ("", "_low", "_high")}
    content["sections"]["steps"]["rows"] = [
        {"case": case, "contender": "ours"} | ours, {"case": case, "contender": "torchdeq"} | times,
    ]  # fmt: skip
    content["sections"]["crossover"]["rows"] = [
        {"batch_size": 64, "gpu": gpu}
        | {name: seconds * (1 if gpu else 3) for name, seconds in wall.items()}
        for gpu in (False, True)
    ]
    told = " ".join(summary(content))
    assert "0.01 ms, 50 % of a copy's rate; torchdeq's takes 20x (12x to 30x) as long." in told
    assert "the CPU's time over the GPU's: 3.0x (3.0x to 3.0x) at batch size 64." in told


def test_whole_solves_meet_the_tolerance_at_their_answers(made):
    rows = {row["contender"]: row for row in read(made[0])["sections"]["solves"]["rows"]}
    assert set(rows) == {"ours", "ours, captured", "torchdeq"}
    assert rows["ours"]["worst_residual"] <= rows["ours"]["rtol"] == 1e-4
    assert rows["ours"]["evaluations"] > 10 and rows["ours"]["seconds"] > 0
    assert "torchdeq cannot be imported here" in rows["torchdeq"]["absent"]
    assert "not launched ahead" in rows["ours, captured"]["absent"]


def test_a_solve_that_is_not_captured_is_absent_and_not_timed_as_one_that_is(monkeypatch):
    from device_cases import Recorded

    for module in (sys.modules["andersonn_core.solve"], step_section):
        monkeypatch.setattr(module, "LAUNCHED_AHEAD", frozenset({"cpu"}))

    def rows(record):
        monkeypatch.setattr(graph, "record", record)
        found = solve_section.solves(QUICK, Budget(60.0).until(1.0))
        return {row["contender"]: row for row in found}

    whole = rows(Recorded)
    assert whole["ours, captured"]["evaluations"] == whole["ours"]["evaluations"]
    assert whole["ours, captured"]["rounds"] == 2

    def refused(work):
        raise RuntimeError("operation not permitted")

    absent = rows(refused)["ours, captured"]
    assert "RuntimeError: operation not permitted" in absent["absent"] and "seconds" not in absent


def test_a_missing_peer_is_called_absent(made):
    rows = read(made[0])["sections"]["steps"]["rows"]
    absent = {row["contender"]: row for row in rows if "absent" in row}
    assert list(absent) == ["ours, bfloat16", "ours, captured", "torchdeq"]
    row = absent["torchdeq"]
    assert "torchdeq cannot be imported here" in row["absent"] and "step_seconds" not in row


@pytest.mark.parametrize("number", ["rows", "digest"])
def test_an_altered_number_is_refused_and_named(made, tmp_path, number):
    content = json.loads(made[0].read_text())
    if number == "rows":
        content["runs"]["tanh"]["rows"][0]["map_seconds"] *= 0.5
    else:
        content["sha256"] = "0" * 64
    (tmp_path / "faster.json").write_text(json.dumps(content))
    with pytest.raises(AlteredError):
        read(tmp_path / "faster.json")
    found = look(tmp_path)
    assert found.recordings == []
    assert found.refusals == "The recording faster.json was refused: its numbers were altered."


def test_another_order_of_the_same_content_is_the_same_recording(made, tmp_path):
    content = json.loads(made[0].read_text())
    (tmp_path / "a.json").write_text(json.dumps(dict(reversed(content.items()))))
    assert read(tmp_path / "a.json") == content


def test_a_second_recording_of_a_day_keeps_the_first(tmp_path):
    content = {"device": "A GPU (test)", "date": "2026-01-02", "value": float("nan")}
    paths = [write(content | {"number": number}, tmp_path) for number in (1, 2)]
    names = [path.name for path in paths]
    assert names == ["a-gpu-test-2026-01-02.json", "a-gpu-test-2026-01-02-2.json"]
    assert json.loads(paths[0].read_text())["value"] is None


def test_without_time_sections_are_empty_and_say_why():
    lines = []
    content = record(QUICK, 0.0, lines.append)
    for section in content["sections"].values():
        assert section["rows"] == [] and not section["failed"]
        assert section["ended"] == (
            "stopped after 0 measurements: its share of the time is used up"
        )
    assert content["runs"] == {} and len(lines) == len(SECTIONS)


def test_a_share_leaves_out_what_would_not_fit_any_more():
    share = Budget(0.2).until(0.5)
    done = []
    for number in share.over(range(100)):
        time.sleep(0.04)
        done.append(number)
    assert 1 <= len(done) <= 2 and f"after {len(done)} measurements" in share.ended


def test_a_section_that_fails_keeps_its_rows_and_its_reason(capsys):
    def broken(settings, share):
        yield {"value": 1.0}
        raise RuntimeError("no such kernel")

    found = run_section("broken", broken, QUICK, Budget(1.0).until(1.0), lambda line: None)
    assert found["rows"] == [{"value": 1.0}] and found["failed"]
    assert found["ended"] == "failed: RuntimeError: no such kernel"
    assert "no such kernel" in capsys.readouterr().err


def test_a_failed_section_is_a_failed_command(monkeypatch, tmp_path, capsys):
    def broken(settings, share):
        raise RuntimeError("no such kernel")
        yield

    monkeypatch.setattr(all_sections, "SECTIONS", {"timing": (broken, 1.0)})
    assert main(["--device", "cpu", "--folder", str(tmp_path)]) == 1
    assert "These sections failed and say why: timing." in capsys.readouterr().err
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_a_device_that_is_not_there_is_refused_before_any_work(tmp_path, capsys):
    assert main(["--device", "cuda:99", "--folder", str(tmp_path)]) == 2
    assert "cuda:99" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_what_does_not_fit_says_how_many_bytes(monkeypatch):
    monkeypatch.setattr(step_section, "available_bytes", lambda device: 1000)
    share = Budget(60.0).until(1.0)
    rows = list(step_section.case_rows(Case(1, 10**8, 1, 1), CPU, share, 1e9))
    assert [row["contender"] for row in rows] == [*step_section.OURS, "ours, captured", "torchdeq"]
    rows = [row for row in rows if row["contender"] not in step_section.AHEAD_ONLY]
    assert all("does not fit: " in row["absent"] and "1000 avail" in row["absent"] for row in rows)


def test_a_contender_that_runs_out_of_memory_leaves_the_others(monkeypatch):
    def hungry(case):
        def run(f, z0):
            raise torch.OutOfMemoryError("tried to allocate 400 MB")

        return run

    monkeypatch.setattr(step_section, "peer", hungry)
    rows = list(step_section.case_rows(Case(2, 64, 1, 2), CPU, Budget(60.0).until(1.0), 1e9))
    rows = [row for row in rows if row["contender"] not in step_section.AHEAD_ONLY]
    assert [row["contender"] for row in rows] == ["torchdeq", "ours", "ours, sliding"]
    assert rows[0]["absent"] == "does not fit: tried to allocate 400 MB"
    for row in rows[1:]:
        fraction = row["bytes_moved"] / row["step_seconds"] / 1e9
        assert row["rounds"] == 2 and row["fraction_of_copy_bandwidth"] == pytest.approx(fraction)
        assert row["step_seconds_low"] <= row["step_seconds"] <= row["step_seconds_high"]


def test_a_step_is_what_lies_between_two_evaluations():
    """On a clock that ticks once a mark every gap is one tick, and all but the warm ones count."""

    class Ticks:
        name = "ticks"

        def __init__(self):
            self.now = 0

        def mark(self):
            self.now += 1
            return self.now

        def seconds(self, start, end):
            return end - start

    case = Case(2, 8, 1, 1)
    meter = Meter(torch.ones(2, 64), torch.linspace(-0.95, 0.995, 64), Ticks())
    ran = ours(Anderson(window=5, restart="never"), case)(meter, torch.zeros(2, 64))
    assert len(meter.called) == len(meter.returned) == case.steps == 19
    assert meter.step_seconds(case.steps) == 1.0 and ran.depth == 5.0


def test_a_captured_contender_is_timed_as_a_whole_or_says_why_not(monkeypatch):
    from device_cases import Recorded

    door = sys.modules["andersonn_core.solve"]
    for module in (door, step_section):
        monkeypatch.setattr(module, "LAUNCHED_AHEAD", frozenset({"cpu"}))
    monkeypatch.setattr(graph, "record", Recorded)
    share = Budget(60.0).until(1.0)
    rows = {
        row["contender"]: row for row in step_section.case_rows(Case(2, 64, 1, 2), CPU, share, 1e9)
    }
    assert rows["ours, captured"]["evaluation_seconds"] > 0
    assert "step_seconds" not in rows["ours, captured"] and rows["ours, captured"]["depth"] > 1
    assert rows["ours, bfloat16"]["step_seconds"] > 0
    assert "bytes_moved" not in rows["ours, bfloat16"] and rows["ours"]["bytes_moved"] > 0

    def refused(work):
        raise RuntimeError("operation not permitted")

    monkeypatch.setattr(graph, "record", refused)
    rows = {
        row["contender"]: row for row in step_section.case_rows(Case(2, 64, 1, 2), CPU, share, 1e9)
    }
    assert "RuntimeError: operation not permitted" in rows["ours, captured"]["absent"]


def test_the_peer_takes_the_same_steps():
    pytest.importorskip("torchdeq")
    case, found = Case(2, 16, 1, 1), Found()
    found.take(case, CPU, step_section.peer(case))
    row = found.row(case, "torchdeq", 1e9)
    assert row["version"] == "0.1.0" and row["step_seconds"] > 0 and "bytes_moved" not in row


def test_differences_are_relative_and_of_the_worst_sample():
    here = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    there = torch.tensor([[3.0, 4.5], [1.25, 0.0]])
    assert largest_difference(here, there) == pytest.approx(0.25)
    loose, tight = (solve(torch.cos, here, Picard(), rtol=rtol) for rtol in (1e-2, 1e-4))
    row = compared(loose, tight)
    assert not row["same_evals"] and row["same_status"] and row["evals_cpu"] == loose.num_evals
    assert row["early_residual_difference"] == 0.0 and 0 < row["answer_difference"] < 1e-2


def test_forward_passes_count_what_both_methods_took():
    spec = TrainSpec()
    methods = {"picard": Picard(), "anderson": Anderson()}
    passes = forward_passes(load_digits_network(0), spec, methods, load_digits(), 2, 2)
    assert {name: len(found.seconds) for name, found in passes.items()} == {
        "picard": 2, "anderson": 2,
    }  # fmt: skip
    assert sum(passes["anderson"].evals) < sum(passes["picard"].evals)


def test_without_numba_a_solve_is_the_same_and_says_so(request):
    start, slopes = torch.zeros(3, 40, dtype=torch.float64), torch.linspace(-0.9, 0.99, 40)

    def run():
        return solve(lambda z: 1 + slopes * z, start, Anderson(), rtol=1e-9)

    compiled = run()
    request.getfixturevalue("without_numba")
    plain = run()
    assert type(Anderson().init(start).rows) is TorchRows
    assert UNCOMPILED in plain.notes and UNCOMPILED not in compiled.notes
    assert plain.num_evals == compiled.num_evals
    torch.testing.assert_close(plain.z, compiled.z, rtol=1e-8, atol=0.0)
