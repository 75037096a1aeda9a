"""The Sweeps page in a link: which store, and which sweep of it."""

from __future__ import annotations

import html
import re

from lab.sweeps.folder import NAME, OWN
from lab.url import fields_of, shown

STORE, SWEEP = "store", "sweep"  # the query's parameters
SWEEP_ID = re.compile(r"[0-9a-f]{16}")


def sweep_to_fields(store: str, sweep_id: str) -> dict[str, str]:
    """What the link says."""
    fields = {STORE: store} if store != OWN else {}
    return fields | ({SWEEP: sweep_id} if sweep_id else {})


def sweep_from_query(query: str) -> tuple[tuple[str, str], list[str]]:
    """Store and sweep of a link, and sentences about what was refused, safe to show."""
    given = dict(fields_of(query)[0])
    store, sweep_id, notes = given.get(STORE, OWN), given.get(SWEEP, ""), []
    if not NAME.fullmatch(store) or store.startswith("."):
        notes.append(f"The link's store '{shown(store)}' is no name of a store.")
        store = OWN
    if sweep_id and not SWEEP_ID.fullmatch(sweep_id):
        notes.append(f"The link's sweep '{shown(sweep_id)}' is no sweep.")
        sweep_id = ""
    return (store, sweep_id), [html.escape(note, quote=False) for note in notes]
