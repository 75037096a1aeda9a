"""What pages read of stores: once for all visitors, not on the server's own thread."""

import sqlite3
import threading

import pandas as pd
import pytest
from sqlalchemy import Column, Integer, MetaData, Table, select

import lab.shell  # noqa: F401  the lab is imported as a server imports it
from andersonn_core.store import Store, StoreError
from andersonn_core.sweeps.frames import measured_frame, sweep_frame
from lab.sweeps import library
from lab.sweeps.answers import headline
from lab.sweeps.library import Library
from lab.sweeps.reading import News, Reader
from lab.sweeps.sheet import Sheet
from lab.sweeps.trials import Trials
from lab.sweeps.views import SweepViews
from lab.theme import LIGHT
from tests.sweep_cases import AXES, quick_sweep, quietly


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    place = tmp_path_factory.mktemp("stores") / "some.sqlite"
    quietly(quick_sweep(), place)
    return place


class Visitor:
    """A reader whose news come when the test asks for them."""

    def __init__(self):
        self.news: list[News] = []
        self.came = threading.Event()
        self.reader = Reader(self._publish, lambda call: call())

    def _publish(self, news: News) -> None:
        self.news.append(news)
        self.thread = threading.current_thread()
        self.came.set()

    def follow(self, path) -> News:
        self.came.clear()
        self.reader.follow(path)
        assert self.came.wait(20)
        return self.news[-1]


@pytest.fixture
def visitors(monkeypatch):
    own = Library()
    monkeypatch.setattr("lab.sweeps.reading.LIBRARY", own)
    made = [Visitor() for _ in range(3)]
    yield own, made
    for each in made:
        each.reader.close()


def test_a_sweep_is_read_once_for_all_visitors_and_by_no_page(path, visitors):
    own, (first, second, third) = visitors
    sheet = first.follow(path).sheet
    assert first.thread.name == "sweep reader"  # not the thread that serves pages
    assert second.follow(path).sheet is sheet and third.follow(path).sheet is sheet
    assert second.thread is threading.current_thread()  # at once: nothing had to be read
    assert own.reads == 1


def test_visitors_share_what_their_views_derive(path):
    own = Library()
    sheet = own.sheet(path, own.listed(path)[0])
    empty = pd.DataFrame({"row": [], "evaluation": [], "seconds": [], "level": []})
    shown = []
    for _ in range(2):
        views = SweepViews(LIGHT, lambda rows, most: empty, print)
        views.open(sheet)
        shown.append((views.trials, views.heat._cellwise, views.scatter._points))
        views.close()
    assert all(one is other for one, other in zip(*shown, strict=True))


def test_a_store_that_grows_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "SETTLED", 0)
    own, path = Library(), tmp_path / "grows.sqlite"
    quietly(quick_sweep(axes={"method.window": range(1, 3)}), path)
    before = own.sheet(path, own.listed(path)[0])
    assert own.listed(path) is own.listed(path)
    assert own.at_hand(path, "")[2] is before
    quietly(quick_sweep(), path)
    assert own.at_hand(path, "") is None
    after = own.sheet(path, own.listed(path)[0])
    assert (len(before.frame), len(after.frame), own.reads) == (4, 40, 2)
    assert own.at_hand(path, "")[2] is after


def test_only_so_many_rows_are_kept(path, monkeypatch):
    monkeypatch.setattr(library, "MOST_ROWS", 60)
    own = Library()
    chosen = own.listed(path)[0]
    own.sheet(path, chosen)
    own._keep((path, "another"), 40, Sheet(own.sheet(path, chosen).frame, list(AXES)))
    own.sheet(path, chosen)
    assert own.reads == 2 and len(own._sheets) == 1


def test_figures_are_drawn_from_the_same_numbers_as_the_whole_frame_has(path):
    with Store(path, read_only=True) as store:
        whole, brief = sweep_frame(store, 1), measured_frame(store, 1)
    assert {"spec_id", "date"} <= {*whole} - {*brief}
    pd.testing.assert_frame_equal(brief, whole[[*brief]])


def test_the_rows_of_one_spec_are_those_of_the_whole_sweep(path):
    with Store(path, read_only=True) as store:
        whole = store.members(1)
        spec_id = whole["spec_id"].iloc[0]
        mine = whole[whole["spec_id"] == spec_id].reset_index(drop=True)
        found = store.rows(spec_id)
        assert len(found) == 2 and store.rows("none").empty
    same = [name for name in mine if name not in {"number", "code", "device"}]  # categories there
    pd.testing.assert_frame_equal(found[same], mine[same])
    assert found["device"].tolist() == mine["device"].tolist()


def test_more_failed_rows_than_a_query_can_name(path):
    with Store(path, read_only=True) as store:
        assert store.reasons(range(1, 40_001)) == dict.fromkeys(range(1, 41), "")


def test_a_reader_waits_for_whoever_locks_the_file(tmp_path):
    path = tmp_path / "locked.sqlite"
    frame = quietly(quick_sweep(axes={"method.window": [2]}), path)
    driver = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    driver.execute("PRAGMA locking_mode=EXCLUSIVE")
    driver.execute("BEGIN EXCLUSIVE")
    threading.Timer(0.5, driver.close).start()
    with Store(path, read_only=True) as store:
        assert len(store.rows(frame["spec_id"].iloc[0])) == 2


def test_what_arrow_cannot_read_is_a_store_error(path):
    with Store(path, read_only=True) as store, pytest.raises(StoreError, match="no such table"):
        store.frame(select(Table("absent", MetaData(), Column("id", Integer))))


def test_what_did_not_converge_is_said_in_the_words_of_the_views():
    frame = pd.DataFrame({"method.window": [1, 2], "status": ["MAX_ITER", "CONVERGED"],
                          "num_evals": [100, 9]})  # fmt: skip
    assert headline(frame, ["method.window"])[1].endswith("Of 2 trials 1 ran out of evaluations.")


def test_a_training_that_came_to_its_end_is_drawn_as_converged():
    frame = pd.DataFrame({"lr": [0.1, 0.2], "status": ["FINISHED", "FAILED"]})
    assert Trials(frame, ["lr"]).converged.tolist() == [True, False]


# -- in a browser ---------------------------------------------------------------------------------

CELLS = "() => Bokeh.documents[0].get_model_by_name('cells of the sweep')?.data.x.length > 0"


def test_a_click_on_sweeps_shows_all_of_the_page_and_nothing_of_the_last_one(page, lab_server):
    quietly(quick_sweep(), lab_server.sweeps / "clicked.sqlite")
    for _ in range(2):  # the first visitor waits for the reader, the second one finds it read
        page.goto(f"{lab_server.url}?store=clicked.sqlite")
        page.get_by_text("past steps", exact=False).first.wait_for()
        page.get_by_role("link", name="Sweeps").click()
        page.get_by_text("Best of 20 settings").wait_for()
        page.wait_for_function(CELLS)
        assert page.get_by_text("40 trials; all converged").is_visible()
        page.get_by_text("How many past steps are worth remembering?").wait_for(state="hidden")
