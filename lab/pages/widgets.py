"""One widget per knob: sliders over the typical range, in decades where the knob is logarithmic."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import panel as pn
import panel_material_ui as pmui

from andersonn_core.specs import Knob
from lab.knobs import devices

GREEK = {
    "alpha": "\N{GREEK SMALL LETTER ALPHA}", "gamma": "\N{GREEK SMALL LETTER GAMMA}",
    "beta": "\N{GREEK SMALL LETTER BETA}", "lambda": "\N{GREEK SMALL LETTER LAMDA}",
    "rho": "\N{GREEK SMALL LETTER RHO}", "eta": "\N{GREEK SMALL LETTER ETA}",
    "theta": "\N{GREEK SMALL LETTER THETA}", "kappa": "\N{GREEK SMALL LETTER KAPPA}",
    "eps": "\N{GREEK SMALL LETTER EPSILON}",
}  # fmt: skip
NAMES = {
    "rtol": "tolerance",
    "atol": "absolute tolerance",
    "max_iter": "most evaluations",
    "lambda_": "strength",
    "kept": "kept directions",
    "max_condition": "largest condition",
    "max_growth": "largest growth",
    "max_weights": "largest weights",
    "randomize": "draw at random",
    "randomize_seed": "seed of what is drawn",
}
WORD = {
    "& .MuiFormControlLabel-label": {
        "fontSize": "13px",
        "fontWeight": 400,
        "color": "text.secondary",
    },
    "& .MuiCheckbox-root": {"padding": "4px"},
}
STEPS = 100  # of a slider over numbers
SEEDS = (0, 20)


def title(knob: Knob) -> str:
    """The words on a widget: name and symbol."""
    words = NAMES.get(knob.name, knob.name.strip("_").replace("_", " "))
    symbol = GREEK.get(knob.symbol, knob.symbol)
    return words if symbol in ("", words, "tol") else f"{words} {symbol}"


class _Prompt:
    """Its moves go to the page at once; Panel would wait 50 ms, in case more of them come.

    Nor do they count as work for Panel's busy indicator, which the page does not show: in a drag,
    keeping that count would be a good part of the server's work.
    """

    _priority_changes: ClassVar[list[str]] = ["value"]
    _busy__ignore: ClassVar[list[str]] = ["value", "value_throttled"]


class PromptInteger(_Prompt, pmui.IntSlider):
    """A slider over integers."""


class PromptNumber(_Prompt, pmui.FloatSlider):
    """A slider over numbers."""


class PromptChoice(_Prompt, pmui.DiscreteSlider):
    """A slider over a list of numbers."""


class BoundWidget:
    """A widget and how values go in and out of it."""

    def __init__(self, knob: Knob, widget: Any) -> None:
        self.widget = self.pane = widget
        self._shown: tuple[Knob, str] | None = None
        self.follow(knob, knob.default, "")

    def watch(self, moved: Callable[[Any], None]) -> None:
        """Call back with the widget's value whenever it moved."""
        self.widget.param.watch(lambda event: moved(event.new), "value")

    @property
    def value(self) -> Any:
        """The knob's value as it is shown."""
        return self.read(self.widget.value)

    def read(self, value: Any) -> Any:
        """The knob's value for a value of the widget."""
        return value

    def follow(self, knob: Knob, value: Any, reason: str) -> None:
        """Show a value, the knob's range, and why it can't be used, if so.

        Nothing that stands already is set again: each move of a slider asks all widgets.
        """
        declared = (knob, reason)
        if declared != self._shown:
            self._shown = declared
            self.widget.label = title(knob)
            self.widget.disabled = bool(reason)
            self.widget.description = reason or f"{knob.doc} Allowed: {knob.range_text}."
        elif self.value == value:
            return
        self.show(knob, value)

    def show(self, knob: Knob, value: Any) -> None:
        """Show a value."""
        self.widget.value = value


class _Range(BoundWidget):
    """A linear slider that grows when a value from elsewhere lies outside it."""

    def show(self, knob: Knob, value: Any) -> None:
        """Show a value on a range that holds it."""
        low, high = SEEDS if knob.name == "seed" else knob.slider_range or (0, 1)
        number = low if value is None else value
        integer = knob.kind == "integer"
        step: float = 1
        if integer:
            step = 10 if knob.name == "max_iter" else 1
        else:
            step = 10.0 ** round(math.log10((high - low) / STEPS))
            low = max(low, step) if knob.exclusive_minimum else low
        start, end = min(low, number), max(high, number)
        kind = int if integer else float
        self.widget.param.update(
            start=kind(start), end=kind(end), step=kind(step), value=kind(number)
        )


class _Worded(_Range):
    """A slider and, beside it, a box for the word that the knob may be instead of a number."""

    def __init__(self, knob: Knob, widget: Any) -> None:
        (self.word,) = knob.words
        self.box = pmui.Checkbox(
            label=self.word, size="small", margin=(0, 0, 0, 8), align="end", width=66, sx=WORD,
        )  # fmt: skip
        super().__init__(knob, widget)
        self.pane = pn.Row(widget, self.box, sizing_mode="stretch_width", margin=0)

    def watch(self, moved: Callable[[Any], None]) -> None:
        """Call back with the number, or with the word."""
        super().watch(moved)
        self.box.param.watch(lambda _: self._dim(), "value")
        self.box.param.watch(
            lambda event: moved(self.word if event.new else self.widget.value), "value"
        )

    @property
    def value(self) -> Any:
        """The number, or the word."""
        return self.word if self.box.value else self.widget.value

    def show(self, knob: Knob, value: Any) -> None:
        """Show a number, or the word beside the slider where it was."""
        self.box.value = value == self.word
        self.box.disabled = bool(self._shown and self._shown[1])
        self._dim()
        super().show(knob, self.widget.value if self.box.value else value)

    def _dim(self) -> None:
        """The slider decides nothing while the word does."""
        self.widget.disabled = self.box.value or self.box.disabled


class _Listed(BoundWidget):
    """A slider over integers, 1-2-5 steps or decades; first comes None's word, where allowed."""

    none = ""

    def read(self, value: Any) -> Any:
        return None if value == self.none else value

    def show(self, knob: Knob, value: Any) -> None:
        """Show a value among those of the grid."""
        options = _grid(knob)
        if value is not None and not any(math.isclose(value, old) for old in options):
            options = sorted([*options, value])
        shown: dict[str, Any] = {_text(option): option for option in options}
        self.none = knob.none
        if knob.optional:
            shown = {knob.none: knob.none} | shown
        near = knob.none if value is None else min(options, key=lambda option: abs(option - value))
        self.widget.param.update(options=shown, value=near)


def _text(value: float) -> str:
    if value == 0:
        return "0"
    if 1e-3 < abs(value) < 1e5:
        return f"{value:g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _grid(knob: Knob) -> list[float]:
    low, high = knob.slider_range or (1e-10, 1.0)
    if not knob.log:
        return [*range(int(low), int(high) + 1)]
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    digits = (1,) if last - first > 4 else (1, 2, 5)
    grid = [float(f"{digit}e{power}") for power in range(first, last + 1) for digit in digits]
    return [value for value in grid if low * 0.999 <= value <= high * 1.001]


def bound_widget(knob: Knob, declared: Knob) -> BoundWidget:
    """The widget that suits a knob; `declared` is its first declaration, which fixes the kind."""
    common: dict[str, Any] = dict(sizing_mode="stretch_width", margin=(2, 0))
    if declared.name == "device" or declared.kind == "choice":
        choices = devices() if declared.name == "device" else list(declared.choices)
        return BoundWidget(
            knob, pmui.Select(options=choices, size="small", **common | {"margin": (8, 0, 4, 0)})
        )
    if declared.kind == "switch":
        return BoundWidget(knob, pmui.Switch(**common))
    if declared.log or declared.optional:
        return _Listed(knob, PromptChoice(options=[0, 1], size="small", **common))
    kind = PromptInteger if declared.kind == "integer" else PromptNumber
    made = _Worded if declared.words else _Range
    return made(knob, kind(start=0, end=1, value=0, **common))
