"""The cards of the Train page: curves, digits, solves, gradients, stiffness."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import panel as pn
import panel_material_ui as pmui

from andersonn_core.words import residual_text
from lab.figures.pictures import DigitsPicture
from lab.figures.stiffness import Stiffness
from lab.figures.training import Drawn, Extras, TrainPlot, nice
from lab.pages.card import STYLE, Card, Later, PlotCard, bokeh_pane, grid
from lab.pages.map_card import SEGMENTS
from lab.theme import Palette
from lab.training import words
from lab.training.lane import Lane, images
from lab.training.probe import DIGITS, Belief
from lab.training.race import Race
from lab.training.setup import METHODS, Setup

AXES = {"by epoch": "passes", "by seconds": "seconds", "by evaluations": "evals"}
ROOM = 1.3  # of an axis that grows beyond its lines, whose names stand at their ends
COARSE = (1, 2, 5, 10)  # its steps
ORDER = tuple(reversed(METHODS))  # painted in this order, the hero last
NONE: Extras = Extras()


@dataclass(frozen=True)
class View:
    """What a card draws: a training or none, over one of three axes."""

    race: Race | None
    setup: Setup
    axis: str = "passes"

    @property
    def lanes(self) -> dict[str, Lane]:
        """The methods that have done a batch, forward iteration first."""
        lanes = {} if self.race is None else self.race.lanes
        return {name: lanes[name] for name in ORDER if name in lanes and len(lanes[name].series)}

    @property
    def end(self) -> float:
        """Where the axis ends: it grows with the lines, in few steps, to the end that is known."""
        setup = self.setup if self.race is None else self.race.setup
        last = max((lane.series.last(self.axis) for lane in self.lanes.values()), default=0.0)
        by_time = setup.regime == "time"
        if self.axis == ("seconds" if by_time else "passes"):
            whole = float(setup.seconds if by_time else setup.epochs)
            return min(nice(last * ROOM, COARSE), whole) if last > 0 else whole
        return nice(last * ROOM, COARSE)

    def marks(self) -> Extras:
        """Where knobs changed; Anderson's changes hold those of forward iteration, too."""
        lane = self.lanes.get("anderson")
        marks = [] if lane is None else list(lane.marks)
        found = [(getattr(mark, self.axis), mark.words) for mark in marks]
        return Extras(marks=found)


class CurvesCard(Card):
    """Loss and accuracy, over epochs, seconds or evaluations."""

    title = "Loss and accuracy while both learn"

    def __init__(self, colors: Palette, switched: Callable[[], None]) -> None:
        super().__init__()
        self.loss = TrainPlot("loss", "loss of the training digits", colors, height=262)
        self.accuracy = TrainPlot("error", "accuracy", colors, height=262)
        self.axis = pmui.RadioButtonGroup(
            options=AXES, value="passes", size="small", color="primary", sx=SEGMENTS, margin=0
        )
        self.axis.param.watch(lambda _: switched(), "value")

    def show(self, view: View) -> None:
        """Draw what is known."""
        loss, accuracy = {}, {}
        for name, lane in view.lanes.items():
            columns = lane.series.columns()
            tests = list(lane.tests)
            loss[name] = Drawn(columns[view.axis], columns["loss"])
            dots = [getattr(test, view.axis) for test in tests], [test.accuracy for test in tests]
            accuracy[name] = Drawn(columns[view.axis], columns["accuracy"], dots)
        marks = view.marks()
        self.loss.show(view.axis, loss, marks, view.end, words.INVITATION)
        self.accuracy.show(view.axis, accuracy, marks, view.end, "")
        self.say(
            "Lines: means of the last batches, up to 16. Markers: all test digits, after each "
            "epoch. Dashed orange: a knob was moved."
        )

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.loss.paint(colors)
        self.accuracy.paint(colors)

    def __panel__(self) -> pn.viewable.Viewable:
        panes = [bokeh_pane(plot.figure, height=262) for plot in (self.loss, self.accuracy)]
        bar = pn.FlexBox(
            self.axis, sizing_mode="stretch_width", margin=(4, 0, 2, 0), stylesheets=[STYLE]
        )
        return self.boxed(bar, grid(*panes, name="lab-pair"), css_classes=["lab-card"])


class DigitsCard(Card):
    """Test digits, and what either network reads as its equilibrium forms."""

    title = "What it reads while the equilibrium forms"

    def __init__(self, colors: Palette) -> None:
        super().__init__()
        self.digits = DigitsPicture(colors)
        self.digits.lay_out(images().test_images[:DIGITS, 0].numpy())
        self.labels = images().test_labels[:DIGITS].numpy()
        self.beliefs: Mapping[str, Belief] = {}
        self._following, self._quiet = True, False
        self.slider = pmui.IntSlider(
            label="evaluation", start=1, end=2, value=2, size="small", disabled=True,
            sizing_mode="stretch_width", margin=(0, 16, 0, 10),
        )  # fmt: skip
        self.slider.param.watch(lambda _: self._moved(), "value")

    def _moved(self) -> None:
        if not self._quiet:
            self._following = self.slider.value >= self.slider.end
            self._read()

    def show(self, view: View) -> None:
        """Take the newest readings; the slider stays where a hand has put it."""
        beliefs = {} if view.race is None else dict(view.race.beliefs)
        if beliefs == self.beliefs and beliefs:
            return
        self.beliefs = beliefs
        longest = max((each.evaluations for each in beliefs.values()), default=2)
        self._quiet = True
        value = longest if self._following else min(self.slider.value, longest)
        self.slider.param.update(end=max(longest, 2), value=value, disabled=not beliefs)
        self._quiet = False
        self._read()

    def _read(self) -> None:
        evaluation = self.slider.value
        chances = {name: each.at(evaluation) for name, each in self.beliefs.items()}
        self.digits.show(chances, self.labels if chances else None)
        if not chances:
            self.say("Sixteen test digits, which no training sees. Their readings come with Start.")
            return
        right = [
            f"{int((found.argmax(1) == self.labels).sum())} of {DIGITS} by {words.NAMES[name]}"
            for name in ORDER
            if (found := chances.get(name)) is not None
        ]
        passes = next(iter(self.beliefs.values())).passes
        self.say(
            f"Weights {words.epoch_words(passes)}, evaluation {evaluation}: read right "
            f"{', '.join(right)}. Gray: forward iteration; blue: Anderson; pale: unsure; framed: "
            "Anderson is wrong."
        )

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.digits.paint(colors)

    def __panel__(self) -> pn.viewable.Viewable:
        return self.boxed(bokeh_pane(self.digits.figure), self.slider)


class SolveCard(PlotCard[TrainPlot]):
    """The residual of the latest batch."""

    title = "The latest batch's solve"

    def __init__(self, colors: Palette) -> None:
        super().__init__(TrainPlot("residual", "relative residual", colors, height=220))

    def show(self, view: View) -> None:
        """Draw the slowest digit's residual."""
        spec = (view.setup if view.race is None else view.race.setup).specs()["anderson"]
        drawn = {
            name: Drawn(range(1, len(lane.residual) + 1), lane.residual)
            for name, lane in view.lanes.items()
            if lane.residual
        }
        longest = max((len(each.x) for each in drawn.values()), default=0)
        rule = (spec.rtol, f"tolerance {residual_text(spec.rtol)}")
        self.plot.show("evaluation", drawn, Extras(rule), nice(max(longest, 20) * 1.05), "")
        self.say("Relative residual of the batch's slowest digit.")


class EvaluationsCard(PlotCard[TrainPlot]):
    """Evaluations per batch as the training goes on."""

    title = "Evaluations per batch"

    def __init__(self, colors: Palette) -> None:
        super().__init__(TrainPlot("count", "forward and backward", colors, height=220))

    def show(self, view: View) -> None:
        """Draw the evaluations of each batch."""
        drawn = {}
        for name, lane in view.lanes.items():
            columns = lane.series.columns()
            both = columns["forward_evals"] + columns["adjoint_evals"]
            drawn[name] = Drawn(columns[view.axis], both)
        self.plot.show(view.axis, drawn, view.marks(), view.end, "")
        parts = [
            f"{words.NAMES[name]} {lane.series.last('forward_evals'):.0f} + "
            f"{lane.series.last('adjoint_evals'):.0f}"
            for name, lane in view.lanes.items()
        ]
        self.say(f"Now, forward + backward: {', '.join(parts)}." if parts else "Both solves.")


class GradientCard(Card):
    """Is the gradient one? The backward solve's residual, or its angle to the implicit one."""

    title = "Is the gradient right?"

    def __init__(self, colors: Palette) -> None:
        super().__init__()
        self.residual = TrainPlot("residual", "adjoint residual", colors, height=290)
        self.angle = TrainPlot("degrees", "angle, degrees", colors, height=290)
        self.panes = {
            "residual": pn.Column(bokeh_pane(self.residual.figure, height=290), margin=0,
                                  sizing_mode="stretch_width"),
            "angle": Later(bokeh_pane(self.angle.figure, height=290)),
        }  # fmt: skip

    def show(self, view: View) -> None:
        """Draw the residual where there is a backward solve, else the angle."""
        setup = view.setup if view.race is None else view.race.setup
        solved = {
            name: Drawn(columns[view.axis], columns["adjoint_residual"])
            for name, lane in view.lanes.items()
            if not _all_nan((columns := lane.series.columns())["adjoint_residual"])
        }
        by_angle = setup.gradient not in ("implicit", "shine")
        self.panes["angle"].show(by_angle)
        self.panes["residual"].visible = not by_angle
        if by_angle:
            self._show_angle(view)
        else:
            rtol = setup.specs()["anderson"].adjoint.rtol
            rule = (rtol, f"tolerance {residual_text(rtol)}")
            self.residual.show(view.axis, solved, Extras(rule), view.end, "")
        told = "" if view.race is None else words.angles(view.race)
        kind = "" if by_angle else "Relative residual of the backward solve."
        self.say(f"{kind} {told}".strip() or "The angle to the implicit gradient.")

    def _show_angle(self, view: View) -> None:
        drawn = {}
        for name in ORDER:
            points = [] if view.race is None else list(view.race.points.get(name, []))
            at, angles = [each.passes for each in points], [each.angle for each in points]
            if points:
                drawn[name] = Drawn(at, angles, (at, angles))
        setup = view.setup if view.race is None else view.race.setup
        end = max([float(setup.epochs), *(each.x[-1] for each in drawn.values())])
        self.angle.show("passes", drawn, NONE, end, "")

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.residual.paint(colors)
        self.angle.paint(colors)

    def __panel__(self) -> pn.viewable.Viewable:
        return self.boxed(*self.panes.values())


def _all_nan(values: Any) -> bool:
    return all(math.isnan(value) for value in values)


class StiffnessCard(PlotCard[Stiffness]):
    """Where the networks stand on the phase diagram, epoch by epoch."""

    title = "The model stiffens"

    def __init__(self, colors: Palette) -> None:
        super().__init__(Stiffness(colors, height=290))

    def show(self, view: View) -> None:
        """Draw the points that were measured."""
        known = {} if view.race is None else dict(view.race.points)
        points = {name: list(found) for name, found in known.items()}
        drawn = {name: points[name] for name in ORDER if name in points}
        if drawn != self.plot._points or not drawn:
            self.plot.show(drawn, "One point per epoch and network")
        newest = points.get("anderson") or []
        self.say(
            words.point_words("anderson", newest[-1])
            if newest
            else "Both methods on the weights of each network, on one batch of test digits."
        )
