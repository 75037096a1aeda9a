"""The Sweeps page: what Start runs, what every visitor sees, what is opened, compared, exported."""

import io
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from lab_cases import PATIENCE, run_until

from andersonn_core import PROBLEMS, Anderson, KnobError, SolveSpec, Sweep
from andersonn_core.store import Store
from andersonn_core.sweeps.file import SweepFile
from lab.controls import Controls
from lab.pages.sweeps import Sweeps
from lab.sweeps import jobs as jobs_module
from lab.sweeps.answers import headline
from lab.sweeps.folder import OWN, path_of, schedulers, stores
from lab.sweeps.jobs import Job, Jobs, Refused
from lab.sweeps.link import sweep_from_query, sweep_to_fields
from lab.sweeps.reading import Reader
from lab.sweeps.setup import MOST_TRIALS, SweepSetup, axis_choices
from lab.theme import DARK, LIGHT
from lab.url import from_query, to_query

if TYPE_CHECKING:
    from playwright.sync_api import Page

SMALL = SweepSetup({"method.window": "1:4", "method.mixing": "0.5,1"}, "0:2")
BASE = SolveSpec(problem=PROBLEMS["tanh"](size=16), method=Anderson())


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of its own for the stores."""
    monkeypatch.setenv("ANDERSON_LAB_SWEEPS", str(tmp_path))
    return tmp_path


def wait(done: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


@pytest.fixture
def visit() -> Iterator[Callable[..., tuple[Sweeps, queue.Queue]]]:
    """Makes a visitor's page, whose document's callbacks are in a queue."""
    made: list[Sweeps] = []

    def open_page(jobs: Jobs | None = None, **values) -> tuple[Sweeps, queue.Queue]:
        controls, calls = Controls(), queue.Queue()
        controls.apply({"problem": "tanh", "size": 16} | values)

        def reader(publish):
            return Reader(publish, calls.put)

        page = Sweeps(controls, LIGHT, reader, calls.put, jobs=jobs or Jobs())
        page.setup.offer(axis_choices(page.base), SMALL)
        made.append(page)
        return page, calls

    yield open_page
    for page in made:
        page.close()


def rows_of(page: Sweeps) -> int:
    return 0 if page.sheet is None else len(page.sheet.frame)


def test_the_first_visitor_of_an_empty_store_sees_a_sweep_run(visit):
    page, calls = visit()
    page.show()
    run_until(lambda: rows_of(page) == 12, calls)
    assert page.store == OWN and page.job.state == "done"
    assert "12 trials; all converged" in page.views.sentence.object
    assert page.answer.headline.object.startswith("<p>Best of 6 settings: window ")
    with Store(path_of(OWN)) as store:
        assert len(store.members(1)) == 12


def test_another_visitor_sees_the_same_rows_and_begins_nothing(visit):
    jobs = Jobs()
    first, calls = visit(jobs)
    first.show()
    run_until(lambda: first.present and first.present.done == rows_of(first) == 12, calls)
    second, calls = visit(jobs)
    second.show()
    run_until(lambda: rows_of(second) == 12, calls)
    assert second.job is first.job and second.sweep_id == first.sweep_id
    assert second.sheet is first.sheet  # read once for all


def test_a_sweep_of_a_terminal_is_watched_while_it_runs(visit, folder):
    sweep = Sweep(BASE, {"method.window": range(1, 6)})
    sweep.run("serial", folder / "mine.sqlite", progress=False)
    page, calls = visit()
    page.open("mine.sqlite", sweep.sweep_id)
    page.show()
    run_until(lambda: rows_of(page) == 5, calls)
    more = Sweep(BASE, {"method.window": range(1, 6)}, seeds=range(3))
    more.run("serial", folder / "mine.sqlite", progress=False)
    run_until(lambda: len(page.listed) == 2, calls)
    assert rows_of(page) == 5 and page.sweep_id == sweep.sweep_id
    assert stores() == [OWN, "mine.sqlite"]


def test_stop_keeps_what_is_done_and_start_goes_on(visit, monkeypatch):
    page, calls = visit(max_iter=400, rtol=0.0)
    page.setup.offer(axis_choices(page.base), SweepSetup({"method.window": "1:11"}, "0:40"))
    page.show()
    run_until(lambda: rows_of(page) > 3, calls)
    page.stop()
    run_until(lambda: not page.job.active, calls)
    done = page.job.progress.done
    assert page.job.state == "stopped" and 3 < done < 400
    page.controls.apply({"max_iter": 400})
    assert "Start goes on from there" in _told(page)


def _told(page: Sweeps) -> str:
    page._tell()
    return page.answer.status.object


def test_a_large_sweep_is_asked_for_twice(visit):
    page, _calls = visit()
    page.setup.offer(axis_choices(page.base), SweepSetup({"method.window": "1:51"}, "0:11"))
    page.start()
    assert "550 trials: press Start again" in page.answer.status.object and page.job is None
    page.start()
    assert page.job is not None
    page.stop()
    wait(lambda: not page.job.active)


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        (SweepSetup({}, "0:2"), "at least one axis"),
        (SweepSetup({"method.window": "1:4000"}), "0 to 100"),
        (SweepSetup({"max_iter": "1:4000"}, "0:2"), f"more than the {MOST_TRIALS:,}"),
        (SweepSetup({"problem.batch_size": "1,4096", "problem.size": "16,4096"}), "make a product"),
        (SweepSetup({"method.mixing": "half"}), "Give a number"),
        (SweepSetup({"method.mixing": ""}), "is empty"),
        (SweepSetup({"method.window": "1:3"}, "a,b"), "seeds = 'a,b'"),
        (SweepSetup({"method.window": "1:3"}, "0:1", 0), "repeats = 0"),
    ],
)
def test_a_sweep_that_cannot_run_is_refused_in_words_before_any_work(setup, words, folder, visit):
    with pytest.raises(KnobError) as caught:
        setup.sweep(BASE)
    assert words in str(caught.value)
    assert not list(folder.iterdir())


def test_axes_that_a_new_problem_lacks_are_let_go(visit):
    page, _ = visit()
    page.shown = True
    page.setup.offer(
        axis_choices(page.base), SweepSetup({"problem.gain": "0.5,1", "method.window": "1:3"})
    )
    page.controls.apply({"problem": "poisson"})
    page._planned_anew()
    assert [*page.setup.setup.axes] == ["method.window"]


def test_sweeps_of_one_server_run_one_after_the_other():
    running, most = [], [0]

    class Slow:
        def __init__(self, name: str) -> None:
            self.sweep_id = name

        def run(self, *_args, should_stop, **_options) -> None:
            running.append(self.sweep_id)
            most[0] = max(most[0], len(running))
            while not should_stop():
                time.sleep(0.005)
            running.remove(self.sweep_id)

    jobs = Jobs()
    made = [jobs.start(Slow(str(n)), path_of(OWN), "processes", "") for n in range(5)]
    assert jobs.start(Slow("0"), path_of(OWN), "processes", "") is made[0]
    with pytest.raises(Refused, match="5 sweeps are under way"):
        jobs.start(Slow("9"), path_of(OWN), "processes", "")
    wait(lambda: running)
    for job in reversed(made):
        job.stop()
    wait(lambda: not any(job.active for job in made))
    assert most == [1] and {job.state for job in made} == {"stopped"}


def test_a_sweep_that_ends_early_says_why(folder, visit):
    (folder / OWN).write_bytes(b"this is no database" * 100)
    page, calls = visit()
    page.start()
    run_until(lambda: not page.job.active, calls)
    assert page.job.state == "failed" and "is damaged" in _told(page)
    page.show()
    run_until(lambda: page._unread, calls)
    assert "is damaged" in _told(page)


def test_an_unexpected_error_is_told_and_not_swallowed(folder, monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_type))

    class Broken:
        sweep_id = "0"

        def run(self, *_args, **_options) -> None:
            raise ZeroDivisionError("nobody expects this")

    job = Jobs().start(Broken(), path_of(OWN), "processes", "")
    wait(lambda: not job.active)
    assert job.error == "ZeroDivisionError: nobody expects this"
    wait(lambda: told == [ZeroDivisionError])
    assert isinstance(job, Job) and jobs_module.JOBS is not None


def test_a_cell_opens_its_solve_on_the_convergence_page(visit):
    page, calls = visit()
    page.show()
    run_until(lambda: rows_of(page) == 12, calls)
    taken = []
    page.opened = taken.append
    row = page._rows()[page._rows()["method.window"] == 3].iloc[0]
    page._open_row(int(row["row"]))
    (values,) = taken
    assert (values["problem"], values["window"]) == ("tanh", 3)
    assert values["mixing"] == row["method.mixing"] and values["seed"] == row["seed"]


def test_exports_hold_every_row_and_the_report_needs_no_network(visit):
    page, calls = visit()
    page.show()
    run_until(lambda: rows_of(page) == 12, calls)
    again = pd.read_csv(page._csv())
    assert list(again) == list(page._rows()) and len(again) == 12
    assert len(pd.read_parquet(page._parquet())) == 12
    report = page._html().getvalue().decode()
    assert "Best of 6 settings" in report and page._card()[1].spec_id in report
    assert not re.findall(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=", report)
    assert report.count("data-root-id=") == 4


def test_how_a_trial_was_made_is_told_of_the_first_one_that_is_selected(visit):
    page, calls = visit()
    page.show()
    run_until(lambda: rows_of(page) == 12, calls)
    made = page.stores.made
    page.stores._unfold()
    assert made.visible and "window m 1, mixing \N{GREEK SMALL LETTER BETA} 0.5" in made.object
    page.views.heat._brushed((1.7, 2.4, 0.7, 1.4))  # the last cell
    run_until(lambda: "window m 3, mixing \N{GREEK SMALL LETTER BETA} 1" in made.object, calls)
    with Store(path_of(OWN)) as store:
        row = page.views.first_selected[1]
        assert store.card(row).spec["method"]["window"] == 3
        assert store.card(row).spec_id in made.object


def test_two_stores_are_compared_in_words(visit, folder):
    for name, windows in (("a.sqlite", range(1, 4)), ("b.sqlite", range(2, 6))):
        Sweep(BASE, {"method.window": windows}).run("serial", folder / name, progress=False)
    page, _ = visit()
    page.open("a.sqlite", "")
    words = page._compare("b.sqlite")
    assert words.startswith(
        "2 trials are in both stores, 1 only in the first, 2 only in the second"
    )
    assert "agree in 2 of 2" in words
    assert "does not exist" in page._compare("c.sqlite")


def test_failed_trials_are_listed_with_their_reasons(visit, monkeypatch):
    from andersonn_core.problems.tanh import Tanh
    from andersonn_core.sweeps import trial

    def fail(self):
        raise RuntimeError("no such map <b>today</b>")

    trial._problems.clear()
    monkeypatch.setattr(Tanh, "build", fail)
    page, calls = visit()
    page.show()
    run_until(lambda: rows_of(page) == 12, calls)
    assert page.stores.failed.object.count("no such map &lt;b&gt;today") == 12
    assert page.answer.headline.object == "<p>No setting converged in all of its trials.</p>"


def test_only_files_of_the_folder_can_be_named(monkeypatch):
    for name in ("../x.sqlite", "/etc/passwd", ".hidden.sqlite", "x.db", "a/b.sqlite", ""):
        with pytest.raises(ValueError, match="no name of a store"):
            path_of(name)
    monkeypatch.setenv("ANDERSON_LAB_DASK", "tcp://a:1, tcp://b:2")
    assert schedulers() == ["tcp://a:1", "tcp://b:2"]


def test_a_link_names_store_and_sweep_and_refuses_the_rest():
    assert sweep_from_query("?store=mine.sqlite&sweep=" + "a" * 16) == (
        ("mine.sqlite", "a" * 16),
        [],
    )
    assert sweep_to_fields(OWN, "") == {}
    assert sweep_to_fields("x.sqlite", "b" * 16) == {"store": "x.sqlite", "sweep": "b" * 16}
    place, notes = sweep_from_query("?store=../../etc/passwd&sweep=<script>")
    assert place == (OWN, "") and len(notes) == 2 and not any("<script>" in note for note in notes)


def test_notebook_yaml_command_line_and_link_are_one_spec_and_one_row(folder, visit):
    """The fourth of the ways is the dashboard's link."""
    from typer.testing import CliRunner

    from andersonn_core.__main__ import app

    problem = PROBLEMS["tanh"](size=16, batch_size=3)
    notebook = SolveSpec(problem=problem, method=Anderson(window=4, mixing=0.9), rtol=1e-5)
    record = {"problem": {"name": "tanh", "size": 16, "batch_size": 3}, "rtol": 1e-5,
              "method": {"name": "anderson", "window": 4, "mixing": 0.9}}  # fmt: skip
    yaml = SweepFile.of({"base": record}).sweep().plan.base
    controls, (page, _) = Controls(), visit()
    controls.apply({"problem": "tanh", "size": 16, "batch_size": 3, "window": 4, "mixing": 0.9,
                    "rtol": 1e-5, "max_iter": 200})  # fmt: skip
    assert not from_query(f"?{to_query(controls, [], {})}", page.controls)
    link = page.base
    kept = path_of(OWN)
    for spec in (notebook, yaml, link):
        assert spec.spec_id == notebook.spec_id, spec
        Sweep(spec).run("serial", kept, progress=False)
    options = "problem.size=16 problem.batch_size=3 method.window=4 method.mixing=0.9 rtol=1e-5"
    command = ["sweep", "--problem", "tanh", "--executor", "serial", "--store", str(kept), "--json"]
    done = CliRunner().invoke(app, [*command, *(f"--set={each}" for each in options.split())])
    assert done.exit_code == 0, done.output
    with Store(kept) as store:
        assert len(store.rows(notebook.spec_id)) == 1
        assert store.sweeps()["done"].tolist() == [1] * len(store.sweeps())


def test_the_answer_names_the_region_and_its_spread():
    frame = pd.DataFrame(
        {
            "method.window": [1, 1, 2, 2, 3, 3, 4, 4],
            "num_evals": [30, 34, 20, 22, 20, 24, 19, 500],
            "status": ["CONVERGED"] * 7 + ["MAX_ITER"],
        }
    )
    first, second = headline(frame, ["method.window"])
    assert first == "Best of 4 settings: window 2, 21 evaluations."
    assert second.startswith("The median of 2 trials, 20 to 22 in 80 % of them. 2 settings are ")
    assert "(window 2 to 3)" in second


def test_the_page_takes_the_dark_theme(visit):
    page, calls = visit()
    page.show()
    run_until(lambda: rows_of(page) == 12, calls)
    page.paint(DARK)
    assert page.views.colors is DARK and isinstance(page._csv(), io.BytesIO)


def test_a_report_draws_its_figures_without_a_server(page: "Page", visit, folder):
    made, calls = visit()
    made.show()
    run_until(lambda: rows_of(made) == 12, calls)
    (folder / "sweep.html").write_bytes(made._html().getvalue())
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((folder / "sweep.html").as_uri())
    drawn = "window.Bokeh?.documents[0]?.is_idle && Bokeh.documents[0].roots().length === 4"
    page.wait_for_function(drawn, timeout=30_000)
    page.get_by_text("Settings, the best first").wait_for()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.slow
def test_a_visitor_builds_a_sweep_and_opens_a_cell(page: "Page", lab_server):
    page.goto(f"{lab_server.url}?page=Sweeps&problem=tanh&size=16")
    page.get_by_text("Best of 24 settings").wait_for(timeout=60_000)
    page.get_by_label("values").first.fill("2:5")
    page.get_by_label("values").first.press("Enter")
    page.get_by_text("Start runs 18 trials").wait_for(timeout=30_000)
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_text("Best of 9 settings").wait_for(timeout=60_000)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download csv").click()
    assert len(pd.read_csv(download.value.path())) == 18
    page.wait_for_timeout(1500)  # the address follows what is shown
    assert re.search(r"sweep=[0-9a-f]{16}", page.url)
