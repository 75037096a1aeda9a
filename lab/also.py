"""What may be shown beside forward iteration and Anderson: one more run, with Anderson's knobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from andersonn_core import IDR, Anderson, Auto, Broyden, ShortRecurrence
from andersonn_core.methods import MethodSpec

NOTHING = "none"


def _idr(anderson: Anderson) -> IDR:
    """A shadow space of the window's size, as far as there may be one."""
    shadow = IDR.knobs()["shadow"]
    size = max(int(shadow.minimum or 1), min(anderson.largest_window, int(shadow.maximum or 1)))
    return IDR(shadow=size, mixing=anderson.first_mixing)


def _auto(anderson: Anderson) -> Auto:
    return Auto(window=max(anderson.largest_window, 1), mixing=anderson.first_mixing)


def _broyden(anderson: Anderson) -> Broyden:
    return Broyden(window=anderson.largest_window, mixing=anderson.first_mixing)


# By the words of links, which are also the names of these runs.
ALSO: dict[str, Callable[[Anderson], MethodSpec]] = {
    "restart": lambda anderson: anderson.replace(restart="full"),
    "auto": _auto,
    "short_recurrence": lambda anderson: ShortRecurrence(mixing=anderson.first_mixing),
    "idr": _idr,
    "broyden": _broyden,
}


def third(also: str, anderson: Anderson) -> dict[str, MethodSpec]:
    """The run to show, by its name; none if it would be Anderson's own."""
    if also == NOTHING:
        return {}
    method = ALSO[also](anderson)
    return {} if method == anderson else {also: method}


def anderson_knobs(method: MethodSpec) -> Mapping[str, Any]:
    """The knobs of Anderson that lead to a method: what `ALSO` does, undone."""
    renamed = {"shadow": "window"}
    knobs = {renamed.get(name, name): value for name, value in method}
    return {name: value for name, value in knobs.items() if name in Anderson.knobs()}
