"""Draw benchmarks/results/restarts.json: what each way to keep a history costs in evaluations.

    python assets/restarts.py

Writes restarts.png beside this file, by Bokeh in headless Chromium.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bokeh.embed import file_html
from bokeh.models import FixedTicker, Span
from bokeh.plotting import figure
from bokeh.resources import INLINE
from screenshots import photograph

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "restarts.json"
SIZE = {"width": 1040, "height": 620}
FARTHEST = 8.0  # ratios beyond are drawn at the edge
STROKES = {  # color, marker, size; told apart without color, too
    "sliding 10": ("#7f8c99", "square", 8),
    "restart 10": ("#7f8c99", "x", 9),
    "deflated 10": ("#009E73", "diamond", 11),
    "two pairs": ("#E69F00", "triangle", 10),
    "IDR 10": ("#CC79A7", "inverted_triangle", 10),
    "auto 10": ("#0072B2", "circle", 12),
}


def plot(rows: list[dict[str, Any]]) -> Any:
    """One line per problem at its tighter tolerance, one marker per method."""
    tight = rows[1::2]
    names = [f"{row['problem']}  ({row['reference']:.0f})" for row in tight]
    shown = figure(
        width=SIZE["width"], height=SIZE["height"], y_range=list(reversed(names)),
        x_axis_type="log", x_range=(0.95, FARTHEST * 1.04), toolbar_location=None,
        title="Evaluations over the best possible, at most ten differences kept (float64)",
        x_axis_label="times the reference's evaluations (in brackets): all differences on affine "
        "maps, the best method and window elsewhere",
    )  # fmt: skip
    shown.add_layout(Span(location=1.0, dimension="height", line_color="#16202b"))
    for method, (color, marker, size) in STROKES.items():
        ratios = [min(row["counts"][method] / row["reference"], FARTHEST) for row in tight]
        shown.scatter(
            ratios, names, marker=marker, size=size, legend_label=method, line_color=color,
            fill_color=color if method == "auto 10" else None, line_width=2,
        )  # fmt: skip
    _style(shown)
    return shown


def _style(shown: Any) -> None:
    shown.xaxis.ticker = FixedTicker(ticks=[1, 1.1, 1.35, 2, 3, 4, 6, 8])
    shown.xaxis.major_label_overrides = {8: "8 or never"}
    shown.ygrid.grid_line_color = "#dce2e9"
    shown.xgrid.grid_line_color = "#eef1f4"
    shown.outline_line_color = None
    shown.title.text_font_size = "16px"
    for axis in (*shown.xaxis, *shown.yaxis):
        axis.major_label_text_font_size = axis.axis_label_text_font_size = "13px"
        axis.axis_label_text_font_style = "normal"
    shown.add_layout(shown.legend[0], "right")


def main() -> None:
    """Draw the file's rows."""
    drawn = plot(json.loads(RESULTS.read_text())["rows"])
    photograph(file_html(drawn, INLINE, "restarts"), SIZE, Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
