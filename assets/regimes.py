"""Draw benchmarks/results/train.json: training in the three regimes, forward against Anderson.

    python assets/regimes.py

Writes regimes.png beside this file, by Bokeh in headless Chromium.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bokeh.embed import file_html
from bokeh.layouts import column, gridplot
from bokeh.models import Div
from bokeh.plotting import figure
from bokeh.resources import INLINE
from screenshots import photograph

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "train.json"
SIZE = {"width": 1200, "height": 640}
PANEL = {"width": 395, "height": 300, "toolbar_location": None}
STROKES = {  # color, dash, width, marker: what a color says is said by dash and marker, too
    "forward": ("#5b6b7b", "dashed", 2.5, "circle"),
    "anderson": ("#0072B2", "solid", 2.5, "square"),
}
LEGEND = (
    "<span style='font: 14px Helvetica, Arial, sans-serif; color: #33414e'>"
    "<b style='color: #0072B2'>&#9632; Anderson</b> &emsp; "
    "<b style='color: #5b6b7b'>&#9679; forward iteration</b>, dashed &emsp; "
    "thin lines: a seed each; strong ones: their geometric mean</span>"
)
TITLES = {"tolerance": "Equal tolerance: both to 1e-3", "cap": "Equal cap: 25 evaluations or 1e-2",
          "time": "Equal time: both to 1e-3"}  # fmt: skip


def panels(seeds: Sequence[dict[str, Any]]) -> Any:
    """Above, the test error by seconds; below, the evaluations of a batch by epoch."""
    above, below = [], []
    for regime, title in TITLES.items():
        curves = {
            who: [seed["curves"][regime][who] for seed in seeds] for who in STROKES
        }  # each a mapping of columns
        above.append(_errors(title, curves))
        below.append(_evaluations(curves))
    above[0].yaxis.axis_label = "test error, %"
    below[0].yaxis.axis_label = "evaluations per batch"
    grid = gridplot([above, below], toolbar_location=None, merge_tools=False)
    return column(Div(text=LEGEND, margin=(6, 0, 2, 56)), grid)


def _errors(title: str, curves: dict[str, list[dict[str, list[float]]]]) -> Any:
    shown = figure(**PANEL, title=title, x_axis_label="training time, s", y_axis_type="log")
    for who, runs in curves.items():
        pairs = [
            (run["seconds"], [max(100 * (1 - a), 0.1) for a in run["test_accuracy"]])
            for run in runs
        ]
        _draw(shown, who, pairs)
    return _styled(shown)


def _evaluations(curves: dict[str, list[dict[str, list[float]]]]) -> Any:
    shown = figure(**PANEL, x_axis_label="epoch")
    for who, runs in curves.items():
        each = [np.add(run["forward_evals"], run["adjoint_evals"]).tolist() for run in runs]
        _draw(shown, who, [(run["epoch"], ys) for run, ys in zip(runs, each, strict=True)])
    shown.y_range.start = 0
    return _styled(shown)


def _draw(shown: Any, who: str, pairs: list[tuple[Sequence[float], Sequence[float]]]) -> None:
    """Each seed thin, their mean strong."""
    color, dash, width, marker = STROKES[who]
    for xs, ys in pairs:
        shown.line(xs, ys, color=color, line_dash=dash, line_width=1, alpha=0.35)
    length = min(len(xs) for xs, _ in pairs)
    xs = np.mean([x[:length] for x, _ in pairs], axis=0)
    ys = np.exp(np.mean(np.log([y[:length] for _, y in pairs]), axis=0))
    shown.line(xs, ys, color=color, line_dash=dash, line_width=width)
    shown.scatter(xs, ys, color=color, marker=marker, size=7)


def _styled(shown: Any) -> Any:
    shown.grid.grid_line_color = "#e6ebf0"
    shown.outline_line_color = None
    shown.title.text_font_size = "14px"
    for axis in (*shown.xaxis, *shown.yaxis):
        axis.major_label_text_font_size = axis.axis_label_text_font_size = "12px"
        axis.axis_label_text_font_style = "normal"
    return shown


def main() -> None:
    """Draw the file's seeds."""
    drawn = panels(json.loads(RESULTS.read_text())["seeds"])
    photograph(file_html(drawn, INLINE, "train"), SIZE, Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
