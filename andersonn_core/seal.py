"""JSON that carries the SHA-256 of its own content, so that an altered number is found out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


class AlteredError(ValueError):
    """The content of a file is not what its digest says."""


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of all keys but "sha256"; ValueError for what JSON lacks."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its digest as "sha256"."""
    return dict(content) | {"sha256": digest(content)}


def parsed(text: str | bytes) -> Any:
    """JSON in which no key is given twice: of two values a reader may see the other one.

    Raises ValueError for what is no such JSON, RecursionError where it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return record
