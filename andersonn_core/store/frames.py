"""A query's rows as a frame, by Arrow: a million in some seconds, a third of what Python takes.

Arrow's driver brings a SQLite of its own, and two SQLites in one process must never open the same
file: when one closes it, the system takes the locks of the other away, and readers see half of a
write ("How To Corrupt An SQLite Database File", section 2.2.1, sqlite.org). So the rows are copied
by Python's SQLite into a file of their own, which Arrow's reads.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sqlalchemy import Select
from sqlalchemy.dialects.sqlite import dialect

# Arrow's driver takes a column's type from its first rows, and integer where these hold nothing.
TYPICAL = {int: "0", float: "0.0", str: "''", bytes: "x''"}


def read_frame(query: Select[Any], address: str, patience: float) -> pd.DataFrame:
    """The query's rows from the store at SQLite's `address`; raises sqlite3.Error."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "rows.sqlite"
        _copy(query, address, copy, patience)
        return _read(copy)


def read_few(
    words: str, kinds: Mapping[str, type], values: Mapping[str, Any], address: str, patience: float
) -> pd.DataFrame:
    """The rows of a small query, of which a copy would take longer; raises sqlite3.Error.

    `kinds`: the columns' names and types, in order; numbers that are not there are NaN.
    """
    connection = sqlite3.connect(address, uri=True, timeout=patience)
    with closing(connection):
        found = connection.execute(words, dict(values)).fetchall()
    columns = zip(*found, strict=True) if found else [()] * len(kinds)
    return pd.DataFrame({
        name: _array(values, kind)
        for (name, kind), values in zip(kinds.items(), columns, strict=True)
    })  # fmt: skip


def _array(values: Sequence[Any], kind: type) -> NDArray[Any]:
    return np.array(values, object if kind is str else float if None in values else kind)


def _copy(query: Select[Any], address: str, copy: Path, patience: float) -> None:
    """Copy the rows, after one that holds a typical value of each column."""
    words = str(query.compile(dialect=dialect(), compile_kwargs={"literal_binds": True}))
    typical = ", ".join(
        f'{TYPICAL[column.type.python_type]} AS "{column.name}"'
        for column in query.selected_columns
    )
    uri = f"{copy.resolve().as_uri()}?mode=rwc"
    connection = sqlite3.connect(uri, uri=True, timeout=patience, isolation_level=None)
    with closing(connection):
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("ATTACH ? AS store", (address,))
        connection.execute(f"CREATE TABLE main.found AS SELECT {typical}")
        connection.execute(f"INSERT INTO main.found {words}")


def _read(copy: Path) -> pd.DataFrame:
    import adbc_driver_sqlite.dbapi as adbc

    try:
        with adbc.connect(copy.resolve().as_uri()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT * FROM found ORDER BY rowid")
            return cursor.fetch_arrow_table().slice(1).to_pandas()
    except adbc.Error as error:
        raise sqlite3.DatabaseError(str(error).partition("\n")[0]) from error
