"""Dragging boxes in the views of a page in Chromium, and how long these take to be drawn anew."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

CELLS, POINTS, LINES = "cells of the sweep", "picture of the points", "picture of the lines"
PAUSE = 0.7  # seconds between two brushes

# Where a view's frame is, and when it has drawn what a change of its data brought.
HOOK = """
(names) => {
  const lab = window.lab = {started: null, times: {}, plots: {}}, seen = new Set();
  const walk = (view) => {
    if (!view || seen.has(view)) return;
    seen.add(view);
    for (const name of names) {
      const mine = view.model?.renderers?.find((each) => each.data_source?.name === name);
      if (mine && view._actual_paint) hook(name, view, mine.data_source);
    }
    for (const child of [...(view.children?.() ?? []), ...(view.child_views ?? [])]) walk(child);
  };
  const hook = (name, view, source) => {
    let changed = false;
    lab.plots[name] = view;
    source.properties.data.change.connect(() => { changed = true; });
    const paint = view._actual_paint;
    view._actual_paint = function (...given) {
      const result = paint.apply(this, given);
      if (changed && lab.started !== null) lab.times[name] ??= performance.now() - lab.started;
      changed = false;
      return result;
    };
  };
  for (const view of Bokeh.index) walk(view);
  window.addEventListener('pointerup', (event) => {
    lab.started = event.timeStamp; lab.times = {};
  }, true);
  return Object.keys(lab.plots).length === names.length;
}
"""
FRAME = """
(name) => {
  const view = window.lab.plots[name];
  view.el.scrollIntoView({block: 'nearest'});
  const box = view.el.getBoundingClientRect();
  const frame = view.frame.bbox;
  return [box.x + frame.x, box.y + frame.y, frame.width, frame.height];
}
"""


def wait(done: Callable[[], Any], sentence: str, seconds: float = 60.0) -> None:
    """Wait until something holds; SystemExit that says what does not."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise SystemExit(f"bench-store: {sentence}.")
        time.sleep(0.02)


def brush(page: Any, name: str, box: tuple[float, float, float, float]) -> float:
    """Drag a box (parts of the frame) in a view; milliseconds until all three are drawn anew."""
    x, y, width, height = page.evaluate(FRAME, name)
    left, right, top, bottom = box
    page.mouse.move(x + left * width, y + top * height)
    page.mouse.down()
    for part in (0.5, 1.0):
        page.mouse.move(
            x + (left + part * (right - left)) * width, y + (top + part * (bottom - top)) * height
        )
    page.mouse.up()
    wait(
        lambda: page.evaluate("() => Object.keys(window.lab.times).length") == 3,
        f"a brush in the view of {name} was not answered",
    )
    return float(max(page.evaluate("() => Object.values(window.lab.times)")))


BOXES: dict[str, Callable[[int], tuple[float, float, float, float]]] = {
    CELLS: lambda k: (0.1 + 0.02 * k, 0.5 + 0.02 * k, 0.2, 0.7),
    POINTS: lambda k: (0.1, 0.4 + 0.03 * k, 0.55, 0.95),
    LINES: lambda k: (0.08, 0.12, 0.3, 0.6 + 0.02 * k),
}


def brushes(page: Any, count: int) -> dict[str, list[float]]:
    """Milliseconds of brushes in each of the three views."""
    wait(lambda: page.evaluate(HOOK, [CELLS, POINTS, LINES]), "the page shows no views")
    times: dict[str, list[float]] = {}
    for name, box in BOXES.items():
        times[name] = []
        for number in range(count):
            times[name].append(brush(page, name, box(number)))
            time.sleep(PAUSE)
        page.get_by_role("button", name="Clear selection").click()
        time.sleep(2 * PAUSE)
    return times
