"""Opening the file of a store: made if absent, refused if it is another's, newer, or damaged."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, NullPool, QueuePool, create_engine, event
from sqlalchemy.exc import DBAPIError

from andersonn_core.store.errors import DamagedStoreError, NewerStoreError, StoreError
from andersonn_core.store.place import journal_for
from andersonn_core.store.schema import APPLICATION, SCHEMA, metadata

PATIENCE = 30.0  # seconds to wait for another program that writes
CHECKED = 2**26  # bytes up to which a store is checked as a whole before it is opened: 0.1 s
DAMAGE = ("malformed", "not a database", "corrupt")  # SQLite's words
# what SQLite cannot do, by its words, and what to do about it
ADVICE = {
    "disk is full": "What was written before is kept: free some space and run the same again.",
    "disk I/O error": "The disk is full or failing. What was written before is kept.",
    "is locked": "Another program has been writing to it all the time: wait until it has ended.",
    "readonly": "You may not write there: choose another file.",
    "unable to open": "You may not open it, or not make files beside it: choose another file.",
}


def opened(path: Path, read_only: bool) -> Engine:
    """An engine on the store at `path`, which is made where it is absent and may be written."""
    if not path.exists() and read_only:
        raise StoreError(f"store = {str(path)!r} does not exist: run a sweep into it first.")
    if not path.parent.is_dir():
        raise StoreError(f"store = {str(path)!r}: the folder {str(path.parent)!r} does not exist.")
    if path.is_dir():
        raise StoreError(f"store = {str(path)!r} is a folder: give the name of a file in it.")
    reading = _reading(path)
    if path.exists():  # before anything is written, and be it the kind of journal
        known = _recognized(reading, path)
        if read_only and not known:
            raise StoreError(f"store = {str(path)!r} holds nothing yet: run a sweep into it first.")
        killed = _size(path, "-wal") or _size(path, "-journal")  # perhaps: then is the rest sound?
        if known and (path.stat().st_size <= CHECKED or killed and not read_only):
            check(reading, path)
    return reading if read_only else _writing(path)


def check(engine: Engine, path: Path) -> None:
    """SQLite's own check of the whole file; raises DamagedStoreError with the first problem."""
    with explained(path), engine.connect() as connection:
        found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar_one()
        if found != "ok":
            raise DamagedStoreError(_damaged(path, " ".join(str(found).split())))


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say in words what SQLite could not do; a damaged file is copied first."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        words = str(error.orig if isinstance(error, DBAPIError) else error)
        if any(word in words for word in DAMAGE):
            raise DamagedStoreError(_damaged(path, words)) from error
        advice = next((advice for word, advice in ADVICE.items() if word in words), "")
        raise StoreError(f"store = {str(path)!r}: {words}. {advice}".rstrip()) from error


def reading_address(path: Path) -> str:
    """SQLite's address of a store for readers, as the file is now."""
    journal, folder = Path(f"{path}-journal"), path.parent
    if journal.exists() and os.access(path, os.W_OK):
        mode = "rw"  # what a killed driver left half written is undone by whoever comes next
    elif not (os.access(folder, os.W_OK) or Path(f"{path}-wal").exists()):
        mode = "ro&immutable=1"  # nobody writes it, and SQLite can't make its files beside it
    else:
        mode = "ro"
    return f"file:{quote(str(path.resolve()))}?mode={mode}"


def _reading(path: Path) -> Engine:
    def connect() -> sqlite3.Connection:
        connection = _connection(reading_address(path))
        connection.execute("PRAGMA query_only=1")
        return connection

    return _engine(connect, "BEGIN", poolclass=NullPool)


def _writing(path: Path) -> Engine:
    """An engine for the driver, on the store that is made if there is none.

    Its connection stays open: where the last one is closed, SQLite empties and removes the log, for
    which it keeps readers out.
    """
    journal = journal_for(path)

    def connect() -> sqlite3.Connection:
        connection = _connection(f"file:{quote(str(path.resolve()))}?mode=rwc")
        connection.execute(f"PRAGMA synchronous={'NORMAL' if journal == 'wal' else 'FULL'}")
        return connection

    engine = _engine(connect, "BEGIN IMMEDIATE", poolclass=QueuePool, pool_size=1)
    with explained(path):
        with closing(connect()) as connection:
            _set_journal(connection, journal)
        _make_tables(engine)
    return engine


def _set_journal(connection: sqlite3.Connection, journal: str) -> None:
    """Change the kind of journal, which is kept in the file; SQLite itself would not wait."""
    if connection.execute("PRAGMA journal_mode").fetchone() == (journal,):
        return
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute(f"PRAGMA journal_mode={journal}")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _connection(address: str) -> sqlite3.Connection:
    # transactions begin and end where SQLAlchemy says: sqlite3 would begin them late
    return sqlite3.connect(
        address, uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False
    )


def _engine(connect: Callable[[], sqlite3.Connection], begin: str, **pool: Any) -> Engine:
    engine = create_engine("sqlite://", creator=connect, **pool)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _recognized(engine: Engine, path: Path) -> bool:
    """Whether the file holds a store, not if it is empty.

    Raises for another program's file, for a newer store, and for a file that is no database.
    """
    with explained(path), engine.connect() as connection:
        if not connection.exec_driver_sql("PRAGMA schema_version").scalar_one():
            return False
        _recognize(connection, path)
        return True


def _size(path: Path, end: str) -> int:
    try:  # not `exists` first: a driver removes its journal at any moment
        return Path(f"{path}{end}").stat().st_size
    except FileNotFoundError:
        return 0


def _make_tables(engine: Engine) -> None:
    """Make the tables in an empty file, all or none."""
    with engine.begin() as connection:
        if not connection.exec_driver_sql("PRAGMA schema_version").scalar_one():
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
