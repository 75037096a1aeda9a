"""A store: one SQLite file that one driver writes and anybody reads meanwhile."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pandas as pd
from sqlalchemy import Connection, Select, bindparam, func, select
from sqlalchemy.dialects.sqlite import insert

from andersonn_core.results import SolveResult
from andersonn_core.runcard import RunCard
from andersonn_core.store.curves import frame_from_bytes, result_from_bytes
from andersonn_core.store.errors import StoreError
from andersonn_core.store.frames import read_few, read_frame
from andersonn_core.store.opening import PATIENCE, check, explained, opened, reading_address
from andersonn_core.store.rows import FAILED, Row
from andersonn_core.store.schema import details, members, origins, rows, specs, sweeps

AT_ONCE = 500  # names in one query: SQLite allows 32,766 variables
COLUMNS = (
    rows.c.id.label("row"), rows.c.spec_id, rows.c.seed, rows.c.repeat, rows.c.status,
    rows.c.num_evals, rows.c.seconds, rows.c.relative_residual, rows.c.accuracy, rows.c.samples,
    rows.c.converged, rows.c.date, rows.c.origin,
)  # fmt: skip
KEY = ("spec_id", "seed", "repeat")
NUMBERS = ("num_evals", "seconds", "relative_residual", "accuracy", "samples", "converged")

Key = tuple[str, int, int]  # spec_id, seed, repeat


@dataclass(frozen=True)
class Found:
    """A stored row of a key, on some device."""

    row: int
    device: str
    failed: bool


class Store:
    """Rows keyed by (spec_id, seed, repeat, code, device), with their cards and curves.

    Raises StoreError where the file is another program's, newer, damaged, or on a file system where
    locks do not hold; nothing is written then.
    """

    def __init__(self, path: str | Path, read_only: bool = False) -> None:
        self.path = Path(path).expanduser()
        self.read_only = read_only
        self._engine = opened(self.path, read_only)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._engine.dispose()

    def check(self) -> None:
        """Read the whole file; raises DamagedStoreError where something in it is not sound."""
        check(self._engine, self.path)

    # -- what the driver writes -------------------------------------------------------------------

    def register(self, sweep_id: str, record: Mapping[str, Any], total: int) -> int:
        """The number of a sweep, which is added where it is new, or has grown."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        new = insert(sweeps).values(
            sweep_id=sweep_id, record=json.dumps(record, sort_keys=True), total=total, date=now
        )
        grown = {"record": new.excluded.record, "total": new.excluded.total}
        with explained(self.path), self._engine.begin() as connection:
            connection.execute(new.on_conflict_do_update(index_elements=["sweep_id"], set_=grown))
            found = select(sweeps.c.id).where(sweeps.c.sweep_id == sweep_id)
            return int(connection.execute(found).scalar_one())

    def add(self, sweep: int | None, outcomes: Sequence[tuple[Sequence[int], Row]]) -> list[int]:
        """Keep rows, all or none; each is a member of the sweep under its numbers.

        A key's first row stays, unless it had failed.
        """
        with explained(self.path), self._engine.begin() as connection:
            places = {(row.code, row.device) for _, row in outcomes}
            of = {place: _origin(connection, *place) for place in places}
            added = [_add(connection, row, of[row.code, row.device]) for _, row in outcomes]
            if sweep is not None:
                numbered = zip(added, outcomes, strict=True)
                _link(connection, sweep, [(n, row) for row, (of_it, _) in numbered for n in of_it])
        return added

    def link(self, sweep: int, pairs: Sequence[tuple[int, int]]) -> None:
        """Make stored rows members of a sweep: (number, row)."""
        with explained(self.path), self._engine.begin() as connection:
            _link(connection, sweep, pairs)

    # -- what anybody reads -----------------------------------------------------------------------

    def found(self, spec_ids: Iterable[str], code: str) -> dict[Key, list[Found]]:
        """The rows of some specs that this code made, by key."""
        wanted, found = list(dict.fromkeys(spec_ids)), dict[Key, list[Found]]()
        of_code = (
            select(rows.c.spec_id, rows.c.seed, rows.c.repeat, rows.c.id, origins.c.device,
                   rows.c.status == FAILED)
            .join(origins).where(origins.c.code == code)
        )  # fmt: skip
        for start in range(0, len(wanted), AT_ONCE):
            some = of_code.where(rows.c.spec_id.in_(wanted[start : start + AT_ONCE]))
            for spec_id, seed, repeat, *rest in self._read(some):
                found.setdefault((spec_id, seed, repeat), []).append(Found(*rest))
        return found

    def sweeps(self) -> pd.DataFrame:
        """The sweeps, newest first: sweep_id, record, total, date, and the trials that are done."""
        done = select(func.count(members.c.number.distinct())).where(members.c.sweep == sweeps.c.id)
        query = select(
            sweeps.c.id.label("sweep"), sweeps.c.sweep_id, sweeps.c.record, sweeps.c.total,
            sweeps.c.date, done.scalar_subquery().label("done"),
        ).order_by(sweeps.c.id.desc())  # fmt: skip
        frame = self.frame(query)
        frame["record"] = [json.loads(record) for record in frame["record"]]
        return frame

    def sweep_number(self, sweep_id: str | None = None) -> int:
        """The number of a sweep by the start of its sweep_id; of the newest without one."""
        chosen = select(sweeps.c.id, sweeps.c.sweep_id).order_by(sweeps.c.id.desc())
        known = self._read(chosen)
        found = [number for number, name in known if name.startswith(sweep_id or "")]
        if not found or (sweep_id and len(found) > 1):
            names = ", ".join(name for _, name in known[:10]) or "none"
            raise StoreError(
                f"sweep = {sweep_id!r} is not one sweep of {str(self.path)!r}: it holds {names}."
            )
        return int(found[0])

    def record(self, sweep: int) -> dict[str, Any]:
        """What a sweep is: base, axes, seeds, repeats."""
        found = self._read(select(sweeps.c.record).where(sweeps.c.id == sweep))
        if not found:
            raise StoreError(f"sweep {sweep} is not in the store {str(self.path)!r}.")
        record: dict[str, Any] = json.loads(found[0][0])
        return record

    def rows(self, spec_id: str) -> pd.DataFrame:
        """The rows of one spec, of every code and device."""
        wanted, address = {"spec_id": spec_id}, reading_address(self.path)
        with explained(self.path):
            return read_few(_OF_SPEC_WORDS, _OF_SPEC_KINDS, wanted, address, PATIENCE)

    def members(self, sweep: int, only: Collection[str] = ()) -> pd.DataFrame:
        """The rows of a sweep, each with its number; code and device are categories.

        `only`: of the columns these and "row" (a million texts take a second to be read).
        """
        wanted = [each for each in COLUMNS if not only or each.name in {*only, "row", "origin"}]
        query = select(members.c.number, *wanted).join(rows, rows.c.id == members.c.row)
        frame = self.frame(query.where(members.c.sweep == sweep).order_by(members.c.number))
        places = self.frame(select(origins)).set_index("id")
        for name in ("code", "device"):
            labels = places[name].reindex(frame["origin"]).to_numpy()
            frame[name] = pd.Categorical(labels, categories=places[name].unique())
        return frame.drop(columns="origin")

    def frame(self, query: Select[Any]) -> pd.DataFrame:
        """A query's rows, read by Arrow."""
        with explained(self.path):
            return read_frame(query, reading_address(self.path), PATIENCE)

    def reasons(self, chosen: Sequence[int]) -> dict[int, str]:
        """Why rows failed; an empty text for those that did not."""
        parts = [chosen[start : start + AT_ONCE] for start in range(0, len(chosen), AT_ONCE)]
        return dict(pair for part in parts for pair in self._details(part, details.c.reason))

    def card(self, row: int) -> RunCard:
        """The run card of a row."""
        cards = self._details([row], details.c.card)
        if not cards:
            raise StoreError(f"row {row} is not in the store {str(self.path)!r}.")
        return _card(cards[0][1])

    def results(self, chosen: Sequence[int]) -> dict[int, SolveResult]:
        """The solves of rows, without their states; those that failed are left out."""
        cards = dict(self._details(chosen, details.c.card))
        blobs = self._details(chosen, details.c.curves)
        return {row: result_from_bytes(blob, _card(cards[row])) for row, blob in blobs if blob}

    def epochs(self, row: int) -> pd.DataFrame:
        """A training's numbers by epoch."""
        return frame_from_bytes(self._details([row], details.c.curves)[0][1])

    def _details(self, chosen: Sequence[int], column: Any) -> list[tuple[int, Any]]:
        some = select(details.c.row, column).where(details.c.row.in_([int(row) for row in chosen]))
        return [(int(row), value) for row, value in self._read(some)]

    def _read(self, query: Select[Any]) -> Sequence[Any]:
        with explained(self.path), self._engine.connect() as connection:
            return connection.execute(query).all()


def _card(compressed: bytes) -> RunCard:
    return RunCard.from_json(zlib.decompress(compressed).decode())


# Statements are made once: making them takes SQLAlchemy several times as long as running them.
_NEW_SPEC = insert(specs).on_conflict_do_nothing()
_NEW_ROW = insert(rows)
_NEW_OR_FAILED_ROW = _NEW_ROW.on_conflict_do_update(
    index_elements=[*KEY, "origin"],
    set_={name: _NEW_ROW.excluded[name] for name in ("status", "date", *NUMBERS)},
    where=rows.c.status == FAILED,
).returning(rows.c.id)
_SAME_ROW = select(rows.c.id).where(
    *(rows.c[name] == bindparam(f"same_{name}") for name in (*KEY, "origin"))
)
_OF_SPEC = (
    select(*COLUMNS, origins.c.code, origins.c.device)
    .join(origins).where(rows.c.spec_id == bindparam("spec_id"))
)  # fmt: skip
_OF_SPEC_WORDS = str(_OF_SPEC.compile())
_OF_SPEC_KINDS = {each.name: each.type.python_type for each in _OF_SPEC.selected_columns}
_DETAIL = insert(details).prefix_with("OR REPLACE")


def _add(connection: Connection, row: Row, origin: int) -> int:
    known = {"spec_id": row.spec_id, "kind": row.kind, "knobs": row.knobs}
    connection.execute(_NEW_SPEC, known)
    values = {name: getattr(row, name) for name in (*KEY, "status", "date", *NUMBERS)}
    values["origin"] = origin
    number = connection.execute(_NEW_OR_FAILED_ROW, values).scalar()
    if number is None:  # the key's row stays
        same = {f"same_{name}": values[name] for name in (*KEY, "origin")}
        return int(connection.execute(_SAME_ROW, same).scalar_one())
    detail = {"row": number, "reason": row.reason, "clock": row.clock, "curves": row.curves}
    connection.execute(_DETAIL, detail | {"card": zlib.compress(row.card.encode())})
    return int(number)


def _origin(connection: Connection, code: str, device: str) -> int:
    connection.execute(insert(origins).values(code=code, device=device).on_conflict_do_nothing())
    found = select(origins.c.id).where(origins.c.code == code, origins.c.device == device)
    return int(connection.execute(found).scalar_one())


def _link(connection: Connection, sweep: int, pairs: Sequence[tuple[int, int]]) -> None:
    values = [{"sweep": sweep, "number": number, "row": row} for number, row in pairs]
    if values:
        connection.execute(insert(members).on_conflict_do_nothing(), values)
