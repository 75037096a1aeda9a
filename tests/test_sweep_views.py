"""The views of a sweep: what they count, what a brush selects, and that nothing is hidden."""

import math
import re
import time
import urllib.request

import holoviews as hv
import numpy as np
import pandas as pd
import panel as pn
import pytest

from lab.own_map import _free_port
from lab.sweeps import raster
from lab.sweeps.cells import Cellwise
from lab.sweeps.columns import Measured
from lab.sweeps.curves import sample
from lab.sweeps.parallel import MOST_LINES
from lab.sweeps.quantities import QUANTITIES, nice_steps
from lab.sweeps.sheet import Sheet
from lab.sweeps.statuses import MARKS, STATUSES
from lab.sweeps.strands import Gap, segments, strand
from lab.sweeps.trials import Trials, swept
from lab.sweeps.views import SweepViews
from lab.theme import DARK, LIGHT

AXES = ["method.window", "method.mixing", "problem.batch_size"]
WINDOWS, MIXINGS, BATCHES = range(1, 7), (0.5, 0.8, 1.0), (1, 16)


def made(seeds: int = 4) -> pd.DataFrame:
    """A sweep with all the ways to end; no trial of window 1 and mixing 1 converges."""
    rng = np.random.default_rng(7)
    rows = [
        {"method.window": w, "method.mixing": m, "problem.batch_size": b, "seed": s, "repeat": 0}
        for w in WINDOWS for m in MIXINGS for b in BATCHES for s in range(seeds)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    count = len(frame)
    frame["row"] = rng.permutation(count) + 100
    frame["spec_id"] = "abc"
    frame["status"] = "CONVERGED"
    others = [name for name in STATUSES if name != "CONVERGED"]
    frame.loc[rng.choice(count, 24, replace=False), "status"] = others * 4
    lost = (frame["method.window"] == 1) & (frame["method.mixing"] == 1)
    frame.loc[lost, "status"] = "DIVERGED"
    frame["num_evals"] = rng.integers(5, 90, count).astype(float)
    frame["seconds"] = frame["num_evals"] * rng.uniform(1e-3, 2e-3, count)
    frame.loc[frame["status"] == "FAILED", ["num_evals", "seconds"]] = np.nan
    frame["relative_residual"] = np.where(frame["status"] == "CONVERGED", 1e-6, 0.3)
    return frame.assign(device="Xeon", code="1+a", reason="")


def levels(frame: pd.DataFrame):
    """A curve for each trial that has evaluations: 10^(-6 k / K)."""
    known = frame[np.isfinite(frame["num_evals"])].set_index("row")["num_evals"].astype(int)

    def read(rows, most):
        parts = [
            pd.DataFrame({"row": row, "evaluation": (k := np.arange(1, known[row] + 1)),
                          "seconds": 1e-3 * k, "level": 10.0 ** (-6 * k / known[row])})
            for row in list(rows)[:most] if row in known.index
        ]  # fmt: skip
        return (
            pd.concat(parts)
            if parts
            else pd.DataFrame(columns=["row", "evaluation", "seconds", "level"])
        )

    return read


@pytest.fixture
def frame():
    return made()


@pytest.fixture
def views(frame):
    opened: list[int] = []
    shown = SweepViews(LIGHT, levels(frame), opened.append)
    shown.opened = opened
    shown.open(Sheet(frame, AXES))
    yield shown
    shown.close()


def rows(views: SweepViews) -> set[int]:
    """The selected rows."""
    mask = views.selection.mask(views.trials)
    return set(views.trials.rows if mask is None else views.trials.rows[mask])


def rows_where(frame: pd.DataFrame, query: str) -> set[int]:
    names = {name: name.rsplit(".", 1)[-1] for name in frame}
    return set(frame.rename(columns=names).query(query)["row"])


def data(source, name: str) -> list:
    return list(source.data[name])


# -- counts and medians ---------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", ["all", "some"])
@pytest.mark.parametrize("column", ["num_evals", "seconds"])
def test_cells_hold_the_quantiles_that_pandas_finds(frame, column, chosen):
    trials = Trials(frame, AXES)
    mask = None if chosen == "all" else np.random.default_rng(1).random(len(frame)) < 0.5
    x, y = trials.axes["method.window"], trials.axes["method.mixing"]
    cells = Cellwise(trials, x, y, column).gather(mask)
    mine = frame if mask is None else frame[mask]
    reached = mine[mine["status"] == "CONVERGED"].groupby(AXES[:2])[column]
    for part, found in ((0.1, cells.low), (0.5, cells.median), (0.9, cells.high)):
        wanted = reached.quantile(part).unstack().reindex(WINDOWS, columns=MIXINGS)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_cells_count_every_trial_once_by_its_status(frame):
    trials = Trials(frame, AXES)
    x, y = trials.axes["method.window"], trials.axes["problem.batch_size"]
    cells = Cellwise(trials, x, y, "").gather(None)
    table = pd.crosstab([frame[AXES[0]], frame[AXES[2]]], frame["status"])
    for k, name in enumerate(STATUSES):
        wanted = table.get(name, pd.Series(0, table.index)).unstack()
        assert (cells.statuses[k] == wanted.to_numpy()).all(), name
    assert cells.statuses.sum() == cells.total.sum() == len(frame)


def test_the_order_of_the_rows_does_not_matter(frame, views):
    other = SweepViews(LIGHT, levels(frame), lambda row: None)
    other.open(Sheet(frame.sample(frac=1.0, random_state=3), AXES))
    for each in (views, other):
        each.heat._brushed((0.8, 3.2, -0.4, 1.4))
        each.scatter._brushed((-2.5, -1.2, 1.0, 1.7))
    assert rows(views) == rows(other)
    assert views.sentence.object == other.sentence.object
    assert data(views.heat.cells, "text") == data(other.heat.cells, "text")
    other.close()


def test_the_sentence_counts_the_selection_and_tells_its_spread(frame, views):
    views.heat._brushed((0.6, 2.4, -0.4, 0.4))  # windows 2 and 3, mixing 0.5
    mine = frame[frame["method.window"].isin([2, 3]) & (frame["method.mixing"] == 0.5)]
    reached = mine[mine["status"] == "CONVERGED"]["num_evals"]
    low, middle, high = (f"{reached.quantile(part):.3g}" for part in (0.1, 0.5, 0.9))
    words = re.sub("<[^>]*>", "", views.sentence.object)
    assert words.startswith(f"{len(mine)} of {len(frame)} trials; {len(reached)} converged")
    assert words.endswith(f"median {middle} evaluations, {low} to {high} (10-90 %).")
    assert "window m 2 to 3, mixing \u03b2 0.5 (heat map)" in views.how.object


# -- brushes --------------------------------------------------------------------------------------


def test_a_brush_in_each_view_selects_what_the_query_says(frame, views):
    views.heat._brushed((1.6, 3.4, 0.6, 2.0))
    assert rows(views) == rows_where(frame, "3 <= window <= 4 and mixing >= 0.8")
    views.forget()
    views.scatter._brushed((-2.0, -1.0, math.log10(19.5), math.log10(60.5)))
    within = "0.01 <= seconds <= 0.1 and 20 <= num_evals <= 60 and status == 'CONVERGED'"
    assert rows(views) == rows_where(frame, within)
    views.forget()
    views.parallel._brushed((0.9, 1.1, 0.3, 0.9))  # mixing: the upper two of three levels
    assert rows(views) == rows_where(frame, "mixing >= 0.8")
    views.forget()
    views.curves._brushed("evaluation", (0, 10, 1e-7, 1.001e-6))  # ended within ten evaluations
    assert rows(views) == rows_where(frame, "num_evals <= 10") != set()


def test_views_narrow_one_another_and_clearing_brings_every_trial_back(frame, views):
    views.heat._brushed((0.8, 3.2, -0.4, 2.4))
    views.parallel._brushed((1.9, 2.1, 0.5, 0.9))
    assert rows(views) == rows_where(frame, "2 <= window <= 4 and batch_size == 16")
    views.heat._brushed((0.8, 1.2, -0.4, 2.4))  # in the same view: instead
    assert rows(views) == rows_where(frame, "window == 2 and batch_size == 16")
    assert not views.clear.disabled
    views.forget()
    assert rows(views) == set(frame["row"]) and views.clear.disabled
    assert not views.parallel.ranges and not views.heat.region.box.visible


def test_what_did_not_converge_can_be_brushed_by_status(frame, views):
    y = views.scatter._height(STATUSES.index("DIVERGED"))
    views.scatter._brushed((-9, 9, y - 0.01, y + 0.01))
    assert rows(views) == rows_where(frame, "status == 'DIVERGED'")
    y = views.scatter._height(STATUSES.index("FAILED"))  # their seconds are not known
    views.scatter._brushed((-9, 9, y - 0.01, y + 0.01))
    assert rows(views) == rows_where(frame, "status == 'FAILED'")
    views.forget()
    views.parallel._brushed((2.9, 3.1, 0.9, 1.02))
    assert rows(views) == rows_where(frame, "status != 'CONVERGED'")


def test_any_holoviews_plot_of_the_trials_can_be_linked(frame, views):
    hv.extension("bokeh")
    linked = views.selection.links(hv.Points(views.trials.dataset, ["num_evals", "seconds"]))
    assert isinstance(linked, hv.DynamicMap)
    views.selection.links.selection_expr = hv.dim("method.window") > 4
    assert rows(views) == rows_where(frame, "window > 4")
    views.heat._brushed((0.8, 1.2, -0.4, 2.4))
    assert str(views.selection.links.selection_expr) == str(views.selection.expression)


def test_a_click_on_a_cell_opens_the_trial_in_its_middle(frame, views):
    class At:
        x, y = 2.1, 0.9  # window 3, mixing 0.8

    views.heat._tapped(At)
    mine = frame[(frame["method.window"] == 3) & (frame["method.mixing"] == 0.8)]
    counts = mine[mine["status"] == "CONVERGED"].set_index("row")["num_evals"]
    (row,) = views.opened
    assert counts[row] == counts.sort_values().iloc[(len(counts) - 1) // 2]


# -- what may not be hidden -----------------------------------------------------------------------


def test_cells_without_a_converged_trial_are_hatched_and_cells_to_come_have_a_dot(frame, views):
    planned = dict(zip(AXES, (WINDOWS, MIXINGS, BATCHES), strict=True))
    views.open(Sheet(frame[frame["method.window"] < 6], planned))
    cells = pd.DataFrame(dict(views.heat.cells.data))
    lost = list(zip(*(data(views.heat.lost, name) for name in "xy"), strict=True))
    assert lost == [(0, 2)]  # window 1, mixing 1
    dots = set(zip(*(data(views.heat.missing, name) for name in "xy"), strict=True))
    assert dots == {(5, y) for y in range(3)}
    shown = cells[(cells["x"] < 5) & ((cells["x"] != 0) | (cells["y"] != 2))]
    assert (shown["text"] != "").all() and (shown["color"] != LIGHT.paper).all()


def test_every_trial_is_drawn_in_the_scatter_with_its_status_own_marker(frame, views):
    reached = (frame["status"] == "CONVERGED").sum()
    assert len(data(views.scatter.points, "x")) == reached
    drawn = pd.Series(data(views.scatter.lost, "marker")).value_counts().to_dict()
    counts = frame.loc[frame["status"] != "CONVERGED", "status"].value_counts()
    assert drawn == {MARKS[name].marker: count for name, count in counts.items()}
    assert len({mark.marker for mark in MARKS.values()}) == len(MARKS)
    for colors in (LIGHT, DARK):
        assert len({mark.color(colors) for mark in MARKS.values()}) == len(MARKS)
    for name in counts.index:
        assert MARKS[name].word in views.tiles.object


def test_a_million_lines_are_as_many_segments_as_differ_and_none_is_lost(frame):
    trials = Trials(frame, AXES)
    columns = [Measured(QUANTITIES[name]) for name in ("num_evals", "seconds")]
    one, other = (strand(column, trials) for column in columns)
    found = segments([Gap(one, other)], None, None)
    assert found.weight.sum() == len(frame)
    above = found.weight[(found.y0 > 0.9) & (found.y1 > 0.9)].sum()
    assert above == (frame["status"] != "CONVERGED").sum()


def test_at_most_200_curves_the_fastest_and_the_slowest_among_them():
    trials = Trials(made(seeds=20), AXES)
    index = sample(trials, None)
    assert len(index) == len(set(index)) == 200
    evaluations = trials.values("num_evals")
    reached = evaluations[trials.converged]
    assert {reached.min(), reached.max()} <= set(evaluations[index])
    few = np.zeros(trials.count, bool)
    few[[3, 5]] = True
    assert set(sample(trials, few)) == {3, 5}


def test_seconds_of_two_machines_are_not_mixed_and_the_page_says_so(frame, views):
    both = frame.assign(device=np.where(frame["seed"] == 0, "H200", "Xeon"))
    views.open(Sheet(both, AXES))
    assert rows(views) == rows_where(both, "device == 'Xeon'")
    assert "2 machines" in views.warning.object and views.machine.visible
    views.heat._brushed((0.6, 2.4, -0.4, 2.4))
    views.machine.value = views.machine.options[1]
    assert rows(views) == rows_where(both, "device == 'H200' and 2 <= window <= 3")


def test_a_status_that_is_none_is_refused(frame):
    with pytest.raises(ValueError, match="status is one of CONVERGED.*WEIRD"):
        Trials(frame.assign(status="WEIRD"), AXES)


# -- a sweep that grows ---------------------------------------------------------------------------


def test_more_trials_keep_selection_axes_and_colors(frame, views):
    planned = dict(zip(AXES, (WINDOWS, MIXINGS, BATCHES), strict=True))
    views.open(Sheet(frame.iloc[:40], planned), planned=len(frame))
    assert f"40 of {len(frame)} are computed" in views.sentence.object
    views.heat._brushed((0.6, 2.4, -0.4, 2.4))
    spans = [(each.start, each.end) for each in (views.heat.x, views.heat.y)]
    wide = views._measured["num_evals"].span
    views.update(Sheet(frame.iloc[:90], planned))
    assert rows(views) == rows_where(frame.iloc[:90], "2 <= window <= 3")
    assert [(each.start, each.end) for each in (views.heat.x, views.heat.y)] == spans
    now = views._measured["num_evals"].span
    assert now[0] <= wide[0] and now[1] >= wide[1]
    views.update(Sheet(frame, planned))
    assert rows(views) == rows_where(frame, "2 <= window <= 3")
    assert views.heat.region.box.visible


@pytest.mark.parametrize("case", ["empty", "failed", "one axis", "text axis", "one trial"])
def test_odd_sweeps_are_shown_too(frame, views, case):
    axes: object = AXES
    if case == "empty":
        frame, axes = frame.iloc[:0], dict(zip(AXES, (WINDOWS, MIXINGS, BATCHES), strict=True))
    elif case == "failed":
        frame = frame.assign(status="FAILED", num_evals=np.nan, seconds=np.nan)
    elif case == "one axis":
        axes = ["method.window"]
    elif case == "text axis":
        names = np.where(frame["seed"] < 2, "anderson", None)
        frame, axes = frame.assign(method=names), ["method", "method.window"]
    else:
        frame = frame.iloc[:1]
    views.open(Sheet(frame, axes))
    words = re.sub("<[^>]*>", "", views.sentence.object)
    assert words.startswith("No trial" if case == "empty" else f"{len(frame)} trial")
    assert ("none converged" in words) == (case == "failed")
    views.heat._brushed((-0.4, 0.4, -0.4, 0.4))
    views.parallel._brushed((-0.1, 0.1, -0.05, 1.0))
    views.paint(DARK)
    if case == "text axis":
        assert views.trials.axes["method"].levels == ("anderson", "none")


def test_axes_are_the_dotted_columns_that_vary(frame):
    assert swept(frame.assign(**{"problem.size": 3})) == AXES


@pytest.mark.parametrize(("low", "high"), [(3, 4), (1e-5, 3e2), (10, 10), (0.021, 0.9)])
def test_steps_hold_the_interval_they_are_made_for(low, high):
    steps = nice_steps(low, high)
    assert steps == sorted(set(steps)) and len(steps) >= 2
    assert steps[0] <= low * 1.001 and steps[-1] >= high / 1.001


@pytest.mark.slow
def test_datashader_counts_every_point_and_the_picture_has_lines_of_every_kind():
    assert raster.MANY > MOST_LINES
    frame = made(seeds=600)
    views = SweepViews(LIGHT, levels(frame.iloc[:0]), lambda row: None)
    views.open(Sheet(frame, AXES))
    (image,) = views.scatter.picture.data["image"]
    assert image.sum() == (frame["status"] == "CONVERGED").sum()
    (lines,) = views.parallel.picture.data["image"]
    assert len(np.unique(lines)) > 20
    views.heat._brushed((0.6, 2.4, -0.4, 2.4))
    (less,) = views.scatter.picture.data["image"]
    mine = frame[frame["method.window"].isin([2, 3])]
    assert less.sum() == (mine["status"] == "CONVERGED").sum()
    views.close()


# -- in a browser ---------------------------------------------------------------------------------

CELLS = """() => {
  const model = Bokeh.documents[0]?.get_model_by_name('cells of the sweep')
  return model?.data.alpha.length ? [...model.data.alpha].filter((each) => each === 1).length : 0
}"""
DRAWN = "name => Bokeh.documents[0].get_model_by_name(name).data.x.length"
FRAME = """name => {
  let found = null
  const walk = (view) => {
    const mine = view?.model?.renderers?.some((each) => each.data_source?.name === name)
    if (mine && view._actual_paint) found = view
    for (const child of [...(view.children?.() ?? []), ...(view.child_views ?? [])]) walk(child)
  }
  for (const view of Bokeh.index) walk(view)
  const box = found.el.getBoundingClientRect(), frame = found.frame.bbox
  return [box.x + frame.x, box.y + frame.y, frame.width, frame.height]
}"""


def answering(url: str, patience: float = 20.0) -> str:
    """The address of a server that may still be starting, once it answers."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return url
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the server did not start")


def test_a_box_dragged_over_the_heat_map_selects_in_all_views_and_in_words(page, frame):
    def app():
        from lab.gate import Gate

        schedule = Gate(pn.state.curdoc)
        views = SweepViews(LIGHT, levels(frame), lambda row: None, schedule)
        views.open(Sheet(frame, AXES))
        schedule.shut()
        return views

    port = _free_port()
    pn.serve(app, port=port, address="127.0.0.1", threaded=True, show=False, verbose=False)
    page.goto(answering(f"http://127.0.0.1:{port}/"))
    page.wait_for_function(CELLS)
    page.wait_for_function(f"() => ({DRAWN})('curves of the selection') > 100")
    before = page.evaluate(DRAWN, "points of the sweep")
    x, y, width, height = page.evaluate(FRAME, "cells of the sweep")
    page.mouse.move(x + 0.2 * width, y + 0.9 * height)
    page.mouse.down()
    page.mouse.move(x + 0.3 * width, y + 0.8 * height)
    page.mouse.move(x + 0.45 * width, y + 0.7 * height)
    page.mouse.up()
    sentence = page.locator(".lab-verdict p").filter(has_text=re.compile(r"^16 of 144 trials"))
    sentence.wait_for()
    page.wait_for_function(f"() => ({DRAWN})('curves of the selection') <= 16")
    assert page.evaluate(CELLS) == 2
    assert 0 < page.evaluate(DRAWN, "points of the sweep") <= 16 < before
    assert page.evaluate(DRAWN, "lines of the sweep") == 16
    page.get_by_role("button", name="Clear selection").click()
    page.locator(".lab-verdict p").filter(has_text=re.compile(r"^144 trials")).wait_for()
