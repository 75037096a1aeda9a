"""A sweep as one HTML file with figures, which needs no network and no server."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from bokeh.document import Document
from bokeh.embed import components
from bokeh.resources import INLINE

from andersonn_core.runcard import RunCard
from andersonn_core.sweeps.summary import by_point
from lab.sweeps import curves
from lab.sweeps.answers import headline, short, value_text
from lab.sweeps.sheet import Sheet
from lab.sweeps.views import SweepViews
from lab.theme import palette

MOST_POINTS = 200
STYLE = """
body { font: 15px/1.5 Roboto, "Helvetica Neue", Arial, sans-serif; margin: 32px auto;
  max-width: 1180px; padding: 0 20px; color: #16202b; }
h1 { font-size: 26px; margin: 0 0 6px; } h2 { font-size: 18px; margin: 28px 0 6px; }
p { margin: 4px 0; max-width: 90ch; }
.figures { display: grid; grid-template-columns: 1fr 1fr; gap: 18px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13.5px; }
th, td { padding: 3px 14px 3px 0; border-bottom: 1px solid #d9dfe5; text-align: left; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12px; padding: 10px;
  background: #f4f6f8; }
@media (max-width: 900px) { .figures { grid-template-columns: 1fr; } }
"""


# BokehJS alone, by its own text: a rendered bundle would name the parts of Panel that a server has
BOKEH = "".join(f"<script>{each}</script>" for each in INLINE.clone(components=["bokeh"]).js_raw)
TITLES = ("Heat map", "Trial by trial", "Parallel coordinates", "Residual curves")


def report(
    frame: pd.DataFrame,
    axes: Mapping[str, Sequence[Any]],
    read_curves: curves.Read,
    trial: str,
    card: RunCard,
) -> str:
    """The whole page as text: answer, figures, the best settings, and the run card of a trial."""
    views = SweepViews(palette(False), read_curves, lambda row: None)
    views.open(Sheet(frame, axes))
    figures = [views.heat.drawn, views.scatter.figure, views.parallel.figure,
               views.curves.figures["evaluation"]]  # fmt: skip
    views.close()
    first, second = headline(frame, [*axes])
    made = datetime.now(UTC).isoformat(timespec="minutes")
    devices = ", ".join(map(str, frame["device"].unique()))
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>A sweep</title>"
        f"<style>{STYLE}</style>{BOKEH}</head><body>"
        f"<h1>{html.escape(first)}</h1><p>{html.escape(second)}</p>"
        f"<p>{len(frame):,} trials on {html.escape(devices)}; report of {made}.</p>"
        f"<div class='figures'>{_drawn(figures)}</div>"
        f"<h2>Settings, the best first</h2>{_table(frame, axes)}"
        f"<h2>How was this made?</h2><p>The run card of {html.escape(trial)}; save it as "
        "card.json, and <code>python -m andersonn_core rerun card.json</code> says whether the "
        "numbers agree.</p>"
        f"<pre>{html.escape(card.to_json())}</pre></body></html>"
    )


def _drawn(figures: Sequence[Any]) -> str:
    """The figures with their titles; what Python does on a brush stays behind."""
    live = Document()
    for figure in figures:
        live.add_root(figure)
    still = Document.from_json(live.to_json())
    script, divisions = components(still.roots)
    drawn = zip(TITLES, divisions, strict=True)
    return script + "".join(f"<section><h2>{name}</h2>{part}</section>" for name, part in drawn)


def _table(frame: pd.DataFrame, axes: Mapping[str, Sequence[Any]]) -> str:
    points = by_point(frame, [*axes]).head(MOST_POINTS)
    head = [*map(short, axes), "trials", "converged", "median evaluations", "10 %", "90 %"]
    rows = [
        [*(value_text(point[name]) for name in axes), str(point["trials"]), str(point["converged"]),
         *(_count(point[name]) for name in ("median", "low", "high"))]
        for point in points.to_dict("records")
    ]  # fmt: skip
    cells = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{cells}</tbody></table>"


def _count(value: float) -> str:
    return "-" if value != value else f"{value:.0f}"
