"""A recording as a file: JSON that carries the digest of its own content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from andersonn_core.seal import AlteredError, digest, parsed, sealed
from andersonn_core.words import jsonable

SCHEMA = 3


class SchemaError(ValueError):
    """A recording of a format that this version does not read."""


def write(content: Mapping[str, Any], folder: Path) -> Path:
    """Write a recording, named by its device and date, into the folder; an older one is kept."""
    record = sealed(jsonable(content))
    folder.mkdir(parents=True, exist_ok=True)
    words = "".join(c if c.isalnum() else " " for c in record["device"]).lower().split()
    stem = "-".join([*words, record["date"]])
    names = (f"{stem}{f'-{number}' if number > 1 else ''}.json" for number in range(1, 10_000))
    path = next(path for name in names if not (path := folder / name).exists())
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> dict[str, Any]:
    """The content of a recording.

    Raises AlteredError where its digest is another's, SchemaError for a recording of another
    schema, ValueError for any file that is no recording, OSError for one that cannot be read.
    """
    content = parsed(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not {"schema", "sha256"} <= content.keys():
        raise ValueError(f"{path.name} is not a recording.")
    if content["sha256"] != digest(content):
        raise AlteredError(f"{path.name}: its content is not what its digest says.")
    if content["schema"] != SCHEMA:
        schema = content["schema"]
        raise SchemaError(f"{path.name} has the schema {schema!r}; this version reads {SCHEMA}.")
    return content
