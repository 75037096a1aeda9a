"""Where the dashboard's stores are: a folder of SQLite files, named by the environment."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lab.training.registry import cache_folder

FOLDER_VARIABLE = "ANDERSON_LAB_SWEEPS"
SCHEDULERS_VARIABLE = "ANDERSON_LAB_DASK"
OWN = "lab.sqlite"  # the store that the page writes
NAME = re.compile(r"[\w.-]{1,60}\.sqlite")


def sweeps_folder() -> Path:
    """The folder of the stores; other programs may put theirs there."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named).expanduser() if named else cache_folder().with_name("sweeps")


def stores() -> list[str]:
    """The names of the stores that are there, the page's own first."""
    folder = sweeps_folder()
    found = sorted(path.name for path in folder.glob("*.sqlite") if NAME.fullmatch(path.name))
    return [OWN, *(name for name in found if name != OWN)]


def path_of(name: str) -> Path:
    """The file of a store; only files of the folder have names."""
    if not NAME.fullmatch(name) or name.startswith("."):
        raise ValueError(f"{name!r} is no name of a store.")
    return sweeps_folder() / name


def schedulers() -> list[str]:
    """The Dask schedulers that whoever started this server allows.

    Not a visitor's choice: what a scheduler answers is unpickled, so that it could run any code.
    """
    named = os.environ.get(SCHEDULERS_VARIABLE, "")
    return [address.strip() for address in named.split(",") if address.strip()]
