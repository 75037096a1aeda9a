"""What the map computes, at the evaluation that the playback shows."""

from __future__ import annotations

import panel as pn

from lab.figures.pictures import SHOWN, DigitsPicture, FieldPicture
from lab.live import Live
from lab.pages.card import Card, Later, bokeh_pane
from lab.theme import Palette


class Picture(Card):
    """Digits with predictions settling, or the fields of both methods."""

    title = "What the map computes"

    def __init__(self, colors: Palette) -> None:
        super().__init__()
        self.digits, self.fields = DigitsPicture(colors), FieldPicture(colors)
        self.digits_pane = Later(bokeh_pane(self.digits.figure))
        fields = [bokeh_pane(plot, height=240) for plot in self.fields.figures.values()]
        self.fields_pane = Later(pn.Row(*fields, sizing_mode="stretch_width", margin=0))
        self.box = self.boxed(self.digits_pane, self.fields_pane)
        self.box.visible = False
        self.live: Live | None = None

    def show(self, live: Live) -> None:
        """New runs: choose the kind of picture, or none."""
        self.live = live
        problem = live.problem
        reads = problem is not None and problem.predict is not None and problem.inputs is not None
        draws = problem is not None and problem.picture is not None and not reads
        self.digits_pane.show(reads)
        self.fields_pane.show(draws)
        self.box.visible = reads or draws
        if reads:
            assert problem is not None and problem.inputs is not None
            self.digits.lay_out(problem.inputs.cpu().numpy())
        if draws:
            final = self._field("anderson", live.longest)
            if final is not None:
                self.fields.scale(final)

    def scrub(self, evaluation: int) -> None:
        """Show the picture at an evaluation."""
        live = self.live
        if live is None or not self.box.visible:
            return
        if self.digits_pane.visible:
            self._read(live, evaluation)
        else:
            for name in SHOWN:
                self.fields.show(name, self._field(name, evaluation))
            self.say(
                f"Sample 1 at evaluation {evaluation}: left by forward iteration, "
                "right by Anderson."
            )

    def _read(self, live: Live, evaluation: int) -> None:
        chances = {
            name: live.frames[name].prediction(min(evaluation, live.results[name].num_evals))
            for name in SHOWN
            if name in live.frames
        }
        assert live.problem is not None and live.problem.labels is not None
        labels = live.problem.labels.cpu().numpy()
        self.digits.show(chances, labels)
        right = [
            f"{int((reading.argmax(1) == labels).sum())} of {len(labels)} by {word}"
            for (name, word) in (("picard", "forward iteration"), ("anderson", "Anderson"))
            if (reading := chances.get(name)) is not None
        ]
        self.say(
            f"At evaluation {evaluation} read right: {', '.join(right)}. Below each digit: what "
            "forward iteration (gray) and Anderson (blue) would answer now, pale while unsure; "
            "framed: Anderson is wrong."
        )

    def _field(self, name: str, evaluation: int):  # noqa: ANN202  an array or None
        assert self.live is not None
        frames, result = self.live.frames.get(name), self.live.results.get(name)
        if frames is None or result is None:
            return None
        return frames.picture(min(evaluation, result.num_evals))

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.digits.paint(colors)
        self.fields.paint(colors)

    def __panel__(self) -> pn.viewable.Viewable:
        return self.box
