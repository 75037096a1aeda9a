"""What stores hold, read once for all visitors of this server and again when a file has changed."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from andersonn_core.store import Store
from andersonn_core.sweeps.frames import measured_frame, sweep_frame
from andersonn_core.sweeps.plan import axis_levels
from lab.sweeps.sheet import MOST_FAILED, Sheet

CROSSED = 2000  # trials up to which crossovers are computed for the page
MOST_ROWS = 2_500_000  # of the sheets that are kept besides the newest; a million take 0.2 GB
SETTLED = 50_000_000  # nanoseconds after which a later write has another time of change

State = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Listed:
    """A sweep of a store."""

    sweep: int
    sweep_id: str
    axes: dict[str, list[object]]
    total: int
    done: int
    date: str

    @property
    def label(self) -> str:
        """How a person tells it from the others."""
        names = " x ".join(name.partition(".")[2] or name for name in self.axes) or "one point"
        return f"{names}, {self.total:,} trials, {self.date[:19].replace('T', ' ')}"


class Library:
    """Lists and sheets of stores; every method may be called from any thread."""

    def __init__(self) -> None:
        self.reads = 0  # sheets that were read from a file
        self._lists: dict[Path, tuple[State, list[Listed]]] = {}
        self._sheets: OrderedDict[tuple[Path, str], tuple[int, Sheet]] = OrderedDict()
        self._lock, self._reading = threading.Lock(), dict[Path, threading.Lock]()

    def listed(self, path: Path) -> list[Listed]:
        """The sweeps of a store, the newest first; raises StoreError."""
        with self._alone(path):
            state = _state(path)
            if path not in self._lists or self._lists[path][0] != state or not _settled(state):
                with Store(path, read_only=True) as store:
                    self._lists[path] = state, list_sweeps(store)
            return self._lists[path][1]

    def sheet(self, path: Path, chosen: Listed) -> Sheet:
        """A sweep's rows; raises StoreError."""
        key = path, chosen.sweep_id
        with self._alone(path):
            done, sheet = self._sheets.get(key, (-1, None))
            if sheet is None or done != chosen.done:
                sheet = self._read(path, chosen)
            self._keep(key, chosen.done, sheet)
            return sheet

    def at_hand(self, path: Path, sweep_id: str) -> tuple[list[Listed], Listed, Sheet] | None:
        """The list, the chosen sweep and its rows, if nothing has to be read or waited for."""
        state, listed = self._lists.get(path, ((), []))
        chosen = chosen_of(listed, sweep_id)
        if chosen is None or _state(path) != state:
            return None
        done, sheet = self._sheets.get((path, chosen.sweep_id), (-1, None))
        return None if sheet is None or done != chosen.done else (listed, chosen, sheet)

    def _read(self, path: Path, chosen: Listed) -> Sheet:
        self.reads += 1
        with Store(path, read_only=True) as store:
            small = chosen.done <= CROSSED
            frame = (sweep_frame if small else measured_frame)(store, chosen.sweep)
            sheet = Sheet(frame, chosen.axes)
            sheet.prepare(store.reasons(sheet.failed["row"].head(MOST_FAILED).tolist()))
        return sheet

    def _keep(self, key: tuple[Path, str], done: int, sheet: Sheet) -> None:
        """The least recently wanted go first."""
        with self._lock:
            self._sheets[key] = done, sheet
            self._sheets.move_to_end(key)
            rows = sum(len(each.frame) for _, each in self._sheets.values())
            while rows > MOST_ROWS and len(self._sheets) > 1:
                rows -= len(self._sheets.popitem(last=False)[1][1].frame)

    def _alone(self, path: Path) -> threading.Lock:
        with self._lock:
            return self._reading.setdefault(path, threading.Lock())


LIBRARY = Library()


def chosen_of(listed: Sequence[Listed], sweep_id: str) -> Listed | None:
    """The sweep with this id, else the newest."""
    named = next((each for each in listed if each.sweep_id == sweep_id), None)
    return named or next(iter(listed), None)


def list_sweeps(store: Store) -> list[Listed]:
    """The sweeps of a store, the newest first."""
    return [
        Listed(row["sweep"], row["sweep_id"], axis_levels(row["record"]), row["total"],
               row["done"], row["date"])
        for row in store.sweeps().to_dict("records")
    ]  # fmt: skip


def _state(path: Path) -> State:
    """Time of change and size of a store's file and of its log, which readers make anew, empty."""
    return tuple(each for each in map(changed, (path, Path(f"{path}-wal"))) if each[1])


def changed(file: Path) -> tuple[int, int]:
    """Time of change and size; 0 for a file that is not there."""
    try:  # a driver that ends removes its log
        found = file.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _settled(state: State) -> bool:
    """Whether a write from now on would show: times of change have steps of some milliseconds."""
    return all(time.time_ns() - changed > SETTLED for changed, _ in state)
