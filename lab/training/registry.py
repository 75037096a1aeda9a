"""All trainings of this server: who may begin one, where they are found, when they go.

The rules, in the order in which `sweep` applies them:
a training that is paused while nobody looks on is stopped after half an hour;
one that has ended leaves the memory an hour after somebody last looked, and at once where more
than eight have ended; its folder is deleted a week after it was last written, and at once where
there are more than 32, the oldest first.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lab.pool import Pool, Slot
from lab.runner import POOL
from lab.training.lane import warm_up
from lab.training.race import BUSY, RECORD, Race, Result
from lab.training.setup import Setup

FOLDER_VARIABLE = "ANDERSON_LAB_TRAININGS"
MOST_ACTIVE = 2  # trainings that compute, or are paused, on one server
MOST_ENDED = 8  # that are kept in memory
ENDED_SECONDS = 3600.0  # for which an ended one is kept in memory
ALONE_SECONDS = 1800.0  # after which a paused one that nobody looks at is stopped
FOLDER_SECONDS = 7 * 86400.0
MOST_FOLDERS = 32
MOST_PINS = 12
KEY = re.compile(r"[0-9a-f]{12}")

MINE = (
    "You have a training under way already, in another tab or in this one: open its link, or stop "
    "it first."
)


class Refused(Exception):
    """A training may not begin now; the message says why and what to do."""

    def __init__(self, sentence: str, key: str = "") -> None:
        super().__init__(sentence)
        self.key = key  # of the visitor's own training


def cache_folder() -> Path:
    """Where trainings are kept: named by the environment, else the user's cache folder."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "anderson-lab" / "trainings"


class Registry:
    """The trainings by key; every method may be called from any thread."""

    def __init__(
        self, folder: Path | None = None, pool: Pool = POOL, clock: Callable[[], float] = time.time
    ) -> None:
        self.folder, self.pool, self._clock = folder or cache_folder(), pool, clock
        self._races: dict[str, Race] = {}
        self._prepared = False
        self._lock = threading.RLock()

    def prepare(self) -> None:
        """Load what a training needs, once, before somebody presses Start; others go first."""
        with self._lock:
            prepared, self._prepared = self._prepared, True
        if not prepared:
            self.pool.submit(self._warm_up)

    def _warm_up(self) -> None:
        with Slot(self.pool.slots, background=True) as slot:

            def go_on() -> bool:
                slot.turn()
                return False

            warm_up(go_on)

    def start(self, setup: Setup, visitor: str, pins: list[Result] | None = None) -> Race:
        """Begin a training; raises Refused with the reason."""
        with self._lock:
            self.sweep()
            self._admit(visitor)
            key = secrets.token_hex(6)
            race = Race(key, setup, visitor, self.folder / key, self.pool)
            race.pins = list(pins or ())[-MOST_PINS:]
            self._races[key] = race
        return self._begin(race)

    def resume(self, race: Race, visitor: str) -> Race:
        """Go on with one that is paused, stopped or interrupted; raises Refused."""
        with self._lock:
            if race.state in ("running", "waiting"):
                return race
            if race.state != "paused":
                self._admit(visitor)
                race.visitor = visitor
            self._races[race.key] = race
        return self._begin(race, resume=True)

    def _begin(self, race: Race, resume: bool = False) -> Race:
        if not race.begin(resume):
            raise Refused(BUSY)
        return race

    def _admit(self, visitor: str) -> None:
        active = [race for race in self._races.values() if race.active]
        mine = next((race for race in active if visitor and race.visitor == visitor), None)
        if mine is not None:
            raise Refused(MINE, mine.key)
        if len(active) >= MOST_ACTIVE:
            raise Refused(_full(active))

    def find(self, key: str) -> Race | None:
        """The training of a link, from memory or from the disk."""
        if not KEY.fullmatch(key):
            return None
        with self._lock:
            race = self._races.get(key)
            if race is None:
                self.sweep()
                race = self._read(key)
            return race

    def _read(self, key: str) -> Race | None:
        folder = self.folder / key
        try:
            race = Race.from_disk(key, folder, self.pool)
        except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError):
            return None  # it was never there, or is damaged: the page says that it is not found
        self._races[key] = race
        race.look()
        return race

    @property
    def active(self) -> int:
        """Trainings that compute or are paused."""
        with self._lock:
            return sum(race.active for race in self._races.values())

    def sweep(self) -> None:
        """Let go of what the rules no longer keep."""
        now = self._clock()
        with self._lock:
            for race in self._races.values():
                alone = not race.watched and now - race.seen > ALONE_SECONDS
                if race.state == "paused" and alone:
                    race.stop()
            over = [race for race in self._races.values() if not race.active and not race.watched]
            over.sort(key=lambda race: race.seen)
            extra = over[: max(0, len(over) - MOST_ENDED)]
            for race in over:
                if race in extra or now - race.seen > ENDED_SECONDS:
                    del self._races[race.key]
            self._sweep_folders(now)

    def _sweep_folders(self, now: float) -> None:
        if not self.folder.is_dir():
            return
        found = [each for each in self.folder.iterdir() if KEY.fullmatch(each.name)]
        idle = [each for each in found if each.name not in self._races]
        idle.sort(key=_written)
        extra = idle[: max(0, len(found) - MOST_FOLDERS)]
        for each in idle:
            if each in extra or now - _written(each) > FOLDER_SECONDS:
                shutil.rmtree(each, ignore_errors=True)


def _written(folder: Path) -> float:
    record = folder / RECORD
    return (record if record.exists() else folder).stat().st_mtime


def _full(active: list[Race]) -> str:
    """Why nobody may begin, and when one may."""
    left = min((race.seconds_left for race in active if race.seconds_left >= 0), default=None)
    when = "" if left is None else f", in about {max(1, round(left / 60))} minutes"
    number = "Two trainings are" if len(active) == 2 else f"{len(active)} trainings are"
    return (
        f"{number} under way on this server, as many as it computes at once: yours may begin when "
        f"one of them ends{when}."
    )


REGISTRY = Registry()
