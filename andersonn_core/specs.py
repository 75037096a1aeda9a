"""Knobs and specs: each control of the lab is declared, validated and hashed once."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    Union,
    get_args,
    get_origin,
)

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined


class KnobError(ValueError, TypeError):
    """A knob was misspelled or holds a value that it cannot have; nothing has been computed.

    It is a TypeError as well as a ValueError: Python calls a misspelled keyword the one and a value
    out of range the other, and one constructor call can hold both mistakes.
    """


@dataclass(frozen=True)
class Knob:
    """The declaration of one control, as widgets, sweeps, URL, CLI and README read it."""

    name: str
    default: Any
    kind: str  # "integer", "number", "switch", "choice", "spec" or "text"
    doc: str
    symbol: str = ""
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: bool = False
    typical: tuple[float, float] | None = None
    choices: tuple[Any, ...] = ()
    words: tuple[str, ...] = ()  # that an integer or a number may be, too: "auto"
    optional: bool = False  # None is allowed
    none: str = "auto"  # what None is called where a person chooses: chosen for you, or off
    log: bool = False
    unit: str = ""
    identity: bool = True  # False: does not enter spec_id (device, seed)

    @property
    def range_text(self) -> str:
        """The allowed values in words, e.g. "0 to 50", "one of full, never"."""
        if self.choices:
            text = "one of " + ", ".join(str(choice) for choice in self.choices)
        elif self.kind == "switch":
            text = "True or False"
        elif self.minimum is None and self.maximum is None:
            text = {"spec": "a spec", "text": "text"}.get(self.kind, "any finite number")
        else:
            low = "above " if self.exclusive_minimum else ""
            low += "" if self.minimum is None else _number(self.minimum)
            if self.maximum is not None:
                text = f"{low} to {_number(self.maximum)}"
            else:
                text = low if self.exclusive_minimum else f"at least {low}"
        others = [*map(repr, self.words), *(["None"] if self.optional else [])]
        return ", or ".join([text, *others])

    @property
    def slider_range(self) -> tuple[float, float] | None:
        """Where a slider goes: the typical range, else the valid range if it is bounded."""
        if self.typical is not None:
            return self.typical
        if self.minimum is None or self.maximum is None:
            return None
        return self.minimum, self.maximum


def knob(
    default: Any = PydanticUndefined,
    doc: str = "",
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    exclusive_minimum: bool = False,
    typical: tuple[float, float] | None = None,
    symbol: str = "",
    log: bool = False,
    unit: str = "",
    identity: bool = True,
    or_word: bool = False,
    none: str = "auto",
) -> Any:
    """Declare one knob: default, sentence, valid range, typical range (the slider), symbol.

    A number that may be a word, too, has the type `float | Literal["auto"]` and or_word=True.
    """
    bounds: dict[str, Any] = {"le": maximum}
    bounds["gt" if exclusive_minimum else "ge"] = minimum
    bounds = {key: value for key, value in bounds.items() if value is not None}
    declared = dict(
        minimum=minimum, maximum=maximum, exclusive_minimum=exclusive_minimum, typical=typical,
        symbol=symbol, log=log, unit=unit, identity=identity, none=none,
    )  # fmt: skip
    field = Field(
        default,
        description=doc,
        json_schema_extra={"knob": declared},  # type: ignore[dict-item]
        **({} if or_word else bounds),
    )
    if or_word:  # pydantic would compare the word with the bounds, too
        number: TypeAdapter[float] = TypeAdapter(Annotated[float, Field(**bounds)])
        field.metadata.append(AfterValidator(lambda value: _judged(number, value)))
    return field


def typed(declared: Knob, text: Any) -> Any:
    """What was typed as the knob's kind of value; what is none stays text, and is refused."""
    if not isinstance(text, str) or declared.kind in ("text", "spec"):
        return text
    if declared.optional and text.lower() == "none":
        return None
    if declared.kind == "switch":
        return {"true": True, "false": False}.get(text.lower(), text)
    choices = {str(choice): choice for choice in declared.choices}
    if text in choices:
        return choices[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _judged(number: TypeAdapter[float], value: Any) -> Any:
    if not isinstance(value, str):
        number.validate_python(value)
    return value


class Spec(BaseModel):
    """A frozen, validated record of knobs that is the thing it configures.

    Unknown knobs, values out of range, booleans or text given as numbers, NaN and infinity raise
    KnobError with the knob, its symbol, the value, the allowed range and the remedy.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str] = ""  # the key in the table that lists it (METHODS, PROBLEMS)
    label: ClassVar[str] = ""  # how a person reads it
    title: ClassVar[str] = ""  # what messages call it; empty: the name of the class
    _tables: ClassVar[Mapping[str, Mapping[str, type[Spec]]]] = {}  # of a knob that is a spec

    if not TYPE_CHECKING:  # pydantic's own signature is what type checkers should see

        def __init__(self, **knobs: Any) -> None:
            try:
                super().__init__(**knobs)
            except ValidationError as error:
                raise KnobError(_explain(type(self), error)) from None

    @classmethod
    def knobs(cls) -> dict[str, Knob]:
        """The knobs in the order of their declaration."""
        return dict(_declared(cls))

    def replace(self, **changes: Any) -> Self:
        """A copy with some knobs changed; dotted names reach in (``**{"method.window": 3}``)."""
        return type(self)(**_merged(self, changes))

    def to_dict(self) -> dict[str, Any]:
        """All resolved knobs, nested specs too, each spec with its table name as ``"name"``."""
        head = {"name": self.name} if self.name else {}
        return head | {key: _plain(getattr(self, key)) for key in type(self).model_fields}

    def to_json(self) -> str:
        """Canonical JSON of all resolved knobs."""
        return json.dumps(self.to_dict(), sort_keys=True, allow_nan=False)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The spec that `to_dict` described; raises KnobError as the constructor does."""
        if not isinstance(record, Mapping):
            raise KnobError(
                f"{cls.__name__}: a record of knobs by name was expected, not {record!r}."
            )
        knobs = {key: value for key, value in record.items() if key != "name"}
        for key, table in cls._tables.items():
            if isinstance(knobs.get(key), Mapping):
                knobs[key] = cls._part(key, table, knobs[key])
        return cls(**knobs)

    @staticmethod
    def _part(key: str, table: Mapping[str, type[Spec]], record: Mapping[str, Any]) -> Spec:
        name = record.get("name")
        if not isinstance(name, str) or name not in table:
            raise KnobError(f"unknown {key} {name!r}: it must be one of {', '.join(table)}.")
        return table[name].from_dict(record)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The spec that `to_json` described; raises KnobError as the constructor does."""
        return cls.from_dict(json.loads(text))

    @property
    def spec_id(self) -> str:
        """Content hash of all resolved knobs, dtype included; not of device, seed or threads."""
        canonical = json.dumps(self._identity(), sort_keys=True, allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def _identity(self) -> dict[str, Any]:
        record: dict[str, Any] = {"name": self.name or type(self).__name__}
        for key, declared in self.knobs().items():
            value = getattr(self, key)
            if declared.identity:
                record[key] = (
                    value._identity() if isinstance(value, Spec) else _unsigned_zero(value)
                )
        return record

    def __repr__(self) -> str:
        """The knobs that are not at their default."""
        moved = (key for key, field in type(self).model_fields.items()
                 if getattr(self, key) != field.default)  # fmt: skip
        return (
            f"{type(self).__name__}({', '.join(f'{key}={getattr(self, key)!r}' for key in moved)})"
        )

    __str__ = __repr__

    def __iter__(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]
        """(name, value) of each knob."""
        return ((key, getattr(self, key)) for key in type(self).model_fields)


@cache
def _declared(cls: type[Spec]) -> dict[str, Knob]:
    """Read off the annotations once: that takes a millisecond."""
    return {name: _knob_of(name, field) for name, field in cls.model_fields.items()}


def _unsigned_zero(value: Any) -> Any:
    return 0.0 if isinstance(value, float) and value == 0 else value


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, Spec) else value


def _merged(spec: Spec, changes: Mapping[str, Any]) -> dict[str, Any]:
    knobs = dict(spec)
    nested: dict[str, dict[str, Any]] = {}
    for dotted, value in changes.items():
        head, _, rest = dotted.partition(".")
        if rest and isinstance(knobs.get(head), Spec):
            nested.setdefault(head, {})[rest] = value
        else:
            knobs[dotted] = value
    return knobs | {head: knobs[head].replace(**inner) for head, inner in nested.items()}


def _knob_of(name: str, field: FieldInfo) -> Knob:
    extra: Any = field.json_schema_extra
    declared: dict[str, Any] = dict(extra["knob"]) if isinstance(extra, dict) else {}
    arguments = _alternatives(field.annotation)
    optional = type(None) in arguments
    types = [kind for kind in arguments if kind is not type(None)]
    words = tuple(word for kind in types if get_origin(kind) is Literal for word in get_args(kind))
    default = None if field.default is PydanticUndefined else field.default
    base = Knob(name=name, default=default, kind="text", doc=field.description or "", **declared)
    if len(types) > 1:
        return replace(base, kind=_kind(types, ()), words=words, optional=optional)
    return replace(base, kind=_kind(types, words), choices=words, optional=optional)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """``int | None`` -> (int, NoneType); a Literal counts as one alternative."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _kind(types: list[Any], choices: tuple[Any, ...]) -> str:
    if choices:
        return "choice"
    names = {bool: "switch", int: "integer", float: "number", str: "text"}
    return names.get(types[0], "spec")


def _explain(cls: type[Spec], error: ValidationError) -> str:
    """One line a knob: each alternative of a type has its own complaint about the same value."""
    details = {detail["loc"][:1]: detail for detail in reversed(error.errors())}
    return "\n".join(_sentence(cls, detail) for detail in reversed(details.values()))


def _sentence(cls: type[Spec], detail: ErrorDetails) -> str:
    """One line: class, knob, symbol, value, allowed range and what to do."""
    title = cls.title or cls.__name__
    name = str(detail["loc"][0]) if detail["loc"] else ""
    knobs = cls.knobs()
    if name not in knobs:
        if not name:
            return f"{title}: {detail['msg'].removeprefix('Value error, ')}"
        near = difflib.get_close_matches(name, knobs, n=1)
        remedy = f"did you mean '{near[0]}'?" if near else f"its knobs are {', '.join(knobs)}."
        return f"{title} has no knob '{name}': {remedy}"
    declared, value = knobs[name], detail["input"]
    symbol = f" ({declared.symbol})" if declared.symbol else ""
    if detail["type"] == "missing":
        return f"{title}.{name}{symbol} is required: {declared.doc}"
    remedy = _remedy(declared, value)
    what = f"{title}.{name}{symbol} = {value!r}"
    return f"{what} is not allowed: it must be {declared.range_text}. {remedy}"


def _remedy(declared: Knob, value: Any) -> str:
    words = [str(word) for word in declared.choices or declared.words]
    if isinstance(value, str) and words:
        near = difflib.get_close_matches(value, words, n=1)
        if near or declared.choices:
            return (
                f"Did you mean '{near[0]}'?" if near else f"Leave it out for {declared.default!r}."
            )
    if declared.kind in ("integer", "number") and (
        isinstance(value, bool | str) or not _is_number(value)
    ):
        kind = "an integer" if declared.kind == "integer" else "a number"
        return f"Give {kind}, such as {declared.default!r}."
    if declared.kind == "integer" and isinstance(value, float):
        low = -math.inf if declared.minimum is None else declared.minimum
        high = math.inf if declared.maximum is None else declared.maximum
        return f"Give an integer, such as {min(max(round(value), low), high):.0f}."
    if declared.typical is not None:
        return f"Typical values are {declared.typical[0]:g} to {declared.typical[1]:g}."
    return f"The default is {declared.default!r}."


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
