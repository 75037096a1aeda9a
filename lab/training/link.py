"""The Train page in a link: which training, and the choices for the next one."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from andersonn_core.specs import KnobError
from lab.controls import closest
from lab.training.setup import CHOICES, FIELDS, KNOBS, Setup
from lab.url import fields_of, shown, value_of

RUN, CHOSEN = "run", "train"  # the query's parameters


def to_fields(setup: Setup, key: str) -> dict[str, str]:
    """What the link says: the training's key, and choices that are not the page's defaults."""
    chosen = ";".join(f"{name}={value}" for name, value in setup.changed.items())
    fields = {RUN: key} if key else {}
    return fields | ({CHOSEN: chosen} if chosen else {})


def from_query(query: str) -> tuple[Setup, str, list[str]]:
    """Choices and key of a link, and sentences about what was refused, safe to show."""
    fields, _ = fields_of(query)
    given: Mapping[str, str] = dict(fields)
    setup, notes = Setup(), list[str]()
    parts = [part.partition("=")[::2] for part in given.get(CHOSEN, "").split(";") if part]
    for name, text in parts:
        if name not in FIELDS:
            note = f"The link's '{shown(name)}' is no choice: {closest(name, list(FIELDS))}"
            notes.append(note)
            continue
        try:
            setup = setup.replace(**{name: _value(name, text)})
        except KnobError as error:
            notes.append(str(error))
    return setup, given.get(RUN, ""), [html.escape(note, quote=False) for note in notes]


def _value(name: str, text: str) -> Any:
    return shown(text) if name in CHOICES else value_of(KNOBS[name], text)
