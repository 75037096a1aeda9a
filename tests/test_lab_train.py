"""The Train page: who may train, live changes, what is found again, what it says and shows."""

import json
import math
import queue
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from lab_cases import PATIENCE, run_until
from test_lab_browser import lasting_findings

from andersonn_core import KnobError
from andersonn_core.models import build_model
from lab.controls import Controls
from lab.pages.train import Train
from lab.pages.train_cards import View
from lab.pages.train_rail import SUMMARY
from lab.pool import Pool, Slot
from lab.theme import DARK, LIGHT
from lab.training import lane as lanes
from lab.training import link, probe, registry, words
from lab.training import race as races
from lab.training.lane import Lane, Mark, Reading
from lab.training.race import Pair, Race, Result
from lab.training.registry import Refused, Registry
from lab.training.series import Series
from lab.training.setup import REGIMES, Setup
from lab.training.watch import Watch

if TYPE_CHECKING:
    from playwright.sync_api import Page

QUICK = {"batch_size": 16, "epochs": 1, "rtol": 0.1, "max_iter": 6}
DIGITS = lanes.images().subset(48, 16)


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    """Forty-eight digits to learn from, so that an epoch is three batches."""
    monkeypatch.setattr(lanes, "images", lambda: DIGITS)
    monkeypatch.setattr(probe, "images", lambda: DIGITS)
    monkeypatch.setattr(probe, "EXACT", {"rtol": 1e-2, "max_iter": 20})
    monkeypatch.setattr(probe, "RADIUS_STEPS", 8)


@pytest.fixture
def unprobed(monkeypatch):
    """Nobody looks at the networks."""
    monkeypatch.setattr(Race, "_probe", lambda *_args, **_options: None)


@pytest.fixture
def server(tmp_path) -> Iterator[Registry]:
    made = Registry(tmp_path, Pool())
    yield made
    for race in made._races.values():
        race.stop()
    wait(lambda: not made.active)


def wait(done: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def test_the_rail_tells_the_truth_of_network_and_data():
    spec = Setup().specs()["anderson"]
    data = spec.load()
    network = build_model(spec.model, data.image_shape)
    count = round(sum(weight.numel() for weight in network.parameters()), -3)
    for number in (f"{count:,}", len(data.train_images), len(data.test_images)):
        assert re.search(rf"\b{number}\b", SUMMARY), number


def trained(server: Registry, **choices) -> Race:
    race = server.start(Setup(**QUICK | choices), "me")
    wait(lambda: not race.active)
    return race


def recorded(race: Race) -> dict:
    return json.loads((race.folder / races.RECORD).read_text())


# -- what a visitor may choose --------------------------------------------------------------------


def test_the_two_specs_differ_in_nothing_but_their_method():
    specs = Setup(window=3, mixing=0.8, batch_size=16, seed=4).specs()
    assert specs["anderson"].method.window == 3 and specs["anderson"].method.mixing == 0.8
    assert specs["picard"] == specs["anderson"].replace(method=specs["picard"].method)


def test_a_regime_fixes_what_it_says_and_nothing_else():
    for name in REGIMES:
        spec = Setup(regime=name, epochs=7, rtol=1e-4, max_iter=50).specs()["picard"]
        expected = (1e-2, 25) if name == "cap" else (1e-4, 50)
        assert (spec.rtol, spec.max_iter, spec.epochs) == (*expected, 7)
        assert (spec.seconds is not None) == (name == "time")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("batch_size", 100_000, "65,536"), ("batch_size", 300, "1 to 256 on this page"),
        ("epochs", 0, "1 to 100"), ("mixing", math.nan, "mixing"), ("window", True, "integer"),
        ("regime", "fair", "tolerance, cap, time"), ("gradient", "guess", "implicit"),
        ("seconds", 0.5, "1 to 1800"), ("seed", -1, "seed"), ("hue", 1, "There is no knob 'hue'"),
    ],
)  # fmt: skip
def test_impossible_choices_are_refused_in_a_sentence(name, value, said):
    with pytest.raises(KnobError, match=said):
        Setup().replace(**{name: value})


def test_shine_needs_differences_so_forward_iteration_keeps_the_implicit_gradient():
    specs = Setup(gradient="shine").specs()
    assert specs["anderson"].gradient.name == "shine"
    assert specs["picard"].gradient.name == "implicit"


def test_a_link_gives_back_choices_and_training_and_explains_nonsense():
    setup = Setup(regime="cap", window=7, mixing="auto", rtol=1e-4, gradient="phantom")
    fields = link.to_fields(setup, "0123456789ab")
    query = "?page=Train&" + "&".join(f"{name}={text}" for name, text in fields.items())
    assert link.from_query(query) == (setup, "0123456789ab", [])
    bad = "?train=window=999;batch_size=<b>;hue=1;regime=fair;epochs=2&run=../../x"
    found, key, notes = link.from_query(bad)
    assert found == Setup(epochs=2) and key == "../../x" and len(notes) == 4
    assert not any("<b>" in note for note in notes)


# -- the memory -----------------------------------------------------------------------------------


def test_a_long_training_is_kept_in_few_points_that_span_it():
    series = Series(most=64)
    for step in range(1, 5001):
        row = {name: float(step) for name in ("passes", "seconds", "evals")}
        worst = {"forward_residual": step % 7, "adjoint_residual": math.nan}
        series.add(row | worst | dict.fromkeys(("loss", "accuracy"), 1.0)
                   | {"forward_evals": step % 2, "adjoint_evals": 4.0})  # fmt: skip
    columns = series.columns()
    assert 32 <= len(series) <= 64 and {len(each) for each in columns.values()} == {len(series)}
    assert series.last("passes") == 5000 and columns["passes"][0] == series.stride
    assert (np.diff(columns["passes"]) == series.stride).all()
    assert (columns["forward_evals"] == 0.5).all() and (columns["forward_residual"] == 6).all()
    assert np.isnan(columns["adjoint_residual"]).all() and (columns["loss"] == 1).all()


# -- trainings ------------------------------------------------------------------------------------


def test_both_methods_train_in_turn_from_one_seed_and_are_measured_after_each_epoch(server):
    race = trained(server)
    assert race.state == "finished" and race.sentence == ""
    assert {name: lane.steps for name, lane in race.lanes.items()} == {"anderson": 3, "picard": 3}
    first = [lane.trainer.at.by_batch.columns["loss"][0] for lane in race.lanes.values()]
    assert first[0] == pytest.approx(first[1], rel=0.05)
    forward, anderson = race.results()
    assert (forward.method, anderson.method) == ("picard", "anderson")
    assert anderson.speedup == pytest.approx(forward.seconds / anderson.seconds)
    for name in ("picard", "anderson"):
        last = race.points[name][-1]
        assert last.passes == 1 and last.radius > 0 and last.speedup > 0
        assert 0 <= last.angle < 90 and 0 <= last.agreement <= 1
        belief = race.beliefs[name]
        chances = [belief.at(k) for k in range(1, belief.evaluations + 1)]
        assert np.allclose([np.sum(each, 1) for each in chances], 1, atol=0.01)


def test_a_look_at_the_networks_changes_no_bit_of_the_training(server, monkeypatch):
    looked = trained(server)
    monkeypatch.setattr(Race, "_probe", lambda *_args, **_options: None)
    alone = trained(server)
    digests = [
        [lane.trainer.result().weights_digest for lane in race.lanes.values()]
        for race in (looked, alone)
    ]
    assert digests[0] == digests[1]


def test_a_changed_knob_holds_for_both_from_the_same_batch_on_and_is_marked(server, unprobed):
    race = server.start(Setup(**QUICK | {"epochs": 40, "batch_size": 24}), "me")
    wait(lambda: race.lanes and race.lanes["picard"].steps >= 2)
    race.change(Setup(**QUICK | {"window": 3, "batch_size": 12, "epochs": 1, "seed": 9}))
    wait(lambda: race.lanes["picard"].trainer.at.changes)
    race.stop()
    wait(lambda: not race.active)
    changes = {name: lane.trainer.at.changes for name, lane in race.lanes.items()}
    assert changes["anderson"][0]["step"] == changes["picard"][0]["step"]
    assert changes["picard"][0]["knobs"] == {"batch_size": 12}
    assert race.lanes["anderson"].marks[0].words == "B 12, window 3"
    assert (race.setup.window, race.setup.epochs, race.setup.seed) == (3, 40, 0)


def test_with_equal_time_the_one_with_fewer_seconds_is_next(server, unprobed):
    race = trained(server, regime="time", seconds=1.0, batch_size=48)
    spent = [lane.seconds for lane in race.lanes.values()]
    batches = {name: lane.trainer.at.by_batch.columns for name, lane in race.lanes.items()}
    longest = max(np.diff(each["seconds"], prepend=0).max() for each in batches.values())
    assert min(spent) >= 1.0 and max(spent) <= 1.0 + longest
    assert all(lane.trainer.at.reason == "seconds" for lane in race.lanes.values())
    assert math.isnan(race.speedup()) and "of computing each" in words.headline(race)


def test_pause_keeps_the_place_and_a_stopped_training_goes_on_from_its_checkpoint(server, unprobed):
    race = server.start(Setup(**QUICK | {"epochs": 3}), "me")
    wait(lambda: race.lanes and race.lanes["picard"].steps)
    race.pause()
    wait(lambda: race.state == "paused")
    steps = [lane.steps for lane in race.lanes.values()]
    time.sleep(0.1)
    assert [lane.steps for lane in race.lanes.values()] == steps
    server.resume(race, "me")
    wait(lambda: race.lanes["picard"].steps > steps[1])
    race.stop()
    wait(lambda: race.state == "stopped")
    server.resume(race, "me")
    wait(lambda: not race.active)
    assert race.state == "finished" and race.progress == 1
    whole = trained(server, epochs=3)
    ends = [
        [lane.trainer.result().weights_digest for lane in each.lanes.values()]
        for each in (race, whole)
    ]
    assert ends[0] == ends[1]
    assert [len(lane.tests) for lane in race.lanes.values()] == [3, 3]
    assert race.lanes["anderson"].passes == 3


def test_a_training_that_fails_says_so_and_the_other_goes_on(server, monkeypatch, unprobed):
    real = Lane.step

    def broken(self: Lane) -> None:
        if self.name == "picard":
            for parameter in self.trainer.network.parameters():
                parameter.data.fill_(math.nan)
        real(self)

    monkeypatch.setattr(Lane, "step", broken)
    race = trained(server)
    assert race.state == "finished" and race.lanes["anderson"].progress == 1
    (sentence,) = words.failures(race)
    assert sentence.startswith("Forward iteration: ") and "NaN" in sentence
    assert "lower learning_rate" in sentence


def test_a_training_gives_way_to_every_other_run(tmp_path, unprobed):
    server = Registry(tmp_path, Pool())
    race = server.start(Setup(**QUICK | {"epochs": 50}), "me")
    wait(lambda: race.lanes and race.lanes["anderson"].steps)
    waits = []
    for _ in range(5):
        started = time.perf_counter()
        with Slot(server.pool.slots):
            waits.append(time.perf_counter() - started)
            before = [lane.evals for lane in race.lanes.values()]
            time.sleep(0.05)
            assert [lane.evals for lane in race.lanes.values()] == before
    race.stop()
    wait(lambda: not race.active)
    assert len(waits) == 5


# -- who may begin, what is found again, what goes ------------------------------------------------


def test_one_training_a_visitor_and_few_on_a_server(server, monkeypatch):
    monkeypatch.setattr(
        Race, "begin", lambda self, resume=False: setattr(self, "state", "running") or True
    )
    mine = server.start(Setup(), "me")
    with pytest.raises(Refused, match="You have a training under way") as refused:
        server.start(Setup(), "me")
    assert refused.value.key == mine.key
    server.start(Setup(), "you")
    with pytest.raises(Refused, match="Two trainings are under way on this server"):
        server.start(Setup(), "they")
    mine.state = "finished"
    assert server.start(Setup(), "they").state == "running"
    with pytest.raises(Refused):
        server.resume(mine, "me")
    server._races.clear()


def test_a_training_is_found_by_its_key_also_after_a_restart_and_goes_on(tmp_path, unprobed):
    first = Registry(tmp_path, Pool())
    race = first.start(Setup(**QUICK | {"epochs": 2}), "me")
    wait(lambda: race.lanes and race.lanes["picard"].steps >= 2)
    race.pins = race.results()
    race.stop()
    wait(lambda: not race.active)
    wait(lambda: recorded(race)["state"] == "stopped")
    record = recorded(race)
    (race.folder / races.RECORD).write_text(json.dumps(record | {"state": "running"}))
    second = Registry(tmp_path, Pool())  # the server was restarted
    found = second.find(race.key)
    assert found is not None and found.state == "interrupted" and found.setup == race.setup
    wait(lambda: found.lanes)
    assert found.lanes["picard"].steps == race.lanes["picard"].steps
    assert found.pins[0].seconds == race.pins[0].seconds
    assert "go on?" in words.status(found, mine=False)
    second.resume(found, "somebody")
    wait(lambda: not found.active)
    assert found.state == "finished" and found.lanes["anderson"].passes == 2


@pytest.mark.parametrize("key", ["", "../../etc", "0123456789ab", "x" * 12, "0123456789AB"])
def test_a_key_that_names_nothing_finds_nothing(server, key):
    assert server.find(key) is None


def test_damaged_records_are_not_found(server):
    folder = server.folder / "0123456789ab"
    folder.mkdir()
    for text in ("{", "[]", '{"setup": {"window": -1}}', "null"):
        (folder / races.RECORD).write_text(text)
        assert server.find("0123456789ab") is None


def test_what_ended_leaves_the_memory_and_later_the_disk_by_the_stated_rule(tmp_path):
    now = [time.time()]
    server = Registry(tmp_path, Pool(), clock=lambda: now[0])

    def ended(key: str, age: float) -> Race:
        race = Race(key, Setup(), "", tmp_path / key, server.pool, state="finished")
        race.seen = now[0] - age
        race._save()
        server._races[key] = race
        return race

    ended("00000000000a", registry.ENDED_SECONDS + 1)
    kept = [ended(f"0000000000{k:02x}", 10.0 + k) for k in range(16, 16 + registry.MOST_ENDED + 1)]
    watched = ended("0000000000bb", 10 * registry.ENDED_SECONDS)
    watched.watch(lambda: None)
    watched.seen = 0.0
    server.sweep()
    assert set(server._races) == {race.key for race in [*kept[:-1], watched]}
    paused = Race("0000000000cc", Setup(), "", tmp_path / "0000000000cc", server.pool)
    paused.state, paused.seen = "paused", now[0] - registry.ALONE_SECONDS - 1
    server._races[paused.key] = paused
    server.sweep()
    wait(lambda: paused.state == "stopped")
    now[0] += registry.FOLDER_SECONDS + 60
    server.sweep()
    assert [each.name for each in tmp_path.iterdir()] == [watched.key]


# -- words ----------------------------------------------------------------------------------------


def told(anderson: float, forward: float, regime: str = "tolerance") -> SimpleNamespace:
    def lane(seconds: float, evals: int) -> SimpleNamespace:
        tests = [Reading(3.0, seconds, evals, 0.1, 0.978)] * 3
        return SimpleNamespace(
            steps=69, tests=tests, seconds=seconds, evals=evals, passes=3.0, accuracy=0.978,
            failure="", samples=100, unconverged=40,
        )  # fmt: skip

    both = {"anderson": lane(anderson, 900), "picard": lane(forward, 1800)}
    pair = Pair(69, forward, anderson)
    return SimpleNamespace(
        lanes=both, setup=Setup(regime=regime), pair=pair, points={}, state="finished",
        speedup=lambda: forward / anderson, sentence="",
    )  # fmt: skip


def test_the_answer_says_who_wins_and_why():
    race = told(41.0, 66.0)
    assert words.headline(race) == (
        "After 3 epochs Anderson reads 97.8 % of the test digits, forward iteration 97.8 %; "
        "it took 41 s instead of 66 s: 38 % of the compute saved."
    )
    assert "Equal tolerance, S = 1.6x: Anderson needs 0.50x the evaluations" in words.verdict(race)
    assert "as long as forward iteration: 40 s" in words.headline(told(41.0, 40.0))
    lost = told(66.0, 41.0)
    assert words.headline(lost).endswith("and forward iteration wins with 41 s.")
    assert "one of them costs 3.2x the seconds" in words.verdict(lost)
    assert "Cut off before the tolerance: 40 %" in words.verdict(told(41.0, 66.0, "cap"))


def test_before_the_start_and_for_a_lost_link_it_says_what_to_do():
    assert "twice" in words.headline(None)
    assert words.status(None, False, words.LOST).startswith("This training is not kept any more")


# -- the page -------------------------------------------------------------------------------------


class Desk:
    """A page's document, run by the test."""

    def __init__(self, server: Registry, visitor: str = "ab") -> None:
        self.calls: queue.Queue = queue.Queue()

        def workers(publish: Callable[[], None]) -> Watch:
            return Watch(publish, self.calls.put)

        self.page = Train(Controls(), LIGHT, workers, lambda call: call(), registry=server)
        self.page.parts()
        self.page.visitor.word = visitor

    def until(self, done: Callable[[], object]) -> None:
        run_until(done, self.calls)


def lines(page: Train) -> dict[str, int]:
    return {name: len(page.curves.loss.lines.data[name]) for name in ("x", "y")}


def test_the_page_is_never_blank_and_follows_a_training_to_its_end(server):
    desk = Desk(server)
    page = desk.page
    page.open(Setup(**QUICK), "")
    page.show()
    assert words.INVITATION in page.curves.loss.texts.data["text"]
    assert len(page.digits.digits.tiles.data["x"]) == probe.DIGITS
    page.start()
    assert page.key and not page.answer.stop.disabled and page.answer.start.disabled
    desk.until(lambda: page.race.state == "finished")
    desk.until(lambda: not page.answer.start.disabled)
    assert lines(page) == {"x": 2, "y": 2}
    assert "of the test digits" in page.answer.headline.object
    assert page.digits.slider.end >= 2 and not page.digits.slider.disabled
    page.digits.slider.value = 1
    assert "evaluation 1:" in page.digits.note.object
    assert len(page.stiffness.plot.trails.data["x"]) == 2
    page._pin()
    page._pin()
    assert page.table.table.object.count("<tr>") == 1 + 2 + 4
    assert "TrainSpec(" in page.table.code.object
    for axis in ("seconds", "evals", "passes"):
        page.curves.axis.value = axis
        assert page.curves.loss.figure.xaxis[0].axis_label
    page.paint(DARK)
    assert page.curves.loss.figure.background_fill_color == DARK.paper
    page.close()


def test_two_visitors_see_the_same_training_and_only_one_may_stop_it(server):
    mine, other = Desk(server), Desk(server, "cd")
    for desk in (mine, other):
        desk.page.show()
    mine.page.open(Setup(**QUICK | {"epochs": 50}), "")
    mine.page.start()
    other.page.open(Setup(), mine.page.key)
    other.page.show()
    other.until(lambda: lines(other.page)["x"] == 2)
    other.page.stop()
    other.page.pause()
    assert mine.page.race.state == "running" and other.page.answer.stop.disabled
    assert "somebody else" in other.page.answer.status.object
    other.page.close()
    mine.page.rail.set("window", 2)
    mine.until(lambda: mine.page.race.setup.window == 2)
    mine.page.hide()  # another page: it goes on
    steps = mine.page.race.lanes["anderson"].steps
    wait(lambda: mine.page.race.lanes["anderson"].steps > steps)
    mine.page.show()
    mine.page.start()
    assert "under way already" in mine.page.answer.status.object
    mine.page.stop()
    mine.until(lambda: not mine.page.answer.start.disabled)
    assert "Stopped after" in mine.page.answer.status.object
    mine.page.close()


def test_what_a_training_loads_is_loaded_once_and_behind_others(server, monkeypatch):
    loaded = []
    monkeypatch.setattr(registry, "warm_up", lambda should_stop: loaded.append(should_stop()))
    with Slot(server.pool.slots):
        for _ in range(3):
            server.prepare()
        time.sleep(0.1)
        assert loaded == []  # somebody computes
    run_until(lambda: bool(loaded), queue.Queue())
    time.sleep(0.1)
    assert loaded == [False]


def test_a_lost_training_is_explained(server):
    desk = Desk(server)
    desk.page.open(Setup(), "0123456789ab")
    desk.page.show()
    assert "not kept any more" in desk.page.answer.status.object and desk.page.key == ""


def test_changes_are_marked_in_the_curves(server):
    desk = Desk(server)
    page, race = desk.page, Race("0" * 12, Setup(), "", Path("nowhere"), server.pool)
    lane = SimpleNamespace(marks=[Mark(1.0, 2.0, 3.0, "window 7")], series=[0])
    race.lanes = {"anderson": lane}
    assert View(race, Setup(), "seconds").marks().marks == [(2.0, "window 7")]
    assert page.key == ""


@pytest.mark.parametrize(
    ("regime", "axis", "last", "end"),
    [
        ("tolerance", "passes", 0.0, 30.0), ("tolerance", "passes", 0.3, 0.5),
        ("tolerance", "passes", 4.9, 10.0), ("tolerance", "passes", 21.0, 30.0),
        ("tolerance", "seconds", 0.0, 1.0), ("tolerance", "seconds", 70.0, 100.0),
        ("time", "seconds", 0.0, 45.0), ("time", "seconds", 44.0, 45.0),
    ],
)  # fmt: skip
def test_an_axis_grows_with_its_lines_to_the_end_that_is_known(server, regime, axis, last, end):
    setup = Setup(regime=regime, epochs=30, seconds=45)
    race = Race("0" * 12, setup, "", Path("nowhere"), server.pool)
    series = Series()
    if last:
        series.add(dict.fromkeys(Series().columns(), 1.0) | {axis: last})
        race.lanes = {"picard": SimpleNamespace(series=series)}
    assert View(race, Setup(), axis).end == end


def test_a_pinned_result_keeps_its_numbers():
    result = Result("anderson", Setup().to_dict(), 3.0, 0.978, 41.0, 900, 1.61)
    assert Result(**json.loads(json.dumps(vars(result)))) == result


# -- in a browser ---------------------------------------------------------------------------------

LOSS = """() => (Bokeh.documents[0]?.get_model_by_name('lines of loss')?.data.x.length ?? 0) > 0"""
MARK = """() => Bokeh.documents[0].get_model_by_name('words of loss').data.text.some(
    word => word.includes('window 6'))"""


def test_in_a_browser_a_training_starts_takes_a_slider_stops_and_is_found_again(
    page: "Page", lab_server
):
    page.goto(f"{lab_server.url}?page=Train&train=batch_size=16;rtol=0.1;max_iter=10")
    page.get_by_role("button", name="Start", exact=True).click(timeout=40_000)
    page.wait_for_function(LOSS, timeout=40_000)
    page.wait_for_url(re.compile("run=[0-9a-f]{12}"))
    slider = page.locator("input[type=range][aria-label='window m']:visible")
    slider.focus()
    slider.press("ArrowRight")
    page.wait_for_function(MARK, timeout=40_000)
    page.get_by_role("button", name="Stop", exact=True).click()
    stopped = page.locator(".lab-status:visible").filter(has_text="Stopped after")
    stopped.wait_for(timeout=40_000)
    page.goto(page.url)
    stopped.wait_for(timeout=40_000)
    page.get_by_role("button", name="Resume", exact=True).wait_for()
    page.wait_for_function(LOSS, timeout=40_000)
    assert lasting_findings(page) == []
