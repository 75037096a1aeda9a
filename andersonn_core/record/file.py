"""A recording as a file: JSON that carries the digest of its own content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from andersonn_core.words import jsonable

SCHEMA = 2


class AlteredError(ValueError):
    """The content of a recording is not what its digest says."""


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of all keys but "sha256"."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write(content: Mapping[str, Any], folder: Path) -> Path:
    """Write a recording, named by its device and date, into the folder; an older one is kept."""
    plain = jsonable(content)
    record = plain | {"sha256": digest(plain)}
    folder.mkdir(parents=True, exist_ok=True)
    words = "".join(c if c.isalnum() else " " for c in record["device"]).lower().split()
    stem = "-".join([*words, record["date"]])
    names = (f"{stem}{f'-{number}' if number > 1 else ''}.json" for number in range(1, 10_000))
    path = next(path for name in names if not (path := folder / name).exists())
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> dict[str, Any]:
    """The content of a recording.

    Raises AlteredError where its digest is another's, ValueError for any file that is no recording
    of this schema, OSError for one that cannot be read.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{path.name} is not a recording of schema {SCHEMA}.")
    if content.get("sha256") != digest(content):
        raise AlteredError(f"{path.name}: its content is not what its digest says.")
    return content
