"""The Convergence page: what its parts do."""

import math
import queue
import re
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from andersonn_core import PROBLEMS, Anderson, Event, SolveSpec
from andersonn_core.methods.keepers import Slow
from lab import words
from lab.also import ALSO
from lab.controls import Controls
from lab.figures import curves
from lab.figures.curves import METHODS as ROLES
from lab.figures.curves import CurvePair
from lab.figures.heatmap import MOST_RESTARTS
from lab.pages.answer import STALE
from lab.pages.convergence import PACE, Convergence
from lab.pages.polynomial import PLAIN, ROOTS, roots_of
from lab.pages.widgets import bound_widget
from lab.pins import MOST, Pin, Pins
from lab.runner import Runner, Update
from lab.spectra import compute
from lab.theme import DARK, LABELS, LIGHT
from lab.traces import Trace, columns_of
from lab.url import to_query

if TYPE_CHECKING:
    pass


def relative_luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((relative_luminance(one), relative_luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_all_words_have_a_contrast_of_4_5_to_1(colors):
    inks = [stroke.ink for stroke in colors.strokes.values()]
    for ink in (*inks, colors.text, colors.muted, colors.good, colors.warn, colors.bad):
        assert contrast(ink, colors.paper) >= 4.5, ink
        assert contrast(ink, colors.canvas) >= 4.5, ink


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_methods_differ_in_color_dash_and_marker(colors):
    assert set(colors.strokes) == set(LABELS) == set(ROLES)
    assert len({colors.strokes[name] for name in ALSO}) == 1  # one of them is shown at a time
    for kind in ("color", "dash", "marker"):
        assert len({getattr(stroke, kind) for stroke in colors.strokes.values()}) == 3
    # Bokeh's JavaScript draws "dashed" as 3 and 2 pixels where lines share a column: like dots.
    assert all(re.fullmatch(r"solid|\d+ \d+", stroke.dash) for stroke in colors.strokes.values())


class FakeRows:
    def __init__(self, residual: np.ndarray, first: int = 1) -> None:
        self.evaluation = np.arange(first, first + len(residual))
        self.seconds = self.evaluation * 0.01
        self.relative_residual = residual


def test_a_sample_that_stopped_holds_its_level_and_the_median_ends_at_the_tolerance():
    nan = math.nan
    residual = np.array([[1, 1, 1.0], [1e-7, 0.1, 0.2], [nan, 1e-7, 0.1], [nan, nan, 1e-7]])
    columns = Trace(1e-6).extend(FakeRows(residual))
    assert columns["median"][:3] == [1, 0.1, 1e-7]
    assert math.isnan(columns["median"][3])
    assert columns["worst"] == [1, 0.2, 0.1, 1e-7]


def test_rows_that_arrive_twice_are_drawn_once():
    trace = Trace(1e-6)
    trace.extend(FakeRows(np.ones((5, 2))))
    columns = trace.extend(FakeRows(np.ones((4, 2)), first=3))
    assert columns["evaluation"] == [6]


def test_an_exact_zero_and_an_infinite_residual_can_be_drawn():
    columns = Trace(0.0).extend(FakeRows(np.array([[math.inf], [1.0], [0.0]])))
    assert math.isnan(columns["median"][0])
    assert columns["median"][2] > 0


def page_of(**values):
    """The page without a browser, and a function that runs it until its runs have ended."""
    calls: queue.Queue = queue.Queue()
    controls = Controls()
    controls.apply({"problem": "tanh", "size": 16, "batch_size": 4} | values)
    view = Convergence(controls, LIGHT, lambda publish: Runner(publish, calls.put), calls.put)

    def settle(seconds: float = 20.0, beyond: Any = None) -> None:
        """Until the runs have ended; `beyond`: what the page shows still, of runs before these."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                calls.get(timeout=0.05)()
            except queue.Empty:
                settled = view.live.errors or view.shelf.live is view.live
                if view.live.complete and settled and view.live is not beyond:
                    return
        pytest.fail("the runs did not end")

    view.submit()
    settle()
    return view, settle


def median_of(plot, name, ghost=False):
    """The points of a method's thick line, or of the pale one that it replaces."""
    source = plot.ghosts if ghost else plot.medians
    rows = [row for row, run in enumerate(plot.medians.data["name"]) if run.split()[0] == name]
    return (source.data["x"][rows[0]], source.data["y"][rows[0]]) if source.data["x"] else ([], [])


def test_both_curves_end_where_their_results_end():
    view, _ = page_of()
    for name, result in view.live.results.items():
        _, columns = columns_of(result, view.live.tolerance)
        for axis, plot in view.curves.pair.plots.items():
            data = plot.details[name].data
            assert list(data["evaluation"]) == list(range(1, result.num_evals + 1))
            np.testing.assert_allclose(data["seconds"], columns["seconds"])  # summed twice
            for line in ("median", "low", "high", "worst"):
                np.testing.assert_equal(data[line], columns[line])
            x, y = median_of(plot, name)
            end = np.flatnonzero(np.isfinite(columns["median"]))[-1] + 1
            np.testing.assert_allclose(x, columns[axis][:end])
            np.testing.assert_equal(y, columns["median"][:end])
    assert "4 samples" in view.answer.headline.object


def test_axes_stand_still_until_the_runs_have_ended():
    view, settle = page_of()
    pair = view.curves.pair
    before = [(axis.start, axis.end) for axis in (*pair.x.values(), pair.y)]
    view.controls.apply({"gain": 1.3, "window": 2})
    view._begin()
    for first in (1, 101, 201):  # far beyond the axis
        trace = view.live.traces.setdefault("anderson", Trace(1e-6))
        pair.extend("anderson", trace.extend(FakeRows(np.full((100, 4), 0.5), first)))
        pair.label_ends(view.live.traces)
        pair.draw()
    assert [(axis.start, axis.end) for axis in (*pair.x.values(), pair.y)] == before
    x, _ = median_of(pair.plots["evaluation"], "anderson")
    assert x[-1] == int(pair.x["evaluation"].end) < 300
    settle()


def test_a_superseded_curve_stays_pale_until_the_new_one_stands():
    view, settle = page_of()
    pair = view.curves.pair
    plot = pair.plots["evaluation"]
    old = median_of(plot, "anderson")
    view._begin()
    view.curves.take(view.live, [])
    assert median_of(plot, "anderson", ghost=True) == old
    assert median_of(plot, "anderson") == ([], [])
    view.controls.gain = 0.8  # which changes both runs
    settle()
    assert plot.ghosts.data["x"] == []


def test_a_run_whose_second_point_takes_long_is_announced_soon_after_its_first():
    view, _ = page_of()
    view.curves.pair.x["seconds"].end = 1.0
    rows = FakeRows(np.full((1, 4), 0.5))
    view.publish([Update(9, name, rows=rows, reset=not i) for i, name in enumerate(view.specs)])
    assert STALE not in view.answer.headline.object  # nothing but points in the first message
    while view.playback.stop_run.disabled:
        view.schedule.__self__.get(timeout=10)()
    assert view.answer.headline.object.startswith(STALE)
    assert median_of(view.curves.pair.plots["seconds"], "anderson") == ([0.01], [0.5])


def test_a_drag_starts_its_first_run_at_once_and_few_more_and_ends_with_its_last_value(monkeypatch):
    view, settle = page_of()
    starts, submit = [], view.runner.submit
    monkeypatch.setattr(
        view.runner, "submit", lambda specs: (starts.append(specs["anderson"]), submit(specs))
    )
    time.sleep(PACE)
    began = time.monotonic()
    for window in range(6, 16):
        view.controls.window = window
    assert starts[0].method.window == 6
    assert len(starts) <= 1 + (time.monotonic() - began) / PACE
    while starts[-1].method.window != 15:
        view.schedule.__self__.get(timeout=10)()
    assert len(starts) <= 2 + (time.monotonic() - began) / PACE
    settle()
    assert view.live.anderson.window == 15


def test_a_run_that_goes_on_keeps_its_curve():
    view, settle = page_of()
    plot = view.curves.pair.plots["evaluation"]
    before = list(plot.details["picard"].data["seconds"]), view.live.results["picard"]
    view.controls.window = 2
    settle()
    assert list(plot.details["picard"].data["seconds"]) == before[0]
    assert view.live.results["picard"] is before[1]
    assert view.live.frames.keys() == view.live.results.keys() == {"picard", "anderson"}


class Ticks:
    """A clock that advances by a millisecond whenever it is read: no luck in it."""

    name = "ticks"

    def __init__(self):
        self.now = 0.0

    def mark(self):
        self.now += 1e-3
        return self.now

    def seconds(self, start, end):
        return end - start


def test_the_crossover_is_marked_on_the_curve_and_said_in_words(monkeypatch):
    monkeypatch.setattr("andersonn_core.driver.clock_for", lambda device: Ticks())
    view, _ = page_of(problem="affine", size=100, spectral_radius=0.99, max_iter=3000)
    point = view.live.crossing
    assert point.kind == "at"
    plot = view.curves.pair.plots["seconds"]
    assert plot.markers.data["x"][-1] == pytest.approx(point.seconds)
    assert plot.labels.data["text"][-1].startswith("ahead after")
    assert point.sentence.split(".")[0] in view.answer.verdict.object


def test_the_answer_says_when_memory_does_harm():
    view, _ = page_of(problem="newton", batch_size=16)
    assert "Here none" in view.answer.headline.object or "harm" in view.answer.headline.object


def test_errors_are_a_sentence_and_a_button_and_their_text_is_escaped():
    view, settle = page_of()
    view._begin()
    error = "The map raised ValueError: <img src=x onerror=alert(1)>."
    view.publish([Update(1, name, error=error, reset=not i) for i, name in enumerate(view.specs)])
    assert view.answer.start_over.visible
    assert "&lt;img" in view.answer.verdict.object
    assert "<img" not in view.answer.verdict.object
    broken = view.live
    view.start_over()
    settle(beyond=broken)
    assert not view.answer.start_over.visible


def test_every_third_run_is_drawn_named_and_takes_the_place_of_the_one_before():
    view, settle = page_of(restart="deflated")
    plot = view.curves.pair.plots["evaluation"]
    for also in ALSO:
        before, view.controls.also = view.live, also
        settle(beyond=before)
        assert list(view.live.results) == ["picard", "anderson", also]
        runs = [run.split()[0] for run in plot.medians.data["name"]]
        assert runs == ["picard", also, "anderson"]
        count = view.live.traces[also].median_evaluations
        assert f"{LABELS[also]} {count}" in plot.labels.data["text"]
        assert LABELS[also] in plot.hovers[also].tooltips
        assert f"{LABELS[also]}: 4 of 4" in view.answer.status.object
        assert f"spec id, {LABELS[also]}" in view.shelf.card_pane.object.replace("&#x27;", "'")
        assert f",{LABELS[also]}," in view.shelf._csv().read().replace("\n", ",")
    view.controls.also = "none"
    settle()
    assert [run.split()[0] for run in plot.medians.data["name"]] == ["picard", "anderson"]


@pytest.mark.parametrize(
    ("restart", "way"),
    [("deflated", "Keeping 4 slow directions"), ("auto", "Choosing what to keep")],
)
def test_the_answer_says_what_keeping_saves_or_costs_beside_full_restarts(restart, way):
    view, _ = page_of(
        problem="poisson", size=32, batch_size=1, dtype="float64", window=8, restart=restart,
        also="restart", rtol=1e-9,
    )  # fmt: skip
    mine, full = (view.live.results[name].num_evals for name in ("anderson", "restart"))
    assert mine < full
    said = view.answer.verdict.object
    assert f"{way} saves {full - mine} of {full} evaluations." in said
    assert "Only Anderson" not in said  # full restarts converge, too


class Counted:
    """A result of which only the counts matter."""

    def __init__(self, *sample_evals: int) -> None:
        self.sample_evals = torch.tensor(sample_evals)
        self.converged = self.sample_evals > 0


@pytest.mark.parametrize(
    ("method", "mine", "full", "sentence"),
    [
        (Anderson(window=9, restart="deflated"), 158, 146,
         "Keeping 4 slow directions costs 12 more evaluations than a full restart "
         "(158 against 146)."),
        (Anderson(window=2, restart="deflated"), 8, 7,
         "Keeping 1 slow direction costs 1 more evaluation than a full restart (8 against 7)."),
        (Anderson(window=1, restart="deflated"), 7, 7,
         "Keeping no slow directions changes nothing: 7 evaluations either way."),
        (Anderson(restart="never"), 6, 7,
         "Dropping only the oldest step saves 1 of 7 evaluations."),
        (Anderson(restart="auto"), -1, 7, ""),
        (Anderson(restart="auto"), 7, -1, ""),
    ],
)  # fmt: skip
def test_the_gain_in_words(method, mine, full, sentence):
    results = {"anderson": Counted(mine, mine, 999), "restart": Counted(full, full, 1)}
    assert words.gain(method, 100, results) == sentence
    assert words.gain(method, 100, {"anderson": results["anderson"]}) == ""


@pytest.mark.parametrize(("window", "kept", "n"), [(10, None, 50), (7, 20, 50), (10, None, 4)])
def test_the_kept_directions_in_words_are_those_that_the_method_keeps(window, kept, n):
    method = Anderson(window=window, kept=kept, restart="deflated")
    results = dict.fromkeys(("anderson", "restart"), Counted(7))
    keeper = method.init(torch.zeros(1, n)).keeper
    assert isinstance(keeper, Slow)
    assert f"Keeping {keeper.kept} slow" in words.gain(method, n, results)


def test_what_anderson_decided_is_shown_escaped_and_goes_with_its_run():
    view, settle = page_of(size=128, restart="auto", window=4)
    answer, notes = view.answer, view.live.results["anderson"].notes
    assert notes and answer.notes.visible
    assert answer.decided.object.count("<li>") == len(notes)
    assert notes[0] in answer.decided.object
    answer._tell(["<img src=x onerror=alert(1)>"])
    assert "<img" not in answer.decided.object and "&lt;img" in answer.decided.object
    view.controls.restart = "deflated"
    settle()
    assert not answer.notes.visible and answer.decided.object == ""


def test_marks_on_the_heat_map_are_called_what_they_are():
    view, _ = page_of(size=128, restart="auto", window=4)
    result, marks = view.live.results["anderson"], view.samples.plot.marks
    counts, note = result.diagnostics, view.samples.note.object
    assert counts["probes"] == len(marks["probe"].data["sample"]) > 0
    assert counts["restarts"] == len(marks["restart"].data["sample"])
    kept = int((result.history.event & Event.DEFLATE).bool().sum())
    assert f"Ticks: {counts['restarts']} restarts ({kept} kept slow directions)" in note
    assert f"circles: {counts['probes']} probes" in note
    assert "triangles" not in note
    none = dict.fromkeys(counts, 0)
    assert words.marks(none, MOST_RESTARTS) == ""
    one = words.marks(none | {"drops": 1, "restarts": 9}, 8)
    assert one == "Ticks: 9 restarts, too many to be drawn; crosses: 1 dropped column."


def test_an_optional_integer_has_a_slider_with_auto_before_its_numbers():
    knob = Anderson.knobs()["kept"]
    bound = bound_widget(knob, knob)
    assert bound.read(bound.widget.value) is None
    bound.follow(knob, 3, "")
    assert bound.read(bound.widget.value) == 3
    bound.follow(knob, 40, "")  # from a link: beyond the slider's range
    assert bound.read(bound.widget.value) == 40
    bound.follow(knob, None, "Only restart = deflated keeps.")
    assert bound.read(bound.widget.value) is None and bound.widget.disabled


def cursor_of(view, axis="evaluation"):
    """Where the scrubber's line stands."""
    lines = view.curves.pair.plots[axis].lines.data
    return next(x for x, dash in zip(lines["x"], lines["dash"], strict=True) if dash == "solid")


def test_scrubbing_moves_every_figure():
    view, _ = page_of(problem="poisson", size=12, batch_size=1, max_iter=400)
    view.scrub(3)
    assert cursor_of(view) == [3, 3]
    assert cursor_of(view, "seconds") == [view.live.seconds_at("anderson", 3)] * 2
    first = view.picture.fields.sources["anderson"].data["image"][0].copy()
    view.scrub(9)
    assert np.abs(view.picture.fields.sources["anderson"].data["image"][0] - first).max() > 0
    assert view.samples.plot.cursor.location == 9


def test_playback_steps_and_stops_at_the_end():
    view, settle = page_of()
    playback = view.playback
    playback.go(2)
    settle()
    assert cursor_of(view) == [2, 2]
    playback.go(10**9)
    assert playback.slider.value == playback.slider.end == view.live.longest
    playback._tick()
    assert playback.slider.value == playback.slider.end


def test_digits_are_read_at_every_evaluation():
    view, settle = page_of(problem="digits_deq", batch_size=3, rtol=1e-2, max_iter=60)
    assert view.picture.box.visible
    settled = list(view.picture.digits.reads["anderson"].data["text"])
    assert settled == [str(int(label)) for label in view.live.problem.labels]
    view.scrub(1)
    assert len(view.picture.digits.reads["picard"].data["text"]) == 3
    assert "1.1e" not in view.picture.note.object


@pytest.mark.parametrize("name", ["affine", "rotation", "tanh"])
def test_the_polynomial_of_small_maps_is_small_at_the_eigenvalues_in_the_end(name):
    spec = SolveSpec(
        problem=PROBLEMS[name](**({"size": 6} if name != "rotation" else {})), rtol=1e-6
    )
    spectrum = compute(spec)
    assert spectrum.typical[0] == pytest.approx(1)
    assert spectrum.typical[-1] < 1e-2
    assert spectrum.magnitude.shape[1] % 2 == 1


@pytest.mark.parametrize(
    ("restart", "says"),
    [
        ("full", "A full restart erases roots from the memory."),
        ("never", "A sliding window lets roots drift."),
        ("deflated", "Deflation keeps roots."),
        ("auto", "A test of the map decides what keeps the roots"),
    ],
)
def test_the_polynomial_s_legend_says_what_this_restart_does_to_its_roots(restart, says):
    view, _ = page_of(problem="affine", size=12, batch_size=1, restart=restart)
    assert view.polynomial.box.visible and says in view.polynomial.legend.object


def test_the_legend_knows_windows_too_small_to_keep_a_direction():
    assert roots_of(Anderson(window=1, restart="deflated"), 12) == ROOTS["full"]
    assert roots_of(Anderson(restart="deflated"), 1) == ROOTS["full"]
    assert roots_of(Anderson(window=1, restart="never"), 12) == ROOTS["never"]
    assert roots_of(Anderson(window=0, restart="deflated"), 12) == PLAIN


def test_pins_are_at_most_eight_and_a_table_of_what_differs():
    changes = []
    pins = Pins(lambda: changes.append(1))
    base = SolveSpec(problem=PROBLEMS["tanh"](size=8, batch_size=2))
    for window in range(MOST + 1):
        spec = base.replace(method=Anderson(window=window))
        said = pins.add(Pin.of(spec, spec.run()))
    assert len(pins.items) == MOST and "remove one" in said
    assert [row[3] for row in pins.rows()] == [str(window) for window in range(MOST)]
    assert {row[2] for row in pins.rows()} == {"Anderson"}
    for lines, labels in pins.lines().values():
        assert len(lines) == len(labels) == MOST
    pins.remove(0)
    assert len(pins.items) == MOST - 1 and len(changes) == MOST + 1
    spec = base.replace(method=Anderson(restart="deflated"))
    pins.add(Pin.of(spec, spec.run()))
    assert pins.rows()[-1][2] == "Anderson, restart deflated"


def test_a_method_that_comes_back_brings_nothing_of_its_last_run_along():
    pair = CurvePair(LIGHT, 1e-6)
    pair.put("broyden", Trace(1e-6).extend(FakeRows(np.array([[1.0], [0.5], [0.25]]))))
    pair.draw()
    pair.clear("broyden")
    pair.put("broyden", Trace(1e-6).extend(FakeRows(np.array([[1.0], [0.1], [0.01], [1e-3]]))))
    pair.draw()
    details = pair.plots["evaluation"].details["broyden"].data
    assert list(details["median"]) == [1.0, 0.1, 0.01, 1e-3]


def test_painting_changes_every_line():
    pair = CurvePair(LIGHT, 1e-6)
    for name in ROLES:
        pair.put(name, Trace(1e-6).extend(FakeRows(np.array([[1.0], [0.1]]))))
    pair.draw()
    pair.paint(DARK)
    for plot in pair.plots.values():
        strokes = DARK.strokes
        assert set(plot.medians.data["color"]) == {strokes[name].color for name in ROLES}
        for name, (band, worst, _) in plot.renderers.items():
            assert band.glyph.fill_color == worst.glyph.line_color == strokes[name].color
        assert set(plot.lines.data["color"]) == {DARK.muted}
        for hover in plot.hovers.values():
            assert DARK.paper in hover.tooltips and LIGHT.paper not in hover.tooltips


def test_words_have_at_most_three_significant_digits():
    view, _ = page_of()
    markup = view.answer.headline.object + view.answer.verdict.object + view.answer.tiles.object
    markup = re.sub(r"style='[^']*'", "", markup)
    for number in re.findall(r"\d+\.\d+|\d+", markup):
        assert len(number.replace(".", "").strip("0")) <= 3, number
    assert words.steps(0) == "no past step" and words.steps(1) == "1 past step"


def test_labels_at_line_ends_stand_apart_whatever_the_heights_of_the_ends():
    spans = [(0.1, 0.3), (0.12, 0.32), (0.14, 0.5), (0.8, 0.9)]
    heights = [50.0, 50.0, 70.0, 52.0]
    shifts = curves.stacked(spans, heights)
    tops = [height - shift for height, shift in zip(heights, shifts, strict=True)]
    assert shifts[3] == curves.BELOW  # far from all others
    near = sorted(tops[:3])
    assert min(b - a for a, b in zip(near, near[1:], strict=False)) >= curves.APART


def test_a_label_is_centered_as_far_as_it_stays_in_the_plot():
    short, long = "forward 81", "GPU, recorded: forward 89"
    assert [curves._aligned(place, short) for place in (0.05, 0.2, 0.5, 0.8, 0.95)] == [
        "left", "center", "center", "center", "right",
    ]  # fmt: skip
    assert [curves._aligned(place, long) for place in (0.05, 0.2, 0.5, 0.8)] == [
        "left", "left", "center", "right",
    ]  # fmt: skip
    for text in (short, long):
        for place in (0.0, 0.3, 0.7, 1.0):
            left, right = curves._span(place, text, curves._aligned(place, text))
            assert left <= place <= right


def test_window_and_mixing_may_be_chosen_by_the_solver():
    view, settle = page_of()
    for name, number in (("window", 5), ("mixing", 1.0)):
        bound = view.rail.bound[name]
        assert not bound.box.value and not bound.widget.disabled
        bound.box.value = True
        settle()
        assert getattr(view.controls, name) == "auto" and bound.widget.disabled
        bound.box.value = False
        settle()
        assert getattr(view.controls, name) == number and not bound.widget.disabled
    view.controls.apply({"window": "auto"})
    settle()
    assert view.rail.bound["window"].box.value
    assert "up to 10 past steps" in view.answer.headline.object.lower()
    assert "window='auto'" in view.code()
    assert "window=auto" in to_query(view.controls, [])
