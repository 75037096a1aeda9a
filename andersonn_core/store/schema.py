"""The tables of a store.

A trial's row is small and of fixed width, for there may be a million; what is read one at a time
(card, curves) stands apart. A sweep is a record of base, axes, seeds and repeats, and its members
are numbered: a trial's place on the axes follows from its number, and no row repeats it.
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

SCHEMA = 1  # of the tables below; kept in the file as SQLite's user_version
APPLICATION = 0x414E444C  # "ANDL", SQLite's application_id: which program's file this is

metadata = MetaData()

origins = Table(
    "origins", metadata,
    Column("id", Integer, primary_key=True),
    Column("code", String, nullable=False),  # version + hash of the package's sources
    Column("device", String, nullable=False),  # the model: "NVIDIA H200"
    UniqueConstraint("code", "device"),
)  # fmt: skip

specs = Table(
    "specs", metadata,
    Column("spec_id", String, primary_key=True),
    Column("kind", String, nullable=False),  # solve or train
    Column("knobs", String, nullable=False),  # JSON of all knobs, as first seen
)  # fmt: skip

rows = Table(
    "rows", metadata,
    Column("id", Integer, primary_key=True),
    Column("spec_id", String, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("repeat", Integer, nullable=False),
    Column("origin", ForeignKey("origins.id"), nullable=False),
    Column("status", String, nullable=False),
    Column("num_evals", Integer),
    Column("seconds", Float),
    Column("relative_residual", Float),  # the largest of the batch
    Column("accuracy", Float),  # of a training, on the test images
    Column("samples", Integer),
    Column("converged", Integer),  # how many of the samples
    Column("date", String, nullable=False),
    UniqueConstraint("spec_id", "seed", "repeat", "origin"),
)  # fmt: skip

details = Table(
    "details", metadata,
    Column("row", ForeignKey("rows.id"), primary_key=True),
    Column("reason", String, nullable=False),  # why it failed
    Column("clock", String, nullable=False),
    Column("card", LargeBinary, nullable=False),  # compressed JSON
    Column("curves", LargeBinary),  # Parquet
)  # fmt: skip

sweeps = Table(
    "sweeps", metadata,
    Column("id", Integer, primary_key=True),
    Column("sweep_id", String, nullable=False, unique=True),
    Column("record", String, nullable=False),  # JSON: base, axes, seeds, repeats
    Column("total", Integer, nullable=False),
    Column("date", String, nullable=False),
)  # fmt: skip

members = Table(
    "members", metadata,
    Column("sweep", ForeignKey("sweeps.id"), primary_key=True),
    Column("number", Integer, primary_key=True),  # of the trial in the sweep: its place
    Column("row", ForeignKey("rows.id"), primary_key=True),
    sqlite_with_rowid=False,
)  # fmt: skip
