"""Two trainings from one seed, batch by batch in turn, in the background; pages may watch.

One thread does all of it, so that the seconds of each method are its own CPU time; it gives way to
every other visitor's run between two evaluations of the cell.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from andersonn_core.faults import first_line, is_device_failure
from andersonn_core.specs import KnobError
from andersonn_core.training import TrainingError
from lab.pool import Pool, Slot
from lab.training import probe
from lab.training.lane import Lane, change_words
from lab.training.setup import METHODS, Setup

State = Literal["waiting", "running", "paused", "stopped", "finished", "failed", "interrupted"]

LONGEST = 3600.0  # seconds of computing that one training may take
BELIEFS_EVERY = 3.0  # seconds of the wall, while somebody looks on
FIRST_POINT = 3  # batches before the untrained network is measured: curves come first
OUT_OF_TURN = 1  # batches by which both may differ and still change knobs at the same one
RECORD = "race.json"

OVERTIME = f"Stopped after {LONGEST / 60:.0f} minutes of computing, the most that a page grants."
BUSY = "The lab is busy: too many runs are waiting. Press Start again in a moment."
DEVICE_FAILED = (
    "The GPU failed while the networks were looked at ({}). The checkpoints are kept: restart the "
    "lab, open this link again and go on."
)


@dataclass(frozen=True)
class Pair:
    """The seconds of both methods after the same number of batches."""

    steps: int
    forward: float
    anderson: float


@dataclass(frozen=True)
class Result:
    """One method's row in the table, as it was when it was pinned."""

    method: str
    setup: dict[str, Any]
    epochs: float
    accuracy: float
    seconds: float
    evals: int
    speedup: float  # S against the other; NaN where it says nothing


@dataclass(eq=False)
class Race:
    """One visitor's training of both methods; its methods may be called from any thread."""

    key: str  # in the link
    setup: Setup
    visitor: str
    folder: Path
    pool: Pool
    state: State = "waiting"
    sentence: str = ""  # why it ended, or failed
    lanes: dict[str, Lane] = field(default_factory=dict)
    points: dict[str, list[probe.Point]] = field(default_factory=dict)
    beliefs: dict[str, probe.Belief] = field(default_factory=dict)
    pins: list[Result] = field(default_factory=list)
    seen: float = field(default_factory=time.time)  # when somebody last looked on
    pausing: bool = False

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self._listeners: set[Callable[[], None]] = set()
        self._wanted: Setup | None = None
        self._stopping = False
        self._slot: Slot | None = None
        self._looked = self._believed = 0.0
        self.pair: Pair | None = None
        self._computed = 0.0  # seconds of the wall that it had a slot, probes included

    # -- what a page calls ------------------------------------------------------------------------

    def begin(self, resume: bool = False) -> bool:
        """Compute from now on; False if the pool takes no more jobs."""
        with self.lock:
            self.state, self.sentence, self.pausing, self._stopping = "running", "", False, False
            self._slot = Slot(self.pool.slots, background=True)
        if self.pool.submit(lambda: self._work(resume)):
            return True
        with self.lock:
            self.state, self.sentence = "stopped", BUSY
        return False

    def look(self) -> bool:
        """Read the checkpoints of a training that the server's end interrupted, without a step."""
        return self.pool.submit(self._look_back)

    def pause(self) -> None:
        """Compute nothing more after this batch, until `begin`."""
        with self.lock:
            self.pausing = self.state == "running"
        self.tell()

    def stop(self) -> None:
        """End within one evaluation; checkpoints stay."""
        with self.lock:
            paused, self._stopping = self.state == "paused", True
            for lane in self.lanes.values():
                lane.control.stop()
            if self._slot is not None:
                self._slot.leave()
        if paused:
            self.pool.submit(lambda: self._work(resume=True))  # which leaves checkpoints
        self.tell()

    def change(self, wanted: Setup) -> None:
        """Go on with other live knobs, for both methods from the same batch on."""
        with self.lock:
            self._wanted = self.setup.going_on(wanted)

    @property
    def coming(self) -> str:
        """The changes that wait for the next batch, in a few words."""
        wanted = self._wanted
        if wanted is None or not self.active:
            return ""
        live = wanted.live("anderson", self.setup.specs()["anderson"])
        return change_words({name: getattr(wanted, name) for name in live})

    def watch(self, listener: Callable[[], None]) -> None:
        """Call a function after each piece of news."""
        with self.lock:
            self._listeners.add(listener)
            self.seen = time.time()

    def leave(self, listener: Callable[[], None]) -> None:
        """Tell a listener nothing more."""
        with self.lock:
            self._listeners.discard(listener)
            self.seen = time.time()

    @property
    def watched(self) -> bool:
        """Whether a page shows it now."""
        return bool(self._listeners)

    @property
    def active(self) -> bool:
        """Whether it computes, or will go on to."""
        return self.state in ("waiting", "running", "paused")

    @property
    def progress(self) -> float:
        """The part that is done by the slower one, 0 to 1."""
        return min((lane.progress for lane in self.lanes.values()), default=0.0)

    @property
    def seconds_left(self) -> float:
        """About how long the rest takes."""
        done = sum(lane.progress for lane in self.lanes.values()) / len(METHODS)
        return self._computed * (1 - done) / done if done > 0.01 else float("nan")

    def speedup(self) -> float:
        """S: forward iteration's seconds over Anderson's for the same number of batches."""
        if self.setup.regime == "time" or self.pair is None:
            return float("nan")
        return self.pair.forward / self.pair.anderson

    def results(self) -> list[Result]:
        """A row for each method, as things stand."""
        with self.lock:
            setup, speedup = self.setup.to_dict(), self.speedup()
            return [
                Result(
                    name, setup, lane.passes, lane.accuracy, lane.seconds, lane.evals,
                    speedup if name == "anderson" else float("nan"),
                )
                for name in reversed(METHODS)
                if (lane := self.lanes.get(name)) is not None and lane.steps
            ]  # fmt: skip

    def tell(self) -> None:
        """Tell all who look on that there is something new."""
        with self.lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    # -- in a thread ------------------------------------------------------------------------------

    def _work(self, resume: bool) -> None:
        """Train until the end, a pause, a stop or a failure."""
        try:
            with self._slot or Slot(self.pool.slots, True):
                self._open(resume)
                self._save()
                while self._goes_on():
                    self._batch()
            self._close()
        except (TrainingError, KnobError) as error:
            self._end("failed", str(error))
        except BaseException as error:  # a page must never wait for what will not come
            self._end("failed", unforeseen(error))
            raise
        finally:
            self._save()
            self.tell()

    def _open(self, resume: bool) -> None:
        """Make what trains, or take over what a pause or the checkpoints left."""
        if self.lanes and not any(lane.closed for lane in self.lanes.values()):
            return  # after a pause
        specs = self.setup.specs()
        lanes = {
            name: Lane(name, specs[name], self.folder / name, self._should_stop, resume)
            for name in METHODS
        }
        for name, lane in lanes.items():  # the checkpoint may be older than the last change
            changes = self.setup.live(name, lane.trainer.at.spec)
            if changes:
                lane.control.change(**changes)
        with self.lock:
            self.lanes = lanes
            self._compare()

    def _goes_on(self) -> bool:
        return not (self._stopping or self.pausing) and self._next() is not None

    def _next(self) -> Lane | None:
        """The lane that is behind: in batches, or with equal time in seconds."""
        left = [lane for lane in self.lanes.values() if not lane.ended]
        by_time = self.setup.regime == "time"
        return min(left, key=lambda each: each.seconds if by_time else each.steps, default=None)

    def _batch(self) -> None:
        started = time.perf_counter()
        self._apply_changes()
        lane = self._next()
        assert lane is not None
        tests = len(lane.tests)
        lane.step()
        self._computed += time.perf_counter() - started
        self._compare()
        self.tell()
        if not self._stopping:
            self._probe(lane, tested=len(lane.tests) > tests)
        if self._computed > LONGEST:
            self.sentence = OVERTIME
            self.stop()

    def _compare(self) -> None:
        forward, anderson = self.lanes["picard"], self.lanes["anderson"]
        if forward.steps == anderson.steps and anderson.seconds > 0:
            self.pair = Pair(forward.steps, forward.seconds, anderson.seconds)

    def _apply_changes(self) -> None:
        """Take the changes that wait, once both have done as many batches."""
        with self.lock:
            steps = [lane.steps for lane in self.lanes.values() if not lane.ended]
            together = self.setup.regime == "time" or max(steps) - min(steps) != OUT_OF_TURN
            wanted = self._wanted
            if wanted is None or not together:
                return
            self._wanted = None
            before = self.setup.specs()
            for name, lane in self.lanes.items():
                changes = wanted.live(name, before[name])
                if changes:
                    lane.control.change(**changes)
            self.setup = wanted

    def _probe(self, lane: Lane, tested: bool) -> None:
        """Look at the networks, after an epoch's test and every few seconds."""
        started = time.perf_counter()
        both = all(each.steps for each in self.lanes.values())
        due = self.watched and started - self._believed > BELIEFS_EVERY
        try:
            if both and (due or tested):
                self._believed = started
                self._believe()
            if tested or (lane.steps >= FIRST_POINT and lane.name not in self.points):
                self._measure(lane)
        except probe.Stopped:
            return
        if tested:
            self._save()
        self._computed += time.perf_counter() - started
        self.tell()

    def _believe(self) -> None:
        for name, lane in self.lanes.items():
            if not lane.failure:
                found = probe.belief(lane, lane.trainer.at.spec, self._should_stop)
                with self.lock:
                    self.beliefs[name] = found

    def _measure(self, lane: Lane) -> None:
        anderson: Any = self.setup.method("anderson")
        found = probe.point(lane, lane.trainer.at.spec, anderson, self._should_stop)
        with self.lock:
            self.points.setdefault(lane.name, []).append(found)

    def _should_stop(self) -> bool:
        """Between two evaluations: let others go on, and say whether to end."""
        if self._slot is not None:
            self._slot.turn()
        now = time.perf_counter()
        if now - self._looked > 0.25:
            self._looked = now
            if not threading.main_thread().is_alive():
                self._stopping = True
        return self._stopping

    # -- ends -------------------------------------------------------------------------------------

    def _close(self) -> None:
        """Why the loop ended."""
        failures = [lane.failure for lane in self.lanes.values() if lane.failure]
        if self._stopping:
            for lane in self.lanes.values():
                lane.close()
            self._end("stopped", self.sentence)
        elif self.pausing:
            self._end("paused")
        else:
            self._end("failed" if len(failures) == len(METHODS) else "finished")

    def _end(self, state: State, sentence: str = "") -> None:
        with self.lock:
            self.state, self.sentence, self.pausing = state, sentence, False

    # -- on the disk ------------------------------------------------------------------------------

    def _save(self) -> None:
        """Write what a restarted server needs to offer this training again."""
        with self.lock:
            points = {name: [asdict(each) for each in found] for name, found in self.points.items()}
            record = {
                "setup": self.setup.to_dict(), "visitor": self.visitor,
                "points": points, "pins": [asdict(pin) for pin in self.pins],
                "state": self.state, "sentence": self.sentence,
            }  # fmt: skip
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self.folder / f".{RECORD}"
            part.write_text(json.dumps(record))
            os.replace(part, self.folder / RECORD)
        except OSError as error:
            with self.lock:
                self.sentence = (
                    f"This training can't be found again after a restart of the server: "
                    f"{error.strerror or error}."
                )

    @classmethod
    def from_disk(cls, key: str, folder: Path, pool: Pool) -> Race:
        """A training of a server that is gone; raises OSError or ValueError if it can't be read."""
        record = json.loads((folder / RECORD).read_text())
        race = cls(key, Setup(**record["setup"]), str(record["visitor"]), folder, pool)
        race.sentence = str(record["sentence"])
        over = record["state"] in ("finished", "failed")
        race.state = record["state"] if over else "interrupted"
        race.pins = [Result(**pin) for pin in record["pins"]]
        race.points = {
            name: [probe.Point(**each) for each in found]
            for name, found in record["points"].items()
        }
        return race

    def _look_back(self) -> None:
        """Curves of a training that was interrupted, from its checkpoints."""
        try:
            with Slot(self.pool.slots, background=True):
                specs = self.setup.specs()
                lanes = {
                    name: Lane(name, specs[name], self.folder / name, self._should_stop, True)
                    for name in METHODS
                }
                with self.lock:
                    if not self.lanes:
                        self.lanes = lanes
                        for lane in lanes.values():
                            lane.closed = True
                        self._compare()
        except (TrainingError, KnobError) as error:
            self._end("failed", str(error))
        self.tell()


def unforeseen(error: BaseException) -> str:
    """What ended a training outside of its own steps, which say themselves what ended them."""
    if is_device_failure(error):
        return DEVICE_FAILED.format(first_line(error))
    return f"The training ended with {type(error).__name__}: {error}"
