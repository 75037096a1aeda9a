"""Loops over arrays as machine code, by numba, which is imported by the modules that hold loops.

Those modules are imported where a workspace is made, before any clock runs. What was compiled is
kept on disk beside the source, or in numba's own folder, and a later process loads it from there.
Without numba the loops over samples run as Python, and torch makes the passes over the state.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be reordered, which vector units need; NaN and infinity keep their meaning.
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz"},
}
STATE = "state"  # stands in the types of a loop for the state's type of numbers

UNCOMPILED = (
    "numba is absent: torch makes the passes over the state, Python solves the samples' small "
    "systems. Iterates are the same to rounding; a step takes longer."
)

_types: dict[str, list[tuple[Any, str]]] = {}  # of the loops of each module


@cache
def has_numba() -> bool:
    """Whether loops can be compiled here."""
    return find_spec("numba") is not None


def compiled(types: str | None = None) -> Callable[[Function], Function]:
    """A loop with arguments of these types, in numba's words; without types one that loops share.

    A shared one has to lie in the same file: numba compiles anew what it has kept when that file
    changes.
    """

    def decorate(function: Function) -> Function:
        """Python itself where there is no numba."""
        if not has_numba():
            return function
        from numba import njit

        try:
            loop: Any = njit(cache=types is not None, **OPTIONS)(function)
        except RuntimeError:  # there is no folder to write to
            loop = njit(**OPTIONS)(function)
        if types is not None:
            _types.setdefault(function.__module__, []).append((loop, types))
        made: Function = loop
        return made

    return decorate


@cache
def prepare(module: str, dtype: str = "") -> None:
    """Compile all loops of a module for states of this type, or load what was kept."""
    for loop, types in _types.get(module, ()):  # none without numba
        with suppress(OSError):  # a full disk: compiled all the same, only not kept
            loop.compile(f"({types.replace(STATE, dtype)})")
