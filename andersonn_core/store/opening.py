"""Opening the file of a store: made if absent, refused if it is another's, newer, or damaged."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from adbc_driver_manager import Error as ArrowError
from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import DBAPIError

from andersonn_core.store.errors import DamagedStoreError, NewerStoreError, StoreError
from andersonn_core.store.place import journal_for
from andersonn_core.store.schema import APPLICATION, SCHEMA, metadata

PATIENCE = 30.0  # seconds to wait for another program that writes
DAMAGE = ("malformed", "not a database", "corrupt")  # SQLite's words


def opened(path: Path, read_only: bool) -> Engine:
    """An engine on the store at `path`, which is made where it is absent and may be written."""
    if not path.exists() and read_only:
        raise StoreError(f"store = {str(path)!r} does not exist: run a sweep into it first.")
    if not path.parent.is_dir():
        raise StoreError(f"store = {str(path)!r}: the folder {str(path.parent)!r} does not exist.")
    ended_early = any(Path(f"{path}{end}").exists() for end in ("-wal", "-journal"))
    engine = _engine(path, read_only)
    with explained(path):
        if read_only:
            with engine.connect() as connection:
                _recognize(connection, path)
        else:
            _prepare(engine, path)
            if ended_early:  # a driver may have been killed: is what it left sound?
                check(engine, path)
    return engine


def check(engine: Engine, path: Path) -> None:
    """SQLite's own check of the whole file; raises DamagedStoreError with the first problem."""
    with explained(path), engine.connect() as connection:
        found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar_one()
        if found != "ok":
            raise DamagedStoreError(_damaged(path, str(found)))


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say in words what SQLite could not do; a damaged file is copied first."""
    try:
        yield
    except (DBAPIError, ArrowError) as error:
        words = str(error.orig if isinstance(error, DBAPIError) else error).partition("\n")[0]
        if any(word in words for word in DAMAGE):
            raise DamagedStoreError(_damaged(path, words)) from error
        if "disk is full" in words or "disk I/O error" in words:
            raise StoreError(
                f"store = {str(path)!r}: the disk is full ({words}). What was written before is "
                "kept: free some space and run the same again."
            ) from error
        raise StoreError(f"store = {str(path)!r}: {words}.") from error


def _engine(path: Path, read_only: bool) -> Engine:
    mode, journal = ("ro", "") if read_only else ("rwc", journal_for(path))
    address = f"file:{quote(str(path.resolve()))}?mode={mode}"

    def connect() -> sqlite3.Connection:
        # transactions begin and end where SQLAlchemy says: sqlite3 would begin them late
        connection = sqlite3.connect(
            address, uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )
        if journal and path.stat().st_size:
            connection.execute(f"PRAGMA journal_mode={journal}")
        connection.execute(f"PRAGMA synchronous={'NORMAL' if journal == 'wal' else 'FULL'}")
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _prepare(engine: Engine, path: Path) -> None:
    """Make the tables in an empty file, all or none; recognize what another one holds."""
    with engine.begin() as connection:
        if connection.exec_driver_sql("PRAGMA schema_version").scalar_one():
            _recognize(connection, path)
        else:
            metadata.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION}")
            connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA}")


def _recognize(connection: Connection, path: Path) -> None:
    def pragma(name: str) -> Any:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()

    if pragma("application_id") != APPLICATION:
        raise StoreError(
            f"store = {str(path)!r} is a database of another program: nothing was written. "
            "Choose another file."
        )
    if (version := pragma("user_version")) > SCHEMA:
        raise NewerStoreError(
            f"store = {str(path)!r} has the format {version}, and this version of anderson-lab "
            f"knows {SCHEMA}: nothing was written. Update anderson-lab, or choose another file."
        )


def _damaged(path: Path, words: str) -> str:
    """What to do, after a copy of the file was made, one for each state of it."""
    copy = path.with_name(f"{path.name}.damaged-{path.stat().st_mtime_ns}")
    try:
        if not copy.exists():
            shutil.copy2(path, copy)
        kept = f"A copy is kept as {str(copy)!r}"
    except OSError as error:
        kept = f"No copy could be made ({error.strerror})"
    return (
        f"store = {str(path)!r} is damaged ({words}). {kept}, and nothing was overwritten. "
        "SQLite's command line saves what can be read (sqlite3 FILE .recover); or choose another "
        "file."
    )
