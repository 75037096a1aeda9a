"""The Crossover page: its plan, its cells, how they are computed, what it says and shows."""

import dataclasses
import math
import queue
import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from lab_cases import PATIENCE, run_until
from test_lab_browser import lasting_findings

from andersonn_core import PROBLEMS, Anderson, KnobError, Picard, SolveSpec
from andersonn_core.crossover import crossover
from andersonn_core.words import bytes_text
from lab import crossover_words as words
from lab import grid as grids
from lab import phase
from lab.controls import Controls
from lab.figures.phase_map import PhaseMap, _border
from lab.figures.predicted import hits
from lab.grid import Grid, News
from lab.pages.convergence import Convergence
from lab.pages.crossover import Crossover
from lab.phase import STRIDES, Cell, Plan, Setting, Spread, leaders, measured
from lab.pool import Pool, Slot, Slots
from lab.quantities import BALANCES, QUANTITIES
from lab.runner import Runner
from lab.tasks import Task, spec_task
from lab.theme import DARK, LIGHT
from lab.url import choice_from_query, to_query

if TYPE_CHECKING:
    from playwright.sync_api import Page

SMALL = {"WINDOWS": (0, 1, 2, 4), "MIXINGS": (0.5, 1.0), "BATCH_SIZES": (1, 2, 4)}


def plan(window: int = 2, mixing: float = 1.0, batch_size: int = 2, **knobs) -> Plan:
    problem = PROBLEMS["tanh"](size=8, batch_size=batch_size)
    methods = Picard(), Anderson(window=window, mixing=mixing)
    return Plan(*(SolveSpec(problem=problem, method=method, **knobs) for method in methods))


@pytest.fixture
def small(monkeypatch):
    """Axes that are computed in a moment, and nothing known yet."""
    for name, values in SMALL.items():
        monkeypatch.setattr(phase, name, values)
    for name, value in {"SHORT": 0.0, "SHORT_REFERENCE": 0.0, "REPEATS": 2, "FEWEST": 2}.items():
        monkeypatch.setattr(grids, name, value)
    for cache in (grids.CELLS, grids.SPREADS, grids.REFERENCES, grids.ROOFS):
        cache.clear()
    monkeypatch.setattr(Grid, "_raise_roof", lambda *_: None)  # it measures the machine


class Desk:
    """Where news arrive: a document's thread, run by the test."""

    def __init__(self, pool: Pool | None = None, present: Callable[[], bool] = lambda: True):
        self.calls: queue.Queue = queue.Queue()
        self.news: list[News] = []
        self.grid = Grid(self.news.append, self.calls.put, present, pool or Pool())

    def until(self, done: Callable[[], object]) -> None:
        run_until(done, self.calls)

    def run(self, wanted: Plan) -> dict[Setting, Cell]:
        self.grid.start(wanted)
        self.until(lambda: bool(self.news) and self.news[-1].ended)
        return {setting: cell for news in self.news for setting, cell in news.cells.items()}


# -- the plan -------------------------------------------------------------------------------------


@pytest.mark.parametrize("here", [(5, 1.0, 16), (0, 0.1, 1), (20, 1.5, 64), (7, 0.62, 3)])
def test_a_plan_begins_here_is_coarse_first_and_computes_each_cell_once(here):
    wanted = plan(*here)
    levels = wanted.settings()
    flat = [setting for level in levels for setting in level]
    assert flat[0] == wanted.here == Setting(*here)
    assert len(flat) == len(set(flat))
    for axis in phase.AXES:
        every = {wanted.setting(axis, m, row) for m in wanted.windows for row in wanted.rows(axis)}
        assert every <= set(flat)
        for number, stride in enumerate(STRIDES, 1):
            known = {each for level in levels[: number + 1] for each in level} & every
            places = [place_of(wanted, axis, each) for each in known]
            for each in every:
                i, j = place_of(wanted, axis, each)
                assert min(max(abs(i - k), abs(j - n)) for k, n in places) < stride


def place_of(wanted: Plan, axis: str, setting: Setting) -> tuple[int, int]:
    row = setting.mixing if axis == "mixing" else setting.batch_size
    return wanted.windows.index(setting.window), wanted.rows(axis).index(row)


def test_axes_hold_the_present_setting_or_lie_around_it_and_keep_to_the_problem():
    assert plan(window=30).windows[-1] == 30
    assert 7 not in plan(window=7).windows  # between two columns: the axis does not jump
    assert plan(mixing=2.0).rows("mixing")[-1] == 2.0
    assert plan(batch_size=200).rows("batch")[-1] == 200
    assert plan().rows("batch")[-1] == 64


def test_plans_are_kin_where_only_the_setting_differs():
    assert plan(1, 0.3, 8).is_kin(plan(6, 1.2, 2))
    assert not plan(rtol=1e-4).is_kin(plan())


# -- a cell ---------------------------------------------------------------------------------------


def results(wanted: Plan):
    forward, anderson = wanted.specs(wanted.here)
    return forward.run(), anderson.run()


def test_a_cell_says_what_crossover_says_of_the_same_runs():
    wanted = plan(batch_size=4)
    forward, anderson = results(wanted)
    cell = measured(wanted.here, forward, anderson, 1e-6)
    point = crossover(forward, anderson)
    assert cell.speedup == pytest.approx(float(point.speedup(point.target)))
    needed = np.sort(anderson.sample_evals.numpy())[1]
    assert (cell.evaluations, cell.how, cell.bound) == (needed, "converged", False)
    assert cell.seconds == float(anderson.history.seconds[needed - 1])
    expected = {"at": point.seconds, "from the start": 0.0, "none": math.inf}
    assert cell.crossover == expected[point.kind]
    assert cell.predicted_low <= cell.predicted <= cell.predicted_high


@pytest.mark.parametrize(
    ("knobs", "driver", "speedup"),
    [
        (dict(spectrum="alternating", spectral_radius=1.3), {}, math.inf),
        (dict(spectral_radius=0.9), dict(rtol=1e-3), None),
        (dict(spectral_radius=0.999), dict(max_iter=4, rtol=1e-12), math.nan),
    ],
    ids=["forward iteration diverges", "both converge", "neither converges"],
)
def test_a_cell_where_one_method_fails(knobs, driver, speedup):
    problem = PROBLEMS["affine"](size=20, **knobs)
    methods = Picard(), Anderson(window=20)
    wanted = Plan(*(SolveSpec(problem=problem, method=method, **driver) for method in methods))
    cell = measured(wanted.here, *results(wanted), 1e-6)
    if speedup is None:
        assert 0 < cell.speedup < math.inf
    else:
        assert cell.speedup == pytest.approx(speedup, nan_ok=True)
    assert cell.converged == (not math.isnan(cell.speedup))


def test_where_forward_iteration_only_ran_out_s_is_a_bound():
    problem = PROBLEMS["affine"](size=20, spectral_radius=0.999)
    methods = Picard(), Anderson(window=20)
    wanted = Plan(*(SolveSpec(problem=problem, method=each, max_iter=60) for each in methods))
    forward, anderson = results(wanted)
    cell = measured(wanted.here, forward, anderson, 1e-6)
    assert cell.bound
    assert cell.speedup == pytest.approx(forward.seconds / cell.seconds)
    assert QUANTITIES["speedup"].text(cell).endswith("+")


def test_the_leading_cells_remember_something_and_are_the_fastest_where_no_factor_exists():
    none = Cell(Setting(0, 1.0, 1), speedup=9.0, evaluations=5)
    slow = Cell(Setting(1, 1.0, 1), speedup=2.0, evaluations=5)
    fast = Cell(Setting(2, 1.0, 1), speedup=3.0, evaluations=5)
    lost = Cell(Setting(3, 1.0, 1))
    assert leaders([none, slow, fast, lost], 3) == [fast, slow]
    assert leaders([none, lost], 3) == []
    endless = [Cell(Setting(m, 1.0, 1), math.inf, seconds=1 / m, evaluations=5) for m in (1, 2)]
    assert leaders(endless, 1) == endless[1:]


# -- the grid -------------------------------------------------------------------------------------


def test_all_cells_arrive_with_the_evaluations_of_their_own_solve(small):
    desk, wanted = Desk(), plan()
    cells = desk.run(wanted)
    assert set(cells) == wanted.every
    last = desk.news[-1]
    assert (last.done, last.total, last.stopped, last.error) == (len(cells), len(cells), False, "")
    for setting, cell in cells.items():
        result = wanted.specs(setting)[1].run()
        assert cell.evaluations == np.sort(result.sample_evals)[(setting.batch_size + 1) // 2 - 1]
        assert cell.memory == wanted.bytes_at(setting)
    spreads = {each for news in desk.news for each in news.spreads}
    assert wanted.here in spreads


def test_what_is_known_is_not_computed_again(small, monkeypatch):
    desk, wanted = Desk(), plan()
    first = desk.run(wanted)

    def run(*_):
        raise AssertionError("a cell was solved twice")

    monkeypatch.setattr(Grid, "_run", run)
    desk.news.clear()
    assert desk.run(wanted) == first
    assert desk.news[-1].error == ""
    moved = plan(window=4, mixing=1.0)  # the maps are the same, only you are elsewhere
    desk.news.clear()
    monkeypatch.setattr(Grid, "_repeat", lambda *_: None)
    assert set(desk.run(moved)) == moved.every
    assert desk.news[-1].error == ""


def test_forward_iteration_is_timed_again_after_a_while(small, monkeypatch):
    runs, run = [], Grid._run
    monkeypatch.setattr(
        Grid, "_run", lambda grid, sweep, spec, *rest: (runs.append(spec.method.name),
                                                        run(grid, sweep, spec, *rest))[1]
    )  # fmt: skip
    monkeypatch.setattr(Grid, "_repeat", lambda *_: None)
    wanted = plan()
    cells = Desk().run(wanted)
    assert runs.count("anderson") == len(cells)
    assert runs.count("picard") == 2 * len(SMALL["BATCH_SIZES"])  # each with its warm-up
    monkeypatch.setattr(grids, "FRESH", 0.0)
    monkeypatch.setattr(grids, "MOST_AGAIN", math.inf)
    grids.CELLS.clear()
    runs.clear()
    assert set(Desk().run(wanted)) == wanted.every
    assert runs.count("picard") == runs.count("anderson") == len(cells)


class Endless:
    """Solves that go on until they are stopped."""

    def __init__(self, monkeypatch, endless: Callable[[SolveSpec], bool]) -> None:
        self.evaluations, self.begun, self._endless = 0, threading.Event(), endless
        monkeypatch.setattr(grids, "spec_task", self.task)

    def task(self, spec: SolveSpec) -> Task:
        task = spec_task(spec)
        return Task(task.build, self.solve, task.key) if self._endless(spec) else task

    def solve(self, _problem, _on_step, should_stop):
        self.begun.set()
        while not should_stop():
            self.evaluations += 1
            time.sleep(1e-3)
        raise KnobError("a stopped run has no result")


def test_a_stop_takes_one_evaluation_at_most_keeps_what_is_known_and_goes_on(small, monkeypatch):
    endless = Endless(monkeypatch, lambda spec: spec.problem.batch_size == 4)
    desk, wanted = Desk(), plan()
    desk.grid.start(wanted)
    assert endless.begun.wait(PATIENCE)
    desk.grid.cancel()
    made = endless.evaluations
    desk.until(lambda: bool(desk.news) and desk.news[-1].ended)
    assert endless.evaluations <= made + 1
    last, known = desk.news[-1], {each for news in desk.news for each in news.cells}
    assert last.stopped and 0 < last.done == len(known) < last.total
    monkeypatch.setattr(grids, "spec_task", spec_task)
    desk.news.clear()
    assert set(desk.run(wanted)) == wanted.every
    assert not desk.news[-1].stopped


def test_the_newest_plan_wins(small, monkeypatch):
    endless = Endless(monkeypatch, lambda spec: spec.problem.size == 8 and spec.rtol == 1e-3)
    desk, old, new = Desk(), plan(rtol=1e-3), plan()
    desk.grid.start(old)
    assert endless.begun.wait(PATIENCE)
    assert set(desk.run(new)) == new.every
    assert {id(news.plan) for news in desk.news} == {id(new)}


@pytest.mark.parametrize("error", [ValueError("no"), MemoryError(), SystemExit(3)])
def test_a_cell_that_fails_harms_no_other(small, monkeypatch, error):
    def fail(spec: SolveSpec) -> Task:
        task = spec_task(spec)

        def solve(*_):
            raise error

        bad = isinstance(spec.method, Anderson) and spec.method.window == 1
        return Task(task.build, solve, task.key) if bad else task

    monkeypatch.setattr(grids, "spec_task", fail)
    wanted = plan()
    cells = Desk().run(wanted)
    assert set(cells) == wanted.every
    for setting, cell in cells.items():
        assert bool(cell.error) == (setting.window == 1)
        assert cell.converged == (setting.window != 1)
    assert "Traceback" not in "".join(cell.error for cell in cells.values())


def test_where_forward_iteration_can_not_be_had_its_row_says_why(small, monkeypatch):
    wanted = plan(batch_size=2)
    judge = grids.judge_size

    def refuse(specs):
        judge(specs)
        if specs[0].problem.batch_size == 4:
            raise KnobError("batch_size = 4 is too much for a test.")

    monkeypatch.setattr(grids, "judge_size", refuse)
    cells = Desk().run(wanted)
    failed = {cell.error for cell in cells.values() if cell.setting.batch_size == 4}
    assert failed == {"batch_size = 4 is too much for a test."}
    assert not any(cell.error for cell in cells.values() if cell.setting.batch_size != 4)


def test_a_cell_much_slower_than_forward_iteration_is_cut_off(small, monkeypatch):
    monkeypatch.setattr(grids, "SLOWEST", 0.0)
    monkeypatch.setattr(grids, "LEAST_SECONDS", 0.0)
    cells = Desk().run(plan())
    assert {cell.how for cell in cells.values()} == {"cut off"}
    assert not any(cell.converged for cell in cells.values())


def test_when_the_visitor_has_left_nothing_more_is_computed_or_said(small, monkeypatch):
    endless = Endless(monkeypatch, lambda _: True)
    desk = Desk(present=lambda: False)
    desk.grid.start(plan())
    desk.until(lambda: bool(desk.news) and desk.news[-1].ended)
    assert desk.news[-1].stopped and desk.news[-1].done == 0
    other = Desk()
    endless.begun.clear()
    other.grid.start(plan())
    assert endless.begun.wait(PATIENCE)
    other.grid.close()
    made = endless.evaluations
    time.sleep(0.1)
    assert endless.evaluations <= made + 1
    other.grid.start(plan())
    assert other.calls.empty() and other.news == []


def test_a_busy_lab_says_so(small):
    desk = Desk(Pool(most_jobs=0))
    desk.grid.start(plan())
    desk.until(lambda: bool(desk.news))
    assert desk.news[-1].ended and "busy" in desk.news[-1].error


def test_a_background_job_computes_only_while_nobody_else_wants_to():
    slots = Slots(1)
    background, order = Slot(slots, background=True), []
    runs = [Slot(slots) for _ in range(3)]

    def run(slot: Slot, name: str) -> None:
        with slot:
            order.append(name)

    with background:
        threads = [threading.Thread(target=run, args=(slot, "run")) for slot in runs]
        second = threading.Thread(
            target=run, args=(Slot(slots, background=True), "second background")
        )
        second.start()
        while not slots._background:
            time.sleep(1e-3)
        background.turn()  # nobody but another of its kind waits, and not for long
        assert order == []
        for thread in threads:
            thread.start()
        while len(slots._new) < 3:
            time.sleep(1e-3)
        background.turn()
        order.append("first background")
    for thread in (*threads, second):
        thread.join(PATIENCE)
    assert order[:3] == ["run"] * 3
    assert sorted(order[3:]) == ["first background", "second background"]


# -- what is shown --------------------------------------------------------------------------------


def test_a_scale_around_one_is_symmetric_and_holds_its_values():
    cells = [Cell(Setting(1, 1.0, 1), speedup=s, evaluations=5) for s in (0.4, 1.0, 4.0, math.inf)]
    scale = QUANTITIES["speedup"].scale(cells)
    assert scale.low == pytest.approx(1 / scale.high)
    assert scale.high in BALANCES and scale.low <= 0.4 and scale.high >= 4
    counts = [Cell(Setting(1, 1.0, 1), evaluations=n) for n in (37, 214)]
    scale = QUANTITIES["evaluations"].scale(counts)
    assert scale.low <= 37 and scale.high >= 214
    assert list(scale.ticks) == sorted(scale.ticks)


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_the_middle_of_the_scale_is_neither_methods_color(colors):
    shown = PhaseMap("mixing", colors, lambda _: None)
    wanted = plan()
    cells = {s: Cell(s, speedup=1.0, evaluations=5, how="converged") for s in wanted.every}
    quantity = QUANTITIES["speedup"]
    shown.show(wanted, cells, quantity, quantity.scale(cells.values()), None, {})
    assert set(shown.cells.data["color"]) == {colors.balance[3]}
    assert set(shown.cells.data["text"]) == {"1.0"}


def test_cells_to_come_are_pale_and_without_a_number_and_lost_ones_are_crossed():
    shown = PhaseMap("batch", LIGHT, lambda _: None)
    wanted = plan()
    here = Cell(wanted.here, speedup=2.0, evaluations=5, how="converged")
    lost = Cell(wanted.setting("batch", 0, 1), how="diverges")
    cells = {cell.setting: cell for cell in (here, lost)}
    quantity = QUANTITIES["speedup"]
    shown.show(wanted, cells, quantity, quantity.scale([here]), None, {})
    data = shown.cells.data
    solid = [k for k, alpha in enumerate(data["alpha"]) if alpha == 1]
    assert len(solid) == 2 and [text for text in data["text"] if text] == ["2.0"]
    assert data["how"].count("to come") == len(data["how"]) - 2
    assert shown.crosses.data == {"x": [0], "y": [0]}
    ring = shown.rings.data
    assert (ring["x"], ring["y"]) == ([wanted.windows.index(2)], [wanted.rows("batch").index(2)])


def test_a_border_runs_between_inside_and_outside_and_nowhere_else():
    inside = {(i, j): i == 1 and j == 1 for i in range(3) for j in range(3)}
    lines = _border(inside)
    ends = sorted(zip(*lines.values(), strict=True))
    assert ends == [(0.5, 0.5, 0.5, 1.5), (0.5, 0.5, 1.5, 0.5), (0.5, 1.5, 1.5, 1.5),
                    (1.5, 0.5, 1.5, 1.5)]  # fmt: skip
    assert _border({(0, 0): True, (2, 0): False})["x0"] == []  # what lies between is not known


def test_knees_are_drawn_where_the_memory_outgrows_a_cache():
    shown = PhaseMap("batch", LIGHT, lambda _: None)
    wanted = plan()
    limit = wanted.bytes_at(wanted.setting("batch", 5, 8))
    quantity = QUANTITIES["memory"]
    cells = {s: Cell(s, memory=wanted.bytes_at(s)) for s in wanted.every}
    shown.show(wanted, cells, quantity, quantity.scale(cells.values()), None, {"L2": limit})
    assert f"L2 {bytes_text(limit)}" in shown.words.data["text"]
    assert shown.crosses.data["x"] == []
    for x0, y0, x1, y1 in zip(*shown.knees.data.values(), strict=True):
        i, j = math.floor((x0 + x1) / 2), math.floor((y0 + y1) / 2)
        beyond = (i + 1, j) if x0 == x1 else (i, j + 1)
        sizes = [
            wanted.bytes_at(wanted.setting("batch", wanted.windows[a], wanted.rows("batch")[b]))
            for a, b in ((i, j), beyond)
        ]
        assert sizes[0] <= limit < sizes[1]


def cell(speedup: float = 2.0, **fields) -> Cell:
    usual = dict(evaluations=10, forward_evaluations=40, seconds=0.01, penalty=0.5, crossover=0.002)
    return Cell(Setting(5, 1.0, 16), speedup, how="converged", **usual | fields)


@pytest.mark.parametrize(
    ("here", "spread", "said"),
    [
        (None, None, "Solving"),
        (cell(), None, "Mixing pays here: the solve is 2.0x as fast"),
        (cell(), Spread(1.9, 1.5, 2.4, 5), "1.9x as fast"),
        (cell(), Spread(1.1, 0.9, 1.4, 5), "Not resolved"),
        (cell(0.5), Spread(0.5, 0.4, 0.6, 5), "takes 2.0x as long"),
        (cell(math.inf, forward_evaluations=math.nan), None, "Only Anderson gets there"),
        (cell(3.0, bound=True, forward_evaluations=math.nan), None, "at least 3.0x"),
        (cell(0.9, bound=True, forward_evaluations=math.nan), None, "Only Anderson gets there"),
        (Cell(Setting(5, 1.0, 16), 0.0, how="diverges", forward_evaluations=40), None,
         "forward iteration needs 40"),
        (Cell(Setting(5, 1.0, 16), how="diverges"), None, "Neither"),
        (Cell(Setting(5, 1.0, 16), error="No."), None, "could not be solved"),
    ],
)  # fmt: skip
def test_the_answer_is_a_sentence_for_every_end(here, spread, said):
    assert said in words.headline(here, spread)
    words.verdict(here, spread, None, None, False)


def test_the_verdict_names_the_best_and_how_sure_it_is():
    other = Setting(7, 1.0, 16)
    best = dataclasses.replace(cell(2.6), setting=other)
    verdict = words.verdict(cell(), None, best, Spread(2.5, 2.2, 2.9, 5), True)
    assert "One mixing step costs 0.50x the map; Anderson is ahead after 2 ms." in verdict
    assert "Best: window 7 at mixing 1: 2.5x (95 %: 2.2x to 2.9x, 5 runs)." in verdict
    assert "Best so far" in words.verdict(cell(), None, best, None, False)
    assert "No other cell is better." in words.verdict(cell(), None, cell(), None, True)
    lost = dataclasses.replace(best, speedup=0.6)
    assert "No window pays" in words.verdict(cell(0.5), None, lost, None, True)


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ((2, 2, 2), "at every batch size from 1 to 4"),
        ((0.5, 0.5, 0.5), "at no batch size"),
        ((0.5, 2, 2), "from batch size 2 on"),
        ((2, 0.5, 2), "at batch size 1, 4, of 1 to 4"),
    ],
)
def test_the_batch_sizes_at_which_it_pays_are_named(factors, said):
    cells = [
        Cell(Setting(5, 1.0, 2**k), factor, evaluations=5, how="converged")
        for k, factor in enumerate(factors)
    ]
    assert said in words.batches(cells)


def test_only_comparable_cells_count_as_predicted():
    good = cell(2.0, predicted=2.2)
    bad = cell(2.0, predicted=3.0)
    rest = [cell(math.inf, predicted=2.0), cell(2.0, bound=True, predicted=2.0), cell(2.0)]
    assert hits([good, bad, *rest]) == (1, 2)


# -- the page -------------------------------------------------------------------------------------


def page_of(**values):
    """The page without a browser, on tanh, shown; and its queue."""
    calls: queue.Queue = queue.Queue()
    controls = Controls()
    controls.apply({"problem": "tanh", "size": 8, "batch_size": 2, "window": 2} | values)
    view = Crossover(controls, LIGHT, lambda publish: Grid(publish, calls.put), calls.put)
    view.show()
    return view, calls


def settle(view: Crossover, calls: queue.Queue) -> None:
    run_until(lambda: not view.maps.running, calls)


def test_the_page_fills_its_maps_says_so_and_gives_its_numbers_away(small):
    view, calls = page_of()
    settle(view, calls)
    frame = view.maps.frame()
    assert len(frame) == len(view.maps.plan.every) and frame["evaluations"].notna().all()
    assert {"window", "mixing", "batch_size", "speedup", "speedup_low", "penalty"} <= {*frame}
    assert f"{len(frame)} cells" in view.maps.progress.object
    assert view.maps._csv().read().count("\n") == len(frame) + 1
    table = view.maps.table.object
    assert table.count("scope='row'") == 2 and "<caption>" in table
    for name in QUANTITIES:
        view.maps.quantity.value = name
        texts = view.maps.maps["mixing"].cells.data["text"]
        assert len(texts) == 8 and all(texts), name
    assert re.search("forward iteration|as long as", view.answer.headline.object)


def test_a_click_on_a_cell_sets_the_sliders(small):
    view, calls = page_of()
    settle(view, calls)
    shown = view.maps.maps["mixing"]
    shown._tapped(type("Tap", (), {"x": 3.2, "y": -0.3})())
    calls.get(timeout=PATIENCE)()
    assert (view.controls.window, view.controls.mixing) == (4, 0.5)
    assert view.maps.plan.here == Setting(4, 0.5, 2)
    shown._tapped(type("Tap", (), {"x": 9.0, "y": 0.0})())  # beside the map
    view.close()


def test_a_page_that_is_not_shown_computes_nothing_and_catches_up(small):
    view, calls = page_of()
    settle(view, calls)
    view.hide()
    before = view.maps.plan
    view.controls.window = 4
    time.sleep(0.05)
    assert view.maps.plan is before and not view.grid._sweep
    view.show()
    assert view.maps.plan.here.window == 4
    view.close()


def test_convergence_that_is_not_shown_runs_nothing_and_catches_up():
    calls: queue.Queue = queue.Queue()
    controls = Controls()
    controls.apply({"problem": "tanh", "size": 8, "batch_size": 2})
    view = Convergence(controls, LIGHT, lambda publish: Runner(publish, calls.put), calls.put)
    view.submit()
    view.hide()
    generation = view.runner._generation
    controls.window = 7
    assert view.runner._generation == generation
    while not calls.empty():
        calls.get()()
    view.show()
    assert view.specs["anderson"].method.window == 7
    assert view.runner._generation == generation + 1
    view.close()


def test_the_link_names_page_and_quantity_and_explains_what_it_can_not_use():
    query = to_query(Controls(), own={"page": "Crossover", "quantity": "memory"})
    assert query.endswith("&page=Crossover&quantity=memory")
    pages = ["Convergence", "Crossover"]
    assert choice_from_query(query, "page", pages, pages[0]) == ("Crossover", [])
    assert choice_from_query("?window=3", "page", pages, pages[0]) == ("Convergence", [])
    page, notes = choice_from_query("?page=<b>Crossing", "page", pages, pages[0])
    assert page == "Convergence" and "&lt;b&gt;" in notes[0] and "<b>" not in notes[0]


# -- in a browser ---------------------------------------------------------------------------------

CHEAP = "problem=tanh&size=8&batch_size=2&max_iter=40"
COMPUTED = """least => {
  const maps = [...Bokeh.documents[0].all_models].filter(m => m.data?.alpha && m.data?.text)
  return maps.length == 2 && maps.every(m => m.data.alpha.filter(a => a == 1).length >= least)
}"""


def crossing(page: "Page") -> None:
    """Wait until the Crossover page has an answer and both maps have cells."""
    page.locator("h1:visible").filter(has_text=words.QUESTION).wait_for(timeout=40_000)
    page.wait_for_function(COMPUTED, arg=5, timeout=40_000)


def test_a_link_opens_the_page_its_maps_fill_and_a_click_sets_the_sliders(page, lab_server):
    page.goto(f"{lab_server.url}?{CHEAP}&page=Crossover&quantity=evaluations")
    crossing(page)
    current = page.locator("nav a[aria-current=page]")
    assert current.all_inner_texts() == ["Crossover"]
    assert page.get_by_role("button", name="evaluations").get_attribute("aria-pressed") == "true"
    page.locator("canvas:visible").first.scroll_into_view_if_needed()
    box = page.evaluate(PLACE, [10, 0])  # window 20 at mixing 0.1
    page.mouse.click(*box)
    page.wait_for_url(re.compile("mixing=0.1.*window=20|window=20.*mixing=0.1"))
    assert page.get_by_label("window m", exact=True).input_value() == "20"
    assert "quantity=evaluations" in page.url and "page=Crossover" in page.url
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped after").wait_for()
    assert lasting_findings(page) == []


PLACE = """([i, j]) => {
  const views = []
  const walk = (view) => {
    if (!view || views.includes(view)) return
    views.push(view)
    for (const child of [...(view.children?.() ?? []), ...(view.child_views ?? [])]) walk(child)
  }
  for (const view of Bokeh.index) walk(view)
  const isMap = (view) => view.model?.type == 'Figure'
    && view.model.below?.[0]?.axis_label?.startsWith('window m') && view.frame
  const plot = views.find(isMap)
  const box = plot.el.getBoundingClientRect()
  return [box.x + plot.frame.x_scale.compute(i), box.y + plot.frame.y_scale.compute(j)]
}"""


def test_the_names_in_the_header_switch_in_place_and_the_way_back_leads_back(page, lab_server):
    page.goto(f"{lab_server.url}?{CHEAP}")
    page.locator(".lab-answer p:not(.stale p)").first.wait_for(timeout=40_000)
    page.evaluate("window.stayed = true")
    page.get_by_role("link", name="Crossover").focus()
    page.keyboard.press("Enter")
    crossing(page)
    page.wait_for_url("**page=Crossover**")
    window = page.get_by_label("window m", exact=True)
    window.focus()
    window.press("ArrowRight")
    page.wait_for_url("**window=6**")
    page.get_by_role("link", name="Convergence").click()
    answer = page.locator(".lab-answer:visible p:not(.stale p)")
    answer.filter(has_text="6 past steps").wait_for(timeout=40_000)
    page.wait_for_url(lambda address: "page=" not in address)
    page.go_back()
    page.locator("h1:visible").filter(has_text=words.QUESTION).wait_for()
    assert page.evaluate("window.stayed")
