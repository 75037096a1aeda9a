"""The page's state as a link, and back: each parameter is parsed, bounded and escaped on its own.

    problem=tanh&size=64&window=3&pin=anderson;problem=tanh;window=5

The link names the problem and the knobs that differ from their declared defaults; a pin is a method
and the same kind of list. Everything passes the guards that a client's own values pass.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote

from andersonn_core import METHODS, PROBLEMS, SolveSpec
from andersonn_core.specs import Knob, KnobError
from lab.also import ALSO, NOTHING
from lab.controls import Controls, closest, values_of
from lab.knobs import KNOBS, knobs_of

MOST_CHARACTERS = 8192  # of a query; longer ones are not read at all
MOST_FIELDS = 100
MOST_PINS = 8
SHOWN = 40  # characters of a stranger's text that are shown back
SWITCH = {"on": True, "off": False, "true": True, "false": False, "1": True, "0": False}
INTEGER = re.compile(r"[+-]?\d{1,18}")


def to_query(
    controls: Controls, pins: Sequence[SolveSpec] = (), own: Mapping[str, str] | None = None
) -> str:
    """The state as a query without its question mark; only what differs from the defaults.

    `own`: what belongs to the page around the controls.
    """
    fields = _fields(controls.problem, controls.values())
    text = [f"{name}={quote(value, safe='')}" for name, value in fields.items()]
    for pin in pins:
        values = values_of(pin)
        inner = _fields(values.pop("problem"), values)
        inner.pop("also", None)
        parts = [pin.method.name, *(f"{name}={value}" for name, value in inner.items())]
        text.append("pin=" + quote(";".join(parts), safe="=;"))
    text += [f"{name}={quote(value, safe='')}" for name, value in (own or {}).items()]
    return "&".join(text)


def from_query(query: str, controls: Controls, known: Collection[str] = ()) -> list[str]:
    """Set the controls to a link's state; sentences about all that was refused, safe to show.

    A link that names a problem starts from its defaults; any other changes only what it names.
    Parameters in `known` belong to the page, `pin` to `pins_from_query`. HTML is escaped.
    """
    fields, notes = fields_of(query)
    fields = [(name, text) for name, text in fields if name not in known and name != "pin"]
    if fields:
        values, problems = _values(dict(fields))
        if values.get("problem") in PROBLEMS:
            controls.reset(values["problem"])
        refused = controls.apply(values)
        notes += dict.fromkeys([*problems, *refused.values()])
        notes += [f"{shown(name)} is given twice: the last one counts." for name in _twice(fields)]
    return [html.escape(note, quote=False) for note in notes]


def choice_from_query(
    query: str, name: str, choices: Sequence[str], default: str
) -> tuple[str, list[str]]:
    """The page's own parameter of a link, and a sentence if it is none of its choices."""
    given = [text for key, text in fields_of(query)[0] if key == name]
    if not given or given[-1] in choices:
        return given[-1] if given else default, []
    note = f"There is no {name} '{shown(given[-1])}': {closest(given[-1], choices)}"
    return default, [html.escape(note, quote=False)]


def pins_from_query(query: str) -> tuple[list[SolveSpec], list[str]]:
    """The pinned runs of a link, and sentences about those that can't be read, safe to show."""
    texts = [text for name, text in fields_of(query)[0] if name == "pin"]
    pins, notes = [], []
    for number, text in enumerate(texts[:MOST_PINS], 1):
        try:
            pins.append(_pin(text))
        except KnobError as error:
            notes.append(f"Pinned run {number} is left out: {error}")
    if len(texts) > MOST_PINS:
        notes.append(f"Only the first {MOST_PINS} pinned runs are shown.")
    return pins, [html.escape(note, quote=False) for note in notes]


def _pin(text: str) -> SolveSpec:
    method, *rest = text.split(";")
    if method not in METHODS:
        raise KnobError(f"there is no method '{shown(method)}': {closest(method, METHODS)}")
    fields = dict(part.partition("=")[::2] for part in rest if part)
    values, problems = _values(fields)
    controls = Controls()
    if values.get("problem") not in PROBLEMS:
        raise KnobError("; ".join(problems) or "it names no problem that exists.")
    controls.reset(values["problem"])
    refused = controls.apply(values | {"also": method if method in ALSO else NOTHING})
    if problems or refused:
        raise KnobError(" ".join(dict.fromkeys([*problems, *refused.values()])))
    return controls.specs()[method]


def _fields(problem: str, values: Mapping[str, Any]) -> dict[str, str]:
    """The problem and the values that are not its defaults, as text."""
    knobs = knobs_of(problem)
    defaults = {name: knob.default for name, knob in knobs.items()} | {"also": NOTHING}
    changed = {name: value for name, value in values.items() if value != defaults[name]}
    texts = {name: _text(knobs.get(name), value) for name, value in changed.items()}
    return {"problem": problem} | texts


def _text(knob: Knob | None, value: Any) -> str:
    if knob is not None and value is None:
        return knob.none
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


def fields_of(query: str) -> tuple[list[tuple[str, str]], list[str]]:
    """(name, text) of each parameter of a query, and a sentence if it can't be read."""
    if len(query) > MOST_CHARACTERS:
        return [], [f"The link is longer than {MOST_CHARACTERS} characters: it was not read."]
    try:
        fields = parse_qsl(
            query.lstrip("?"), keep_blank_values=True, max_num_fields=MOST_FIELDS, separator="&"
        )
    except ValueError:
        return [], [f"The link has more than {MOST_FIELDS} parameters: it was not read."]
    return fields, []


def _values(fields: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The values that the texts stand for; sentences about names that nothing has."""
    values, notes = {}, []
    for name, text in map(_renewed, fields, fields.values()):
        if name in ("problem", "also") or name in KNOBS:
            values[name] = value_of(KNOBS.get(name), text)
        else:
            names = ["problem", "also", *KNOBS]
            notes.append(f"The link's '{shown(name)}' is no control: {closest(name, names)}")
    return values, notes


def _renewed(name: str, text: str) -> tuple[str, str]:
    """A parameter as it is written now: links of old have a switch for Broyden."""
    if name != "broyden":
        return name, text
    return "also", {True: "broyden", False: NOTHING, None: text}[SWITCH.get(text.lower())]


def value_of(knob: Knob | None, text: str) -> Any:
    """The value that a text stands for, else the text itself, for the knob to refuse."""
    kind = knob.kind if knob else "text"
    if knob is not None and knob.optional and text == knob.none:
        return None
    if kind == "switch":
        return SWITCH.get(text.lower(), shown(text))
    if kind == "integer" and INTEGER.fullmatch(text):
        return int(text)
    if kind == "number" or kind == "integer":
        return _number(text)
    return shown(text)


def _number(text: str) -> float | str:
    try:
        value = float(text) if len(text) <= SHOWN else math.nan
    except ValueError:
        return shown(text)
    return value


def shown(text: str) -> str:
    """A stranger's text, short and without what is invisible."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _twice(fields: Sequence[tuple[str, str]]) -> list[str]:
    names = [name for name, _ in fields]
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]
