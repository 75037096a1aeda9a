"""One look for figures and page: Okabe-Ito colors with one meaning each, light and dark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lab.also import ALSO

FONT = "Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Stroke:
    """How one method is drawn: dash and marker repeat what its color says."""

    color: str
    ink: str  # of its text labels: the color, dark (or bright) enough to be read
    dash: str  # "solid", or pixels on and off: Bokeh draws "dashed" finer in a column than alone
    marker: str
    width: float


@dataclass(frozen=True)
class Palette:
    """The colors of one theme; text and ink reach a contrast of 4.5:1 on paper."""

    dark: bool
    paper: str
    canvas: str  # behind the papers
    text: str
    muted: str
    rule: str
    strokes: dict[str, Stroke]
    gpu: dict[str, Stroke]  # what was recorded on a GPU, by "gpu" and the method
    good: str
    warn: str
    bad: str
    heat: tuple[str, ...]  # small to large
    balance: tuple[str, ...]  # forward iteration wins, neither, Anderson wins

    def of(self, role: str) -> Stroke:
        """How a method is drawn, or what has one of the palette's own colors: dotted."""
        known = self.strokes | self.gpu
        if role in known:
            return known[role]
        color = str(getattr(self, role))
        return Stroke(color, color, "1 3", "circle", 1.0)

    @property
    def parts(self) -> dict[str, str]:
        """The colors of the parts of a step: the map is nobody's fault, mixing is Anderson's."""
        blues = ("#56B4E9", "#0072B2", "#8CCBF0", "#B9C7D4")
        if self.dark:
            blues = ("#2F87BE", "#56B4E9", "#1F6391", "#4B5A68")
        names = ("gram", "solve", "mix", "bookkeeping")
        return {"map": self.strokes["picard"].color} | dict(zip(names, blues, strict=True))


def _strokes(
    picard: str, anderson: str, also: str, inks: tuple[str, str, str]
) -> dict[str, Stroke]:
    """One of `ALSO` is shown at a time, so that all of them share a stroke."""
    third = Stroke(also, inks[2], "2 4", "triangle", 2.4)
    return dict.fromkeys(ALSO, third) | {
        "picard": Stroke(picard, inks[0], "6 4", "square", 2.0),
        "anderson": Stroke(anderson, inks[1], "solid", "circle", 2.6),
    }


GPU_GREEN = "#009E73"


def _on_gpu(ink: str) -> dict[str, Stroke]:
    """Green, and a dot in each dash: a method's own dash is still to be seen."""
    return {
        "gpu picard": Stroke(GPU_GREEN, ink, "6 4 2 4", "inverted_triangle", 2.0),
        "gpu anderson": Stroke(GPU_GREEN, ink, "14 4 2 4", "diamond", 2.2),
    }


# One ramp for every heat map: what is small stands out: deep on white, bright on dark.
_HEAT_LIGHT = (
    "#08306b",
    "#0b559f",
    "#2b7bba",
    "#539ecd",
    "#89bedc",
    "#bad6eb",
    "#dbe9f6",
    "#f5f4ef",
)
_HEAT_DARK = (
    "#e9f6ff",
    "#b5dcf5",
    "#7fbfe6",
    "#4f9fd0",
    "#2f7db1",
    "#255f89",
    "#22475f",
    "#25333f",
)

_BALANCE_LIGHT = (
    "#4a5866",
    "#8593a1",
    "#c6cdd4",
    "#f7f6f1",
    "#a9d1ec",
    "#3f97d0",
    "#005a96",
)
_BALANCE_DARK = (
    "#c3ced8",
    "#8d9dac",
    "#55636f",
    "#232f3a",
    "#235f8a",
    "#3f93c8",
    "#8fd0f7",
)

LIGHT = Palette(
    dark=False, paper="#ffffff", canvas="#f3f5f8", text="#16202b", muted="#51606f", rule="#dce2e9",
    strokes=_strokes("#6b7b8c", "#0072B2", "#E69F00", ("#51606f", "#0067a3", "#855a00")),
    gpu=_on_gpu("#00694b"),
    good="#00694b", warn="#855a00", bad="#a93c00", heat=_HEAT_LIGHT,
    balance=_BALANCE_LIGHT,
)  # fmt: skip
DARK = Palette(
    dark=True, paper="#17202a", canvas="#0f161d", text="#e8eef4", muted="#a7b5c2", rule="#2c3947",
    strokes=_strokes("#94a5b5", "#56B4E9", "#E69F00", ("#b2c0cd", "#7cc5f0", "#f0b743")),
    gpu=_on_gpu("#4fd0a5"),
    good="#4fd0a5", warn="#f0b743", bad="#ff9466", heat=_HEAT_DARK,
    balance=_BALANCE_DARK,
)  # fmt: skip

LABELS = {
    "picard": "forward iteration", "anderson": "Anderson", "restart": "full restart",
    "auto": "Auto",
    "short_recurrence": "short recurrence", "idr": "IDR(s)", "broyden": "Broyden",
}  # fmt: skip
PART_LABELS = {
    "map": "map f(z)",
    "gram": "Gram row",
    "solve": "solve",
    "mix": "mix",
    "bookkeeping": "bookkeeping",
}


def palette(dark: bool) -> Palette:
    """The palette of the page's theme."""
    return DARK if dark else LIGHT


# A thumb that glides to its place has the browser paint the page at each step of its way.
STILL = {part: {"transition": "none"} for part in ("thumb", "track")}


def material_theme() -> dict[str, Any]:
    """The same colors for the Material components; the page's figures take their axes from it."""
    return {"light": _material(LIGHT), "dark": _material(DARK)}


def _material(colors: Palette) -> dict[str, Any]:
    return {
        "palette": _material_palette(colors),
        "typography": {"fontFamily": FONT, "fontSize": 14},
        "components": {"MuiSlider": {"styleOverrides": STILL}},
    }


def _material_palette(colors: Palette) -> dict[str, Any]:
    return {
        "primary": {"main": colors.strokes["anderson"].ink},
        "secondary": {"main": colors.strokes["picard"].ink},
        "background": {"default": colors.canvas, "paper": colors.paper},
        "text": {"primary": colors.text, "secondary": colors.muted},
        "divider": colors.rule,
    }
